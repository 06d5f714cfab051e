"""A QEMU process, here or inside an L1: its monitor, its end, its standard error.

Both kinds keep the same files in the run directory: ``argv.txt``, ``qemu.log``, ``console.log`` (those of a nested
QEMU are streamed out of L1 while they grow, so that they outlive the L1).
"""

from __future__ import annotations

import abc
import contextlib
import resource
import shlex
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from lab import proc
from lab.errors import DeadlineExceeded, LabError, Unreachable
from lab.host import detached
from lab.host.base import Host, Stream
from lab.machine.argv import CONSOLE, CONSOLE_LOG, GDB, MONITOR, PIDFILE
from lab.model import Level
from lab.wait import Deadline, wait_until

# From SIGTERM to SIGKILL, in seconds.
_STOP_S = 10.0


def describe_end(status: int) -> str:
    """``SIGKILL`` for -9, ``exit status 1`` for 1."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def note_argv(folder: Path, argv: Sequence[str]) -> None:
    """Keep the command line of a machine's process, one that can be pasted."""
    folder.joinpath("argv.txt").write_text(shlex.join(argv) + "\n")


class QemuProcess(abc.ABC):
    """A QEMU that was started; ``folder`` is its place in the run directory, ``level`` whose fault its death is."""

    def __init__(self, folder: Path, level: Level) -> None:
        self.folder = folder
        self.level = level

    @property
    def console(self) -> Path:
        """File that holds what the machine wrote to its serial console."""
        return self.folder / CONSOLE_LOG

    @property
    def stderr(self) -> Path:
        """File that holds what QEMU wrote to its standard error."""
        return self.folder / "qemu.log"

    @abc.abstractmethod
    def start(self) -> socket.socket:
        """Start it and return the connected end of its monitor."""

    @abc.abstractmethod
    def poll(self) -> int | None:
        """Exit status (negative: the signal that ended it), None while it runs or when nobody can tell."""

    @abc.abstractmethod
    def stop(self) -> bool:
        """End it by force if it still runs, and give back what belongs to it. Returns whether it was seen to run."""

    @staticmethod
    def describe_end(status: int) -> str:
        """``SIGKILL`` for -9, ``exit status 1`` for 1."""
        return describe_end(status)

    def note_argv(self, argv: Sequence[str]) -> None:
        """Keep the command line, one that can be pasted."""
        note_argv(self.folder, argv)


class LocalQemu(QemuProcess):
    """A QEMU on this machine. ``argv`` makes the command line for the file descriptor that carries QMP."""

    def __init__(self, folder: Path, argv: Callable[[int], Sequence[str]], run_dir: Path) -> None:
        super().__init__(folder, Level.L0_QEMU)
        self._argv = argv
        self._run_dir = run_dir
        self._process: proc.Process | None = None

    def start(self) -> socket.socket:
        """Start QEMU in its machine's directory with one end of a socketpair."""
        ours, theirs = socket.socketpair()
        _allow_core()
        argv = self._argv(theirs.fileno())
        self.note_argv(argv)
        with theirs, self.stderr.open("ab") as stderr:
            self._process = proc.start(
                argv,
                cwd=self.folder,
                env={proc.RUN_MARK: str(self._run_dir)},
                stdout=stderr,
                stderr=stderr,
                pass_fds=[theirs.fileno()],
            )
        return ours

    @property
    def pid(self) -> int | None:
        """Process id on this machine, None before the start."""
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.poll() if self._process else None

    def wait(self, deadline: Deadline) -> int:
        """Wait for its end."""
        assert self._process is not None
        return self._process.wait(deadline)

    def stop(self) -> bool:
        """SIGTERM, then SIGKILL; a QEMU that was killed leaves its sockets, which lead nowhere, and a pid of nobody."""
        ran = self._process is not None and self._process.poll() is None
        if self._process:
            self._process.stop()
            for name in (MONITOR, CONSOLE, GDB, PIDFILE):
                (self.folder / name).unlink(missing_ok=True)
        return ran


class NestedQemu(QemuProcess):
    """A QEMU inside ``host``. Its files are in ``remote`` there; console and stderr are copied here as they grow.

    ``argv`` is set before the start: the command line names files in ``remote``.
    """

    argv: Sequence[str] = ()

    def __init__(self, folder: Path, host: Host) -> None:
        super().__init__(folder, Level.L1_QEMU)
        self.host = host
        self.remote = f"{host.scratch}/{folder.name}"
        self._job: detached.Detached | None = None
        self._stack = contextlib.ExitStack()
        self._listener: threading.Thread | None = None
        self._heard = False

    def start(self) -> socket.socket:
        """Start QEMU in L1 in a session of its own, and bring its monitor, console and stderr here."""
        self.host.run(["mkdir", "-p", self.remote])
        # vhost-vdpa counts pinned pages against the limit even for root (vdpa.md 4.3).
        limited = ["env", "-C", self.remote, "prlimit", "--memlock=unlimited:unlimited", "--", *self.argv]
        self.note_argv(self.argv)
        self._job = detached.start(self.host, limited)
        self._copy(f"{self._job.folder}/err", self.stderr)
        self._copy(f"{self.remote}/{CONSOLE_LOG}", self.console)
        return self._monitor()

    def _copy(self, remote: str, local: Path) -> None:
        sink = self._stack.enter_context(local.open("ab", buffering=0))
        stream = self._stack.enter_context(self.host.spawn(["tail", "-c", "+1", "-F", remote]))
        proc.pump(stream.recv, sink.write, f"copy-{local.name}")

    def _monitor(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._stack.callback(theirs.close)
        # The socket appears a moment after the start.
        connect = f"UNIX-CONNECT:{self.remote}/qmp.sock,retry=600,interval=0.05"
        stream: Stream = self._stack.enter_context(self.host.spawn(["socat", "-", connect]))

        def receive(size: int) -> bytes:
            data = stream.recv(size)
            self._heard = self._heard or bool(data)
            return data

        self._listener = proc.pump(receive, theirs.sendall, "qmp-in")
        proc.pump(theirs.recv, stream.send, "qmp-out")
        return ours

    @property
    def pid(self) -> int:
        """Process id inside L1."""
        return int(self.host.get(f"{self.remote}/{PIDFILE}"))

    def poll(self) -> int | None:
        """Exit status as a negative signal number where the shell said 128 + n; None when L1 does not answer."""
        # Who has spoken on the monitor and has not hung up lives. Asking L1 costs it a process each time, which slows
        # the boot that is being waited for.
        if self._job is None or (self._heard and self._listener and self._listener.is_alive()):
            return None
        try:
            done = self.host.run(["cat", f"{self._job.folder}/rc"], check=False)
        except (Unreachable, LabError):
            return None
        if done.returncode != 0:
            return None
        status = int(done.text or "0")
        return 128 - status if status > 128 else status

    def stop(self) -> bool:
        """Kill its process group in L1 when it still runs there; stop copying, but for what it said at its very end."""
        ran = ended = False
        try:
            if self._job and self.poll() is None:
                ran = self._job.stop(self.host)
                wait_until(lambda: self.poll() is not None, Deadline(_STOP_S), "the nested QEMU's end", every_s=0.2)
            ended = True
        except DeadlineExceeded:
            assert self._job is not None
            self._job.kill(self.host)
        finally:
            self._stack.close()
        if self._job and ended:
            with contextlib.suppress(LabError):
                self.stderr.write_bytes(self.host.get(f"{self._job.folder}/err"))
        return ran


def _allow_core() -> None:
    """Let a QEMU that dies of a signal leave a core, in its machine's directory where core_pattern says no more."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
