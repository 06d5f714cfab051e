"""lab.checks.virtqueues: buffers that QEMU has lost."""

from __future__ import annotations

import pytest

from lab.checks.virtqueues import judge
from lab.model import Level, Verdict


@pytest.mark.parametrize(
    ("held", "verdict", "level", "seen"),
    [
        ({0: 0, 1: 0, 2: 0}, Verdict.PASS, None, "all, of 3 queues"),
        ({0: 1, 1: 3, 2: 0}, Verdict.FAIL, Level.L1_QEMU, "QEMU has lost 1 buffers of queue 0, 3 buffers of queue 1"),
        ({}, Verdict.SKIP, None, "QEMU does not tell of its queues"),
        ({0: 0}, Verdict.SKIP, None, "QEMU does not tell of its queues"),
    ],
)
def test_judge(held: dict[int, int], verdict: Verdict, level: Level | None, seen: str) -> None:
    check = judge(held, machine="l2")
    assert (check.verdict, check.level, check.seen, check.machine) == (verdict, level, seen, "l2")
