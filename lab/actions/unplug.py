"""Hot-unplug of a guest's device, and plugging it back."""

from __future__ import annotations

from dataclasses import dataclass

from lab.config.scenario import Unplug
from lab.machine.machine import Machine
from lab.model import Metric, QemuDevice
from lab.wait import Deadline


@dataclass(frozen=True)
class Unplugged:
    """``seconds`` from device_del to DEVICE_DELETED."""

    seconds: float

    def metrics(self) -> tuple[Metric, ...]:
        """As metrics of the run."""
        return (Metric("unplug_device_deleted", self.seconds, "s"),)


def run(machine: Machine, device: QemuDevice, config: Unplug, slowness: float) -> Unplugged:
    """Take the device away and wait until QEMU says that the guest has let it go.

    Raises DeadlineExceeded, or ProductFailure when the guest refuses.
    """
    return Unplugged(machine.unplug(device, Deadline(config.max_delete_s * slowness)))
