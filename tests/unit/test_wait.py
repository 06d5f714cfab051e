"""lab.wait."""

from __future__ import annotations

import time

import pytest

from lab.errors import DeadlineExceeded
from lab.wait import Deadline, wait_until


def test_a_deadline_counts_down_to_nothing() -> None:
    deadline = Deadline(60)
    assert 59 < deadline.left() <= 60
    assert not deadline.over()
    assert deadline.check("it") > 59
    late = Deadline(0)
    assert (late.left(), late.over(), Deadline(-1).left()) == (0.0, True, 0.0)
    with pytest.raises(DeadlineExceeded, match="waited 0 s for the end of it"):
        late.check("the end of it")


def test_waiting_returns_the_first_true_value() -> None:
    values = iter([None, "", 0, "there"])
    assert wait_until(lambda: next(values), Deadline(10), "it", every_s=0.001) == "there"


def test_waiting_ends_and_says_what_for() -> None:
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="for sshd") as caught:
        wait_until(lambda: False, Deadline(0.1), "sshd", every_s=30)
    assert time.monotonic() - begin < 10
    assert (caught.value.what, caught.value.seconds) == ("sshd", 0.1)


def test_one_more_look_after_the_time_is_up() -> None:
    assert wait_until(lambda: "late", Deadline(0), "it") == "late"


def test_an_error_of_the_predicate_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0, Deadline(10), "it")
