"""lab.attach.virtio_vdpa: finding the interface or disk of a vDPA device wherever its virtio device sits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.attach import virtio_vdpa
from lab.errors import DeadlineExceeded, LabError
from lab.host.vdpa import VdpaDevice
from lab.model import DeviceClass

if TYPE_CHECKING:
    from tests.unit.conftest import TreeHost

NET = VdpaDevice("run1-d0", "vdpasim_net", DeviceClass.NET, 0, 3, 256)
BLK = VdpaDevice("run1-d0", "vdpasim_blk", DeviceClass.BLK, 0, 1, 256)


def vdpa_device(tree: TreeHost, folder: str) -> None:
    """A device in ``folder`` that is bound to virtio_vdpa as soon as it is asked for."""
    tree.program("modprobe")
    tree.file("/sys/bus/vdpa/drivers_probe")
    tree.file("/sys/bus/vdpa/drivers/virtio_vdpa/unbind")
    tree.file(f"{folder}/driver_override")
    tree.link(f"{folder}/driver", "/sys/bus/vdpa/drivers/virtio_vdpa")
    tree.link("/sys/bus/vdpa/devices/run1-d0", folder)


@pytest.mark.parametrize(
    ("device", "virtio"),
    [
        ("/sys/devices/run1-d0", "/sys/devices/run1-d0/virtio7"),
        ("/sys/devices/pci0000:00/0000:01:00.1/run1-d0", "/sys/devices/pci0000:00/0000:01:00.1/virtio7"),
    ],
    ids=["below the simulated device", "beside the device of a PCI function"],
)
def test_interface(tree: TreeHost, device: str, virtio: str) -> None:
    vdpa_device(tree, device)
    tree.file(f"{virtio}/net/eth3/address")
    with virtio_vdpa.interface(tree, NET) as name:
        assert name == "eth3"
        assert tree.text(f"{device}/driver_override") == "virtio_vdpa"
        assert tree.text("/sys/bus/vdpa/drivers_probe") == "run1-d0"
    assert tree.text(f"{device}/driver_override") == ""
    assert tree.text("/sys/bus/vdpa/drivers/virtio_vdpa/unbind") == "run1-d0"
    assert tree.programs == ["modprobe virtio_vdpa"]


def test_disk(tree: TreeHost) -> None:
    vdpa_device(tree, "/sys/devices/run1-d0")
    tree.file("/sys/devices/run1-d0/virtio7/block/vdc/dev")
    tree.file("/sys/block/vdc/size", "262144")
    with virtio_vdpa.disk(tree, BLK) as end:
        assert (end.host, end.device, end.size) == (tree, "/dev/vdc", 128 << 20)


def test_device_that_does_not_appear(tree: TreeHost) -> None:
    vdpa_device(tree, "/sys/devices/run1-d0")
    tree.slowness = 0.01
    with pytest.raises(DeadlineExceeded, match="the net device of run1-d0"), virtio_vdpa.interface(tree, NET):
        pytest.fail("must not be reached")
    assert tree.text("/sys/devices/run1-d0/driver_override") == ""


def test_wrong_class_is_refused_before_anything(tree: TreeHost) -> None:
    with pytest.raises(LabError, match="run1-d0 is blk, not net"), virtio_vdpa.interface(tree, BLK):
        pytest.fail("must not be reached")
    with pytest.raises(LabError, match="run1-d0 is net, not blk"), virtio_vdpa.disk(tree, NET):
        pytest.fail("must not be reached")
    assert tree.programs == []


def test_device_that_has_gone_needs_no_undo(tree: TreeHost) -> None:
    vdpa_device(tree, "/sys/devices/run1-d0")
    tree.file("/sys/devices/run1-d0/virtio7/net/eth3/address")
    with virtio_vdpa.interface(tree, NET):
        tree.path("/sys/bus/vdpa/devices/run1-d0").unlink()
    assert tree.text("/sys/devices/run1-d0/driver_override") == "virtio_vdpa"  # not touched any more
