"""Two more VFs of the card under traffic of their own: each device carries its own, and nothing of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lab.model import Check, Level
from lab.scenarios.traffic import UNDER_ACTION_S, stopped_on_error
from lab.topology import devices as bringup
from lab.topology.counters import sample
from lab.workloads import iperf3

if TYPE_CHECKING:
    from lab.host.vdpa import VdpaDevice
    from lab.scenarios.exercise import Exercise
    from lab.topology.lab import Lab

# Of the neighbours' traffic a frame may come to others before the switch has learnt where they are.
_FLOODED_BYTES = 100_000


def run(exercise: Exercise) -> None:
    """The workload through the device under test, while the neighbours' traffic goes on."""
    lab, devices = exercise.lab, exercise.devices
    assert devices.second is not None
    first, last = devices.neighbours
    path = bringup.join_neighbours(lab, devices)
    looks = [_Look(lab, device) for device in (first, last, devices.main, devices.second)]
    traffic = iperf3.start_background(
        path.server, path.client, lab.record.path, seconds=UNDER_ACTION_S, label="neighbours", level=Level.L1_KERNEL
    )
    with stopped_on_error(traffic):
        exercise.wait_flowing(first)
        exercise.prove(devices.main)
    traffic.stop()
    result = traffic.finish()
    exercise.found.add(result)
    sender, receiver, tested, peer = (look.grown() for look in looks)
    exercise.found.checks += judge(result.moved.get("from_server", 0), sender, receiver, tested, peer)


class _Look:
    """The counters of a device from now on."""

    def __init__(self, lab: Lab, device: VdpaDevice) -> None:
        self._lab, self._device = lab, device
        self._before = sample(lab, device)

    def grown(self) -> dict[str, int]:
        """By how much each has grown; what could not be read is left out."""
        after = sample(self._lab, self._device)
        return {name: after[name] - count for name, count in self._before.items() if name in after}


def judge(moved: int, *grown: Mapping[str, int]) -> list[Check]:
    """``moved`` is the neighbours' payload in bytes; ``grown`` the counters of its sender, its receiver, the device
    under test and that one's peer.
    """
    sender, receiver, tested, peer = grown
    sent, received = sender.get("tx_bytes", 0), receiver.get("rx_bytes", 0)
    own, others = peer.get("tx_bytes", 0), tested.get("rx_bytes", 0)
    return [
        Check.judged(
            "neighbours' traffic", min(sent, received) >= moved > 0, f"{sent} bytes sent, {received} received",
            f"at least the {moved} bytes that iperf3 moved", level=Level.L1_KERNEL, machine="l1", proof=True,
        ),
        Check.judged(
            "nothing of the neighbours", 0 < others <= own + _FLOODED_BYTES, f"{others} bytes received",
            f"the {own} bytes that its peer sent, at most {_FLOODED_BYTES} more", level=Level.L1_KERNEL, machine="l2",
        ),
    ]  # fmt: skip
