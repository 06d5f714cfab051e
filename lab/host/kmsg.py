"""This machine's own kernel log from a moment on (kernel: Documentation/ABI/testing/dev-kmsg)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_RECORD = 8192


class KernelLog:
    """What the kernel logs from now on. ``lack`` says why that cannot be read, and is empty when it can."""

    def __init__(self, path: Path = Path("/dev/kmsg")) -> None:
        self.lack = ""
        self._text = ""
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            self.lack = f"{path}: {error.strerror}"
            self.close()

    def read(self) -> str:
        """All that was logged since, as dmesg(1) prints it. Empty when it cannot be read."""
        while self._fd >= 0:
            try:
                record = os.read(self._fd, _RECORD)
            except BrokenPipeError:
                continue  # overwritten before it was read; the next read has what is there
            except OSError:
                break
            if not record:
                break
            self._text += _as_dmesg(record)
        return self._text

    def close(self) -> None:
        """Read no more."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _as_dmesg(record: bytes) -> str:
    """``prio,seq,microseconds,flags;text`` as a line with its time in seconds; its dictionary is left out."""
    head, _, text = record.decode(errors="replace").partition(";")
    line = text.partition("\n")[0]
    with contextlib.suppress(ValueError, IndexError):
        time_us = int(head.split(",")[2])
        return f"[{time_us // 1_000_000:5d}.{time_us % 1_000_000:06d}] {line}\n"
    return f"{line}\n"
