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
from lab.config.scenario import Fault, Fio, FioJob, Unplug
from lab.errors import CommandError, DeadlineExceeded, LabError, ProductFailure, product
from lab.host.base import COMMAND_S
from lab.machine.device_model import DeviceModel
from lab.model import Check, Level, Verdict
from lab.scenarios.traffic import UNDER_ACTION_S
from lab.topology.devices import BlockPath, NetPath
from lab.wait import Deadline, wait_until
from lab.workloads import fio

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
# Beyond what the traffic in the background writes (FioJob's default size), and each at a place of its own: what a
# stalled disk has not answered may still be written when the next one looks.
_PROBE_OFFSET = {"meanwhile": "32m", "afterwards": "64m"}
# ping(8): some replies came, none did. Any other status is a ping that did not do its work.
_REPLIED, _SILENT = 0, 1


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
    # Whether the fault may be on, and whether a guest's release hangs.
    on: bool = False
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
                if traffic and self._resumes:
                    self._judge_written(traffic)
        except BaseException:
            self._give_up()
            raise
        finally:
            self._end(traffic)
        if not lab.expendable:
            self._prove_again()

    def _meanwhile(self) -> None:
        """Switch it on; see that it strikes, what the traffic does, and what a guest's release comes to."""
        action = self.action
        if action.afterwards == "lost":
            # What hangs in L1 from now on does so for ever.
            self.exercise.lab.expendable = True
        if action.when == "start":
            self.on = True
        else:
            self._switch(on=True)
        if action.when == "attach":
            self._plug()
        # Some strike only when the guest lets the device go.
        if not action.release and not self._struck():
            return
        try:
            self._judge_traffic("traffic meanwhile", _SHOW_S, action.traffic)
        except ProductFailure as error:
            self._judge_hang(error)
        if action.release:
            self.hung = self._release()
            seen = f"hangs in {self._stuck()}" if self.hung else "done"
            self._judge_release("release meanwhile", seen, action.release)
            if action.name != "death":
                self._struck()
        if action.name == "dma-outside":
            self._refused()

    def _recover(self) -> None:
        """Switch it off; a release that hung ends, unless the device is lost."""
        if self.action.afterwards == "lost":
            return
        self._switch(on=False)
        if self.hung:
            self._released_at_last()

    def _give_up(self) -> None:
        """Something broke while the fault was on: without it nothing hangs in L1, or else L1 goes with the run."""
        lab = self.exercise.lab
        if self.on and not lab.expendable:
            try:
                self._switch(on=False)
            except LabError as error:
                lab.record.event("fault-stays", name=self.action.name, error=str(error))
        lab.expendable = lab.expendable or self.on or self.hung

    def _prove_again(self) -> None:
        """The path is what it was, by itself or when the device is plugged again."""
        action, exercise = self.action, self.exercise
        if action.afterwards == "replug":
            # Whether traffic comes back without that depends on what the driver waited for when the fault ended.
            if not action.release:
                self._unplug()
            self._plug()
        else:
            self._judge_traffic("traffic afterwards", _BACK_S, "flows")
        exercise.prove(exercise.devices.main, "after")

    def _switch(self, *, on: bool) -> None:
        name, vf = self.action.name, self._vf
        self.on = self.on or on
        if not (on and name == "death"):
            self.model.ask("fault", vf=vf, name=name, on=on, **(self.action.parameters if on else {}))
            self.on = on
            return
        self.model.end_expected = True
        with contextlib.suppress(LabError):
            self.model.ask("fault", vf=vf, name=name, on=on)
        wait_until(lambda: self.model.poll() is not None, Deadline(_RELEASE_S), "the death of the device model")

    def _struck(self) -> bool:
        """The device model counts how often a fault has struck: one that never did proves nothing.

        It has some time for that: what the traffic is judged by must not have gone across before it.
        """
        with contextlib.suppress(DeadlineExceeded):
            wait_until(self._strikes, Deadline(_SHOW_S * self.exercise.lab.slowness["l2"]), "the fault to strike")
        count, name, expected = self._strikes(), f"fault {self.action.name} struck", "at least once"
        self.exercise.found.checks.append(
            Check.judged(name, True, f"{count} times", expected, level=Level.LAB, machine="ifcvf", proof=True)
            if count
            else Check.unproven(name, "0 times", expected, machine="ifcvf", proof=True)
        )
        return count > 0

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

    def _disk(self, path: BlockPath, label: str, seconds: float) -> str:
        """``flows`` when the disk gives back what was written to it, ``corrupts`` when it gives something else,
        ``stops`` when it does not answer within the time, and ``fails`` when it answers with an error.

        Raises LabError when fio did not look.
        """
        exercise = self.exercise
        probe = Fio(kind="fio", jobs=[FioJob(rw="write", size="64k", offset=_PROBE_OFFSET[label])])
        job = fio.start(probe, path.disk, exercise.lab.record.path, label=label, level=exercise.blame)
        checks = job.finish(seconds).checks
        if unproven := [check.seen for check in checks if check.verdict is Verdict.ERROR]:
            raise LabError(f"{path.disk.host.name}: fio did not look: {unproven[0]}")
        failed = {check.name: check.seen for check in checks if check.verdict is Verdict.FAIL}
        if not failed:
            return "flows"
        if "integrity" in failed:
            return "corrupts"
        return "stops" if all(fio.LATE in seen for seen in failed.values()) else "fails"

    def _network(self, path: NetPath, seconds: float) -> str:
        """``flows`` as soon as one packet has come across and back, ``stops`` when none did within the time.

        Raises CommandError when ping did not look, ProductFailure when it does not end: L1 hangs.
        """
        lab = self.exercise.lab
        limit = math.ceil(seconds * lab.slowness["l2"])
        # -w ends it also when nothing answers; -c 1 counts answers, not requests, together with it (ping(8)).
        argv = ["ping", "-n", "-q", "-c", "1", "-i", "0.2", "-w", str(limit), path.server.address]
        host = path.client.host
        with product(Level.L1_KERNEL, host.name):
            done = host.run(path.client.argv(argv), check=False, timeout_s=2 * limit + COMMAND_S)
        # `ip netns exec` has the status 1 too, when it cannot run the command.
        if done.returncode not in (_REPLIED, _SILENT) or "packets transmitted" not in done.text:
            raise CommandError(host.name, done)
        return "flows" if done.returncode == _REPLIED else "stops"

    def _release(self) -> bool:
        """Take the device from the guest; whether it still had it after a long time.

        Raises ProductFailure when the guest refuses.
        """
        exercise, given = self.exercise, self.exercise.given
        assert given is not None
        guest = exercise.lab.guests["l2"]
        try:
            guest.machine.unplug(given, Deadline(_RELEASE_S * exercise.lab.slowness["l2"]))
        except DeadlineExceeded:
            return True
        except ProductFailure as error:
            if not isinstance(error.__cause__, DeadlineExceeded):
                raise
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
        """A guest's release that hung ends, now that the fault has; where it does not, L1 goes with the run."""
        exercise, given = self.exercise, self.exercise.given
        assert given is not None
        machine = exercise.lab.guests["l2"].machine
        try:
            seconds = machine.finish_unplug(given, Deadline(_BACK_S * exercise.lab.slowness["l2"]))
        except DeadlineExceeded as error:
            self._judge_release("release afterwards", f"hangs: {error.message}", "done")
            exercise.lab.expendable = True
            return
        self.hung = False
        self._judge_release("release afterwards", "done", "done", f" after {seconds:.1f} s")

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

    def _judge_traffic(self, name: str, seconds: float, expected: str) -> None:
        """Whose fault it is when it is another than declared, no log tells: the guest's driver has its part in it."""
        exercise, path = self.exercise, self.exercise.path
        seen = (
            self._network(path, seconds) if isinstance(path, NetPath) else self._disk(path, name.split()[-1], seconds)
        )
        exercise.found.checks.append(
            Check.judged(name, seen == expected, seen, expected, level=exercise.blame, machine=exercise.user)
        )

    @property
    def _resumes(self) -> bool:
        """Whether a disk's traffic is to be what it was when the fault is over, and whole."""
        disk = isinstance(self.exercise.path, BlockPath)
        return disk and self.action.traffic in ("flows", "stops") and self.action.afterwards == "flows"

    def _judge_written(self, traffic: Job) -> None:
        """The job that has waited goes on, and reads back all that it wrote before and meanwhile."""
        exercise, enough = self.exercise, fio.ALL_READ_BACK
        begin = self._reads()
        with contextlib.suppress(DeadlineExceeded):
            deadline = Deadline(_BACK_S * exercise.lab.slowness["l2"])
            wait_until(lambda: self._reads() - begin >= enough, deadline, "what was written to be read back")
        read = self._reads() - begin
        seen, expected = f"{read} blocks were read back", f">= {enough}: all that was written before"
        level, machine = exercise.blame, exercise.user
        answered = Check.judged("written meanwhile", read >= enough, seen, expected, level=level, machine=machine)
        traffic.stop()
        said = traffic.finish().checks
        # A job that does not go on has nothing to tell but what went wrong.
        said = said if read >= enough else tuple(check for check in said if check.verdict is Verdict.FAIL)
        exercise.found.checks += [*said, answered]

    def _reads(self) -> int:
        return self.model.counters(self._vf)["reads"]

    def _judge_hang(self, error: ProductFailure) -> None:
        """A host in which ping does not end hangs with the fault; whether it does so for good is seen without that."""
        if not isinstance(error.__cause__, DeadlineExceeded):
            raise error
        seen = f"with {self.action.name} on, ping has not ended after {error.__cause__.seconds:.0f} s"
        self.exercise.found.checks.append(
            Check.judged("traffic meanwhile", False, seen, "an end", level=Level.L1_KERNEL, machine="l1")
        )

    def _judge_release(self, name: str, seen: str, expected: str, more: str = "") -> None:
        self.exercise.found.checks.append(
            Check.judged(name, seen == expected, f"{seen}{more}", expected, level=Level.L1_KERNEL, machine="l1")
        )

    @property
    def _vf(self) -> str:
        return self.exercise.lab.plan.function_of(self.exercise.devices.main.name)
