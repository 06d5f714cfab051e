"""A mutant's verdict: the suite is right when the check that is named for the mutant fails. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from lab.checks.virtbus.bench import ENDS
from lab.config.mutant import Mutant
from lab.model import Check, Level, Verdict

# What the evidence of a check has in it when it was caught in the way that a mutant's header says.
_EVIDENCE = {
    "oops": r"Oops|BUG: |general protection|Unable to handle",
    "KASAN": r"KASAN",
    "kmemleak": r"unreferenced object|kmemleak",
    "lockdep": r"lockdep|possible|suspicious|LOCK",
    "warning": r"WARNING",
}
_FIRST = 160


def judge(checks: Sequence[Check], mutant: Mutant, *, complete: bool = True) -> list[Check]:
    """Turn the checks of a mutant's run into those of the suite. One that ended early may not have come to its check.

    First comes one that says whether the named check caught the mutant; it is the proof. What else failed was the
    mutant's doing, which each check then says; one that could not be judged counts only when nothing was caught.
    """
    caught = [check for check in checks if catches(check, mutant)]
    others = [check for check in checks if check.verdict is Verdict.FAIL and check not in caught]
    verdict = _verdict(caught, others, mutant, complete)
    if not caught:
        return [verdict, *(_excused(check) if check.verdict is Verdict.FAIL else check for check in checks)]
    bad = (Verdict.FAIL, Verdict.ERROR)
    return [verdict, *(_excused(check) if check.verdict in bad else check for check in checks)]


def catches(check: Check, mutant: Mutant) -> bool:
    """Whether a check is the one that a mutant names, and failed in a way that its header says.

    A procedure that was cut off, by its time or by an error of its own, has caught nothing.
    """
    if check.verdict is not Verdict.FAIL or check.expected == ENDS or not is_named(check.name, mutant.check):
        return False
    return any(kind not in _EVIDENCE or re.search(_EVIDENCE[kind], check.seen) for kind in mutant.expect)


def is_named(name: str, wanted: str) -> bool:
    """Whether a check of this name (``R14.release words``, ``R18/freeze``) is the one that a mutant names."""
    word = name.split(" ", 1)[0]
    return word == wanted or word.startswith((f"{wanted}.", f"{wanted}/"))


def how(evidence: str) -> str:
    """By what a check caught a mutant: a kind of splat, else the test's own word."""
    for kind in ("KASAN", "kmemleak", "lockdep", "oops", "warning"):
        if re.search(_EVIDENCE[kind], evidence):
            return kind
    return "not ok"


def _verdict(caught: Sequence[Check], others: Sequence[Check], mutant: Mutant, complete: bool) -> Check:
    expected = f"{mutant.check} fails ({' or '.join(mutant.expect)})"
    if caught:
        evidence = caught[0].seen
        seen = f"caught by {caught[0].name} ({how(evidence)}): {evidence}"
        return Check(f"mutant {mutant.name}", Verdict.PASS, seen, expected, machine="l1", proof=True)
    if not complete:
        return Check.unproven(f"mutant {mutant.name}", "the run ended before", expected, proof=True)
    words = f"not caught: {mutant.what}"
    if others:
        words += f"; but {', '.join(check.name for check in others)} failed: {others[0].seen.splitlines()[0][:_FIRST]}"
    return Check(f"mutant {mutant.name}", Verdict.FAIL, words, expected, Level.LAB, proof=True)


def _excused(check: Check) -> Check:
    seen = f"of the mutant: {check.seen}"
    return dataclasses.replace(check, verdict=Verdict.PASS, seen=seen, level=None, proof=False)
