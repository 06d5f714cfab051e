"""The verdict: one pure function over what a run saw. See design.md section 4.

FAIL the product failed · ERROR the lab failed or could not prove · SKIP the site lacks something · PASS every check
judged and the proof present. What the product did comes before what the lab could not do because of it: a panic of L1
also ends every SSH connection, and is still the panic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab.errors import DeviceModelDied, InputError, Interrupted, LabError, MachineDied, ProductFailure, SiteLacks
from lab.model import Check, Level, Verdict


@dataclass(frozen=True)
class Outcome:
    """What a run came to, before it is written down."""

    verdict: Verdict
    level: Level | None
    machine: str | None
    reason: str


def judge(
    checks: Sequence[Check], error: BaseException | None, undo_failed: Sequence[str] = (), *, stopped_at: str = ""
) -> Outcome:
    """Decide. ``error`` is what ended the run early, if anything did; ``undo_failed`` what could not be undone.

    ``stopped_at`` is the step at which the run ended because the user wanted no more of it.
    """
    failed = sorted((check for check in checks if check.verdict is Verdict.FAIL), key=_distance)
    if isinstance(error, Interrupted):
        return Outcome(Verdict.ERROR, Level.LAB, None, "interrupted")
    if isinstance(error, DeviceModelDied):
        # Hardware that is gone makes kernels and QEMUs say and do anything.
        return Outcome(Verdict.ERROR, Level.LAB, error.machine, error.message)
    if isinstance(error, (MachineDied, ProductFailure)) and not (failed and _distance(failed[0]) <= _reach(error)):
        return _from_product(error)
    if failed:
        return _from_check(failed[0])
    if isinstance(error, SiteLacks):
        return Outcome(Verdict.SKIP, Level.LAB, None, f"the site lacks {error.message}")
    if error is not None:
        return Outcome(Verdict.ERROR, Level.LAB, None, _words(error))
    return _without_failure(checks, undo_failed, stopped_at)


def _reach(error: MachineDied | ProductFailure) -> int:
    """Up to which distance a failed check tells more than what ended the run."""
    return 1 if isinstance(error, ProductFailure) and error.symptom else 0


def _distance(check: Check) -> int:
    """How far a failed check is from the cause: what a kernel or QEMU said itself tells more than what came of it."""
    if check.seen.startswith("IOMMU fault"):
        # What a device does whose memory somebody failed to map, as its kernel and the QEMU that emulates it tell it.
        return 2
    return {"kernel log": 0, "clean QEMU stderr": 1, "QEMU alive": 1}.get(check.name, 3 if check.proof else 4)


def _without_failure(checks: Sequence[Check], undo_failed: Sequence[str], stopped_at: str) -> Outcome:
    unproven = [check for check in checks if check.verdict is Verdict.ERROR]
    if unproven:
        check = unproven[0]
        return Outcome(Verdict.ERROR, check.level or Level.LAB, check.machine, _sentence(check))
    if not stopped_at and not any(check.proof and check.verdict is Verdict.PASS for check in checks):
        return Outcome(Verdict.ERROR, Level.LAB, None, "nothing proves that what is under test was exercised")
    if undo_failed:
        return Outcome(Verdict.ERROR, Level.LAB, None, f"could not be undone: {undo_failed[0]}")
    if stopped_at:
        return Outcome(Verdict.SKIP, Level.LAB, None, f"stopped at {stopped_at} as asked")
    return Outcome(Verdict.PASS, None, None, "every check passed, with proof")


def _from_check(check: Check) -> Outcome:
    return Outcome(Verdict.FAIL, check.level or Level.LAB, check.machine, _sentence(check))


def _from_product(error: MachineDied | ProductFailure) -> Outcome:
    return Outcome(Verdict.FAIL, error.level, error.machine, error.message)


def _sentence(check: Check) -> str:
    return f"{check.name}: expected {check.expected}, saw {check.seen}"


def _words(error: BaseException) -> str:
    if isinstance(error, InputError):
        return "; ".join(error.problems)
    return str(error) if isinstance(error, LabError) else f"internal error: {error!r}"
