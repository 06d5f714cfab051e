"""The lab as its users have it: ``./vdpalab`` in a process of its own, watched only by what it writes.

Nothing of the lab's inside is replaced. A test starts a run, waits for an event in the run directory and acts from
outside, through the public verbs or by a signal to a process that the run directory names.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lab import proc
from lab.evidence.record import owner_alive
from lab.model import Completed
from lab.report.events import Event, read_events
from lab.wait import Deadline, wait_until
from tests.e2e.document import Document, assert_consistent, status_for

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
VDPALAB = str(ROOT / "vdpalab")
SCENARIOS = ROOT / "tests" / "e2e" / "scenarios"

# What is in the cache beside the jobs, which tests share.
_SHARED = ("artifacts", "apt", "ccache", "accel.json")

# Nothing with a name like these outlives a run.
_ONLY_WHILE_UP = ("secrets", "kept.json", "*.qcow2", "*.raw", "*.sock", "*.part", "*.pid")

INTERRUPTED = 130

# A run on a machine that runs another one beside it, three times as slow as the slowest seen.
_RUN_S = 540.0


@dataclass(frozen=True)
class Ended:
    """A `run --json` that ended: exit status, its document, and what it said on stderr."""

    status: int
    document: Document
    said: str


class Cli:
    """``./vdpalab`` with jobs and temporary files of its own below ``folder``, and artifacts from ``shared``."""

    def __init__(self, folder: Path, shared: Path, *, links: Sequence[str] = _SHARED) -> None:
        """``links`` are the paths below the cache's root that are links into the shared one."""
        self.folder = folder
        self.cache = folder / "cache"
        # Short, for the sockets in it.
        self.temporary = Path(tempfile.mkdtemp(prefix="e2e-"))
        # Put before the command line.
        self.prefix: tuple[str, ...] = ()
        self.env = {"VDPALAB_CACHE": str(self.cache), "TMPDIR": str(self.temporary)}
        self.cache.mkdir(parents=True)
        for name in links:
            if not name.endswith(".json"):
                (shared / name).mkdir(parents=True, exist_ok=True)
            (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
            (self.cache / name).symlink_to(shared / name)

    @property
    def jobs(self) -> Path:
        """Where the evidence is."""
        return self.cache / "jobs"

    def call(self, *words: str, timeout_s: float = 300.0, data: bytes = b"") -> Completed:
        """Run any verb to its end; the status is the caller's to judge."""
        return proc.run([VDPALAB, *words], env=self.env, input=data, check=False, timeout_s=timeout_s)

    def inside(self, run_dir: Path, machine: str, script: str, *, timeout_s: float = 120.0) -> Completed:
        """Run a shell script on a machine of a lab that is up, as a user does from another terminal."""
        words = ["exec", "--run", str(run_dir), machine, "--", "sh", "-c", script]
        return self.call(*words, timeout_s=timeout_s)

    @contextlib.contextmanager
    def running(self, *words: str) -> Iterator[Running]:
        """`run --json` with these words in the background, ended at the end of the block."""
        number = len(list(self.folder.glob("out-*")))
        out, err = self.folder / f"out-{number}", self.folder / f"err-{number}"
        argv = [*self.prefix, VDPALAB, "run", "--json", *words]
        with (
            out.open("wb") as stdout,
            err.open("wb") as stderr,
            proc.spawn(argv, env=self.env, stdout=stdout, stderr=stderr, grace_s=120) as process,
        ):
            yield Running(process, out, err)

    def run(self, *words: str) -> Ended:
        """`run --json` to its end."""
        with self.running(*words) as running:
            return running.end()

    def processes(self) -> dict[int, str]:
        """Every process that was started from here and still lives, with its command line."""
        needle = os.fsencode(f"VDPALAB_CACHE={self.cache}\0")
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # gone, or somebody else's
                if needle in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
        return found

    def left_behind(self) -> list[str]:
        """What is still there that belongs to no finished run, one line each; asked once, at the end."""
        processes = [f"process {pid}: {argv}" for pid, argv in self.processes().items()]
        files = [str(path) for pattern in _ONLY_WHILE_UP for path in self.jobs.rglob(pattern)]
        sockets = [str(path) for path in self.cache.rglob("*") if path.is_socket()]
        owned = [f"{lock.parent} is locked" for lock in self.jobs.glob("*/*/owner.lock") if owner_alive(lock.parent)]
        temporary = [str(path) for path in self.temporary.iterdir()]
        if not temporary:
            self.temporary.rmdir()
        return processes + files + sockets + owned + temporary


class Running:
    """A `run --json` in the background."""

    def __init__(self, process: proc.Process, out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err

    @property
    def said(self) -> str:
        """Its stderr so far."""
        return self._err.read_text(errors="replace")

    def run_dir(self, number: int = 1) -> Path:
        """Directory of the run with this number, as soon as it has begun."""

        def begun() -> Path | None:
            match = re.search(r"evidence in (\S+)", self.said)
            found = sorted(Path(match[1]).glob(f"{number:03d}-*/events.jsonl")) if match else []
            return found[0].parent if found else None

        return self._wait(begun, f"run {number}")

    def wait_event(self, accept: Callable[[Event], bool], what: str, *, number: int = 1) -> Path:
        """Wait until a run has noted an event that ``accept`` takes; return its directory."""
        run_dir = self.run_dir(number)
        self._wait(lambda: any(map(accept, read_events(run_dir)[0])), what)
        return run_dir

    def wait_step(self, step: str, *, number: int = 1) -> Path:
        """Wait until a run has begun a step; return its directory."""
        return self.wait_event(
            lambda event: event["event"] == "step-begin" and event["step"] == step, f"the step {step}", number=number
        )

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.signal(signal.SIGINT)

    def end(self, timeout_s: float = _RUN_S) -> Ended:
        """Wait for its end, read what it printed, and see that it agrees with its exit status and its files."""
        status = self.process.wait(Deadline(timeout_s))
        text = self._out.read_text()
        assert text, f"exit status {status} without a document on stdout:\n{self.said}"
        document = Document.model_validate_json(text)
        assert_consistent(document)
        assert status in (status_for(document), INTERRUPTED), self.said
        return Ended(status, document, self.said)

    def _wait(self, predicate: Callable[[], T | None], what: str) -> T:
        def look() -> T | None:
            found = predicate()
            # Asked in this order, the last words of a run that has just ended are still seen.
            assert found or self.process.poll() is None, f"the run ended before {what}:\n{self.said}"
            return found

        return wait_until(look, Deadline(_RUN_S), what)


def reported_pid(path: Path, key: str | None = None) -> int:
    """A process id that a run directory's file holds, as a number or under a key."""
    text = path.read_text()
    return int(json.loads(text)[key] if key else text)
