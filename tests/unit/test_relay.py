"""Standard streams over SSH, against a server that really runs the commands."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lab.evidence.record import Record
from lab.host.relay import NO_STATUS, raw_terminal, relay
from lab.host.ssh import SshHost, connect
from lab.machine.keys import make_key
from lab.wait import Deadline
from tests.ssh_server import serve


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SshHost]:
    identity = make_key(tmp_path / "identity")
    with (
        serve(tmp_path, identity, "l1") as address,
        closing(Record(tmp_path / "record")) as record,
        closing(connect("l1", record, address, Deadline(20))) as host,
    ):
        yield host


def run(host: SshHost, *argv: str, data: bytes = b"") -> tuple[int, bytes, bytes]:
    """Status, output and errors of a command that is fed ``data``."""
    source, sink = os.pipe()
    outputs = [os.pipe(), os.pipe()]
    chunks: list[list[bytes]] = [[], []]
    threads = [threading.Thread(target=_collect, args=(outputs[n][0], chunks[n])) for n in (0, 1)]
    threads.append(threading.Thread(target=_write, args=(sink, data)))
    for thread in threads:
        thread.start()
    status = relay(host.open_command(argv), source, outputs[0][1], outputs[1][1])
    for _, end in outputs:
        os.close(end)
    for thread in threads:
        thread.join()
    return status, b"".join(chunks[0]), b"".join(chunks[1])


def _collect(descriptor: int, chunks: list[bytes]) -> None:
    while data := os.read(descriptor, 65536):
        chunks.append(data)
    os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as sink:
        sink.write(data)


def test_streams_and_status_pass_through(host: SshHost) -> None:
    assert run(host, "sh", "-c", "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")


def test_every_byte_goes_both_ways_at_once(host: SshHost) -> None:
    # More than both windows and pipes hold: who sends all before it reads would hang here.
    data = os.urandom(3 << 20)
    assert run(host, "cat", data=data) == (0, data, b"")


def test_the_end_of_input_ends_the_command_s_input(host: SshHost) -> None:
    assert run(host, "wc", "-c", data=b"12345")[1].strip() == b"5"


def test_words_stay_words(host: SshHost) -> None:
    assert run(host, "printf", "[%s]", "a b", "$HOME", "'")[1] == b"[a b][$HOME][']"


def test_a_lost_connection_has_no_status(host: SshHost) -> None:
    channel = host.open_command(["cat"])
    host.close()
    source, sink = os.pipe()
    assert relay(channel, source) == NO_STATUS
    os.close(sink)


def test_a_terminal_is_raw_while_the_shell_lasts_and_restored(host: SshHost) -> None:
    import termios

    keyboard, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    screen, stdout = os.pipe()
    channel = host.open_terminal("vt100", 80, 25)
    with raw_terminal(channel, terminal):
        assert not termios.tcgetattr(terminal)[3] & termios.ECHO
        os.write(keyboard, b"hello\n")
        assert relay(channel, terminal, stdout) == 0
    assert termios.tcgetattr(terminal) == before
    assert os.read(screen, 100) == b"you said hello\n"
