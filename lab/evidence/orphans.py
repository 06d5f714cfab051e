"""What labs that were killed left: processes that still run, and files that only a lab that is up needs.

A run is dead when nobody holds its owner lock (lab.evidence.record). Cleaning holds the lock meanwhile; evidence stays.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.evidence.record import disowned
from lab.evidence.scratch import dead_scratch
from lab.proc import RUN_MARK
from lab.wait import Deadline

# Below a run directory. The disks are the only big things of a run; secrets must not outlive it; sockets lead nowhere,
# and a pid names somebody else in time.
_ONLY_WHILE_UP = ("secrets", "kept.json", *(f"machines/*/*.{end}" for end in ("qcow2", "raw", "sock", "pid")))

_GRACE_S = 5.0


@dataclass(frozen=True)
class Leftovers:
    """What one dead run left (or a dead job: its temporary files). ``processes`` are ids with their programs' names."""

    run_dir: Path
    processes: dict[int, str]
    files: tuple[Path, ...]

    def describe(self) -> list[str]:
        """One line per thing."""
        return [f"process {pid} ({name}) of {self.run_dir}" for pid, name in self.processes.items()] + [
            str(path) for path in self.files
        ]


def find_orphans(root: Path) -> list[Leftovers]:
    """What dead runs of the jobs below ``root`` left; nothing is touched."""
    return list(_leftovers(root))


def clean_orphans(root: Path, report: Callable[[str], None], *, grace_s: float = _GRACE_S) -> list[Leftovers]:
    """End and remove what dead runs of the jobs below ``root`` left; tell ``report`` each thing in a line.

    Processes get SIGTERM, and SIGKILL after ``grace_s`` seconds. Safe beside running labs and other cleaners.
    """
    cleaned = []
    for leftovers in _leftovers(root):
        _clean(leftovers, report, grace_s)
        cleaned.append(leftovers)
    return cleaned


def marked(root: Path) -> dict[Path, dict[int, str]]:
    """Processes that runs below ``root`` started, by run directory; those of other users cannot be seen."""
    found: dict[Path, dict[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        run_dir = _mark(pid)
        if run_dir and root in run_dir.parents and pid != os.getpid():
            with contextlib.suppress(OSError):
                found.setdefault(run_dir, {})[pid] = _program(folder)
    return found


def _leftovers(root: Path) -> Iterator[Leftovers]:
    """One dead run after the other that left something; nobody can become its owner before the next is asked for."""
    root = root.resolve()
    processes = marked(root)
    for run_dir in sorted({*root.glob("*/*/"), *processes}):
        if run_dir not in processes and not _files(run_dir):
            continue
        with disowned(run_dir) as dead:
            found = Leftovers(run_dir, processes.get(run_dir, {}), _files(run_dir))
            if dead and (found.processes or found.files):
                yield found
    for folder in dead_scratch(root):
        yield Leftovers(folder, {}, (folder,))


def _files(run_dir: Path) -> tuple[Path, ...]:
    return tuple(path for pattern in _ONLY_WHILE_UP for path in sorted(run_dir.glob(pattern)))


def _program(process: Path) -> str:
    """Name of a process's program; a bundled QEMU is started by its own dynamic loader, which is no news to anybody."""
    words = os.fsdecode((process / "cmdline").read_bytes()).split("\0")
    qemu = (name for word in words if (name := Path(word).name).startswith("qemu-system-"))
    return next(qemu, (process / "comm").read_text().strip())


def _mark(pid: int) -> Path | None:
    """The run directory that started a process; None when none did, or it is gone or not ours."""
    prefix = f"{RUN_MARK}=".encode()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(prefix):
                return Path(os.fsdecode(entry.removeprefix(prefix))).resolve()
    return None


def _clean(leftovers: Leftovers, report: Callable[[str], None], grace_s: float) -> None:
    alive = _end(leftovers, grace_s)
    for pid, name in leftovers.processes.items():
        what = "could not be ended" if pid in alive else "ended"
        report(f"{what}: process {pid} ({name}) of {leftovers.run_dir}")
    for path in leftovers.files:
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        except FileNotFoundError:
            continue  # a QEMU that was told to end has removed its sockets itself
        except OSError as error:
            report(f"could not be removed: {path}: {error.strerror}")
        else:
            report(f"removed: {path}")


def _end(leftovers: Leftovers, grace_s: float) -> set[int]:
    """SIGTERM, then SIGKILL to the processes; return those that are still there."""
    with contextlib.ExitStack() as stack:
        # A pidfd goes on meaning the process it was opened for, whoever gets the number next: pidfd_open(2).
        left = {
            pid: descriptor
            for pid in leftovers.processes
            if (descriptor := stack.enter_context(_pidfd(pid))) is not None and _mark(pid) == leftovers.run_dir
        }
        for number in (signal.SIGTERM, signal.SIGKILL):
            for descriptor in left.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
            left = _wait(left, Deadline(grace_s))
        return set(left)


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int | None]:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _wait(descriptors: dict[int, int], deadline: Deadline) -> dict[int, int]:
    """Wait until all processes have ended; return those that have not."""
    poll = select.poll()
    left = dict(descriptors)
    for descriptor in left.values():
        poll.register(descriptor, select.POLLIN)
    while left and not deadline.over():
        ended = {descriptor for descriptor, _ in poll.poll(deadline.left() * 1000)}
        for descriptor in ended:
            poll.unregister(descriptor)
        left = {pid: descriptor for pid, descriptor in left.items() if descriptor not in ended}
    return left
