"""Measuring commands from outside: how long they take, and the memory of everything that they start."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import proc
from lab.errors import CommandError
from lab.model import Completed
from lab.wait import Deadline

# How often memory is looked at, in seconds: the kernel keeps each process's peak, so only short lives can be missed.
_LOOK_S = 0.25

# A command that is interrupted has machines to end.
_GRACE_S = 90.0


@dataclass
class Memory:
    """Peak resident memory of a process and its descendants, in MiB: the sum of the peaks that were seen."""

    peaks_kb: dict[int, int] = field(default_factory=dict)

    @property
    def peak_mb(self) -> float:
        """The sum so far."""
        return sum(self.peaks_kb.values()) / 1024

    def look(self, root: int) -> None:
        """Take the present peaks of ``root`` and all below it."""
        for pid in descendants(root):
            self.peaks_kb[pid] = max(peak_kb(pid), self.peaks_kb.get(pid, 0))


def descendants(root: int) -> set[int]:
    """``root`` and every process below it."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses may hold anything: proc_pid_stat(5).
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, new = {root}, {root}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def peak_kb(pid: int) -> int:
    """VmHWM of a process, KiB: proc_pid_status(5); 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def run_measured(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> tuple[Completed, Memory]:
    """Run a command to its end, whatever its status; its stderr is not kept. Raises CommandError."""
    begin = time.monotonic()
    with proc.spawn(argv, env=env, stdout=proc.PIPE, grace_s=_GRACE_S) as child, _watched(child.pid) as memory:
        assert child.stdout
        output = child.stdout.read()
        status = child.wait(Deadline(_GRACE_S))
    return Completed(tuple(argv), status, output, b"", time.monotonic() - begin), memory


def seconds(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> float:
    """How long a command takes that ends well. Raises CommandError."""
    done = proc.run(argv, env=env, check=False)
    if done.returncode != 0:
        raise CommandError("bench", done)
    return done.duration_s


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[Memory]:
    memory, ended = Memory(), threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK_S):
            memory.look(pid)

    memory.look(pid)
    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        ended.set()
        thread.join()
