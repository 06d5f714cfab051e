"""lab.checks.features."""

from __future__ import annotations

import pytest

from lab.checks import features
from lab.model import Level, Verdict

# VERSION_1 and ACCESS_PLATFORM with some of a network device's own.
NEGOTIATED = 0x3_3003_0023


def test_the_same() -> None:
    check = features.judge(NEGOTIATED, NEGOTIATED, machine="l1")
    assert (check.verdict, check.level) == (Verdict.PASS, None)


@pytest.mark.parametrize(("told", "twice"), [(0x3_0000_0003, True), (0x3_3003_0022, False), (0, False)])
def test_anything_else_fails_and_what_ifcvf_does_has_a_name(told: int, twice: bool) -> None:
    check = features.judge(told, NEGOTIATED, machine="l1")
    assert (check.verdict, check.level) == (Verdict.FAIL, Level.L1_KERNEL)
    assert check.seen.endswith("the high word twice") is twice


@pytest.mark.parametrize(("told", "negotiated"), [(None, NEGOTIATED), (NEGOTIATED, None), (0, 0)])
def test_what_was_not_seen_proves_nothing(told: int | None, negotiated: int | None) -> None:
    assert features.judge(told, negotiated, machine="l1").verdict is Verdict.ERROR


@pytest.mark.parametrize(
    ("negotiated", "verdict"),
    [(1 << 32 | 1 << 1, Verdict.PASS), (1 << 32 | 1 << 11, Verdict.FAIL), (None, Verdict.ERROR), (0, Verdict.ERROR)],
)
def test_what_was_not_to_be_offered(negotiated: int | None, verdict: Verdict) -> None:
    assert features.judge_left_out(negotiated, 1 << 0 | 1 << 11, machine="l1").verdict is verdict
