"""lab.scenarios.mutants: caught by the named check, by another one only, or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.checks.virtbus.bench import ENDS
from lab.config.mutant import Kind, Mutant
from lab.model import Check, Level, Verdict
from lab.scenarios.mutants import how, judge
from lab.scenarios.verdict import judge as verdict

MUTANT = Mutant(
    name="R08-deletes", what="deletes what was never added", check="R08", kernel="default", expect=("oops",)
)
GOOD = Check("R01 anchored", Verdict.PASS, "ok", "ok")
PLAN = Check("KTAP plan", Verdict.PASS, "2 results", "all", proof=True)
BAD = Check("R08 a failed add", Verdict.FAIL, "BUG: kernel NULL pointer dereference", "ok", Level.L1_KERNEL, "l1")
LOG = Check("kernel log", Verdict.FAIL, "BUG: kernel NULL pointer dereference", "no splat", Level.L1_KERNEL, "l1")
CUT = Check("KTAP plan", Verdict.ERROR, "no closing line", "all", Level.LAB, "l1", proof=True)


def test_caught() -> None:
    checks = judge([GOOD, BAD, LOG, CUT], MUTANT)
    assert [check.verdict for check in checks] == [Verdict.PASS] * 5
    assert checks[0].name == "mutant R08-deletes"
    assert checks[0].seen.startswith("caught by R08 a failed add (oops): BUG: kernel NULL")
    assert [check.name for check in checks if check.proof] == ["mutant R08-deletes"]
    assert all(check.level is None for check in checks)
    assert verdict(checks, None).verdict is Verdict.PASS


@pytest.mark.parametrize("found", [[GOOD, PLAN], [], [GOOD, CUT]])
def test_not_caught(found: list[Check]) -> None:
    checks = judge(found, MUTANT)
    assert (checks[0].verdict, checks[0].level) == (Verdict.FAIL, Level.LAB)
    assert checks[0].seen == "not caught: deletes what was never added"
    assert checks[1:] == found
    assert verdict(checks, None).verdict is Verdict.FAIL


def test_a_run_that_ended_early_has_not_missed_it() -> None:
    checks = judge([GOOD], MUTANT, complete=False)
    assert (checks[0].verdict, checks[0].level) == (Verdict.ERROR, Level.LAB)
    assert judge([GOOD, BAD], MUTANT, complete=False)[0].verdict is Verdict.PASS


def test_caught_by_another_check_only() -> None:
    other = Check("R09 numbers", Verdict.FAIL, "3, expected 4\nlog", "ok", Level.L1_KERNEL)
    checks = judge([other, LOG], MUTANT)
    assert checks[0].verdict is Verdict.FAIL
    assert checks[0].seen.endswith("; but R09 numbers, kernel log failed: 3, expected 4")
    assert [check.verdict for check in checks[1:]] == [Verdict.PASS, Verdict.PASS]


def test_a_part_of_the_requirement_is_the_check_and_another_number_is_not() -> None:
    part = Check("R08.twice words", Verdict.FAIL, "BUG: x", "ok", Level.L1_KERNEL)
    assert judge([part], MUTANT)[0].verdict is Verdict.PASS
    procedure = Check("R08/failslab", Verdict.FAIL, "BUG: x", "ok", Level.L1_KERNEL)
    assert judge([procedure], MUTANT)[0].verdict is Verdict.PASS
    assert judge([part], MUTANT.model_copy(update={"check": "R08/failslab"}))[0].verdict is Verdict.FAIL
    exact = MUTANT.model_copy(update={"check": "R08.twice"})
    assert judge([BAD], exact)[0].verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("evidence", "kind"),
    [
        ("BUG: KASAN: slab-use-after-free in x", "KASAN"),
        ("unreferenced object 0xffff (size 64)", "kmemleak"),
        ("WARNING: possible circular locking dependency detected", "lockdep"),
        ("WARNING: CPU: 0 PID: 1 at x.c:1", "warning"),
        ("Oops: general protection fault", "oops"),
        ("2 is 3, expected 4", "not ok"),
    ],
)
def test_how_it_was_caught(evidence: str, kind: str) -> None:
    assert how(evidence) == kind


@pytest.mark.parametrize(
    ("expect", "evidence", "caught"),
    [
        (["oops"], "2 is 3, expected 4", False),
        (["oops"], "the kernel: BUG: kernel NULL pointer dereference", True),
        (["oops"], "the kernel: Oops: general protection fault, KASAN: null-ptr-deref in range", True),
        (["KASAN"], "the kernel: WARNING: CPU: 0 PID: 1 at x.c:1", False),
        (["KASAN", "warning"], "the kernel: WARNING: CPU: 0 PID: 1 at x.c:1", True),
        (["warning"], "the kernel: BUG: kernel NULL pointer dereference", False),
        (["kmemleak"], "2 is 3, expected 4", False),
        (["not ok"], "the kernel: BUG: kernel NULL pointer dereference", True),
        (["static"], "a.c:3: void *data;", True),
    ],
)
def test_it_is_caught_by_what_its_header_says(expect: list[Kind], evidence: str, caught: bool) -> None:
    mutant = MUTANT.model_copy(update={"expect": tuple(expect)})
    checks = judge([replace(BAD, seen=evidence)], mutant)
    assert checks[0].verdict is (Verdict.PASS if caught else Verdict.FAIL)
    assert caught or checks[0].seen.endswith(f"; but R08 a failed add failed: {evidence}")


def test_a_procedure_that_was_cut_off_has_caught_nothing() -> None:
    mutant = MUTANT.model_copy(update={"check": "U10/rmmod", "expect": ("not ok",)})
    cut = Check("U10/rmmod", Verdict.FAIL, "l1: 'sh' ended with 70", ENDS, Level.L1_KERNEL)
    assert judge([cut], mutant)[0].verdict is Verdict.FAIL
    assert judge([replace(cut, expected="no splat meanwhile")], mutant)[0].verdict is Verdict.PASS
