"""A device that is taken away in L1 while a guest uses it, by :mod:`lab.actions.remove`, and comes back."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from lab.actions import remove, unplug
from lab.checks import process
from lab.config.scenario import Remove, Unplug
from lab.errors import DeadlineExceeded, HostError, QmpRefused, Unreachable
from lab.model import Check, Level
from lab.scenarios.traffic import UNDER_ACTION_S, stopped_on_error
from lab.topology import devices as bringup
from lab.wait import Deadline, wait_until

if TYPE_CHECKING:
    from lab.actions.remove import ParentUnplug, Removal
    from lab.host.vdpa import VdpaDevice
    from lab.scenarios.exercise import Exercise
    from lab.topology.lab import Lab

# How long the guest has to give the device back.
_UNPLUG = Unplug(kind="unplug")
# Seconds on the reference machine that a removal may take to come to its wait.
_WAITING_S = 10.0


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
            removal = _start(lab, device, action)
            # A wait that is only on the way is over when some traffic has gone across.
            exercise.wait_flowing(device)
            exercise.found.checks.append(waits(removal, action, Deadline(_WAITING_S * lab.slowness["l1"])))
        with lab.record.step("unplug"):
            begin = time.monotonic()
            unplugged = unplug.run(guest.machine, given, _UNPLUG, lab.slowness["l2"])
            removed = removal.finish(action, begin + unplugged.seconds)
    traffic.stop()
    exercise.found.metrics += (*unplugged.metrics(), *removed.metrics())
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


def _start(lab: Lab, device: VdpaDevice, action: Remove) -> Removal | ParentUnplug:
    if action.kind != "unplug-parent":
        return remove.start(lab.host, device, action)
    assert lab.l1
    return remove.unplug(lab.host, lab.l1, lab.function(lab.plan.function_of(device.name)))


def waits(removal: Removal | ParentUnplug, action: Remove, deadline: Deadline) -> Check:
    """Judge that a removal that has begun comes to its wait, instead of ending at once or going on for ever."""
    name, expected = "removal waits for the guest", "an uninterruptible wait (D), and traffic that goes on"
    states = unseen = ""

    def settled() -> bool:
        nonlocal states, unseen
        try:
            states = removal.waits(deadline)
        except Unreachable:
            raise
        except (HostError, QmpRefused, DeadlineExceeded) as error:
            unseen = str(error)
        return bool(unseen) or not states or _uninterruptible(states)

    with contextlib.suppress(DeadlineExceeded):
        wait_until(settled, deadline, f"{action.kind} to wait for the guest")
    if unseen:
        return Check.unproven(name, f"nobody could look: {unseen}", expected, machine="l1")
    seen = f"process states {states}" if states else f"{action.kind} ended while the guest had the device"
    return Check.judged(name, _uninterruptible(states), seen, expected, level=Level.L1_KERNEL, machine="l1")


def _uninterruptible(states: str) -> bool:
    return any(state.startswith("D") for state in states.split())


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
