"""lab.scenarios.removal: whether a removal has come to its wait is not decided at the first look."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lab.config.scenario import Remove
from lab.model import Verdict
from lab.scenarios.removal import waits
from lab.wait import Deadline


@pytest.mark.parametrize(
    ("looks", "verdict", "seen"),
    [
        (["Ss D"], Verdict.PASS, "process states Ss D"),
        (["Rs", "Ss R", "Ss D"], Verdict.PASS, "process states Ss D"),
        (["Rs", ""], Verdict.FAIL, "delete ended while the guest had the device"),
        (["Rs"], Verdict.FAIL, "process states Rs"),
        (["-", "D"], Verdict.PASS, "process states D"),
        (["-"], Verdict.FAIL, "process states -"),
    ],
)
def test_a_removal_has_some_time_to_come_to_its_wait(looks: list[str], verdict: Verdict, seen: str) -> None:
    removal: Any = SimpleNamespace(waits=lambda: looks.pop(0) if len(looks) > 1 else looks[0])
    check = waits(removal, Remove(kind="delete"), Deadline(0.3))
    assert (check.verdict, check.seen) == (verdict, seen)
