"""From a provider to something that a workload can use: vDPA devices, their attachments, the ends of the data path.

Everything is undone per device, in reverse. A vhost_vdpa device must have been let go by QEMU before it is unbound:
the kernel waits for the last close (vdpa.md 6), so the guest's QEMU is on the undo stack above the attachment.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeVar

from lab.attach import vhost_vdpa, virtio_vdpa
from lab.checks import process
from lab.config.scenario import Ifcvf, Migrate, Neighbours, VdpaSim, VpVdpa
from lab.devices import ifcvf, vdpa_sim, vp_vdpa
from lab.errors import product
from lab.host import modules, net, vdpa
from lab.host.disks import wait_disk
from lab.host.endpoints import BlockEnd, NetEnd
from lab.host.vdpa import VdpaDevice
from lab.model import AttachMode, DeviceClass, Level, QemuDevice
from lab.topology import isolation
from lab.topology.lab import BLOCK_SERIAL, Guest, Lab

T = TypeVar("T")

FRONT_ID = "dut"
ROOT_PORT = "rp0"


@dataclass(frozen=True)
class Devices:
    """The vDPA devices: the one under test, and its peer, migration destination or witness."""

    main: VdpaDevice
    second: VdpaDevice | None = None
    # Of a network path whose second device is a migration's destination.
    peer: VdpaDevice | None = None
    neighbours: tuple[VdpaDevice, ...] = ()


@dataclass(frozen=True)
class NetPath:
    """The ends of a network data path through the device under test."""

    server: NetEnd
    client: NetEnd


@dataclass(frozen=True)
class BlockPath:
    """The disk under test, and the same disk seen through another attachment when the provider can give one."""

    disk: BlockEnd
    witness: BlockEnd | None = None


Path = NetPath | BlockPath


def make_devices(lab: Lab) -> Devices:
    """Make the management devices appear and create the vDPA devices of the plan."""
    config, device_class = lab.plan.vdpa_scenario.device, lab.plan.vdpa_scenario.device_class
    if isinstance(config, VpVdpa):
        return _vp_vdpa(lab, config, device_class)
    if isinstance(config, Ifcvf):
        return _ifcvf(lab, device_class)
    return _vdpa_sim(lab, config, device_class)


def _vp_vdpa(lab: Lab, config: VpVdpa, device_class: DeviceClass) -> Devices:
    parents = lab.undo.enter(
        "vp_vdpa parents",
        vp_vdpa.parent(lab.host, config, device_class, pf_mac=lab.plan.macs.get("pf", ""), serial=BLOCK_SERIAL),
    )
    main = _add(lab, lab.plan.vdpa.main, parents[0])
    peer = _add(lab, lab.plan.vdpa.second, parents[-1]) if device_class is DeviceClass.NET else None
    return Devices(main, peer)


def _ifcvf(lab: Lab, device_class: DeviceClass) -> Devices:
    lab.plug_functions()
    functions = ifcvf.wait_functions(lab.host, lab.plan.functions)
    parents = _of_l1(lab, "ifcvf parents", ifcvf.parent(lab.host, functions, device_class))
    names = lab.plan.vdpa
    if lab.plan.migrates:
        # A NIC keeps its address when its guest moves: that of each VF is its own, the simulator is given one.
        second, mac = (_simulator(lab), lab.plan.macs["vf1"]) if lab.plan.leaves_card else (parents[1], None)
        features = _shadowable(lab, parents[0], second)
        features &= -1 if lab.plan.offloads else ~vdpa.TRANSMIT_OFFLOADS
        main = _add(lab, names.main, parents[0], features=features)
        destination = _add(lab, names.second, second, mac, features=features)
        return Devices(main, destination, _add(lab, names.third, parents[-1]))
    main = _add(lab, names.main, parents[0])
    if device_class is not DeviceClass.NET:
        return Devices(main)
    more = zip((names.third, names.fourth), parents[1:-1], strict=False)
    wanted = isinstance(lab.plan.vdpa_scenario.action, Neighbours)
    neighbours = tuple(_add(lab, name, parent) for name, parent in more) if wanted else ()
    return Devices(main, _add(lab, names.second, parents[-1]), neighbours=neighbours)


def _simulator(lab: Lab) -> str:
    config = VdpaSim(provider="vdpa_sim", use_va=True, batch_mapping=True)
    (parent,) = lab.undo.enter("vdpa_sim", vdpa_sim.parent(lab.host, config, DeviceClass.NET))
    return parent


def _shadowable(lab: Lab, *parents: str) -> int:
    """The common features of parents that QEMU's shadow virtqueues can carry; any other would keep the guest here."""
    known, common = vdpa.mgmtdevs(lab.host), vdpa.SHADOW_VQ_FEATURES
    for parent in parents:
        common &= vdpa.feature_bits(known[parent].features)
    return common


def make_again(lab: Lab, devices: Devices, removed: Literal["delete", "unbind", "rescan", "unplug-parent"]) -> Devices:
    """Make the device under test again on a PCI function that lives on, or that a rescan or plugging it brings back."""
    parent, function = devices.main.mgmtdev, devices.main.mgmtdev.removeprefix("pci/")
    if removed == "unplug-parent":
        assert lab.l1
        lab.l1.plug(lab.function(lab.plan.function_of(devices.main.name)))
    if removed in ("rescan", "unplug-parent"):
        with product(Level.L1_KERNEL, "l1"):
            if removed == "rescan":
                lab.host.put(b"1\n", "/sys/bus/pci/rescan")
            ifcvf.wait_functions(lab.host, lab.plan.functions)
    if removed != "delete":
        manager = ifcvf.parent(lab.host, (function,), lab.plan.vdpa_scenario.device_class)
        (parent,) = _of_l1(lab, "ifcvf parent again", manager)
    return Devices(_add(lab, devices.main.name, parent), devices.second)


def _vdpa_sim(lab: Lab, config: VdpaSim, device_class: DeviceClass) -> Devices:
    block = device_class is DeviceClass.BLK
    # A block device proves its path by a second device over the same RAM disk: what went in here comes out there.
    (parent,) = lab.undo.enter("vdpa_sim", vdpa_sim.parent(lab.host, config, device_class, shared_backend=block))
    mac = None if block else lab.plan.macs["sim"]
    mtu = None if block else lab.plan.vdpa_scenario.attach.mtu
    main = _add(lab, lab.plan.vdpa.main, parent, mac, mtu)
    wanted = block or isinstance(lab.plan.vdpa_scenario.action, Migrate)
    return Devices(main, _add(lab, lab.plan.vdpa.second, parent, mac, mtu) if wanted else None)


def _add(
    lab: Lab, name: str, mgmtdev: str, mac: str | None = None, mtu: int | None = None, features: int | None = None
) -> VdpaDevice:
    manager = vdpa.device(lab.host, name, mgmtdev, mac=mac, mtu=mtu, features=features)
    return _of_l1(lab, f"vDPA device {name}", manager)


def _of_l1(lab: Lab, what: str, manager: AbstractContextManager[T]) -> T:
    """Enter something that L1's kernel has to do."""
    with product(Level.L1_KERNEL, "l1"):
        return lab.undo.enter(what, manager)


def attach(lab: Lab, devices: Devices) -> tuple[Path, QemuDevice | None]:
    """Give the device under test to its user and configure both ends. Returns the path and what QEMU was given."""
    if lab.plan.vdpa_scenario.attach.mode is AttachMode.VIRTIO_VDPA:
        return _attach_l1(lab, devices), None
    reach_before = isolation.reach(lab, devices.main)
    given = give_to_guest(lab, devices.main)
    if not lab.plan.cold:
        guest = lab.guests["l2"]
        guest.held_before = process.look(lab.host, guest.process.pid)
        # Before it has the device: the unbinding below waits for whoever holds the node.
        lab.undo.callback("QEMU l2 before its device", guest.machine.quit)
        guest.machine.plug(given)
    else:
        guest = lab.start_guest("l2", [given])
        # A QEMU that starts with its device held nothing before.
        guest.held_before = process.Held(0, ())
        lab.undo.callback("QEMU l2 before its device", guest.machine.quit)
    guest.reach_before = reach_before
    return _path_in_guest(lab, guest, devices), given


def give_to_guest(lab: Lab, device: VdpaDevice) -> QemuDevice:
    """Bind a device to vhost_vdpa and return what QEMU has to add.

    Before the binding is undone QEMU must have let the device go: put that on the undo stack after this.
    """
    inject = lab.plan.vdpa_scenario.inject
    given = _of_l1(
        lab,
        f"vhost_vdpa on {device.name}",
        vhost_vdpa.attach(
            lab.host,
            device,
            bus=ROOT_PORT,
            id=FRONT_ID,
            iotlb_entries=inject.iotlb_entries or modules.IOTLB_ENTRIES,
        ),
    )
    if lab.plan.shadows and given.netdev and lab.plan.provider_of(device.name) == "ifcvf":
        given = QemuDevice(given.device, {**given.netdev, "x-svq": True})
    if inject.rx_queue_size is None:
        return given
    return QemuDevice({**given.device, "rx_queue_size": inject.rx_queue_size}, given.netdev)


def _attach_l1(lab: Lab, devices: Devices) -> Path:
    host, addresses, plan = lab.host, lab.plan.addresses, lab.plan
    if plan.vdpa_scenario.device_class is DeviceClass.BLK:
        disk = _of_l1(lab, "disk under test", virtio_vdpa.disk(host, devices.main))
        return BlockPath(disk, _witness(lab, devices))
    interface = _of_l1(lab, "interface under test", virtio_vdpa.interface(host, devices.main))
    if isinstance(plan.vdpa_scenario.device, VdpaSim):
        return NetPath(*lab.undo.enter("loop", net.loopback_pair(host, interface, *_loop(lab), mtu=_mtu(lab))))
    space = f"n{plan.run_id}a"
    server = lab.undo.enter("address", net.configured(host, interface, addresses["server"], mtu=_mtu(lab), netns=space))
    return NetPath(server, _peer(lab, devices))


def _path_in_guest(lab: Lab, guest: Guest, devices: Devices) -> Path:
    if lab.plan.vdpa_scenario.device_class is DeviceClass.BLK:
        with product(Level.L2_KERNEL, guest.name):
            disk = wait_disk(guest.shell)
        return BlockPath(disk, _witness(lab, devices))
    if isinstance(lab.plan.vdpa_scenario.device, VdpaSim):
        return loop_in_guest(lab, guest, lab.plan.macs["sim"])
    return NetPath(address_in_guest(lab, guest, lab.plan.macs["vf1"]), _peer(lab, devices))


def address_in_guest(lab: Lab, guest: Guest, mac: str) -> NetEnd:
    """Configure the guest's interface with this MAC, which may have been plugged a moment ago."""
    with product(Level.L2_KERNEL, guest.name):
        interface = net.find_interface(guest.shell, mac)
        return net.configure(guest.shell, interface, lab.plan.addresses["server"], mtu=_mtu(lab))


def loop_in_guest(lab: Lab, guest: Guest, mac: str) -> NetPath:
    """Build the loop over the guest's interface with this MAC."""
    with product(Level.L2_KERNEL, guest.name):
        interface = net.find_interface(guest.shell, mac)
    return NetPath(*net.make_loopback(guest.shell, interface, *_loop(lab), mtu=_mtu(lab)))


def _peer(lab: Lab, devices: Devices) -> NetEnd:
    peer = devices.peer or devices.second
    assert peer is not None
    interface = _of_l1(lab, "peer interface", virtio_vdpa.interface(lab.host, peer))
    return lab.undo.enter(
        "peer address",
        net.configured(lab.host, interface, lab.plan.addresses["client"], mtu=_mtu(lab), netns=f"n{lab.plan.run_id}b"),
    )


def join_neighbours(lab: Lab, devices: Devices) -> NetPath:
    """Give two more devices to L1 itself, each in a network namespace of its own: the ends of a path between them."""
    ends = []
    for device, address in zip(devices.neighbours, lab.plan.addresses["neighbours"].split(), strict=True):
        interface = _of_l1(lab, "neighbour", virtio_vdpa.interface(lab.host, device))
        space = f"n{lab.plan.run_id}{device.name[-1]}"
        manager = net.configured(lab.host, interface, address, mtu=_mtu(lab), netns=space)
        ends.append(_of_l1(lab, "neighbour's address", manager))
    return NetPath(*ends)


def _witness(lab: Lab, devices: Devices) -> BlockEnd | None:
    if devices.second is None:
        return None
    return _of_l1(lab, "witness disk", virtio_vdpa.disk(lab.host, devices.second))


def _loop(lab: Lab) -> tuple[tuple[str, str], tuple[str, str]]:
    run_id, addresses = lab.plan.run_id, lab.plan.addresses
    return (f"n{run_id}a", f"n{run_id}b"), (addresses["server"], addresses["client"])


def _mtu(lab: Lab) -> int:
    return lab.plan.vdpa_scenario.attach.mtu
