"""lab.devices.vdpa_sim: which modules are loaded with what, and the name that is discovered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.config.scenario import VdpaSim
from lab.devices import vdpa_sim
from lab.errors import LabError, SiteLacks
from lab.host import modules
from lab.host.fake import FakeHost
from lab.model import DeviceClass

Loaded = list[tuple[str, dict[str, modules.Parameter]]]


def host(tmp_path: Path, *mgmtdevs: str) -> FakeHost:
    shown = {name: {"supported_classes": ["net"], "max_supported_vqs": 3} for name in mgmtdevs}
    return FakeHost({"vdpa -j mgmtdev show": json.dumps({"mgmtdev": shown})}, tmp_path)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    calls: Loaded = []
    monkeypatch.setattr(modules, "load", lambda _, name, parameters=None: calls.append((name, dict(parameters or {}))))
    return calls


@pytest.mark.parametrize("name", ["vdpasim_net", "vdpa_sim_net"])
def test_simulated_net(tmp_path: Path, loaded: Loaded, name: str) -> None:
    config = VdpaSim(provider="vdpa_sim", use_va=False, batch_mapping=True)
    with vdpa_sim.parent(host(tmp_path, "vdpasim_blk", name), config, DeviceClass.NET) as names:
        assert names == (name,)
    assert loaded == [
        ("vdpa_sim", {"use_va": False, "batch_mapping": True, "max_iotlb_entries": 262144}),
        ("vdpa_sim_net", {}),
    ]


@pytest.mark.parametrize("shared", [False, True])
def test_simulated_blk(tmp_path: Path, loaded: Loaded, shared: bool) -> None:
    config = VdpaSim(provider="vdpa_sim")
    fake = host(tmp_path, "vdpasim_net", "vdpasim_blk")
    with vdpa_sim.parent(fake, config, DeviceClass.BLK, shared_backend=shared) as names:
        assert names == ("vdpasim_blk",)
    assert loaded[1] == ("vdpa_sim_blk", {"shared_backend": shared})


def test_simulator_that_brings_no_management_device(tmp_path: Path, loaded: Loaded) -> None:
    config = VdpaSim(provider="vdpa_sim")
    with (
        pytest.raises(LabError, match="no management device of vdpa_sim_net among: vdpasim_blk"),
        vdpa_sim.parent(host(tmp_path, "vdpasim_blk"), config, DeviceClass.NET),
    ):
        pytest.fail("must not be reached")


def test_kernel_without_simulator(tmp_path: Path) -> None:
    fake = FakeHost({"*modprobe*": (1, "modprobe: FATAL: Module vdpa_sim not found in directory")}, tmp_path)
    with pytest.raises(SiteLacks), vdpa_sim.parent(fake, VdpaSim(provider="vdpa_sim"), DeviceClass.NET):
        pytest.fail("must not be reached")
