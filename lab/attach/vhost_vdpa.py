"""vhost_vdpa: the device becomes a vhostdev node, and QEMU gives it to a guest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lab.errors import HostError
from lab.host import modules, vdpa
from lab.host.base import Host
from lab.host.shell import run_script
from lab.host.vdpa import VdpaDevice
from lab.model import AttachMode, DeviceClass, QemuDevice
from lab.wait import Deadline, wait_until

_NODE_S = 10.0
_NO_MAC = "00:00:00:00:00:00"

# N of vhost-vdpa-N is the lowest free number and says nothing; sysfs says which node is the device's.
_NODE = """
for path in "/sys/bus/vdpa/devices/$1"/vhost-vdpa-*; do
    [ ! -c "/dev/${path##*/}" ] || echo "/dev/${path##*/}"
done
"""


@contextlib.contextmanager
def attach(
    host: Host,
    device: VdpaDevice,
    *,
    bus: str,
    id: str,  # noqa: A002 - QEMU's word
    iotlb_entries: int = modules.IOTLB_ENTRIES,
) -> Iterator[QemuDevice]:
    """Bind ``device`` to vhost_vdpa and yield what QEMU has to add to root port ``bus``, with the front end's ``id``.

    QEMU must have let the device go before the block ends: unbinding waits for the last close of the node.
    Raises LabError for a device that would not be safe in a guest (:func:`lab.host.vdpa.require_isolated_dma`).
    """
    vdpa.require_isolated_dma(host, vdpa.mgmtdevs(host)[device.mgmtdev])
    modules.load_vhost_vdpa(host, iotlb_entries)
    with vdpa.bound(host, device.name, AttachMode.VHOST_VDPA):
        node = wait_until(
            lambda: run_script(host, _NODE, device.name).text,
            Deadline(_NODE_S * host.slowness),
            f"{host.name}: the vhostdev node of {device.name}",
        )
        yield _qemu_device(host, device, node, bus, id)


def _qemu_device(host: Host, device: VdpaDevice, node: str, bus: str, front: str) -> QemuDevice:
    if device.device_class is not DeviceClass.NET:
        return QemuDevice({"driver": "vhost-vdpa-device-pci", "id": front, "vhostdev": node, "bus": bus})
    back = f"{front}-vdpa"
    return QemuDevice(
        device={
            "driver": "virtio-net-pci",
            "id": front,
            "netdev": back,
            "mac": _mac(host, device),
            "bus": bus,
            "romfile": "",
            "disable-legacy": "on",
        },
        netdev={"type": "vhost-vdpa", "id": back, "vhostdev": node},
    )


def _mac(host: Host, device: VdpaDevice) -> str:
    # The guest's NIC must have the device's own MAC: a VF filters by it, and vdpa_sim_net loops by it.
    mac = str(vdpa.config(host, device.name).get("mac", _NO_MAC))
    if mac == _NO_MAC:
        raise HostError(f"{host.name}: vDPA device {device.name} has no MAC address")
    return mac
