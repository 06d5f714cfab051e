"""Results as TAP 14 (https://testanything.org/tap-version-14-specification.html), diagnostics in YAML blocks."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lab.model import RunResult, Verdict


def render(results: Sequence[RunResult]) -> str:
    """The results as a TAP document: ERROR and FAIL are ``not ok``, SKIP is a directive with its reason."""
    lines = ["TAP version 14", f"1..{len(results)}" + ("" if results else " # SKIP no run was started")]
    for number, result in enumerate(results, 1):
        lines += [_point(number, result), *_diagnostics(result)]
    return "\n".join(lines) + "\n"


def _point(number: int, result: RunResult) -> str:
    good = result.verdict in (Verdict.PASS, Verdict.SKIP)
    skip = f" # SKIP {_one_line(result.reason)}" if result.verdict is Verdict.SKIP else ""
    return f"{'ok' if good else 'not ok'} {number} - {_one_line(result.scenario)}{skip}"


def _one_line(text: str) -> str:
    """Text for a description: ``#`` would begin a directive and ``\\`` escapes it."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("#", "\\#")


def _diagnostics(result: RunResult) -> list[str]:
    bad = [check for check in result.checks if check.verdict in (Verdict.FAIL, Verdict.ERROR)]
    fields: dict[str, object] = {
        "verdict": result.verdict.value,
        "level": result.level and result.level.value,
        "machine": result.machine,
        "reason": result.reason,
        "known": list(result.known),
        "duration_s": round(result.duration_s, 3),
        "run_dir": result.run_dir,
        "failed_checks": [{"name": c.name, "expected": c.expected, "seen": c.seen} for c in bad],
    }
    # Every JSON value is a YAML flow value, on one line.
    body = [f"  {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items() if value]
    return ["  ---", *body, "  ..."]
