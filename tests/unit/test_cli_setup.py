"""Setting a machine up: only when something is missing, as root or by sudo, else the exact commands."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab import proc
from lab.cli import doctor, main
from lab.model import Completed


class Machine:
    """A machine that lacks packages until the playbook has run on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.missing = ["flex", "gcc"]
        self.subids: list[str] = []
        self.played: list[list[str]] = []
        self.playbook_status = 0
        self.playbook_works = True
        self.sudo_status = 1
        monkeypatch.setattr(doctor, "missing_packages", lambda: self.missing)
        monkeypatch.setattr(doctor, "lab_user", lambda: "alice")
        monkeypatch.setattr(doctor, "lacks_subids", lambda _user: self.subids)
        monkeypatch.setattr(doctor, "first_free_subid", lambda _name: 231072)
        monkeypatch.setattr(proc, "foreground", self.play)
        monkeypatch.setattr(proc, "run", lambda *_a, **_k: Completed((), self.sudo_status, b"", b"", 0.0))
        monkeypatch.setattr(os, "isatty", lambda _fd: False)
        monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/sudo")

    def play(self, argv: Sequence[str], *, cwd: Path, stdout: object) -> int:
        assert (cwd / "site.yml").exists()
        assert stdout is not None, "stdout is for results"
        self.played.append(list(argv))
        if self.playbook_works:
            self.missing = []
        return self.playbook_status


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return Machine(monkeypatch)


def test_nothing_missing_starts_nothing(machine: Machine) -> None:
    machine.missing = []
    assert main(["setup"]) == 0
    assert machine.played == []


def test_root_runs_the_playbook_itself(machine: Machine) -> None:
    assert main(["setup"]) == 0
    [argv] = machine.played
    assert argv[0] == "env"
    assert argv[-3:] == ["site.yml", "-e", "labhost_user=alice"]


def test_a_user_runs_it_by_sudo(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    machine.sudo_status = 0
    assert main(["setup"]) == 0
    assert machine.played[0][:2] == ["sudo", "-H"]


def test_without_root_the_exact_commands_are_printed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    machine.subids = ["subuid"]
    assert main(["setup"]) == 3
    said = capsys.readouterr().err
    assert "sudo apt-get install -y --no-install-recommends flex gcc\n" in said
    assert "sudo usermod --add-subuids 231072-296607 alice\n" in said
    assert machine.played == []


def test_a_failed_playbook_is_an_error(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.playbook_status = 2
    assert main(["setup"]) == 3
    assert "ansible/site.yml failed" in capsys.readouterr().err


def test_a_playbook_that_did_not_help_is_an_error(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.playbook_works = False
    assert main(["setup"]) == 3
    assert "still lacks: package flex, package gcc" in capsys.readouterr().err


def test_check_changes_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["setup", "--check"]) == 3
    assert capsys.readouterr().out == "package flex\npackage gcc\n"
    machine.missing = []
    assert main(["setup", "--check"]) == 0
    assert machine.played == []
