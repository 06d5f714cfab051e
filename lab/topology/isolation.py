"""Gathering what :mod:`lab.checks.isolation` compares: from the device model, and from the guest's QEMU in L1."""

from __future__ import annotations

from collections.abc import Sequence

from lab.checks import isolation
from lab.checks.isolation import PAGE, Window
from lab.config.site import NestedSite
from lab.errors import LabError
from lab.host.shell import run_script
from lab.host.vdpa import VdpaDevice
from lab.model import Check
from lab.topology.lab import Guest, Lab

_PAGEMAP = 'dd if="/proc/$0/pagemap" iflag=skip_bytes,count_bytes bs=64k skip="$1" count="$2" status=none'
# The entries of all that the process $1 can write to, one area after another (proc(5)).
_WRITABLE = """
while read -r range access rest; do
    first=$((0x${range%-*})) last=$((0x${range#*-}))
    case "$access" in
    rw*) dd if="/proc/$1/pagemap" iflag=skip_bytes,count_bytes bs=64k skip="$((first / 512))" \\
        count="$(((last - first) / 512))" status=none ;;
    esac
done <"/proc/$1/maps"
"""
_ENTRY = 8


def reach(lab: Lab, device: VdpaDevice) -> list[Window]:
    """What the function under a vDPA device can reach now; empty when the device is not of the lab's own model."""
    if lab.device_model is None:
        return []
    return isolation.windows(lab.device_model.ask("dma", vf=lab.plan.function_of(device.name), detail=True))


def judge_attached(lab: Lab, device: VdpaDevice, guest: Guest) -> list[Check]:
    """Compare it with the memory of the guest that has the device; ERROR when either could not be seen."""
    if lab.device_model is None or not isinstance(lab.plan.site, NestedSite):
        return []
    try:
        memory = lab.plan.site.l1.memory_mb << 20
        seen = reach(lab, device)
        if lab.plan.shadows:
            pages = _pages(lab, guest, [Window(isolation.FIRMWARE_ADDRESS, isolation.FIRMWARE_BYTES)])
            rings = isolation.ring_pages(_queue_sizes(lab, device))
            return [isolation.judge_shadowed(seen, pages, _own(lab, guest), rings, memory=memory)]
        return [isolation.judge_attached(seen, _pages(lab, guest, seen), memory=memory)]
    except LabError as error:
        return [Check.unproven("isolation while attached", str(error), "the guest's memory", machine=guest.name)]


def judge_released(lab: Lab, device: VdpaDevice, before: Sequence[Window]) -> list[Check]:
    """Compare it with what the device could reach ``before`` a guest had it."""
    return [isolation.judge_released(before, reach(lab, device))] if lab.device_model else []


def _queue_sizes(lab: Lab, device: VdpaDevice) -> list[int]:
    """The length of each queue that the driver has enabled, in buffers."""
    assert lab.device_model
    state = lab.device_model.ask("state", vf=lab.plan.function_of(device.name))
    return [int(queue["size"]) for queue in state["queues"] if queue["enabled"]]


def _pages(lab: Lab, guest: Guest, seen: Sequence[Window]) -> dict[int, int]:
    """The page frame in L1 of each page number of the guest's memory."""
    monitor, pid = guest.machine.qmp, guest.process.pid
    found: dict[int, int] = {}
    for address, size in isolation.sections(lab.plan.l2.memory_mb << 20, seen):
        virtual = isolation.host_address(monitor.human(f"gpa2hva {address:#x}"))
        if virtual is None:
            continue  # what the device reaches there is no page of the guest
        place = (str(virtual // PAGE * _ENTRY), str(size // PAGE * _ENTRY))
        pagemap = lab.host.run(["sh", "-c", _PAGEMAP, str(pid), *place]).stdout
        numbers = range(address // PAGE, (address + size) // PAGE)
        # A page that is not in memory is not one that the device could reach.
        found |= {n: frame for n, frame in zip(numbers, isolation.frames(pagemap), strict=True) if frame is not None}
    return found


def _own(lab: Lab, guest: Guest) -> set[int]:
    """The page frames in L1 of whatever the guest's QEMU can write to."""
    pagemap = run_script(lab.host, _WRITABLE, str(guest.process.pid)).stdout
    return {frame for frame in isolation.frames(pagemap) if frame is not None}
