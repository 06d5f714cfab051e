"""The machine the lab runs on, as a Host."""

from __future__ import annotations

from collections.abc import Sequence

from lab import proc
from lab.errors import CommandError
from lab.host.base import Host, Stream
from lab.model import Completed
from lab.wait import Deadline


class LocalHost(Host):
    """Runs commands here."""

    def _execute(self, argv: Sequence[str], data: bytes, deadline: Deadline) -> Completed:
        try:
            return proc.run(argv, input=data, check=False, timeout_s=deadline.left())
        except CommandError as error:
            # A program that is not there is a status, as it is on a host that is reached through a shell.
            return error.completed

    def _start(self, argv: Sequence[str]) -> Stream:
        return _LocalStream(proc.start(argv, stdin=proc.PIPE, stdout=proc.PIPE))


class _LocalStream(Stream):
    def __init__(self, process: proc.Process) -> None:
        self._process = process

    def recv(self, size: int) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.read1(size)  # type: ignore[attr-defined, no-any-return]

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.stop()
