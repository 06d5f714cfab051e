"""Where commands run: this machine, an L1 VM, an L2 guest, a real server.

Everything about vDPA is written once, against this.
"""

from __future__ import annotations

import abc
import contextlib
import shlex
from collections.abc import Callable, Iterator, Sequence

from lab.errors import CommandError, LabError
from lab.evidence.record import Record
from lab.model import Completed
from lab.wait import Deadline

# Seconds that an ordinary command may take on the reference machine; multiplied by the host's slowness.
COMMAND_S = 30.0


class Stream(abc.ABC):
    """A started command with its standard input and output as a byte stream."""

    @abc.abstractmethod
    def recv(self, size: int) -> bytes:
        """Up to ``size`` bytes of standard output; empty at its end."""

    @abc.abstractmethod
    def send(self, data: bytes) -> None:
        """Write all of ``data`` to standard input."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the command and the stream; repeating it is fine."""


class Host(abc.ABC):
    """A machine that runs commands.

    ``slowness`` is the measured factor (1.0: as fast as the reference) that scales every time limit on this host.
    ``scratch`` is the directory for what the lab keeps there; a machine that others use too has one for each run.
    """

    scratch = "/run/vdpalab"
    # Asked while a command goes on: raises when something has ended without which none will come to its end.
    watch: Callable[[], object] | None = None

    def __init__(self, name: str, record: Record, slowness: float = 1.0) -> None:
        self.name = name
        self.record = record
        self.slowness = slowness

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",  # noqa: A002 - the name that subprocess.run uses
        check: bool = True,
        timeout_s: float = COMMAND_S,
    ) -> Completed:
        """Run a command to its end, record it, and return what it printed.

        Raises CommandError for a non-zero status when ``check``, DeadlineExceeded after ``timeout_s`` times the
        host's slowness, Unreachable when the host is gone.
        """
        try:
            done = self._execute(argv, input, Deadline(timeout_s * self.slowness))
        except LabError as error:
            self.record.event("command-lost", host=self.name, command=shlex.join(argv)[:200], error=str(error))
            raise
        log = self.record.command(self.name, done)
        if check and done.returncode != 0:
            raise CommandError(self.name, done, log=log)
        return done

    def ok(self, argv: Sequence[str]) -> bool:
        """Whether a command ends with status 0."""
        return self.run(argv, check=False).returncode == 0

    def put(self, data: bytes, path: str, *, mode: str | None = None) -> None:
        """Write ``data`` to ``path`` in one write; works for sysfs and on hosts without an SFTP server."""
        self.run(["sh", "-c", 'cat > "$0"', path], input=data, timeout_s=4 * COMMAND_S)
        if mode:
            self.run(["chmod", mode, path])

    def get(self, path: str) -> bytes:
        """Content of the file ``path``."""
        return self.run(["cat", path], timeout_s=4 * COMMAND_S).stdout

    @contextlib.contextmanager
    def spawn(self, argv: Sequence[str]) -> Iterator[Stream]:
        """Start a command and talk to it for as long as the block lasts."""
        stream = self._start(argv)
        try:
            yield stream
        finally:
            stream.close()

    @abc.abstractmethod
    def _execute(self, argv: Sequence[str], data: bytes, deadline: Deadline) -> Completed:
        """Run to the end within the deadline."""

    @abc.abstractmethod
    def _start(self, argv: Sequence[str]) -> Stream:
        """Start and return the stream."""

    def close(self) -> None:  # noqa: B027 - most hosts hold nothing
        """Give back what the host object holds."""
