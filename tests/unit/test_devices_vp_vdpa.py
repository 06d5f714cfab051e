"""lab.devices.vp_vdpa: which functions become parents, in which order, and that they are given back."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.config.scenario import VpVdpa
from lab.devices import vp_vdpa
from lab.errors import LabError
from lab.host import modules, net, pci
from lab.host.base import Host
from lab.host.fake import FakeHost
from lab.model import DeviceClass

VFS = ("0000:01:00.1", "0000:01:00.2")
Loaded = list[tuple[str, dict[str, modules.Parameter]]]


def host(tmp_path: Path, *mgmtdevs: str) -> FakeHost:
    shown = {name: {"supported_classes": ["net"], "max_supported_vqs": 3} for name in mgmtdevs}
    return FakeHost({"vdpa -j mgmtdev show": json.dumps({"mgmtdev": shown})}, tmp_path)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    calls: Loaded = []
    monkeypatch.setattr(modules, "load", lambda _, name, parameters=None: calls.append((name, dict(parameters or {}))))
    return calls


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened to PCI functions, in order; the PF is 0000:01:00.0, the disk's function 0000:02:00.0."""
    log: list[str] = []

    @contextlib.contextmanager
    def sriov(_: Host, pf: str, count: int) -> Iterator[tuple[str, ...]]:
        log.append(f"enable {count} of {pf}")
        yield VFS[:count]
        log.append("disable")

    @contextlib.contextmanager
    def bound(_: Host, function: str, driver: str) -> Iterator[None]:
        log.append(f"bind {function} {driver}")
        yield
        log.append(f"restore {function}")

    monkeypatch.setattr(net, "find_interface", lambda _, mac: f"if-{mac}")
    monkeypatch.setattr(pci, "function_of_interface", lambda _, name: {"if-aa": "0000:01:00.0"}[name])
    monkeypatch.setattr(pci, "function_of_disk", lambda _, serial: {"vpblk0": "0000:02:00.0"}[serial])
    monkeypatch.setattr(pci, "sriov", sriov)
    monkeypatch.setattr(pci, "bound", bound)
    return log


def test_vfs_in_order_and_given_back(tmp_path: Path, loaded: Loaded, functions: list[str]) -> None:
    fake = host(tmp_path, "pci/0000:01:00.2", "vdpasim_net", "pci/0000:01:00.1")
    with vp_vdpa.parent(fake, VpVdpa(provider="vp_vdpa", vfs=2), DeviceClass.NET, pf_mac="aa") as names:
        assert names == ("pci/0000:01:00.1", "pci/0000:01:00.2")
    assert loaded == [("vp_vdpa", {})]
    assert functions == [
        "enable 2 of 0000:01:00.0",
        "bind 0000:01:00.1 vp-vdpa",
        "bind 0000:01:00.2 vp-vdpa",
        "restore 0000:01:00.2",
        "restore 0000:01:00.1",
        "disable",
    ]


def test_block_function_by_serial(tmp_path: Path, loaded: Loaded, functions: list[str]) -> None:
    fake = host(tmp_path, "pci/0000:02:00.0")
    with vp_vdpa.parent(fake, VpVdpa(provider="vp_vdpa"), DeviceClass.BLK, serial="vpblk0") as names:
        assert names == ("pci/0000:02:00.0",)
    assert functions == ["bind 0000:02:00.0 vp-vdpa", "restore 0000:02:00.0"]


def test_function_that_is_no_parent(tmp_path: Path, loaded: Loaded, functions: list[str]) -> None:
    fake = host(tmp_path, "pci/0000:01:00.1")
    with (
        pytest.raises(LabError, match=r"vp-vdpa made no management device of: 0000:01:00\.2"),
        vp_vdpa.parent(fake, VpVdpa(provider="vp_vdpa"), DeviceClass.NET, pf_mac="aa"),
    ):
        pytest.fail("must not be reached")
