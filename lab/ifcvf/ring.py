"""Split virtqueues from the device's side: virtio 1.2, section 2.7.

Fields of a ring are items of cast memoryviews, because one item is one load or store of the processor; struct may move
bytes one by one. Everything that the driver wrote is checked where it is read.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Literal

from lab.ifcvf.dma import DmaFault, DmaMap

MAX_QUEUE_SIZE = 1024
# What one chain may have, indirect or not. A longer one is a loop.
MAX_CHAIN = 1024
# The longest chain in bytes; in memory of single pages each of them is a piece of its own.
MAX_CHAIN_BYTES = 1 << 25

_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT = 1
_NO_NOTIFY = 1
_PAGE = 4096

Kind = Literal["H", "I", "Q"]

_lock = threading.Lock()


def fence() -> None:
    """Order every access before against every access after it, as ``smp_mb()``: a locked instruction does that."""
    _lock.acquire()
    _lock.release()


class RingError(Exception):
    """What the driver has put into the ring cannot be served; the device needs a reset."""


class Scattered:
    """Items in memory that goes on at another place at each page, as a guest's does in its host: slower, and rare."""

    def __init__(self, pages: list[memoryview], first: int, kind: Kind, width: int):
        self._pages = [page.cast(kind) for page in pages]
        self._first = first
        self._width = width

    def _place(self, index: int) -> tuple[memoryview, int]:
        byte = self._first + index * self._width
        page = byte // _PAGE
        start = self._first if page == 0 else 0
        return self._pages[page], (byte % _PAGE - start) // self._width

    def __getitem__(self, index: int) -> int:
        page, at = self._place(index)
        return page[at]

    def __setitem__(self, index: int, value: int) -> None:
        page, at = self._place(index)
        page[at] = value


Items = memoryview | Scattered


def items(dma: DmaMap, iova: int, length: int, kind: Kind, width: int, write: bool) -> Items:
    """An array of the ring in the client's memory. Raises DmaFault when it is not in the map."""
    try:
        return dma.window(iova, length, write).cast(kind)
    except DmaFault:
        pages = []
        at, end = iova, iova + length
        while at < end:
            size = min(end, at // _PAGE * _PAGE + _PAGE) - at
            pages.append(dma.window(at, size, write))
            at += size
        return Scattered(pages, iova % _PAGE, kind, width)


class Chain:
    """One buffer of the driver: its head's index, and its memory by direction."""

    __slots__ = ("head", "readable", "writable")

    def __init__(self, head: int, readable: list[memoryview], writable: list[memoryview]):
        self.head = head
        self.readable = readable
        self.writable = writable


class Queue:
    """One virtqueue. ``size`` to ``used`` are what the driver sets; the rest is the device's.

    ``interrupt`` is called when the driver is to be told of used buffers. ``twist`` is a fault: it may change the id
    and the length that are told.
    """

    def __init__(self, index: int, max_size: int, dma: DmaMap, interrupt: Callable[[Queue], None]):
        self.index = index
        self.max_size = max_size
        self._dma = dma
        self._interrupt = interrupt
        self.twist: Callable[[int, int], tuple[int, int]] | None = None
        self.stalled = False
        self.event_idx = False
        self.reset()

    def reset(self) -> None:
        """The state after a reset of the device."""
        self.size = self.max_size
        self.enabled = False
        self.desc = self.avail = self.used = 0
        self.last_avail = 0
        self.used_idx = 0
        self.error = ""
        self._told = 0
        self._begins = False
        self._release()

    def _release(self) -> None:
        self._generation = -1
        empty = memoryview(b"")
        self._desc: Items = empty
        self._avail: Items = empty
        self._used: Items = empty
        self._ids: Items = empty

    def enable(self) -> None:
        """Start, at the index that ``last_avail`` says. Raises RingError for addresses that no ring can have.

        Rings that are not mapped yet are looked for again when there is something to do.
        """
        if self.desc % 16 or self.avail % 2 or self.used % 4:
            raise RingError("a part of the ring is not aligned")
        self.error = ""
        self.enabled = True
        # QEMU's generic vDPA device enables its queues, then maps the guest's memory, then says DRIVER_OK.
        self._begins = True
        self._release()
        with contextlib.suppress(RingError):
            self._refresh()

    def disable(self) -> None:
        """Stop; ``last_avail`` stays."""
        self.enabled = False
        self._release()

    def _refresh(self) -> None:
        """See the rings where the map has them now."""
        if self._generation == self._dma.generation:
            return
        size = self.size
        try:
            self._desc = items(self._dma, self.desc, 16 * size, "Q", 8, False)
            self._avail = items(self._dma, self.avail, 6 + 2 * size, "H", 2, False)
            self._used = items(self._dma, self.used, 6 + 8 * size, "H", 2, True)
            self._ids = items(self._dma, self.used + 4, 8 * size, "I", 4, True)
        except DmaFault as fault:
            self._release()
            raise RingError(str(fault)) from None
        self._generation = self._dma.generation
        if self._begins:
            # In order and without anything in flight, so that both indices are one state.
            self.used_idx = self._told = self._used[1]
            self._begins = False

    def waiting(self) -> int:
        """How many buffers the driver has made available. Raises RingError when it cannot have so many."""
        self._refresh()
        number = (self._avail[1] - self.last_avail) & 0xFFFF
        if number > self.size:
            raise RingError(f"{number} buffers are available in a ring of {self.size}")
        return number

    def pop(self) -> Chain:
        """The next buffer; ``waiting`` has said that there is one. Raises RingError and DmaFault."""
        head = self._avail[2 + self.last_avail % self.size]
        chain = self._chain(head)
        self.last_avail = (self.last_avail + 1) & 0xFFFF
        return chain

    def unpop(self, number: int) -> None:
        """Give the last buffers back unused: they are the next ones again."""
        self.last_avail = (self.last_avail - number) & 0xFFFF

    def _chain(self, head: int) -> Chain:
        table, limit, at = self._desc, self.size, head
        windows = self._dma.windows
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        total = 0
        for _ in range(MAX_CHAIN):
            if at >= limit:
                raise RingError(f"descriptor {at} of {limit}")
            address, word = table[2 * at], table[2 * at + 1]
            length, flags, at = word & 0xFFFFFFFF, word >> 32 & 0xFFFF, word >> 48
            if flags & _INDIRECT:
                table, limit, at = self._indirect(table, address, length, flags), length // 16, 0
                continue
            total += length
            if total > MAX_CHAIN_BYTES:
                raise RingError(f"a chain of more than {MAX_CHAIN_BYTES} bytes")
            if flags & _WRITE:
                if length:
                    writable += windows(address, length, True)
            elif writable:
                raise RingError("a readable descriptor after a writable one")
            elif length:
                readable += windows(address, length, False)
            if not flags & _NEXT:
                return Chain(head, readable, writable)
        raise RingError(f"a chain of more than {MAX_CHAIN} descriptors")

    def _indirect(self, table: Items, address: int, length: int, flags: int) -> Items:
        if table is not self._desc or flags & _NEXT:
            raise RingError("an indirect descriptor inside a chain")
        if length == 0 or length % 16 or length > 16 * MAX_CHAIN:
            raise RingError(f"an indirect table of {length} bytes")
        if address % 8:
            raise RingError("an indirect table that is not aligned")
        return items(self._dma, address, length, "Q", 8, False)

    def push(self, head: int, written: int) -> None:
        """Give a buffer back; the driver sees it after ``publish``."""
        if self.twist is not None:
            head, written = self.twist(head, written)
        place = self.used_idx % self.size * 2
        self._ids[place] = head
        self._ids[place + 1] = written
        self.used_idx = (self.used_idx + 1) & 0xFFFF

    def publish(self) -> None:
        """Let the driver see what was pushed, and interrupt it if it wants that."""
        old, new = self._told, self.used_idx
        if old == new or not self.enabled:
            return
        self._refresh()
        self._used[1] = new
        self._told = new
        fence()
        if self.event_idx:
            event = self._avail[2 + self.size]
            wanted = (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        else:
            wanted = not self._avail[0] & _NO_INTERRUPT
        if wanted:
            self._interrupt(self)

    def serve(self, serve: Callable[[Chain], int], budget: int) -> bool:
        """Serve what the driver has made available; ``serve`` returns the used length of a chain.

        Returns True when there was more than ``budget`` chains. Raises RingError, DmaFault; the caller publishes.
        """
        self.quiet()
        while budget > 0:
            number = self.waiting()
            if number == 0 and not self.listen(0):
                return False
            for _ in range(min(number, budget)):
                chain = self.pop()
                self.push(chain.head, serve(chain))
            budget -= number
        return True

    def quiet(self) -> None:
        """No notification is needed: the queue is being served."""
        if not self.event_idx:
            self._refresh()
            self._used[0] = _NO_NOTIFY

    def listen(self, number: int) -> bool:
        """Ask to be notified when there are more buffers than the ``number`` that ``waiting`` has told.

        Returns True when there are more already: then no notification may come. What the driver does between
        ``waiting`` and the fence is seen here, because the comparison is with what ``waiting`` told.
        """
        self._refresh()
        seen = (self.last_avail + number) & 0xFFFF
        if self.event_idx:
            self._used[2 + 4 * self.size] = seen
        else:
            self._used[0] = 0
        fence()
        return self._avail[1] != seen
