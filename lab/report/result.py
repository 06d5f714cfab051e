"""The JSON form of a run's result (design.md section 4), the only place that writes or reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.model import Accel, Check, Level, Metric, RunResult, Verdict

SCHEMA = 1

RESULT = "result.json"
RESULTS = "results.json"


def to_dict(result: RunResult) -> dict[str, Any]:
    """One element of ``results``; also the whole of a run's ``result.json``."""
    return {
        "scenario": result.scenario,
        "verdict": result.verdict.value,
        "level": result.level.value if result.level else None,
        "machine": result.machine,
        "reason": result.reason,
        "known": list(result.known),
        "duration_s": round(result.duration_s, 3),
        "run_dir": result.run_dir,
        "warm": result.warm,
        "accel": {"l1": result.accel_l1, "l2": result.accel_l2},
        "checks": [_check_to_dict(check) for check in result.checks],
        "metrics": [{"name": m.name, "value": m.value, "unit": m.unit} for m in result.metrics],
    }


def from_dict(data: Mapping[str, Any]) -> RunResult:
    """The result that :func:`to_dict` wrote; keys it does not know are left alone.

    Raises KeyError, TypeError or ValueError for anything else.
    """
    accel = data["accel"]
    return RunResult(
        scenario=str(data["scenario"]),
        verdict=Verdict(data["verdict"]),
        level=Level(data["level"]) if data["level"] else None,
        machine=data["machine"],
        reason=str(data["reason"]),
        duration_s=float(data["duration_s"]),
        run_dir=str(data["run_dir"]),
        known=tuple(data["known"]),
        warm=bool(data["warm"]),
        accel_l1=Accel(accel["l1"]) if accel["l1"] else None,
        accel_l2=Accel(accel["l2"]) if accel["l2"] else None,
        checks=tuple(_check_from_dict(check) for check in data["checks"]),
        metrics=tuple(Metric(m["name"], float(m["value"]), m["unit"]) for m in data["metrics"]),
    )


def document(job_dir: Path, results: Sequence[RunResult]) -> dict[str, Any]:
    """What ``run --json`` prints and ``results.json`` holds."""
    return {"schema": SCHEMA, "job_dir": str(job_dir), "results": [to_dict(result) for result in results]}


def dumps(data: object) -> str:
    """JSON text as the lab writes it to files."""
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def write_result(run_dir: Path, result: RunResult) -> None:
    """Write a run's ``result.json`` atomically."""
    write_text(run_dir / RESULT, dumps(to_dict(result)))


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or none."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read(path: Path) -> RunResult:
    """The result in a ``result.json``. Raises LabError saying what is wrong with the file."""
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise LabError(f"{path.name}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LabError(f"{path.name} is broken: {error!r}") from error


def _check_to_dict(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "verdict": check.verdict.value,
        "seen": check.seen,
        "expected": check.expected,
        "level": check.level.value if check.level else None,
        "machine": check.machine,
        "proof": check.proof,
    }


def _check_from_dict(data: Mapping[str, Any]) -> Check:
    return Check(
        name=str(data["name"]),
        verdict=Verdict(data["verdict"]),
        seen=str(data["seen"]),
        expected=str(data["expected"]),
        level=Level(data["level"]) if data["level"] else None,
        machine=data["machine"],
        proof=bool(data["proof"]),
    )
