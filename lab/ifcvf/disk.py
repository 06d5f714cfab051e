"""What is behind a block device: a raw image, in a file or in memory that has no name."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os

SECTOR = 512
# readv(2) and writev(2) take no more buffers at once.
_MAX_BUFFERS = 1024
_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_ZEROES = bytes(1 << 20)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Disk:
    """A raw image. Everything but ``size`` and ``read_only`` raises OSError; ranges have been checked by the caller."""

    def __init__(self, fd: int, read_only: bool):
        self._fd = fd
        self.read_only = read_only
        self.size = os.fstat(fd).st_size

    def read(self, offset: int, buffers: list[memoryview]) -> None:
        """Fill the buffers from there on; what lies behind the end of a file that became shorter is zeroes."""
        for at, part in _portions(offset, buffers):
            read = os.preadv(self._fd, part, at)
            for buffer in part:
                if read < len(buffer):
                    buffer[max(0, read) :] = bytes(len(buffer) - max(0, read))
                read -= len(buffer)

    def write(self, offset: int, buffers: list[memoryview]) -> None:
        """Write the buffers there."""
        for at, part in _portions(offset, buffers):
            if os.pwritev(self._fd, part, at) != sum(map(len, part)):
                raise OSError(errno.ENOSPC, "short write")

    def flush(self) -> None:
        """Wait until what was written is on stable storage."""
        os.fdatasync(self._fd)

    def discard(self, offset: int, length: int) -> None:
        """Give the space back where that is possible. What is read there afterwards may be anything."""
        with contextlib.suppress(OSError):
            self._punch(offset, length)

    def zero(self, offset: int, length: int, unmap: bool) -> None:
        """Make it read as zeroes; with ``unmap`` its space may be given back."""
        if unmap:
            with contextlib.suppress(OSError):
                self._punch(offset, length)
                return
        while length:
            size = min(length, len(_ZEROES))
            os.pwrite(self._fd, memoryview(_ZEROES)[:size], offset)
            offset += size
            length -= size

    def _punch(self, offset: int, length: int) -> None:
        if _libc.fallocate(self._fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")

    def close(self) -> None:
        """Close the image."""
        os.close(self._fd)


def memory_disk(size: int) -> Disk:
    """A disk in memory, zeroes at first; it takes what has been written and no more."""
    fd = os.memfd_create("ifcvf-disk", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return Disk(fd, read_only=False)


def file_disk(path: str, read_only: bool) -> Disk:
    """A disk in a raw image. Raises OSError when it cannot be opened."""
    return Disk(os.open(path, os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR)), read_only)


def _portions(offset: int, buffers: list[memoryview]) -> list[tuple[int, list[memoryview]]]:
    """The buffers in portions that one system call takes, each with its place."""
    if len(buffers) <= _MAX_BUFFERS:
        return [(offset, buffers)]
    portions = []
    for first in range(0, len(buffers), _MAX_BUFFERS):
        part = buffers[first : first + _MAX_BUFFERS]
        portions.append((offset, part))
        offset += sum(map(len, part))
    return portions
