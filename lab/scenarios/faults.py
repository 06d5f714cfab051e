"""A device that misbehaves on command: what the scenario declares about it is held against what is seen.

The path is proved before, the fault is switched on, and off again, through the device model's control socket, and what
the device model counts shows that it struck. Nothing here waits for the product without a limit.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.actions import unplug
from lab.config.scenario import Fault, Unplug
from lab.errors import DeadlineExceeded, LabError, ProductFailure
from lab.host.base import COMMAND_S
from lab.machine.device_model import DeviceModel
from lab.model import Check, Level
from lab.scenarios.traffic import UNDER_ACTION_S
from lab.topology.devices import NetPath
from lab.wait import Deadline, wait_until

if TYPE_CHECKING:
    from lab.scenarios.exercise import Exercise
    from lab.workloads.base import Job

# Seconds on the reference machine. A fault has so long to show what it does to traffic, and to a guest's release of the
# device; what hangs that long hangs, and the kernel's own watchdogs have not woken up.
_SHOW_S = 4.0
_RELEASE_S = 12.0
# Traffic that comes back by itself does so within this.
_BACK_S = 20.0
# What the threads of a process do in the kernel, with an empty line between them (proc(5), /proc/PID/stack).
_STACKS = 'for stack in "/proc/$0/task/"*/stack; do cat "$stack"; echo; done'
_FUNCTION = re.compile(r"^\[<0>\] ([\w.]+)\+", re.MULTILINE)
_SHOWN = 6
_UNPLUG = Unplug(kind="unplug")


def run(exercise: Exercise, action: Fault) -> None:
    """Provoke the fault and judge what came of it."""
    model = exercise.lab.device_model
    assert model is not None
    Provoked(exercise, action, model).run()


@dataclass
class Provoked:
    """One fault of one VF, in a guest."""

    exercise: Exercise
    action: Fault
    model: DeviceModel
    hung: bool = False

    def run(self) -> None:
        """Before, meanwhile, afterwards."""
        exercise, lab = self.exercise, self.exercise.lab
        device = exercise.devices.main
        exercise.prove(device, "before")
        if self.action.when == "attach":
            self._unplug()
        traffic = None if self.action.when == "attach" else exercise.background(UNDER_ACTION_S)
        try:
            if traffic:
                exercise.wait_flowing(device)
            with lab.record.step(f"fault {self.action.name}"):
                self._meanwhile()
            with lab.record.step("afterwards"):
                self._recover()
        finally:
            self._end(traffic)
        if self.action.afterwards != "lost":
            self._prove_again()

    def _meanwhile(self) -> None:
        """Switch it on; see that it strikes, what the traffic does, and what a guest's release comes to."""
        if self.action.when != "start":
            self._switch(on=True)
        if self.action.when == "attach":
            self._plug()
        self._judge("traffic meanwhile", self._traffic(_SHOW_S), self.action.traffic)
        if self.action.release:
            self.hung = self._release()
            seen = f"hangs in {self._stuck()}" if self.hung else "done"
            self._judge("release meanwhile", seen, self.action.release)
        if self.action.name != "death":
            self._struck()
        if self.action.name == "dma-outside":
            self._refused()

    def _recover(self) -> None:
        """Switch it off; a release that hung ends, unless the device is lost."""
        if self.action.afterwards == "lost":
            # What hangs in L1 now does so for ever.
            self.exercise.lab.expendable = True
            return
        self._switch(on=False)
        if self.hung:
            self._released_at_last()

    def _prove_again(self) -> None:
        """The path is what it was, by itself or when the device is plugged again."""
        action, exercise = self.action, self.exercise
        if not action.release:
            came_back = self._traffic(_BACK_S)
            wanted = "flows" if action.afterwards == "flows" else "stops"
            self._judge("traffic afterwards", came_back, wanted)
            if action.afterwards == "replug":
                self._unplug()
        if action.afterwards == "replug":
            self._plug()
        exercise.prove(exercise.devices.main, "after")

    def _switch(self, *, on: bool) -> None:
        name, vf = self.action.name, self._vf
        if not (on and name == "death"):
            self.model.ask("fault", vf=vf, name=name, on=on, **(self.action.parameters if on else {}))
            return
        self.model.end_expected = True
        with contextlib.suppress(LabError):
            self.model.ask("fault", vf=vf, name=name, on=on)
        wait_until(lambda: self.model.poll() is not None, Deadline(_RELEASE_S), "the death of the device model")

    def _struck(self) -> None:
        """The device model counts how often a fault has struck: one that never did was not exercised.

        One that comes and goes by a clock may not have come when the first packet was across.
        """
        with contextlib.suppress(DeadlineExceeded):
            wait_until(self._strikes, Deadline(_SHOW_S * self.exercise.lab.slowness["l2"]), "the fault to strike")
        count = self._strikes()
        self.exercise.found.checks.append(
            Check.judged(
                f"fault {self.action.name} struck", count > 0, f"{count} times", "at least once",
                level=Level.LAB, machine="ifcvf", proof=True,
            )
        )  # fmt: skip

    def _strikes(self) -> int:
        return int(self.model.ask("faults", vf=self._vf)["struck"][self.action.name])

    def _refused(self) -> None:
        """Whether QEMU refused the device's own access, as its answer to the device says."""
        events = self.model.ask("events", vf=self._vf)
        answers = [event for event in events if "refused" in event]
        words = "; ".join(f"{event['what']}: {'refused' if event['refused'] else 'done'}" for event in answers)
        self.exercise.found.checks.append(
            Check.judged(
                "DMA outside the map", bool(answers) and all(event["refused"] for event in answers),
                words or "no answer from QEMU", "refused", level=Level.L0_QEMU, machine="l1",
            )
        )  # fmt: skip

    def _traffic(self, seconds: float) -> str:
        """``flows`` as soon as one packet has come across and back, ``stops`` when none did within the time."""
        path, lab = self.exercise.path, self.exercise.lab
        assert isinstance(path, NetPath)
        limit = math.ceil(seconds * lab.slowness["l2"])
        # -w ends it also when nothing answers; -c 1 counts answers, not requests, together with it (ping(8)).
        argv = ["ping", "-n", "-q", "-c", "1", "-i", "0.2", "-w", str(limit), path.server.address]
        done = path.client.host.run(path.client.argv(argv), check=False, timeout_s=2 * limit + COMMAND_S)
        return "flows" if done.returncode == 0 else "stops"

    def _release(self) -> bool:
        """Take the device from the guest; whether it still had it after a long time."""
        exercise, given = self.exercise, self.exercise.given
        assert given is not None
        guest = exercise.lab.guests["l2"]
        try:
            guest.machine.unplug(given, Deadline(_RELEASE_S * exercise.lab.slowness["l2"]))
        except (DeadlineExceeded, ProductFailure):
            return True
        return False

    def _stuck(self) -> str:
        """Where in L1's kernel the guest's QEMU is, as ``inner < outer``; "" when it could not be seen."""
        lab = self.exercise.lab
        try:
            pid = lab.guests["l2"].process.pid
            stacks = lab.host.run(["sh", "-c", _STACKS, str(pid)], check=False).text
        except LabError:
            return ""
        inside = [stack for stack in stacks.split("\n\n") if "ifcvf" in stack or "vdpa" in stack]
        return " < ".join(_FUNCTION.findall(inside[0])[:_SHOWN]) if inside else "no call into vDPA"

    def _released_at_last(self) -> None:
        exercise, given = self.exercise, self.exercise.given
        assert given is not None
        machine = exercise.lab.guests["l2"].machine
        try:
            seconds = machine.finish_unplug(given, Deadline(_BACK_S * exercise.lab.slowness["l2"]))
            self._judge("release afterwards", "done", "done", f" after {seconds:.1f} s")
        except DeadlineExceeded as error:
            self._judge("release afterwards", f"hangs: {error.message}", "done")

    def _unplug(self) -> None:
        exercise, given = self.exercise, self.exercise.given
        assert given is not None
        lab = exercise.lab
        exercise.found.metrics += unplug.run(lab.guests["l2"].machine, given, _UNPLUG, lab.slowness["l2"]).metrics()

    def _plug(self) -> None:
        given = self.exercise.given
        assert given is not None
        self.exercise.replug(given)

    def _end(self, traffic: Job | None) -> None:
        """The traffic ends; a guest that hangs for good cannot be told so, and goes with the run."""
        if traffic and not self.exercise.lab.expendable:
            with contextlib.suppress(LabError):
                traffic.stop()

    def _judge(self, name: str, seen: str, expected: str, more: str = "") -> None:
        self.exercise.found.checks.append(
            Check.judged(name, seen == expected, f"{seen}{more}", expected, level=Level.L1_KERNEL, machine="l1")
        )

    @property
    def _vf(self) -> str:
        return self.exercise.lab.plan.function_of(self.exercise.devices.main.name)
