"""vdpa_sim: the kernel's simulated parents (drivers/vdpa/vdpa_sim), which need no hardware and no IOMMU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lab.config.scenario import VdpaSim
from lab.errors import LabError
from lab.host import modules, vdpa
from lab.host.base import Host
from lab.model import DeviceClass

_MODULES = {DeviceClass.NET: "vdpa_sim_net", DeviceClass.BLK: "vdpa_sim_blk"}


@contextlib.contextmanager
def parent(
    host: Host, config: VdpaSim, device_class: DeviceClass, *, shared_backend: bool = False
) -> Iterator[tuple[str, ...]]:
    """Load the simulator and yield the name of its management device; any number of devices can be made of it.

    ``shared_backend`` (blk) gives all block devices one common RAM disk, so that what is written through one can be
    read through another; its content outlives the devices. Nothing is undone: modules stay loaded.
    Raises what :func:`lab.host.modules.load` raises.
    """
    simulator = {"use_va": config.use_va, "batch_mapping": config.batch_mapping}
    modules.load(host, "vdpa_sim", {**simulator, "max_iotlb_entries": modules.IOTLB_ENTRIES})
    special = {"shared_backend": shared_backend} if device_class is DeviceClass.BLK else {}
    modules.load(host, _MODULES[device_class], special)
    yield (_management_device(host, device_class),)


def _management_device(host: Host, device_class: DeviceClass) -> str:
    # The module is vdpa_sim_net and its management device vdpasim_net.
    wanted = _MODULES[device_class].replace("_", "")
    names = list(vdpa.mgmtdevs(host))
    for name in names:
        if name.replace("_", "") == wanted:
            return name
    raise LabError(f"{host.name}: no management device of {_MODULES[device_class]} among: {', '.join(names) or 'none'}")
