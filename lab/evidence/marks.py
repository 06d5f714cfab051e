"""Processes that carry a mark of the lab in their environment: whose they are, and ending those of the dead.

A mark names the directory that the owner works in (lab.proc): a run, or a build.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from lab.wait import Deadline

GRACE_S = 5.0


def marked(root: Path, mark: str) -> dict[Path, dict[int, str]]:
    """Processes whose ``mark`` is a directory below ``root``: ids with their programs' names, by that directory.

    Those of other users cannot be seen.
    """
    found: dict[Path, dict[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        owner = _owner(pid, mark)
        if owner and root in owner.parents and pid != os.getpid():
            with contextlib.suppress(OSError):
                found.setdefault(owner, {})[pid] = _program(folder)
    return found


def end(processes: Iterable[int], owner: Path, mark: str, *, grace_s: float = GRACE_S) -> set[int]:
    """SIGTERM, and SIGKILL after ``grace_s`` seconds, to those that still carry this mark; return who is left."""
    with contextlib.ExitStack() as stack:
        # A pidfd goes on meaning the process it was opened for, whoever gets the number next: pidfd_open(2).
        left = {
            pid: descriptor
            for pid in processes
            if (descriptor := stack.enter_context(_pidfd(pid))) is not None and _owner(pid, mark) == owner
        }
        for number in (signal.SIGTERM, signal.SIGKILL):
            for descriptor in left.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
            left = _wait(left, Deadline(grace_s))
        return set(left)


def _program(process: Path) -> str:
    """Name of a process's program; a bundled QEMU is started by its own dynamic loader, which is no news to anybody."""
    words = os.fsdecode((process / "cmdline").read_bytes()).split("\0")
    qemu = (name for word in words if (name := Path(word).name).startswith("qemu-system-"))
    return next(qemu, (process / "comm").read_text().strip())


def _owner(pid: int, mark: str) -> Path | None:
    """The directory that a process's mark names; None when it has none, or is gone or not ours."""
    prefix = f"{mark}=".encode()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(prefix):
                return Path(os.fsdecode(entry.removeprefix(prefix))).resolve()
    return None


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
