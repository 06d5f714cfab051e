"""One command on a host with the caller's own standard streams: a pipe for bytes, or a terminal for a person."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import termios
import threading
import tty
from collections.abc import Iterator

import paramiko

_CHUNK = 65536

# What ssh(1) ends with when it cannot tell the status of the command: the connection is lost, or a signal ended it.
NO_STATUS = 255


def relay(channel: paramiko.Channel, stdin: int = 0, stdout: int = 1, stderr: int = 2) -> int:
    """Copy between a channel with a running command and three file descriptors until the command ends.

    The end of ``stdin`` becomes the end of the command's input. Returns the command's exit status, or NO_STATUS.
    """
    # A thread of its own: a command that first wants its output read would never take the rest of its input.
    threading.Thread(target=_feed, args=(channel, stdin), name="relay-stdin", daemon=True).start()
    while True:
        ended = channel.closed or channel.eof_received
        _copy_out(channel, stdout, stderr)
        if ended:
            break
        select.select([channel], [], [])
    status = channel.recv_exit_status()
    return status if status >= 0 else NO_STATUS


@contextlib.contextmanager
def raw_terminal(channel: paramiko.Channel, terminal: int = 0) -> Iterator[None]:
    """Give every key of ``terminal`` to the channel's own terminal, whose size follows, as long as the block lasts."""
    former = termios.tcgetattr(terminal)
    handler = signal.signal(signal.SIGWINCH, lambda _number, _frame: channel.resize_pty(*shutil.get_terminal_size()))
    try:
        # Not the default of TCSAFLUSH, which throws away what was typed ahead.
        tty.setraw(terminal, termios.TCSADRAIN)
        yield
    finally:
        signal.signal(signal.SIGWINCH, handler)
        termios.tcsetattr(terminal, termios.TCSADRAIN, former)


def _feed(channel: paramiko.Channel, stdin: int) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        while data := os.read(stdin, _CHUNK):
            channel.sendall(data)
        channel.shutdown_write()


def _copy_out(channel: paramiko.Channel, stdout: int, stderr: int) -> None:
    while channel.recv_ready():
        _write_all(stdout, channel.recv(_CHUNK))
    while channel.recv_stderr_ready():
        _write_all(stderr, channel.recv_stderr(_CHUNK))


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
