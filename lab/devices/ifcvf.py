"""ifcvf: Intel IFC VFs as parents (drivers/vdpa/ifcvf), bound by the driver's own id table.

virtio-pci is built into most kernels and has the same ids in its table, so it takes each function as soon as that
appears; it is unbound, and the function given to ifcvf by the driver's `bind` file, which asks the id table as probing
does. `driver_override` would bind whatever the ids are, and prove nothing about them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lab.errors import HostError, LabError
from lab.host import modules, pci, vdpa
from lab.host.base import Host
from lab.model import DeviceClass

_MODULE = _DRIVER = "ifcvf"
# Of the three entries in the driver's table all have the subsystem vendor Intel (drivers/vdpa/ifcvf/ifcvf_main.c).
_VIRTIO, _INTEL = "0x1af4", "0x8086"


def wait_functions(host: Host, count: int) -> tuple[str, ...]:
    """Addresses of ``count`` IFC functions, which may have been plugged a moment ago, in order of the bus.

    Raises DeadlineExceeded when they do not appear.
    """
    return pci.wait_functions(host, vendor=_VIRTIO, subsystem_vendor=_INTEL, count=count)


@contextlib.contextmanager
def parent(host: Host, functions: tuple[str, ...], device_class: DeviceClass) -> Iterator[tuple[str, ...]]:
    """Bind IFC functions to ifcvf and yield the names of their management devices; each carries one vDPA device.

    Afterwards the functions are back with their former driver.
    Raises HostError when the driver did not take one, LabError for a management device of another class.
    """
    modules.load(host, _MODULE)
    with contextlib.ExitStack() as stack:
        for function in functions:
            stack.enter_context(pci.bound(host, function, _DRIVER, by_id=True))
        yield _management_devices(host, functions, device_class)


def _management_devices(host: Host, functions: tuple[str, ...], device_class: DeviceClass) -> tuple[str, ...]:
    by_function = {device.pci: device for device in vdpa.mgmtdevs(host).values()}
    found = [by_function[function] for function in functions if function in by_function]
    if len(found) < len(functions):
        missing = ", ".join(function for function in functions if function not in by_function)
        raise HostError(f"{host.name}: {_DRIVER} made no management device of: {missing}")
    # What `vdpa mgmtdev show` calls the classes.
    wanted = {DeviceClass.NET: "net", DeviceClass.BLK: "block"}[device_class]
    wrong = [device.name for device in found if device.classes != {wanted}]
    if wrong:
        raise LabError(f"{host.name}: not of class {wanted}: {', '.join(wrong)}")
    return tuple(device.name for device in found)
