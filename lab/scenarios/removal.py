"""A device that is taken away in L1 while a guest uses it, by :mod:`lab.actions.remove`, and comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.actions import remove, unplug
from lab.checks import process
from lab.config.scenario import Remove, Unplug
from lab.model import Check, Level
from lab.scenarios.traffic import UNDER_ACTION_S, stopped_on_error
from lab.topology import devices as bringup

if TYPE_CHECKING:
    from lab.actions.remove import Removal
    from lab.scenarios.exercise import Exercise

# How long the guest has to give the device back.
_UNPLUG = Unplug(kind="unplug")


def run(exercise: Exercise, action: Remove) -> None:
    """Do it under traffic, which goes on until the guest lets go; prove the path before and after."""
    lab, device, given = exercise.lab, exercise.devices.main, exercise.given
    guest = lab.guests["l2"]
    assert given is not None
    exercise.prove(device, "before")
    traffic = exercise.background(UNDER_ACTION_S)
    with stopped_on_error(traffic):
        exercise.wait_flowing(device)
        with lab.record.step(action.kind):
            removal = remove.start(lab.host, device, action)
            # Whoever waits has had the time of some traffic to come to its wait.
            exercise.wait_flowing(device)
            exercise.found.checks.append(_waits(removal, action))
        with lab.record.step("unplug"):
            exercise.found.metrics += unplug.run(guest.machine, given, _UNPLUG, lab.slowness["l2"]).metrics()
    traffic.stop()
    record = removal.finish(action)
    exercise.found.metrics += record.metrics()
    released = process.look(lab.host, guest.process.pid)
    exercise.found.checks.append(process.open_node(released, exercise.node(given), machine="l2", attached=False))
    with lab.record.step("back"):
        exercise.devices = bringup.make_again(lab, exercise.devices, action.kind)
        given = bringup.give_to_guest(lab, exercise.devices.main)
        # The unbinding waits for whoever holds the node, as it did the first time.
        lab.undo.callback("QEMU l2 before its device", guest.machine.quit)
        exercise.replug(given)
    exercise.prove(exercise.devices.main, "after")
    if action.kind == "delete":
        exercise.found.checks.append(_only_one(exercise))


def _waits(removal: Removal, action: Remove) -> Check:
    states = removal.waits()
    return Check.judged(
        "removal waits for the guest",
        any(state.startswith("D") for state in states.split()),
        f"process states {states}" if states else f"{action.kind} ended while the guest had the device",
        "an uninterruptible wait (D), and traffic that goes on",
        level=Level.L1_KERNEL,
        machine="l1",
    )


def _only_one(exercise: Exercise) -> Check:
    """A function carries one device: a second would share its queues and registers with the first."""
    lab, device = exercise.lab, exercise.devices.main
    second = f"{device.name}x"
    done = lab.host.run(["vdpa", "dev", "add", "name", second, "mgmtdev", device.mgmtdev], check=False)
    taken = done.returncode == 0
    if taken:
        lab.host.run(["vdpa", "dev", "del", second])
    words = done.stderr.decode(errors="replace").strip()
    return Check.judged(
        "one device per function",
        not taken,
        f"a second `vdpa dev add` on {device.mgmtdev} succeeds" if taken else f"refused: {words}",
        "a second `vdpa dev add` is refused",
        level=Level.L1_KERNEL,
        machine="l1",
    )
