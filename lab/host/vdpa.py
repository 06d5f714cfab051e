"""vDPA devices of a host, by iproute2's ``vdpa`` tool (vdpa-mgmtdev(8), vdpa-dev(8)) and the vDPA bus in sysfs.

Traps of the tool's JSON, seen in the output of iproute2 6.15 (tests/unit/samples/vdpa): some keys end in a space
(``"link "``), a feature bit that the tool has no name for is a bare number among the names (all of a block device's),
a net device is of class ``net`` here and of type ``network`` there, a field that the device does not have is absent,
and the ``queue_type`` of vstats is wrong (``control_vq`` for the receive queue): the counters' own names are right.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lab.errors import HostError, LabError
from lab.host import pci
from lab.host.base import Host
from lab.host.shell import run_script
from lab.host.undo import undoing
from lab.model import AttachMode, DeviceClass

ACCESS_PLATFORM = "ACCESS_PLATFORM"

# iproute2's names of a network device's feature bits (vdpa/vdpa.c there; virtio 1.2, sections 5.1.3 and 6).
_NET_FEATURES = {
    0: "CSUM", 1: "GUEST_CSUM", 2: "CTRL_GUEST_OFFLOADS", 3: "MTU", 5: "MAC", 7: "GUEST_TSO4", 8: "GUEST_TSO6",
    9: "GUEST_ECN", 10: "GUEST_UFO", 11: "HOST_TSO4", 12: "HOST_TSO6", 13: "HOST_ECN", 14: "HOST_UFO",
    15: "MRG_RXBUF", 16: "STATUS", 17: "CTRL_VQ", 18: "CTRL_RX", 19: "CTRL_VLAN", 20: "CTRL_RX_EXTRA",
    21: "GUEST_ANNOUNCE", 22: "MQ", 23: "CTRL_MAC_ADDR", 24: "NOTIFY_ON_EMPTY", 27: "ANY_LAYOUT",
    28: "RING_INDIRECT_DESC", 29: "RING_EVENT_IDX", 32: "VERSION_1", 33: "ACCESS_PLATFORM", 34: "RING_PACKED",
    35: "IN_ORDER", 36: "ORDER_PLATFORM", 37: "SR_IOV", 38: "NOTIFICATION_DATA",
    57: "HASH_REPORT", 60: "RSS", 61: "RSC_EXT", 62: "STANDBY", 63: "SPEED_DUPLEX",
}  # fmt: skip
# What QEMU's shadow virtqueues can carry (QEMU: net/vhost-vdpa.c, hw/virtio/vhost-shadow-virtqueue.c).
_SHADOWED = (*range(4), 5, *range(7, 21), 22, 23, 29, 32, 33)
SHADOW_VQ_FEATURES: int = sum(1 << bit for bit in _SHADOWED)
# With CSUM Linux hands over a packet in several pieces (NETIF_F_SG, drivers/net/virtio_net.c); the others need it.
TRANSMIT_OFFLOADS: int = sum(1 << bit for bit in (0, *range(11, 15)))
_BITS = {name: bit for bit, name in _NET_FEATURES.items()}

_CLASSES = {"net": DeviceClass.NET, "network": DeviceClass.NET, "block": DeviceClass.BLK}
_PCI = "pci/"

# Whichever bus driver is loaded first takes every new device, so probing is off while the lab's devices exist and each
# is bound by name. Prints the former setting, then the new device.
_ADD = """
autoprobe=/sys/bus/vdpa/drivers_autoprobe
former=$(cat "$autoprobe")
echo "$former"
put 0 "$autoprobe"
vdpa dev add "$@" || { put "$former" "$autoprobe"; exit 1; }
vdpa -j dev show "$2"
"""
_DELETE = """
[ ! -e "/sys/bus/vdpa/devices/$1" ] || vdpa dev del "$1"
put "$2" /sys/bus/vdpa/drivers_autoprobe
"""
_BIND = """
device=/sys/bus/vdpa/devices/$1
[ ! -e "$device/driver" ] || put "$1" "$device/driver/unbind"
put "$2" "$device/driver_override"
put "$1" /sys/bus/vdpa/drivers_probe
readlink "$device/driver" || :
"""
_UNBIND = """
device=/sys/bus/vdpa/devices/$1
[ -e "$device" ] || exit 0
[ ! -e "$device/driver" ] || put "$1" "$device/driver/unbind"
put '' "$device/driver_override"
"""


@dataclass(frozen=True)
class MgmtDev:
    """A management device: what `vdpa dev add` makes vDPA devices of.

    ``features`` are iproute2's names of the device's virtio feature bits, ``bit_N`` where it has none; empty when the
    driver does not tell (vdpa_sim_blk).
    """

    name: str
    classes: frozenset[str]
    max_vqs: int
    features: frozenset[str]

    @property
    def pci(self) -> str | None:
        """PCI address of the function that is its parent; None for a software device."""
        return self.name.removeprefix(_PCI) if self.name.startswith(_PCI) else None


@dataclass(frozen=True)
class VdpaDevice:
    """A vDPA device as `vdpa dev show` describes it."""

    name: str
    mgmtdev: str
    device_class: DeviceClass
    vendor_id: int
    max_vqs: int
    max_vq_size: int


def mgmtdevs(host: Host) -> dict[str, MgmtDev]:
    """Every management device by its name."""
    return parse_mgmtdevs(host.run(["vdpa", "-j", "mgmtdev", "show"]).text)


def config(host: Host, name: str) -> dict[str, Any]:
    """Configuration space of a network device: ``mac``, ``link``, ``mtu``, ``negotiated_features``, …

    Features are there only after the driver has negotiated them. Empty for other classes.
    """
    return parse_section(host.run(["vdpa", "-j", "dev", "config", "show", name]).text, "config").get(name, {})


def negotiated_features(host: Host, name: str) -> int | None:
    """The features that a network device's driver has negotiated, as bits; None before it has.

    Raises HostError for a name that is not known here.
    """
    names = config(host, name).get("negotiated_features")
    return None if names is None else feature_bits(names)


def feature_bits(names: Iterable[str | int]) -> int:
    """Features of a network device by iproute2's names, or numbers where it has none, as bits.

    Raises HostError for a name that is not known here.
    """
    bits = 0
    for name in names:
        text = str(name).removeprefix("bit_")
        bit = int(text) if text.isdecimal() else _BITS.get(text)
        if bit is None:
            raise HostError(f"no feature bit is known for {name!r}")
        bits |= 1 << bit
    return bits


def vstats(host: Host, name: str, qidx: int) -> dict[str, int]:
    """Counters of one virtqueue, by the driver's own names (vdpa_sim_net: ``rx packets``, ``tx bytes``, …).

    Raises CommandError while the features are not negotiated and for a driver without counters.
    """
    argv = ["vdpa", "-j", "dev", "vstats", "show", name, "qidx", str(qidx)]
    return parse_vstats(host.run(argv).text, name)


@contextlib.contextmanager
def device(
    host: Host, name: str, mgmtdev: str, *, mac: str | None = None, mtu: int | None = None, features: int | None = None
) -> Iterator[VdpaDevice]:
    """A vDPA device of ``mgmtdev`` for as long as the block lasts, bound to no bus driver.

    A PCI parent carries one device. Trying a second one there fails, and deleting the first then crashes Linux 6.12
    (vp_vdpa forgets which device is its own).
    ``features`` provisions a subset of the device's virtio features. Deleting it waits in the kernel until the last
    user of its vhostdev node has closed it, so QEMU must be gone or the device unplugged before the block ends.
    """
    attributes = {"mac": mac, "mtu": mtu, "device_features": None if features is None else f"{features:#x}"}
    options = [word for key, value in attributes.items() if value is not None for word in (key, str(value))]
    shown = run_script(host, _ADD, "name", name, "mgmtdev", mgmtdev, *options).text
    autoprobe, _, listing = shown.partition("\n")
    with undoing(host, f"vDPA device {name}", lambda: run_script(host, _DELETE, name, autoprobe)):
        yield parse_devices(listing)[name]


@contextlib.contextmanager
def bound(host: Host, name: str, driver: AttachMode) -> Iterator[None]:
    """Bind a vDPA device to a bus driver, whose module is loaded, for as long as the block lasts.

    Raises HostError when the driver refused the device (the kernel log says why).
    """
    with undoing(host, f"{driver} on {name}", lambda: run_script(host, _UNBIND, name)):
        taken = run_script(host, _BIND, name, driver).text.rpartition("/")[2]
        if taken != driver:
            raise HostError(f"{host.name}: {driver} did not take vDPA device {name} (bound to: {taken or 'nothing'})")
        yield


def require_isolated_dma(host: Host, parent: MgmtDev) -> None:
    """Refuse a PCI parent whose DMA a guest could use to overwrite the host's memory, or that no guest could open.

    Without VIRTIO_F_ACCESS_PLATFORM the function ignores the IOMMU: vhost_vdpa still opens, QEMU forces the feature,
    the device drops it silently, and guest addresses hit the host's memory (virtio 1.2 section 6; vdpa.md 2.1).
    Software devices translate in the driver and pass. Raises LabError.
    """
    function = parent.pci
    if function is None:
        return
    if ACCESS_PLATFORM not in parent.features:
        raise LabError(
            f"{host.name}: {parent.name} does not offer VIRTIO_F_ACCESS_PLATFORM: with vhost_vdpa its DMA would "
            f"overwrite memory of {host.name}, so it is not used",
            hint="give the device iommu_platform=on, or attach it by virtio_vdpa",
        )
    members = pci.iommu_group(host, function)
    if members != (function,):
        seen = f"shares its IOMMU group with {', '.join(members)}" if members else "has no IOMMU group"
        raise LabError(f"{host.name}: {parent.name} {seen}: vhost_vdpa needs a group of its own", hint="vIOMMU, ACS")


def parse_section(text: str, section: str) -> dict[str, dict[str, Any]]:
    """One top-level object of the tool's JSON by device name, keys cleaned. Raises HostError when it is not that."""
    try:
        found = json.loads(text)[section]
        return {name: {key.strip(): value for key, value in fields.items()} for name, fields in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HostError(f"vdpa -j: not the expected {section!r} object: {text[:200]!r}") from error


def parse_mgmtdevs(text: str) -> dict[str, MgmtDev]:
    """The output of `vdpa -j mgmtdev show`."""
    return {name: _mgmtdev(name, fields) for name, fields in parse_section(text, "mgmtdev").items()}


def parse_devices(text: str) -> dict[str, VdpaDevice]:
    """The output of `vdpa -j dev show`; devices of other classes than the lab's are left out."""
    shown = parse_section(text, "dev")
    return {name: _device(name, fields) for name, fields in shown.items() if fields.get("type") in _CLASSES}


def parse_vstats(text: str, name: str) -> dict[str, int]:
    """The counters in the output of `vdpa -j dev vstats show NAME qidx N`."""
    fields = parse_section(text, "vstats").get(name, {})
    return {key: value for key, value in fields.items() if isinstance(value, int)}


def _mgmtdev(name: str, fields: Mapping[str, Any]) -> MgmtDev:
    bits = (f"bit_{bit}" if isinstance(bit, int) else bit for bit in fields.get("dev_features", ()))
    classes = frozenset(fields.get("supported_classes", ()))
    return MgmtDev(name, classes, fields.get("max_supported_vqs", 0), frozenset(bits))


def _device(name: str, fields: Mapping[str, Any]) -> VdpaDevice:
    return VdpaDevice(
        name,
        fields["mgmtdev"],
        _CLASSES[fields["type"]],
        fields.get("vendor_id", 0),
        fields.get("max_vqs", 0),
        fields.get("max_vq_size", 0),
    )
