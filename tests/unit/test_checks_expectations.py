"""lab.checks.expectations."""

from __future__ import annotations

import pytest

from lab.checks import expectations
from lab.config.scenario import Expected
from lab.model import Level, Verdict

PANIC = Expected(level=Level.L2_KERNEL, pattern="Kernel panic")
MAYBE = Expected(level=Level.L1_QEMU, pattern="falling back", required=False)


def test_excused() -> None:
    assert expectations.excused("a\nKernel panic - not", Level.L2_KERNEL, [MAYBE, PANIC]) is PANIC
    assert expectations.excused("Kernel panic", Level.L1_KERNEL, [PANIC]) is None
    assert expectations.excused("fine", Level.L2_KERNEL, [PANIC]) is None


def test_a_required_outcome_in_one_of_two_logs() -> None:
    (check,) = expectations.judge([PANIC, MAYBE], {Level.L2_KERNEL: ["quiet", "x\nKernel panic - not syncing\ny"]}, {})
    assert check.verdict is Verdict.PASS
    assert check.seen == "Kernel panic - not syncing"


def test_a_required_outcome_that_did_not_come() -> None:
    (check,) = expectations.judge([PANIC], {Level.L2_KERNEL: ["quiet"]}, {})
    assert (check.verdict, check.level) == (Verdict.FAIL, Level.L2_KERNEL)


def test_no_log_to_look_in() -> None:
    for logs in ({}, {Level.L2_KERNEL: [""]}):
        (check,) = expectations.judge([PANIC], logs, {})
        assert check.verdict is Verdict.ERROR


KILLED = Expected(level=Level.LAB, pattern="SIGKILL", outcome="death")


def test_a_death_excuses_no_line_and_a_line_no_death() -> None:
    assert expectations.excused("SIGKILL", Level.LAB, [KILLED]) is None
    assert expectations.excused_death("SIGKILL", Level.LAB, [KILLED]) is KILLED
    assert expectations.excused_death("SIGKILL", Level.L0_QEMU, [KILLED]) is None
    assert expectations.excused_death("Kernel panic", Level.L2_KERNEL, [PANIC]) is None


@pytest.mark.parametrize(
    ("deaths", "verdict", "seen"),
    [
        ({Level.LAB: ["SIGKILL\nlast words"]}, Verdict.PASS, "SIGKILL"),
        ({Level.LAB: ["exit status 1"]}, Verdict.FAIL, "ended otherwise: exit status 1"),
        ({Level.L0_QEMU: ["SIGKILL"]}, Verdict.FAIL, "nothing ended"),
        ({}, Verdict.FAIL, "nothing ended"),
    ],
)
def test_a_death_that_has_to_come(deaths: dict[Level, list[str]], verdict: Verdict, seen: str) -> None:
    (check,) = expectations.judge([KILLED], {Level.LAB: ["SIGKILL"]}, deaths)
    assert check.verdict is verdict
    assert check.seen.startswith(seen)
