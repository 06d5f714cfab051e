"""lab.host.base on this machine (lab.host.local), and the ends of a data path."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.errors import CommandError, DeadlineExceeded, Unreachable
from lab.evidence.record import Record
from lab.host.endpoints import BlockEnd, NetEnd
from lab.host.fake import FakeHost
from lab.host.local import LocalHost


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LocalHost]:
    with contextlib.closing(Record(tmp_path / "record")) as record:
        yield LocalHost("l0", record)


def events(host: LocalHost) -> list[dict[str, object]]:
    return [json.loads(line) for line in (host.record.path / "events.jsonl").read_text().splitlines()]


def test_a_command_is_run_as_it_is_and_recorded(host: LocalHost) -> None:
    done = host.run(["sh", "-c", 'printf "%s|" "$0" "$@"; cat; echo err >&2', "a b", "$(id)"], input=b"in")
    assert (done.text, done.stderr, done.returncode) == ("a b|$(id)|in", b"err\n", 0)
    assert (host.record.path / "hosts/l0/cmd-001.out").read_bytes() == done.stdout


def test_a_status_is_an_error_unless_it_is_wanted(host: LocalHost) -> None:
    with pytest.raises(CommandError, match=r"(?s)l0: .* ended with 3.*because") as caught:
        host.run(["sh", "-c", "echo because >&2; exit 3"])
    assert caught.value.log == host.record.path / "hosts/l0/cmd-001.json"
    assert host.run(["false"], check=False).returncode == 1
    assert (host.ok(["true"]), host.ok(["false"])) == (True, False)


def test_a_signal_is_a_negative_status(host: LocalHost) -> None:
    assert host.run(["sh", "-c", "kill -9 $$"], check=False).returncode == -9


def test_a_program_that_is_not_there_is_a_status_too(host: LocalHost) -> None:
    assert not host.ok(["/absent/program"])
    with pytest.raises(CommandError, match=r"(?s)ended with 127.*No such file"):
        host.run(["/absent/program"])
    assert len(list((host.record.path / "hosts/l0").glob("*.json"))) == 2


def test_time_limits_are_stretched_by_slowness_and_what_was_lost_is_noted(host: LocalHost) -> None:
    host.slowness = 2.0
    with pytest.raises(DeadlineExceeded) as caught:
        host.run(["sleep", "60"], timeout_s=0.05)
    assert 0.05 < caught.value.seconds <= 0.1
    assert {"event": "command-lost", "host": "l0", "command": "sleep 60"}.items() <= events(host)[-1].items()


def test_files_are_put_and_got_as_they_are(host: LocalHost, tmp_path: Path) -> None:
    data, path = bytes(range(256)) * 400, tmp_path / "a file"
    host.put(data, str(path), mode="600")
    assert host.get(str(path)) == data
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(CommandError):
        host.put(b"x", str(tmp_path / "absent" / "file"))
    with pytest.raises(CommandError):
        host.get(str(tmp_path / "absent"))


def test_a_spawned_command_is_a_stream_and_ends_with_the_block(host: LocalHost, tmp_path: Path) -> None:
    def echo() -> None:
        with host.spawn(["sh", "-c", f"echo $$ >{tmp_path}/pid; exec cat"]) as stream:
            stream.send(b"hello")
            assert stream.recv(100) == b"hello"
            raise KeyError("x")

    with pytest.raises(KeyError):
        echo()
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_the_end_of_a_stream(host: LocalHost) -> None:
    with host.spawn(["true"]) as stream:
        assert stream.recv(100) == b""
        stream.close()


def test_a_fake_host_answers_only_what_it_was_told(tmp_path: Path) -> None:
    fake = FakeHost({"vdpa dev *": "ok", "false": (1, "no")}, tmp_path)
    assert fake.run(["vdpa", "dev", "show"]).text == "ok"
    with pytest.raises(CommandError, match="no"):
        fake.run(["false"])
    with pytest.raises(Unreachable, match="no answer for 'ls'"):
        fake.run(["ls"])


@pytest.mark.parametrize(("netns", "expected"), [(None, ["ping"]), ("n1", ["ip", "netns", "exec", "n1", "ping"])])
def test_commands_run_where_the_interface_is(host: LocalHost, netns: str | None, expected: list[str]) -> None:
    assert NetEnd(host, "eth1", "10.0.0.1", netns).argv(["ping"]) == expected
    assert BlockEnd(host, "/dev/vda", 512).size == 512
