"""The record of one run: what happened when, what every command printed, which files tell more.

Layout (design.md section 4)::

    plan.json  events.jsonl  result.json  report.html
    machines/<m>/{argv.txt,qemu.log,console.log,qmp.jsonl}   hosts/<h>/cmd-NNN.{json,out,err}   workloads/  collect/

Everything is written the moment it is known and flushed, so that a lab killed with SIGKILL leaves a readable record.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lab.model import Completed
from lab.wait import Deadline, wait_until

OWNER_LOCK = "owner.lock"

# Who looks whether a run lives holds its lock for a moment (disowned).
_OWN_S = 10.0


class Record:
    """Writes the directory of one run. All methods may be called from any thread.

    Times in events are seconds of L0's monotonic clock; the first event, ``begin``, also carries the wall clock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._commands: dict[str, int] = {}
        self._events = (path / "events.jsonl").open("a", encoding="utf-8")
        self._owner = (path / OWNER_LOCK).open("w")
        wait_until(lambda: _locked(self._owner), Deadline(_OWN_S), f"the lock of {path}, which another lab holds")
        self.event("begin", wall=time.time(), pid=os.getpid())

    def close(self) -> None:
        """Give up ownership: from now on `vdpalab clean` may remove what the run left."""
        self.event("end")
        with contextlib.suppress(OSError):
            self._events.close()
        self._owner.close()

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event; ``fields`` must be JSON. On a full disk it is lost: a teardown must go on."""
        line = json.dumps({"t": round(time.monotonic(), 4), "event": kind, **fields}, default=str)
        with self._lock, contextlib.suppress(OSError):
            if not self._events.closed:
                self._events.write(line + "\n")
                self._events.flush()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record a step of the run with its duration and, if it failed, its error."""
        self.event("step-begin", step=name)
        begin = time.monotonic()
        try:
            yield
        except BaseException as error:
            self.event("step-end", step=name, seconds=round(time.monotonic() - begin, 3), error=repr(error))
            raise
        self.event("step-end", step=name, seconds=round(time.monotonic() - begin, 3))

    def command(self, host: str, done: Completed) -> Path:
        """Keep one command of ``host`` and return the path of its description."""
        folder = self.folder("hosts", host)
        with self._lock:
            number = self._commands[host] = self._commands.get(host, 0) + 1
        base = folder / f"cmd-{number:03d}"
        base.with_suffix(".out").write_bytes(done.stdout)
        if done.stderr:
            base.with_suffix(".err").write_bytes(done.stderr)
        about = {"argv": done.argv, "returncode": done.returncode, "seconds": round(done.duration_s, 3)}
        base.with_suffix(".json").write_text(json.dumps(about) + "\n")
        self.event("command", host=host, number=number, rc=done.returncode, command=done.command[:200])
        return base.with_suffix(".json")

    def folder(self, *parts: str) -> Path:
        """A folder of the run directory, made when missing."""
        path = self.path.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, text: str) -> Path:
        """Write a text file of the run directory atomically."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".part")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
        return target


def owner_alive(run_dir: Path) -> bool:
    """Whether the lab that writes ``run_dir`` still runs: it holds a lock that the kernel drops when it dies."""
    with disowned(run_dir) as dead:
        return not dead


@contextlib.contextmanager
def disowned(run_dir: Path) -> Iterator[bool]:
    """Whether no lab writes ``run_dir``; when so, none can become its owner while the block lasts."""
    with contextlib.ExitStack() as stack:
        try:
            dead = _locked(stack.enter_context((run_dir / OWNER_LOCK).open("r+")))
        except FileNotFoundError:
            dead = True
        except OSError:  # somebody else's
            dead = False
        yield dead


def _locked(file: IO[str]) -> bool:
    """Take the lock of an open file, unless somebody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
