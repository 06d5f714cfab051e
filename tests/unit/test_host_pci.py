"""lab.host.pci: what is written to sysfs, and what is put back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.errors import CommandError, DeadlineExceeded, HostError, LabError, SiteLacks
from lab.host import pci

if TYPE_CHECKING:
    from tests.unit.conftest import TreeHost

PF = "0000:01:00.0"
VFS = ("0000:01:00.1", "0000:01:00.2")
FUNCTION = f"/sys/bus/pci/devices/{PF}"


def physical_function(tree: TreeHost, *, total: int = 2, enabled: int = 0) -> None:
    tree.file(f"{FUNCTION}/sriov_totalvfs", str(total))
    tree.file(f"{FUNCTION}/sriov_numvfs", str(enabled))
    tree.file(f"{FUNCTION}/sriov_drivers_autoprobe", "1")
    for number, vf in enumerate(VFS):
        tree.link(f"{FUNCTION}/virtfn{number}", f"/sys/bus/pci/devices/{vf}")


def function(tree: TreeHost, *, driver: str | None = "virtio-pci") -> None:
    tree.file(f"{FUNCTION}/driver_override")
    tree.file("/sys/bus/pci/drivers_probe")
    tree.file("/sys/bus/pci/drivers/virtio-pci/bind")
    for name in ("virtio-pci", "vp-vdpa"):
        tree.file(f"/sys/bus/pci/drivers/{name}/unbind")
    if driver:
        tree.link(f"{FUNCTION}/driver", f"/sys/bus/pci/drivers/{driver}")


def test_address_in_takes_the_last() -> None:
    assert pci.address_in("/sys/devices/pci0000:00/0000:00:04.0/0000:01:00.1/virtio3") == "0000:01:00.1"
    assert pci.address_in("/sys/devices/vdpa0/virtio3") is None


def test_function_of_interface(tree: TreeHost) -> None:
    tree.file(f"/sys/devices/pci0000:00/{PF}/virtio1/features")
    tree.link("/sys/class/net/eth1/device", f"/sys/devices/pci0000:00/{PF}/virtio1")
    assert pci.function_of_interface(tree, "eth1") == PF


def test_interface_without_function(tree: TreeHost) -> None:
    tree.file("/sys/devices/vdpa0/virtio1/features")
    tree.link("/sys/class/net/eth1/device", "/sys/devices/vdpa0/virtio1")
    with pytest.raises(LabError, match="eth1 is not on a PCI function"):
        pci.function_of_interface(tree, "eth1")


def test_function_of_disk_by_serial(tree: TreeHost) -> None:
    for name, serial, address in (("vda", "root", "0000:00:02.0"), ("vdb", "vp blk0", PF)):
        tree.file(f"/sys/block/{name}/serial", serial)
        tree.file(f"/sys/devices/{address}/virtio9/features")
        tree.link(f"/sys/block/{name}/device", f"/sys/devices/{address}/virtio9")
    tree.file("/sys/block/loop0/size", "0")
    assert pci.function_of_disk(tree, "vp blk0") == PF
    with pytest.raises(LabError, match="no PCI disk with serial 'vpblk1'; there are: root, vp blk0"):
        pci.function_of_disk(tree, "vpblk1")


def test_iommu_group(tree: TreeHost) -> None:
    assert pci.iommu_group(tree, PF) == ()
    tree.file(f"{FUNCTION}/iommu_group/devices/{PF}")
    tree.file(f"{FUNCTION}/iommu_group/devices/{VFS[0]}")
    assert pci.iommu_group(tree, PF) == (PF, VFS[0])


def test_sriov_enables_without_drivers_and_gives_back(tree: TreeHost) -> None:
    physical_function(tree)
    with pci.sriov(tree, PF, 2) as vfs:
        assert vfs == VFS
        assert tree.text(f"{FUNCTION}/sriov_numvfs") == "2"
        assert tree.text(f"{FUNCTION}/sriov_drivers_autoprobe") == "0"
    assert tree.text(f"{FUNCTION}/sriov_numvfs") == "0"
    assert tree.text(f"{FUNCTION}/sriov_drivers_autoprobe") == "1"


def test_sriov_gives_back_when_enabling_fails(tree: TreeHost) -> None:
    physical_function(tree, total=4)
    with pytest.raises(CommandError), pci.sriov(tree, PF, 3):
        pytest.fail("virtfn2 does not exist")
    assert tree.text(f"{FUNCTION}/sriov_numvfs") == "0"
    assert tree.text(f"{FUNCTION}/sriov_drivers_autoprobe") == "1"


@pytest.mark.parametrize(
    ("total", "enabled", "error", "text"),
    [
        (2, 0, SiteLacks, f"3 VFs on {PF} of tree, which has 2"),
        (7, 1, LabError, f"{PF} has 1 VFs enabled by somebody else"),
    ],
)
def test_sriov_refuses(tree: TreeHost, total: int, enabled: int, error: type[LabError], text: str) -> None:
    physical_function(tree, total=total, enabled=enabled)
    with pytest.raises(error, match=text), pci.sriov(tree, PF, 3):
        pytest.fail("must not be reached")
    assert tree.text(f"{FUNCTION}/sriov_numvfs") == str(enabled)


def test_function_without_sriov_is_what_the_site_lacks(tree: TreeHost) -> None:
    tree.file(f"{FUNCTION}/vendor", "0x1af4")
    with pytest.raises(SiteLacks, match=f"SR-IOV on {PF}"), pci.sriov(tree, PF, 2):
        pytest.fail("must not be reached")


def test_bound_overrides_and_restores_the_former_driver(tree: TreeHost) -> None:
    function(tree)
    # The tree's driver link cannot move by itself, so the driver "taken" is the former one.
    with pci.bound(tree, PF, "virtio-pci"):
        assert tree.text("/sys/bus/pci/drivers/virtio-pci/unbind") == PF
        assert tree.text(f"{FUNCTION}/driver_override") == "virtio-pci"
        assert tree.text("/sys/bus/pci/drivers_probe") == PF
    assert tree.text(f"{FUNCTION}/driver_override") == ""
    assert tree.text("/sys/bus/pci/drivers/virtio-pci/bind") == PF


def test_bound_leaves_a_function_that_has_gone_alone(tree: TreeHost) -> None:
    function(tree)
    with pci.bound(tree, PF, "virtio-pci"):
        tree.path(FUNCTION).rename(tree.path("/sys/gone"))
    assert tree.text("/sys/bus/pci/drivers/virtio-pci/bind") == ""


@pytest.mark.parametrize(("driver", "seen"), [(None, "nothing"), ("virtio-pci", "virtio-pci")])
def test_driver_that_does_not_take_the_function(tree: TreeHost, driver: str | None, seen: str) -> None:
    function(tree, driver=driver)
    with (
        pytest.raises(HostError, match=rf"vp-vdpa did not take {PF} \(bound to: {seen}\)"),
        pci.bound(tree, PF, "vp-vdpa"),
    ):
        pytest.fail("must not be reached")
    assert tree.text(f"{FUNCTION}/driver_override") == ""
    assert tree.text("/sys/bus/pci/drivers/virtio-pci/bind") == (PF if driver else "")


def test_bound_tells_the_kernels_answer(tree: TreeHost) -> None:
    with pytest.raises(CommandError, match="No such file"), pci.bound(tree, PF, "vp-vdpa"):
        pytest.fail("must not be reached")


VIRTIO, INTEL = "0x1af4", "0x8086"


def card(tree: TreeHost, address: str, vendor: str, subsystem: str, driver: str | None) -> None:
    folder = f"/sys/bus/pci/devices/{address}"
    tree.file(f"{folder}/vendor", vendor)
    tree.file(f"{folder}/subsystem_vendor", subsystem)
    if driver:
        tree.file(f"/sys/bus/pci/drivers/{driver}/unbind")
        tree.link(f"{folder}/driver", f"/sys/bus/pci/drivers/{driver}")


def test_functions_are_those_of_a_vendor_that_have_a_driver_in_order(tree: TreeHost) -> None:
    card(tree, "0000:03:00.0", VIRTIO, INTEL, "ifcvf")
    card(tree, "0000:02:00.0", VIRTIO, INTEL, "virtio-pci")
    card(tree, "0000:01:00.0", VIRTIO, VIRTIO, "virtio-pci")
    card(tree, "0000:00:1f.0", INTEL, INTEL, "lpc")
    found = pci.wait_functions(tree, vendor=VIRTIO, subsystem_vendor=INTEL, count=2)
    assert found == ("0000:02:00.0", "0000:03:00.0")


def test_a_function_that_no_driver_has_taken_yet_is_waited_for(tree: TreeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pci, "_FUNCTIONS_S", 0.1)
    card(tree, "0000:01:00.0", VIRTIO, INTEL, None)
    with pytest.raises(DeadlineExceeded, match="tree: 1 PCI functions of 0x8086"):
        pci.wait_functions(tree, vendor=VIRTIO, subsystem_vendor=INTEL, count=1)


def test_by_id_asks_the_table_of_the_driver_and_overrides_nothing(tree: TreeHost) -> None:
    function(tree)
    with pci.bound(tree, PF, "virtio-pci", by_id=True):
        assert tree.text("/sys/bus/pci/drivers/virtio-pci/unbind") == PF
        assert tree.text("/sys/bus/pci/drivers/virtio-pci/bind") == PF
        assert tree.text("/sys/bus/pci/drivers_probe") == ""
