"""lab.scenarios.removal: whether a removal has come to its wait is not decided at the first look."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lab.config.scenario import Remove
from lab.errors import CommandError, DeadlineExceeded, LabError, Unreachable
from lab.model import Completed, Level, Verdict
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
    removal: Any = SimpleNamespace(waits=lambda _deadline: looks.pop(0) if len(looks) > 1 else looks[0])
    check = waits(removal, Remove(kind="delete"), Deadline(0.3))
    assert (check.verdict, check.seen) == (verdict, seen)


def looks_that_fail(error: LabError) -> Any:
    def fail(_deadline: Deadline) -> str:
        raise error

    return SimpleNamespace(waits=fail)


@pytest.mark.parametrize(
    "error",
    [
        DeadlineExceeded("l1: qom-list", 5),
        CommandError("l1", Completed(("sh",), 1, b"", b"cat: /proc/self/stack: Permission denied", 0.0)),
    ],
)
def test_a_look_that_fails_is_not_what_the_kernel_did(error: LabError) -> None:
    check = waits(looks_that_fail(error), Remove(kind="unplug-parent"), Deadline(0.3))
    assert (check.verdict, check.level) == (Verdict.ERROR, Level.LAB)
    assert check.seen == f"nobody could look: {error}"


def test_a_host_that_is_gone_ends_the_run() -> None:
    with pytest.raises(Unreachable):
        waits(looks_that_fail(Unreachable("l1 is gone")), Remove(kind="delete"), Deadline(0.3))
