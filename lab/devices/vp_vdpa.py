"""vp_vdpa: virtio PCI functions as parents (drivers/vdpa/virtio_pci): VFs of a virtio-net PF, or a virtio-blk function.

Whether a function may be given to a guest (it must obey the IOMMU) is decided where it is given:
:func:`lab.host.vdpa.require_isolated_dma`, which the vhost_vdpa attachment calls before anything else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lab.config.scenario import VpVdpa
from lab.errors import LabError
from lab.host import modules, net, pci, vdpa
from lab.host.base import Host
from lab.model import DeviceClass

# The module is vp_vdpa, its PCI driver vp-vdpa.
_MODULE, _DRIVER = "vp_vdpa", "vp-vdpa"


@contextlib.contextmanager
def parent(
    host: Host, config: VpVdpa, device_class: DeviceClass, *, pf_mac: str = "", serial: str = ""
) -> Iterator[tuple[str, ...]]:
    """Bind functions to vp_vdpa and yield their management devices' names; each carries one vDPA device.

    net: ``config.vfs`` VFs of the PF whose interface has the MAC ``pf_mac``, in their order; the last is the peer's.
    blk: the function of the virtio-blk disk with serial number ``serial``.
    Afterwards the functions are back with their former driver and the VFs are gone.
    """
    modules.load(host, _MODULE)
    with contextlib.ExitStack() as stack:
        if device_class is DeviceClass.NET:
            pf = pci.function_of_interface(host, net.find_interface(host, pf_mac))
            functions = stack.enter_context(pci.sriov(host, pf, config.vfs))
        else:
            functions = (pci.function_of_disk(host, serial),)
        for function in functions:
            stack.enter_context(pci.bound(host, function, _DRIVER))
        yield _management_devices(host, functions)


def _management_devices(host: Host, functions: tuple[str, ...]) -> tuple[str, ...]:
    by_function = {device.pci: name for name, device in vdpa.mgmtdevs(host).items()}
    missing = [function for function in functions if function not in by_function]
    if missing:
        raise LabError(f"{host.name}: {_DRIVER} made no management device of: {', '.join(missing)}")
    return tuple(by_function[function] for function in functions)
