"""Sampling what the devices themselves count, for the proof in lab.checks.datapath."""

from __future__ import annotations

import contextlib

from lab.checks import counters
from lab.errors import CommandError, DeadlineExceeded, LabError
from lab.host import vdpa
from lab.host.vdpa import VdpaDevice
from lab.model import DeviceClass
from lab.topology.lab import BLOCK_SERIAL, Lab
from lab.wait import Deadline, wait_until

# Of the device's status (virtio 1.2, section 2.1).
_DRIVER_OK = 4
# Seconds on the reference machine within which a QEMU that has sent its guest away lets the device go.
_RELEASED_S = 5.0


def sample(lab: Lab, device: VdpaDevice, *, often: bool = False) -> dict[str, int]:
    """The counters of the device under test, now; what could not be read is left out and then proves nothing.

    Who looks ``often`` gets those that cost little: a back end's are in a capture, which is read whole each time.
    """
    net, provider = lab.plan.vdpa_scenario.device_class is DeviceClass.NET, lab.plan.provider_of(device.name)
    try:
        if provider == "vdpa_sim":
            return _simulator(lab, device) if net else {}
        if provider == "ifcvf":
            return lab.device_model.counters(lab.plan.function_of(device.name)) if lab.device_model else {}
        return _interrupts(lab, device) | ({} if often else _back_end(lab))
    except LabError as error:
        lab.record.event("sample-failed", device=device.name, error=str(error))
        return {}


def released(lab: Lab, device: VdpaDevice) -> str:
    """The device's own words that nobody drives it (it was reset: no features are negotiated), or "".

    Raises CommandError when the simulator says something else.
    """
    if lab.device_model:
        deadline = Deadline(_RELEASED_S * lab.slowness["l1"])
        with contextlib.suppress(DeadlineExceeded):
            return wait_until(lambda: _undriven(lab, device), deadline, f"{device.name} to be let go")
        return ""
    try:
        vdpa.vstats(lab.host, device.name, 0)
    except CommandError as error:
        words = error.completed.stderr.decode(errors="replace").strip()
        if "feature negotiation not complete" in words:
            return words
        raise
    return ""


def _undriven(lab: Lab, device: VdpaDevice) -> str:
    assert lab.device_model
    state = lab.device_model.ask("state", vf=lab.plan.function_of(device.name))
    # QEMU resets it and says ACKNOWLEDGE and DRIVER again (hw/virtio/vhost-vdpa.c).
    driven = state["status"] & _DRIVER_OK or any(queue["enabled"] for queue in state["queues"])
    return "" if driven else f"status {state['status']:#x}, no queue enabled"


def _simulator(lab: Lab, device: VdpaDevice) -> dict[str, int]:
    return vdpa.vstats(lab.host, device.name, 0) | vdpa.vstats(lab.host, device.name, 1)


def _interrupts(lab: Lab, device: VdpaDevice) -> dict[str, int]:
    function = device.mgmtdev.removeprefix("pci/")
    return counters.irqs(lab.host.get("/proc/interrupts").decode(), f"vp-vdpa[{function}]-")


def _back_end(lab: Lab) -> dict[str, int]:
    """Counters of L0's QEMU, the machine that the device is made by; none on a real host."""
    if lab.l1 is None:
        return {}
    if lab.plan.vdpa_scenario.device_class is DeviceClass.BLK:
        return counters.blockstats(lab.l1.query("query-blockstats"), BLOCK_SERIAL)
    return counters.backend(lab.l1.process.folder / "vf1.pcap", lab.plan.macs["vf1"])
