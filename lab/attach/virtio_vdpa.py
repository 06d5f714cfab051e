"""virtio_vdpa: the device becomes a virtio device of the host itself, a network interface or a disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lab.errors import LabError
from lab.host import modules, vdpa
from lab.host.base import Host
from lab.host.endpoints import BlockEnd
from lab.host.shell import run_script
from lab.host.vdpa import VdpaDevice
from lab.model import AttachMode, DeviceClass
from lab.wait import Deadline, wait_until

_DEVICE_S = 10.0
_SECTOR = 512
_SUBSYSTEM = {DeviceClass.NET: "net", DeviceClass.BLK: "block"}

# The virtio device is a child of the device that does the DMA: of the vDPA device when it is simulated, of the PCI
# function, as a sibling of the vDPA device, otherwise. A udev that is there may be about to rename an interface.
_CHILD = """
cd "$(readlink -f "/sys/bus/vdpa/devices/$1")"
! command -v udevadm >/dev/null || udevadm settle
for path in virtio*/"$2"/* ../virtio*/"$2"/*; do
    [ ! -e "$path" ] || echo "${path##*/}"
done
"""


@contextlib.contextmanager
def interface(host: Host, device: VdpaDevice) -> Iterator[str]:
    """Bind a network device to virtio_vdpa and yield its interface's name; give it an address by lab.host.net."""
    with _bound(host, device, DeviceClass.NET) as name:
        yield name


@contextlib.contextmanager
def disk(host: Host, device: VdpaDevice) -> Iterator[BlockEnd]:
    """Bind a block device to virtio_vdpa and yield the disk."""
    with _bound(host, device, DeviceClass.BLK) as name:
        sectors = int(host.get(f"/sys/block/{name}/size"))
        yield BlockEnd(host, f"/dev/{name}", sectors * _SECTOR)


@contextlib.contextmanager
def _bound(host: Host, device: VdpaDevice, expected: DeviceClass) -> Iterator[str]:
    if device.device_class is not expected:
        raise LabError(f"{host.name}: vDPA device {device.name} is {device.device_class}, not {expected}")
    modules.load(host, "virtio_vdpa")
    with vdpa.bound(host, device.name, AttachMode.VIRTIO_VDPA):
        yield wait_until(
            lambda: run_script(host, _CHILD, device.name, _SUBSYSTEM[expected]).text,
            Deadline(_DEVICE_S * host.slowness),
            f"{host.name}: the {_SUBSYSTEM[expected]} device of {device.name}",
        )
