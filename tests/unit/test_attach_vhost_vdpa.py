"""lab.attach.vhost_vdpa: what QEMU is asked to add, and the devices that must never reach a guest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.attach import vhost_vdpa
from lab.errors import DeadlineExceeded, HostError, LabError
from lab.host.fake import Answer, FakeHost
from lab.host.vdpa import VdpaDevice
from lab.model import DeviceClass, QemuDevice

MAC = "52:54:00:00:01:01"
SIM = VdpaDevice("run1-d0", "vdpasim_net", DeviceClass.NET, 0, 3, 256)
VF = VdpaDevice("run1-d0", "pci/0000:01:00.1", DeviceClass.NET, 6900, 3, 256)
BLK = VdpaDevice("run1-d0", "vdpasim_blk", DeviceClass.BLK, 0, 1, 256)


def host(tmp_path: Path, features: list[str | int], **other: Answer) -> FakeHost:
    shown = {
        "vdpasim_net": {"supported_classes": ["net"], "dev_features": ["ACCESS_PLATFORM"]},
        "vdpasim_blk": {"supported_classes": ["block"]},
        "pci/0000:01:00.1": {"supported_classes": ["net"], "dev_features": features},
    }
    answers: dict[str, Answer] = {
        "vdpa -j mgmtdev show": json.dumps({"mgmtdev": shown}),
        "vdpa -j dev config show run1-d0": json.dumps({"config": {"run1-d0": {"mac": MAC, "link ": "up"}}}),
        "ls /sys/bus/pci/devices/0000:01:00.1/iommu_group/devices": "0000:01:00.1\n",
        "sh -ec *modprobe*": "6.12.117\n",
        "sh -ec *drivers_probe* vdpalab run1-d0 vhost_vdpa": "../../../bus/vdpa/drivers/vhost_vdpa\n",
        "sh -ec *driver_override* vdpalab run1-d0": "",
        "sh -ec */dev/* vdpalab run1-d0": "/dev/vhost-vdpa-3\n",
    }
    answers.update(other)
    return FakeHost(answers, tmp_path)


@pytest.mark.parametrize("device", [SIM, VF])
def test_net(tmp_path: Path, device: VdpaDevice) -> None:
    fake = host(tmp_path, ["VERSION_1", "ACCESS_PLATFORM", 40])
    with vhost_vdpa.attach(fake, device, bus="rp0", id="nic0") as given:
        assert given == QemuDevice(
            device={
                "driver": "virtio-net-pci",
                "id": "nic0",
                "netdev": "nic0-vdpa",
                "mac": MAC,
                "bus": "rp0",
                "romfile": "",
                "disable-legacy": "on",
            },
            netdev={"type": "vhost-vdpa", "id": "nic0-vdpa", "vhostdev": "/dev/vhost-vdpa-3"},
        )
        bound = fake.commands[-2:]
    assert not any("driver_override" in command for command in bound)
    assert "driver_override" in fake.commands[-1]
    assert "drivers_probe" not in fake.commands[-1]


def test_blk_by_the_generic_device(tmp_path: Path) -> None:
    with vhost_vdpa.attach(host(tmp_path, []), BLK, bus="rp1", id="disk0") as given:
        assert given == QemuDevice(
            {"driver": "vhost-vdpa-device-pci", "id": "disk0", "vhostdev": "/dev/vhost-vdpa-3", "bus": "rp1"}
        )


def test_device_without_access_platform_is_refused_before_anything(tmp_path: Path) -> None:
    fake = host(tmp_path, ["VERSION_1", "RING_PACKED"])
    with (
        pytest.raises(LabError, match=r"pci/0000:01:00\.1 does not offer VIRTIO_F_ACCESS_PLATFORM.*overwrite memory"),
        vhost_vdpa.attach(fake, VF, bus="rp0", id="nic0"),
    ):
        pytest.fail("must not be reached")
    assert fake.commands == ["vdpa -j mgmtdev show"]


@pytest.mark.parametrize(
    ("group", "text"),
    [((2, "No such file"), "has no IOMMU group"), ("0000:01:00.0\n0000:01:00.1\n", r"shares its IOMMU group")],
)
def test_function_without_its_own_iommu_group_is_refused(tmp_path: Path, group: Answer, text: str) -> None:
    fake = host(tmp_path, ["ACCESS_PLATFORM"], **{"ls *iommu_group/devices": group})
    del fake.answers["ls /sys/bus/pci/devices/0000:01:00.1/iommu_group/devices"]
    with pytest.raises(LabError, match=text), vhost_vdpa.attach(fake, VF, bus="rp0", id="nic0"):
        pytest.fail("must not be reached")
    assert not any("driver_override" in command for command in fake.commands)


def test_node_that_does_not_appear(tmp_path: Path) -> None:
    fake = host(tmp_path, [], **{"sh -ec */dev/* vdpalab run1-d0": ""})
    fake.slowness = 0.01
    with (
        pytest.raises(DeadlineExceeded, match="the vhostdev node of run1-d0"),
        vhost_vdpa.attach(fake, SIM, bus="rp0", id="nic0"),
    ):
        pytest.fail("must not be reached")
    assert "driver_override" in fake.commands[-1]


@pytest.mark.parametrize("fields", [{}, {"mac": "00:00:00:00:00:00"}])
def test_device_without_mac(tmp_path: Path, fields: dict[str, str]) -> None:
    answer = json.dumps({"config": {"run1-d0": fields}})
    fake = host(tmp_path, [], **{"vdpa -j dev config show run1-d0": answer})
    with (
        pytest.raises(HostError, match="run1-d0 has no MAC address"),
        vhost_vdpa.attach(fake, SIM, bus="rp0", id="nic0"),
    ):
        pytest.fail("must not be reached")


def test_driver_that_does_not_take_the_device(tmp_path: Path) -> None:
    fake = host(tmp_path, [], **{"sh -ec *drivers_probe* vdpalab run1-d0 vhost_vdpa": ""})
    with (
        pytest.raises(HostError, match=r"vhost_vdpa did not take vDPA device run1-d0 \(bound to: nothing\)"),
        vhost_vdpa.attach(fake, SIM, bus="rp0", id="nic0"),
    ):
        pytest.fail("must not be reached")
