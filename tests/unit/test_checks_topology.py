"""lab.checks.topology: the script really runs, on a sysfs that is a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.checks import topology
from lab.checks.topology import Expected
from lab.host.fake import FakeHost
from lab.model import AttachMode, Check, DeviceClass, Level, Verdict
from tests.unit.conftest import TreeHost

BUS = "/sys/bus/vdpa"
BDF = "0000:01:00.1"
FUNCTION = f"/sys/devices/pci0000:00/0000:00:03.0/{BDF}"
SIM = "/sys/devices/v1"
U, K = AttachMode.VHOST_VDPA, AttachMode.VIRTIO_VDPA


def vf_expected(attach: AttachMode) -> Expected:
    return Expected(attach, DeviceClass.NET, parent=BDF, parent_driver="vp-vdpa", own_group=True)


def sim_expected(attach: AttachMode, device_class: DeviceClass = DeviceClass.NET) -> Expected:
    return Expected(attach, device_class)


def function(tree: TreeHost) -> str:
    """A VF with a vDPA device; returns the vDPA device's path."""
    tree.link(f"{FUNCTION}/subsystem", "/sys/bus/pci")
    tree.link(f"{FUNCTION}/driver", "/sys/bus/pci/drivers/vp-vdpa")
    tree.file(f"/sys/kernel/iommu_groups/7/devices/{BDF}")
    tree.link(f"{FUNCTION}/iommu_group", "/sys/kernel/iommu_groups/7")
    return device(tree, f"{FUNCTION}/v1")


def device(tree: TreeHost, path: str) -> str:
    tree.file(f"{path}/uevent")
    tree.link(f"{BUS}/devices/v1", path)
    return path


def vhost(tree: TreeHost, path: str, number: int = 0) -> None:
    if not tree.path(f"{path}/driver").is_symlink():
        tree.link(f"{path}/driver", f"{BUS}/drivers/vhost_vdpa")
    tree.file(f"{path}/vhost-vdpa-{number}/dev", f"511:{number}")


def virtio(tree: TreeHost, path: str, above: str, user: str = "net/eth1", name: str = "virtio5") -> None:
    if not tree.path(f"{path}/driver").is_symlink():
        tree.link(f"{path}/driver", f"{BUS}/drivers/virtio_vdpa")
    driver = "virtio_net" if user.startswith("net") else "virtio_blk"
    tree.link(f"{above}/{name}/driver", f"/sys/bus/virtio/drivers/{driver}")
    tree.file(f"{above}/{name}/{user}/uevent")


@pytest.fixture(autouse=True)
def _stat(tree: TreeHost) -> None:
    tree.program("stat", 'case $4 in /dev/vhost-vdpa-[01]) echo "1ff:${4##*-}";; *) exit 1;; esac')


def judge(tree: TreeHost, expected: Expected, netns: str | None = None) -> dict[str, Check]:
    checks = topology.judge(tree, "v1", expected, netns=netns)
    assert all(check.machine == "tree" for check in checks)
    return {check.name: check for check in checks}


def failed(checks: dict[str, Check]) -> list[str]:
    assert all(check.level is Level.L1_KERNEL for check in checks.values() if check.verdict is Verdict.FAIL)
    assert all(check.verdict in (Verdict.PASS, Verdict.FAIL) for check in checks.values())
    return [name for name, check in checks.items() if check.verdict is Verdict.FAIL]


def test_a_vf_for_a_guest(tree: TreeHost) -> None:
    vhost(tree, function(tree))
    checks = judge(tree, vf_expected(U))
    assert failed(checks) == []
    assert list(checks) == [
        "vDPA bus driver", "one consumer", "parent", "no mdev or VFIO", "vhostdev node", "IOMMU group"
    ]  # fmt: skip
    assert checks["parent"].seen == f"{BDF} by vp-vdpa"


def test_a_vf_for_the_host_whose_virtio_device_is_a_sibling(tree: TreeHost) -> None:
    virtio(tree, function(tree), FUNCTION)
    checks = judge(tree, vf_expected(K))
    assert failed(checks) == []
    assert checks["virtio driver"].seen == "virtio5: virtio_net, net/eth1"


def test_a_simulated_device_in_both_modes(tree: TreeHost) -> None:
    device(tree, SIM)
    vhost(tree, SIM)
    assert failed(judge(tree, sim_expected(U))) == []
    assert failed(judge(tree, sim_expected(K))) == ["vDPA bus driver", "one consumer"]


def test_a_simulated_disk(tree: TreeHost) -> None:
    virtio(tree, device(tree, SIM), SIM, "block/vdb")
    assert failed(judge(tree, sim_expected(K, DeviceClass.BLK))) == []
    assert failed(judge(tree, sim_expected(K, DeviceClass.NET))) == ["virtio driver"]


def _both(tree: TreeHost) -> None:
    path = function(tree)
    vhost(tree, path)
    virtio(tree, path, FUNCTION)


def _two_nodes(tree: TreeHost) -> None:
    path = function(tree)
    vhost(tree, path)
    vhost(tree, path, 1)


def _no_node(tree: TreeHost) -> None:
    tree.link(f"{function(tree)}/driver", f"{BUS}/drivers/vhost_vdpa")


def _unbound(tree: TreeHost) -> None:
    function(tree)


def _other_numbers(tree: TreeHost) -> None:
    path = function(tree)
    vhost(tree, path)
    tree.file(f"{path}/vhost-vdpa-0/dev", "511:7")


def _node_not_in_dev(tree: TreeHost) -> None:
    vhost(tree, function(tree), 9)


def _node_of_a_class(tree: TreeHost) -> None:
    path = function(tree)
    vhost(tree, path)
    tree.link(f"{path}/vhost-vdpa-0/subsystem", "/sys/class/misc")


def _shared_group(tree: TreeHost) -> None:
    vhost(tree, function(tree))
    tree.file("/sys/kernel/iommu_groups/7/devices/0000:01:00.2")


def _no_group(tree: TreeHost) -> None:
    vhost(tree, function(tree))
    tree.path(f"{FUNCTION}/iommu_group").unlink()


def _other_parent_driver(tree: TreeHost) -> None:
    vhost(tree, function(tree))
    tree.path(f"{FUNCTION}/driver").unlink()
    tree.link(f"{FUNCTION}/driver", "/sys/bus/pci/drivers/virtio-pci")


def _no_pci_parent(tree: TreeHost) -> None:
    vhost(tree, device(tree, SIM))


def _vfio(tree: TreeHost) -> None:
    vhost(tree, function(tree))
    tree.file("/sys/module/vfio_pci/refcnt", "0")
    tree.file("/sys/module/mdev/refcnt", "0")


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (_both, ["one consumer"]),
        (_two_nodes, ["one consumer"]),
        (_no_node, ["one consumer"]),
        (_unbound, ["vDPA bus driver", "one consumer"]),
        (_other_numbers, ["vhostdev node"]),
        (_node_not_in_dev, ["vhostdev node"]),
        (_node_of_a_class, ["vhostdev node"]),
        (_shared_group, ["IOMMU group"]),
        (_no_group, ["IOMMU group"]),
        (_other_parent_driver, ["parent"]),
        (_no_pci_parent, ["parent", "IOMMU group"]),
        (_vfio, ["no mdev or VFIO"]),
    ],
)
def test_wrong_trees(tree: TreeHost, make: Callable[[TreeHost], None], wrong: list[str]) -> None:
    make(tree)
    assert failed(judge(tree, vf_expected(U))) == wrong


def test_a_virtio_device_without_driver_or_user(tree: TreeHost) -> None:
    path = function(tree)
    tree.link(f"{path}/driver", f"{BUS}/drivers/virtio_vdpa")
    tree.file(f"{FUNCTION}/virtio5/uevent")
    checks = judge(tree, vf_expected(K))
    assert failed(checks) == ["virtio driver"]
    assert checks["virtio driver"].seen == "virtio5: -, -"


def test_a_software_device_on_a_pci_function(tree: TreeHost) -> None:
    vhost(tree, function(tree))
    assert failed(judge(tree, sim_expected(U))) == ["parent"]


def test_a_device_that_does_not_exist(tree: TreeHost) -> None:
    assert failed(judge(tree, sim_expected(U))) == ["vDPA device"]


def test_inside_a_network_namespace(tree: TreeHost) -> None:
    tree.program("ip", 'shift 3; exec "$@"')
    virtio(tree, function(tree), FUNCTION)
    assert failed(judge(tree, vf_expected(K), netns="n1")) == []
    assert tree.programs[0].startswith("ip netns exec n1 sh -ec ")


def test_what_could_not_be_seen_is_an_error(tmp_path: Path) -> None:
    for host in (
        FakeHost({}, tmp_path / "1"),
        FakeHost({"*": (1, "sh: cannot fork")}, tmp_path / "2"),
        FakeHost({"*": "driver vhost_vdpa\nchar vhost-"}, tmp_path / "3"),
        FakeHost({"*": ""}, tmp_path / "4"),
    ):
        (check,) = topology.judge(host, "v1", vf_expected(U))
        assert (check.verdict, check.level) == (Verdict.ERROR, Level.LAB)
