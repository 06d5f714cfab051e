"""The one loop of the process: file descriptors and timers. It sleeps whenever there is nothing to do."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections import deque
from collections.abc import Callable

Call = Callable[[], None]


class Timer:
    """A call that is to come; ``cancel`` makes it not come."""

    __slots__ = ("call",)

    def __init__(self, call: Call | None):
        self.call = call

    def cancel(self) -> None:
        """Do not make the call."""
        self.call = None


class Loop:
    """Calls what has become readable or writable, and what is due."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, tuple[Call, Call | None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._soon: deque[Call] = deque()
        self.stopped = False

    def close(self) -> None:
        """Watch nothing any more."""
        self._epoll.close()

    def watch(self, fd: int, readable: Call, writable: Call | None = None) -> None:
        """Call ``readable`` when ``fd`` is; with ``writable``, that one too. A second call replaces the first."""
        events = select.EPOLLIN | (select.EPOLLOUT if writable else 0)
        if fd not in self._calls:
            self._epoll.register(fd, events)
        elif (self._calls[fd][1] is None) != (writable is None):
            self._epoll.modify(fd, events)
        self._calls[fd] = (readable, writable)

    def forget(self, fd: int) -> None:
        """Do not watch it any more. To be called before the descriptor is closed."""
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(self, seconds: float, call: Call) -> Timer:
        """Make a call later."""
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def soon(self, call: Call) -> None:
        """Make a call after everybody else has had a turn."""
        self._soon.append(call)

    def run(self) -> None:
        """Go on until ``stopped``."""
        while not self.stopped:
            self.step(None)

    def step(self, limit: float | None) -> None:
        """Wait at most ``limit`` seconds for something, and do all that is to do then."""
        for fd, events in self._epoll.poll(self._patience(limit)):
            calls = self._calls.get(fd)
            if calls is None:
                continue  # somebody before it in this turn has closed it
            if calls[1] is not None and events & ~select.EPOLLIN:
                calls[1]()
            if events & ~select.EPOLLOUT and self._calls.get(fd) is not None:
                calls[0]()
        self._run_timers()
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def _patience(self, limit: float | None) -> float | None:
        if self._soon:
            return 0
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return limit
        due = max(0.0, self._timers[0][0] - time.monotonic())
        return due if limit is None else min(due, limit)

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.call is not None:
                timer.call()
