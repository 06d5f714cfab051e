"""What doctor sees: each probe with the thing there and with it missing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from lab import proc
from lab.artifacts import guestimage, hostimage, kernelbuild
from lab.cli import doctor, main
from lab.cli.doctor import Need
from lab.config.request import RunRequest
from lab.errors import CommandError, InputError, LabError
from lab.jobs import admission
from lab.model import Completed
from lab.topology.plan import make_plan


def test_package_list_comes_from_the_role() -> None:
    packages = doctor.needed_packages()
    assert {"flex", "mmdebstrap", "shellcheck"} <= set(packages)
    assert len(packages) == len(set(packages))


def test_role_installs_every_package_that_a_builder_asks_for() -> None:
    tables = [kernelbuild._PACK, kernelbuild._COMPILE, hostimage._TOOLS, guestimage._TOOLS]
    asked = {package for table in tables for package in table.values()}
    essential = {"tar", "util-linux"}
    assert asked - essential - set(doctor.needed_packages()) == set()


def fake_dpkg(monkeypatch: pytest.MonkeyPatch, answer: str, status: int = 0) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/it")
    monkeypatch.setattr(doctor, "needed_packages", lambda: ["flex", "gcc", "bison"])
    monkeypatch.setattr(proc, "run", lambda *_a, **_k: Completed((), status, answer.encode(), b"", 0.0))


def test_missing_packages_are_those_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dpkg(monkeypatch, "flex installed\ngcc config-files\n", status=1)
    assert doctor.missing_packages() == ["gcc", "bison"]
    fake_dpkg(monkeypatch, "flex installed\ngcc installed\nbison installed\n")
    assert doctor.missing_packages() == []


def test_a_system_without_dpkg_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(LabError, match="not a Debian system"):
        doctor.missing_packages()
    [need] = doctor._packages()
    assert not need.ok


def test_subordinate_ids(tmp_path: Path) -> None:
    assert doctor.lacks_subids("root", tmp_path) == []
    assert doctor.lacks_subids("alice", tmp_path) == ["subuid", "subgid"]
    (tmp_path / "subuid").write_text("bob:100000:65536\nalice:165536:65536\n")
    (tmp_path / "subgid").write_text("malice:100000:65536\n")
    assert doctor.lacks_subids("alice", tmp_path) == ["subgid"]
    assert doctor.first_free_subid("subuid", tmp_path) == 231072
    assert doctor.first_free_subid("absent", tmp_path) == 100000


def test_lab_user_is_who_called_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "alice")
    assert doctor.lab_user() == "alice"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("getpass.getuser", lambda: "bob")
    assert doctor.lab_user() == "bob"


@pytest.mark.parametrize("uid", [0, 1000])
def test_namespaces(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(proc, "run", lambda *_a, **_k: Completed((), 0, b"", b"", 0.0))
    assert doctor._namespaces().ok
    refused = Completed(("unshare",), 1, b"", b"unshare: Operation not permitted", 0.0)
    monkeypatch.setattr(proc, "run", lambda *_a, **_k: refused)
    need = doctor._namespaces()
    assert not need.ok
    assert "Operation not permitted" in need.seen
    assert need.fix


def test_namespaces_without_unshare(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_arguments: object, **_options: object) -> Completed:
        raise CommandError("lab", Completed(("unshare",), 127, b"", b"No such file", 0.0))

    monkeypatch.setattr(proc, "run", missing)
    assert not doctor._namespaces().ok


def test_kvm_is_never_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    absent = doctor._kvm(device)
    device.touch()
    present = doctor._kvm(device)
    monkeypatch.setattr(os, "access", lambda *_a: False)
    closed = doctor._kvm(device)
    assert [absent.ok, present.ok, closed.ok] == [False, True, False]
    assert not any(need.required for need in (absent, present, closed))
    assert "usermod -aG kvm" in closed.fix


def test_disk_space_is_that_of_a_cache_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_DISK_GIB", 0)
    assert doctor._disk().ok
    monkeypatch.setattr(doctor, "_DISK_GIB", 1 << 30)
    assert not doctor._disk().ok


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RAM_GIB", 0)
    assert doctor._memory().ok
    monkeypatch.setattr(doctor, "_RAM_GIB", 1 << 30)
    assert not doctor._memory().ok


def test_a_machine_with_4_gib_is_fit_and_one_that_admits_no_lab_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def machine(gib: float) -> Need:
        monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(gib * (1 << 18))}.__getitem__)
        return doctor._memory()

    # The kernel keeps some of what is sold.
    assert machine(3.7).ok
    assert not machine(3).ok
    budget = doctor._RAM_GIB * 1024 * (1 - admission._RESERVE_SHARE) - admission._RESERVE_MB
    assert budget > make_plan(RunRequest(scenario="net-vp_vdpa-vhost_vdpa-iperf3")).ram_mb


def test_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise InputError(["no Debian mirror"])

    monkeypatch.setattr(doctor, "machine_mirror", none)
    need = doctor._mirror()
    assert (need.ok, need.seen) == (False, "no Debian mirror")
    assert "VDPALAB_MIRROR" in need.fix


GCC = Need("package gcc", ok=False, seen="missing", fix="vdpalab setup")
KVM = Need("KVM", ok=False, seen="no /dev/kvm", required=False)
FLEX = Need("package flex", ok=True, seen="installed", fix="vdpalab setup")


@pytest.mark.parametrize(("needs", "status"), [([FLEX], 0), ([FLEX, KVM], 0), ([GCC, FLEX], 3)])
def test_status_and_json(
    needs: list[Need], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: needs)
    assert main(["doctor", "--json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert told["fit"] == (status == 0)
    assert [need["name"] for need in told["needs"]] == [need.name for need in needs]


def test_table_has_what_is_missing_last_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [GCC, FLEX, KVM])
    main(["doctor"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["ok", "MISSING", "fix:", "absent"]
    assert lines[2] == ["fix:", "vdpalab", "setup"]
