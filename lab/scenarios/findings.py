"""Known findings: a failed check that one of them explains does not fail the run, but is never hidden."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from lab.config.finding import Finding
from lab.model import Check, Level, Verdict


def apply(
    checks: Sequence[Check],
    findings: Sequence[Finding],
    *,
    scenario: str,
    kernel: str,
    qemu_l0: str,
    qemu_l1: str,
    complete: bool = True,
) -> tuple[list[Check], tuple[str, ...]]:
    """Turn failed checks that a finding explains into passed ones that name it; a fault that is known proves nothing.

    Returns the checks, to which one is added for each finding that should have appeared and did not, and the ids of
    those that appeared. A run that is not ``complete`` cannot say that anything is gone. Pure.
    """
    relevant = [
        f
        for f in findings
        if re.fullmatch(f.kernel, kernel)
        and re.fullmatch(f.qemu, qemu_l1 if f.level is Level.L1_QEMU else qemu_l0)
        and (f.elsewhere or scenario in f.scenarios)
    ]
    judged = [_explain(check, [(f, f.pattern) for f in relevant]) for check in checks]
    shown = [f for f in relevant if any(found is f for _, found in judged)]
    follows = [(f, f.consequence) for f in shown if f.consequence is not None]
    judged = [_explain(check, follows) for check, _ in judged]
    due = [f for f in relevant if complete and scenario in f.scenarios and not f.sporadic]
    gone = [_gone(f) for f in due if f not in shown]
    return [check for check, _ in judged] + gone, tuple(f.id for f in shown)


def _explain(check: Check, findings: Sequence[tuple[Finding, str]]) -> tuple[Check, Finding | None]:
    if check.verdict is Verdict.FAIL:
        for finding, pattern in findings:
            if finding.level is check.level and re.search(pattern, check.seen):
                seen = f"known {finding.id} ({finding.summary}): {check.seen}"
                return dataclasses.replace(check, verdict=Verdict.PASS, seen=seen, level=None, proof=False), finding
    return check, None


def _gone(finding: Finding) -> Check:
    return Check(
        name=f"finding {finding.id}",
        verdict=Verdict.PASS,
        seen=f"no longer there: {finding.summary}",
        expected="the known fault, on these versions",
    )
