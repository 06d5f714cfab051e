"""Waiting with a limit. Every wait in the lab has a Deadline and says what it waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from lab.errors import DeadlineExceeded

T = TypeVar("T")

# How often a predicate that has no file descriptor to wait on is asked, in seconds: short against the fastest thing
# waited for (an SSH command in L1, 60 ms), long against the cost of asking.
_POLL_S = 0.05


class Deadline:
    """A point in monotonic time, and the number of seconds it was away at the start."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    def over(self) -> bool:
        """Whether the time is up."""
        return self.left() == 0.0

    def check(self, what: str) -> float:
        """Return the seconds left; raise DeadlineExceeded, naming ``what``, when there are none."""
        left = self.left()
        if left == 0.0:
            raise DeadlineExceeded(what, self.seconds)
        return left


def wait_until(predicate: Callable[[], T | None], deadline: Deadline, what: str, *, every_s: float = _POLL_S) -> T:
    """Ask ``predicate`` until it returns something true, and return that.

    The predicate is asked once more after the time is up, so that a slow machine is not failed for a late look.
    Raises DeadlineExceeded naming ``what``.
    """
    never = threading.Event()
    while True:
        late = deadline.over()
        value = predicate()
        if value:
            return value
        if late:
            raise DeadlineExceeded(what, deadline.seconds)
        never.wait(min(every_s, deadline.left() or every_s))
