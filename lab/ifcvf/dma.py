"""The memory that a client has given to a VF: ranges of iova and the files behind them.

Nothing else is ever touched: each access names its iova, length and direction and is looked up here. Each file is
mapped once, by device and inode, however many ranges of it there are, so that ranges stay cheap; with a vIOMMU and
4 KiB pages there are 100 000 of them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from array import array
from bisect import bisect_right
from dataclasses import dataclass

from lab.ifcvf.wire import Refused

MAX_RANGES = 1 << 20
MAX_FILES = 64
# No IOMMU has longer addresses; the sum of two of these fits an array's item.
MAX_ADDRESS = 1 << 63


class DmaFault(Exception):
    """An access outside the map, or a write to what is mapped for reading. Nothing was touched."""

    def __init__(self, iova: int, length: int, write: bool):
        super().__init__(f"{'write' if write else 'read'} of {length} bytes at {iova:#x} is outside the DMA map")
        self.iova = iova
        self.length = length
        self.write = write


class File:
    """A file of the client in our address space."""

    def __init__(self, fd: int, name: str):
        self.name = name
        self.size = os.fstat(fd).st_size
        # Without the seal a client that shortens its memory would kill us with SIGBUS. Plain files cannot have it.
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        try:
            self.memory, self.writable = mmap.mmap(fd, self.size), True
        except PermissionError:
            self.memory, self.writable = mmap.mmap(fd, self.size, access=mmap.ACCESS_READ), False
        self.view = memoryview(self.memory)
        self.ranges = 0


@dataclass(frozen=True)
class Range:
    """A range of the map, as it is shown: ``offset`` is its beginning in the file called ``memory``."""

    iova: int
    size: int
    writable: bool
    memory: str
    offset: int


class DmaMap:
    """Sorted ranges that do not overlap. ``generation`` changes whenever something is taken out of the map."""

    def __init__(self) -> None:
        self.generation = 0
        self._files: dict[str, File] = {}
        self._starts = array("Q")
        self._ends = array("Q")
        self._offsets = array("Q")
        self._modes: list[tuple[File, bool]] = []
        self._forget()

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def bytes(self) -> int:
        """How much is mapped."""
        return sum(self._ends) - sum(self._starts)

    def _forget(self) -> None:
        """No range is remembered as the last one that was hit."""
        self._low, self._high, self._shift = 0, -1, 0
        self._view = memoryview(b"")
        self._may_write = False

    def map(self, fd: int, offset: int, iova: int, size: int, writable: bool) -> None:
        """Add a range. What is mapped already in just this way is accepted once more.

        Raises Refused for an empty or overlapping range, one outside the file, or when there are too many.
        """
        if size == 0 or iova + size > MAX_ADDRESS:
            raise Refused(errno.EINVAL, f"a range of {size:#x} bytes at {iova:#x}")
        if len(self._starts) >= MAX_RANGES:
            raise Refused(errno.ENOSPC, f"more than {MAX_RANGES} ranges")
        file = self._file(fd)
        if offset + size > file.size:
            raise Refused(errno.EINVAL, f"{offset:#x}+{size:#x} is outside a file of {file.size:#x} bytes")
        if writable and not file.writable:
            raise Refused(errno.EACCES, "the file may not be written")
        self._insert(iova, iova + size, offset, (file, writable))

    def _file(self, fd: int) -> File:
        status = os.fstat(fd)
        name = f"{status.st_dev}:{status.st_ino}"
        file = self._files.get(name)
        if file is None or file.size < status.st_size:
            if len(self._files) >= MAX_FILES:
                raise Refused(errno.ENOSPC, f"more than {MAX_FILES} files")
            try:
                file = File(fd, name)
            except (OSError, ValueError, OverflowError) as error:
                raise Refused(errno.EINVAL, f"the file cannot be mapped: {error}") from None
            self._files[name] = file
        return file

    def _insert(self, start: int, end: int, offset: int, mode: tuple[File, bool]) -> None:
        at = bisect_right(self._starts, start)
        before = at - 1
        if before >= 0 and self._ends[before] > start:
            same = self._modes[before] == mode and self._offsets[before] - self._starts[before] == offset - start
            if same and end <= self._ends[before]:
                return
            raise Refused(errno.EEXIST, f"{start:#x} is mapped already")
        if at < len(self._starts) and self._starts[at] < end:
            raise Refused(errno.EEXIST, f"{self._starts[at]:#x} is mapped already")
        if before >= 0 and self._goes_on(before, start, offset, mode):
            self._ends[before] = end
            self._join(before)
            return
        if before >= 0 and self._modes[before] == mode:
            mode = self._modes[before]  # one object for many ranges
        self._starts.insert(at, start)
        self._ends.insert(at, end)
        self._offsets.insert(at, offset)
        self._modes.insert(at, mode)
        mode[0].ranges += 1
        self._join(at)

    def _goes_on(self, before: int, start: int, offset: int, mode: tuple[File, bool]) -> bool:
        length = self._ends[before] - self._starts[before]
        return self._ends[before] == start and self._modes[before] == mode and self._offsets[before] + length == offset

    def _join(self, at: int) -> None:
        """Make one range of this one and the next, where the file goes on too."""
        self._forget()
        after = at + 1
        if after == len(self._starts):
            return
        if self._goes_on(at, self._starts[after], self._offsets[after], self._modes[after]):
            self._ends[at] = self._ends[after]
            self._replace(after, after + 1, [])

    def unmap(self, iova: int, size: int) -> None:
        """Take everything between ``iova`` and ``iova + size`` out of the map; it need not have been in it."""
        end = iova + size
        first = bisect_right(self._starts, iova) - 1
        if first < 0 or self._ends[first] <= iova:
            first += 1
        last = first
        while last < len(self._starts) and self._starts[last] < end:
            last += 1
        if first == last:
            return
        rest: list[tuple[int, int, int, tuple[File, bool]]] = []
        if self._starts[first] < iova:
            rest.append((self._starts[first], iova, self._offsets[first], self._modes[first]))
        if self._ends[last - 1] > end:
            skipped = end - self._starts[last - 1]
            rest.append((end, self._ends[last - 1], self._offsets[last - 1] + skipped, self._modes[last - 1]))
        self._replace(first, last, rest)
        self._forget()
        self.generation += 1

    def _replace(self, first: int, last: int, rest: list[tuple[int, int, int, tuple[File, bool]]]) -> None:
        for file, _writable in self._modes[first:last]:
            file.ranges -= 1
        for *_place, (file, _writable) in rest:
            file.ranges += 1
        gone = {file for file, _writable in self._modes[first:last] if file.ranges == 0}
        self._starts[first:last] = array("Q", [start for start, *_ in rest])
        self._ends[first:last] = array("Q", [end for _, end, *_ in rest])
        self._offsets[first:last] = array("Q", [offset for _, _, offset, _ in rest])
        self._modes[first:last] = [mode for *_, mode in rest]
        for file in gone:
            # The mapping itself goes with its last view; rings give theirs up when they see the new generation.
            if self._files.get(file.name) is file:
                del self._files[file.name]

    def clear(self) -> None:
        """Take everything out of the map."""
        self.unmap(0, MAX_ADDRESS)

    def window(self, iova: int, length: int, write: bool) -> memoryview:
        """The memory of one access. Raises DmaFault when it is not wholly inside one range."""
        if not (self._low <= iova and iova + length <= self._high and (self._may_write or not write)):
            self._find(iova, length, write)
            if iova + length > self._high:
                raise DmaFault(iova, length, write)
        start = iova + self._shift
        return self._view[start : start + length]

    def windows(self, iova: int, length: int, write: bool) -> list[memoryview]:
        """The memory of one access that may go over several ranges, in order. Raises DmaFault."""
        if self._low <= iova and iova + length <= self._high and (self._may_write or not write):
            start = iova + self._shift
            return [self._view[start : start + length]]
        parts = []
        while length:
            self._find(iova, length, write)
            size = min(length, self._high - iova)
            start = iova + self._shift
            parts.append(self._view[start : start + size])
            iova += size
            length -= size
        return parts

    def _find(self, iova: int, length: int, write: bool) -> None:
        """Make the range that ``iova`` is in the one that is remembered."""
        at = bisect_right(self._starts, iova) - 1
        if at < 0 or self._ends[at] <= iova:
            raise DmaFault(iova, length, write)
        file, writable = self._modes[at]
        if write and not writable:
            raise DmaFault(iova, length, write)
        self._low, self._high = self._starts[at], self._ends[at]
        self._shift = self._offsets[at] - self._low
        self._view, self._may_write = file.view, writable

    def ranges(self) -> list[Range]:
        """All ranges, sorted; neighbours are joined where the file behind them goes on too."""
        return [
            Range(start, end - start, writable, file.name, offset)
            for start, end, offset, (file, writable) in zip(
                self._starts, self._ends, self._offsets, self._modes, strict=True
            )
        ]
