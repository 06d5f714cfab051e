"""Processes on the machine the lab runs on. The only place that uses ``subprocess``.

Every child gets a process group of its own, so that Ctrl-C reaches the lab alone and the lab decides the order of
the shutdown; every child carries ``VDPALAB_RUN`` when the lab has set it, so that `vdpalab clean` finds orphans.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from lab.errors import CommandError, DeadlineExceeded
from lab.model import Completed
from lab.wait import Deadline

# Environment variables that mark everything a run or a build started; the value is the directory that it works in.
RUN_MARK = "VDPALAB_RUN"
BUILD_MARK = "VDPALAB_BUILD"

PIPE = subprocess.PIPE

_GRACE_S = 5.0


class Process:
    """A child that was started by :func:`spawn`."""

    def __init__(self, popen: subprocess.Popen[bytes], argv: Sequence[str]) -> None:
        self._popen = popen
        self._swept = False
        self.argv = tuple(argv)

    @property
    def pid(self) -> int:
        """Process id; also the id of the child's process group."""
        return self._popen.pid

    @property
    def stdin(self) -> IO[bytes] | None:
        """The child's standard input when it was asked for as a pipe."""
        return self._popen.stdin

    @property
    def stdout(self) -> IO[bytes] | None:
        """The child's standard output when it was asked for as a pipe."""
        return self._popen.stdout

    def poll(self) -> int | None:
        """Exit status (negative: the signal), None while it runs. What is left of its group ends with it."""
        status = self._popen.poll()
        if status is not None and not self._swept:
            # Now and never again: once the group is empty, its number may be given to somebody else.
            self._swept = True
            self._signal_group(signal.SIGKILL)
        return status

    def wait(self, deadline: Deadline) -> int:
        """Wait for the end and return the status. Raises DeadlineExceeded."""
        try:
            self._popen.wait(deadline.left())
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(f"the end of {self.argv[0]} (pid {self.pid})", deadline.seconds) from None
        status = self.poll()
        assert status is not None
        return status

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child's whole group; a child that has ended is fine."""
        if self.poll() is None:
            self._signal_group(number)

    def stop(self, grace_s: float = _GRACE_S) -> int:
        """SIGTERM, then SIGKILL after ``grace_s`` seconds, to the whole group; return the exit status."""
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, None)):
            if self.poll() is None:
                self._signal_group(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._popen.wait(patience_s)
        status = self.poll()
        assert status is not None
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        return status


@contextlib.contextmanager
def spawn(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    grace_s: float = _GRACE_S,
) -> Iterator[Process]:
    """Run a child for as long as the ``with`` block lasts; its whole group is ended when the block is left.

    ``env`` is added to the lab's own environment. Raises CommandError when the program cannot be started.
    """
    process = start(argv, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds)
    try:
        yield process
    finally:
        process.stop(grace_s)


def start(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Start a child and return it; the caller must call ``stop``. Prefer :func:`spawn`."""
    try:
        popen = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError("lab", Completed(tuple(argv), 127, b"", str(error).encode(), 0.0)) from error
    return Process(popen, argv)


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: bytes = b"",  # noqa: A002 - the name that subprocess.run uses
    check: bool = True,
    timeout_s: float | None = None,
) -> Completed:
    """Run a command to its end and return what it printed.

    Raises CommandError for a non-zero status when ``check``, DeadlineExceeded after ``timeout_s`` seconds.
    """
    begin = time.monotonic()
    with spawn(argv, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            stdout, stderr = child._popen.communicate(input, timeout_s)
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(f"the end of {argv[0]}", timeout_s or 0.0) from None
    done = Completed(tuple(argv), child._popen.returncode, stdout, stderr, time.monotonic() - begin)
    if check and done.returncode != 0:
        raise CommandError("lab", done)
    return done


def run_logged(
    argv: Sequence[str],
    log: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> int:
    """Run a long command with its output appended to ``log`` and each line given to ``on_line``; return the status."""
    with (
        log.open("ab") as sink,
        spawn(argv, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child,
    ):
        assert child.stdout is not None
        for line in child.stdout:
            sink.write(line)
            sink.flush()
            if on_line:
                on_line(line.decode(errors="replace").rstrip("\n"))
        return child._popen.wait()


def foreground(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
) -> int:
    """Run a command that has the user's terminal, to ask for a password or to show its own output; return the status.

    It stays in the lab's process group, or it could not read from the terminal. When the lab is interrupted the
    command is too, and gets all the time it takes to clean up; a second interrupt kills it.
    Raises CommandError when the program cannot be started.
    """
    try:
        popen = subprocess.Popen(argv, cwd=cwd, env={**os.environ, **(env or {})}, stdout=stdout)
    except OSError as error:
        raise CommandError("lab", Completed(tuple(argv), 127, b"", str(error).encode(), 0.0)) from error
    try:
        return popen.wait()
    except BaseException as reason:
        # Ctrl-C on a terminal has reached the command already; a second one would cut its cleaning up short.
        if not (isinstance(reason, KeyboardInterrupt) and os.isatty(0)):
            with contextlib.suppress(PermissionError):  # sudo runs as root
                popen.send_signal(signal.SIGINT)
        try:
            popen.wait()
        except BaseException:
            popen.kill()
            raise
        raise


def pump(source: Callable[[int], bytes], sink: Callable[[bytes], object], name: str) -> threading.Thread:
    """Copy bytes from ``source`` to ``sink`` in a daemon thread until the source is at its end or either fails."""

    def copy() -> None:
        with contextlib.suppress(OSError, ValueError, EOFError):
            while data := source(65536):
                sink(data)

    thread = threading.Thread(target=copy, name=name, daemon=True)
    thread.start()
    return thread
