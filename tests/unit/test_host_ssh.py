"""lab.host.ssh against an SSH server in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from paramiko.pipe import PosixPipe

from lab.errors import CommandError, DeadlineExceeded, DeviceModelDied, Unreachable
from lab.evidence.record import Record
from lab.host import ssh
from lab.host.ssh import SshAddress, SshHost, connect
from lab.machine.keys import KeyPair, make_key
from lab.wait import Deadline
from tests.ssh_server import FREEZES, serve


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with contextlib.closing(Record(tmp_path / "record")) as record:
        yield record


@pytest.fixture
def identity(tmp_path: Path) -> KeyPair:
    return make_key(tmp_path / "identity")


@pytest.fixture
def address(tmp_path: Path, identity: KeyPair) -> Iterator[SshAddress]:
    with serve(tmp_path, identity, "l1") as address:
        yield address


@pytest.fixture
def host(record: Record, address: SshAddress) -> Iterator[SshHost]:
    with contextlib.closing(connect("l1", record, address, Deadline(20))) as host:
        yield host


def test_a_command_is_run_as_it_is(host: SshHost) -> None:
    done = host.run(["sh", "-c", 'printf "%s|" "$0" "$@"; cat; echo err >&2', "a b", "$(id)"], input=b"in")
    assert (done.text, done.stderr, done.returncode) == ("a b|$(id)|in", b"err\n", 0)


def test_a_status_is_an_error_with_its_record(host: SshHost) -> None:
    with pytest.raises(CommandError, match=r"(?s)l1: .*ended with 3.*because") as caught:
        host.run(["sh", "-c", "echo because >&2; exit 3"])
    assert caught.value.log
    assert caught.value.log.exists()
    assert host.run(["/absent/program"], check=False).returncode == 127


def test_much_output_and_much_input(host: SshHost, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4000
    host.put(data, str(tmp_path / "copy"))
    assert host.get(str(tmp_path / "copy")) == data


def test_a_command_that_does_not_end_in_time(host: SshHost) -> None:
    with pytest.raises(DeadlineExceeded, match="l1: the end of sleep 5"):
        host.run(["sleep", "5"], timeout_s=0.2)
    assert host.run(["echo", "still here"]).text == "still here"


def test_a_server_that_freezes_holds_nobody_for_longer_than_the_limit(host: SshHost) -> None:
    """paramiko itself would wait for the answer without one."""
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="l1: the end of freeze"):
        host.run([FREEZES], timeout_s=0.2)
    assert time.monotonic() - begin < 1.5


def test_a_word_that_paramiko_loses_costs_a_moment(host: SshHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pipe says that there is something to read, and is set and cleared by two threads without a lock."""
    monkeypatch.setattr(PosixPipe, "set", lambda _pipe: None)
    monkeypatch.setattr(ssh, "_LOOK_S", 0.02)
    assert host.run(["echo", "heard"], timeout_s=5).text == "heard"


def test_a_command_that_can_no_longer_end_is_left_at_once(host: SshHost) -> None:
    looks: list[str] = []

    def watch() -> None:
        looks.append("look")
        if len(looks) > 2:
            raise DeviceModelDied("SIGKILL", "it hurts", machine="ifcvf")

    host.watch = watch
    begin = time.monotonic()
    with pytest.raises(DeviceModelDied):
        host.run(["sleep", "5"])
    assert time.monotonic() - begin < 4
    host.watch = None
    assert host.run(["true"]).returncode == 0, "the connection itself is none the worse"


def test_a_stream(host: SshHost) -> None:
    with host.spawn(["cat"]) as stream:
        stream.send(b"hello")
        assert stream.recv(100) == b"hello"


def test_a_connection_that_is_gone(host: SshHost) -> None:
    host.close()
    with pytest.raises(Unreachable, match="l1: the SSH connection is gone"):
        host.run(["true"])
    with pytest.raises(Unreachable, match="l1: the SSH connection is gone"), host.spawn(["cat"]):
        pass


def test_a_connection_that_breaks_during_a_command(host: SshHost) -> None:
    timer = threading.Timer(0.1, host.close)
    timer.start()
    with pytest.raises(Unreachable, match=r"lost|gone"):
        host.run(["sleep", "5"])
    timer.join()


def test_a_host_key_that_is_not_the_pinned_one(record: Record, address: SshAddress, tmp_path: Path) -> None:
    wrong = dataclasses.replace(address, host_key=make_key(tmp_path / "other").public)
    with pytest.raises(Unreachable, match="BadHostKey"):
        connect("l1", record, wrong, Deadline(20))


def test_a_key_that_is_not_ours(record: Record, address: SshAddress, tmp_path: Path) -> None:
    wrong = dataclasses.replace(address, identity=make_key(tmp_path / "other").private)
    with pytest.raises(Unreachable, match=r"l1: SSH login as root at .* failed: .*Authentication"):
        connect("l1", record, wrong, Deadline(20))


def test_a_key_that_is_not_there(record: Record, address: SshAddress, tmp_path: Path) -> None:
    wrong = dataclasses.replace(address, identity=tmp_path / "absent")
    with pytest.raises(Unreachable, match="No such file"):
        connect("l1", record, wrong, Deadline(20))


def test_nobody_listens(record: Record, address: SshAddress) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match=f"127.0.0.1.*{port}.* failed"):
        connect("l1", record, dataclasses.replace(address, port=port), Deadline(20))


def test_nobody_answers(record: Record, address: SshAddress) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        deaf = dataclasses.replace(address, port=mute.getsockname()[1])
        with pytest.raises(DeadlineExceeded, match="l1: an SSH login at"):
            connect("l1", record, deaf, Deadline(0.3))


def test_through_another_host(host: SshHost, record: Record, tmp_path: Path, identity: KeyPair) -> None:
    with (
        serve(tmp_path, identity, "l2") as inner,
        contextlib.closing(connect("l2", record, inner, Deadline(20), jump=host)) as guest,
    ):
        assert guest.run(["echo", "inside"]).text == "inside"
    host.close()
    with pytest.raises(Unreachable, match="l1: cannot reach"):
        connect("l2", record, inner, Deadline(20), jump=host)
