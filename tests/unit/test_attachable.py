"""Logging in to a lab that is up, from what its run directory says."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from lab import proc
from lab.errors import InputError, LabError, Unreachable
from lab.evidence.record import Record
from lab.host.ssh import SshAddress
from lab.machine.keys import make_key
from lab.topology.attachable import entrance, entrances, known_hosts_text, logged_in, note_entrance, ssh_argv
from tests.ssh_server import serve

L1 = SshAddress("127.0.0.1", 4001, "root", Path("/runs/a run/100%/secrets/identity"), "ssh-ed25519 AAAA1")
L2 = dataclasses.replace(L1, port=4002, host_key="ssh-ed25519 AAAA2")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    with closing(Record(tmp_path / "run")) as record:
        note_entrance(record, "l1", L1)
        note_entrance(record, "l2", L2, jump="l1")
        return record.path


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Path]:
    """A run directory whose l1 and l2 answer."""
    with ExitStack() as stack:
        record = stack.enter_context(closing(Record(tmp_path / "up")))
        identity = make_key(record.folder("secrets") / "identity")
        note_entrance(record, "l1", stack.enter_context(serve(tmp_path, identity, "l1")))
        note_entrance(record, "l2", stack.enter_context(serve(tmp_path, identity, "l2")), jump="l1")
        yield record.path


def test_what_was_written_is_read(run_dir: Path) -> None:
    assert {name: (way.address, way.jump) for name, way in entrances(run_dir).items()} == {
        "l1": (L1, None),
        "l2": (L2, "l1"),
    }


def test_unknown_machines_are_refused_with_those_there_are(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no machine 'l3' .*there are: l1, l2"):
        entrance(run_dir, "l3")
    with pytest.raises(InputError, match="no machine answers yet"):
        entrance(tmp_path, "l1")


@pytest.mark.parametrize("text", ["", "[]", '{"jump": null}', '{"jump": null, "identity": "x", "shoe": 42}'])
def test_a_broken_entrance_is_named(run_dir: Path, text: str) -> None:
    (run_dir / "machines/l1/ssh.json").write_text(text)
    with pytest.raises(LabError, match=r"l1/ssh\.json is broken"):
        entrances(run_dir)


def test_known_hosts(run_dir: Path) -> None:
    assert known_hosts_text(run_dir) == "l1 ssh-ed25519 AAAA1\nl2 ssh-ed25519 AAAA2\n"


@pytest.mark.skipif(not shutil.which("ssh"), reason="no ssh client")
def test_ssh_understands_the_command_line(run_dir: Path) -> None:
    argv = ssh_argv(run_dir, "l2", Path("/runs/a run/100%/known_hosts"))
    lines = proc.run([argv[0], "-G", *argv[1:]]).text.splitlines()
    seen = dict(line.split(" ", 1) for line in lines if " " in line)
    assert (seen["hostname"], seen["port"], seen["user"]) == ("127.0.0.1", "4002", "root")
    assert seen["stricthostkeychecking"] in ("yes", "true")
    assert seen["hostkeyalias"] == "l2"
    assert seen["userknownhostsfile"].replace("%%", "%") == "/runs/a run/100%/known_hosts"
    through = shlex.split(seen["proxycommand"].replace("%%", "%"))
    assert through[-2:] == ["-W", "127.0.0.1:4002"]
    assert through[:-2] == ssh_argv(run_dir, "l1", Path("/runs/a run/100%/known_hosts"))


def test_logging_in_to_l1_and_through_it_to_l2(lab: Path) -> None:
    before = sorted(lab.rglob("*"))
    for machine in ("l1", "l2"):
        with logged_in(lab, machine) as host:
            assert host.run(["echo", machine]).text == machine
    assert sorted(lab.rglob("*")) == before


@pytest.mark.skipif(not shutil.which("ssh"), reason="no ssh client")
def test_ssh_logs_in_to_l1_and_through_it_to_l2(lab: Path) -> None:
    known_hosts = lab / "secrets" / "known_hosts"
    known_hosts.write_text(known_hosts_text(lab))
    for machine in ("l1", "l2"):
        assert proc.run([*ssh_argv(lab, machine, known_hosts), "echo", machine], timeout_s=60).text == machine


@pytest.mark.skipif(not shutil.which("ssh"), reason="no ssh client")
def test_a_host_with_another_key_is_refused(lab: Path) -> None:
    way = entrance(lab, "l1").address
    (lab / "machines/l1/ssh.json").write_text(
        (lab / "machines/l1/ssh.json").read_text().replace(way.host_key, entrance(lab, "l2").address.host_key)
    )
    with pytest.raises(Unreachable, match="BadHostKey"), logged_in(lab, "l1"):
        pass
    known_hosts = lab / "secrets" / "known_hosts"
    known_hosts.write_text(known_hosts_text(lab))
    refused = proc.run([*ssh_argv(lab, "l1", known_hosts), "true"], check=False, timeout_s=60)
    assert refused.returncode == 255
    assert b"verification failed" in refused.stderr
