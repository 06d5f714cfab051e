"""The exercise: the workload through the device under test, with the action in the middle when there is one.

The proof is always taken around a workload that runs to its end: counters before, traffic, counters after.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from dataclasses import dataclass, field

from lab.actions import migrate, unplug
from lab.checks import datapath, features, integrity, process, topology, virtqueues
from lab.config.scenario import Fault, Fio, Iperf3, Migrate, Neighbours, Remove, Unplug, VdpaSim
from lab.errors import DeadlineExceeded, LabError, QmpRefused
from lab.host import net, vdpa
from lab.host.endpoints import NetEnd
from lab.host.vdpa import VdpaDevice
from lab.model import AttachMode, Check, DeviceClass, Level, Metric, QemuDevice, WorkloadResult
from lab.scenarios import faults, neighbours, removal
from lab.scenarios.traffic import UNDER_ACTION_S, stopped_on_error
from lab.topology import devices as bringup
from lab.topology import isolation
from lab.topology.counters import released, sample
from lab.topology.devices import BlockPath, Devices, NetPath, Path
from lab.topology.lab import Guest, Lab
from lab.wait import Deadline, wait_until
from lab.workloads import fio, iperf3
from lab.workloads.base import Job

_FLOWING_S = 20.0
_GROWTH = {"vdpa_sim": "tx bytes", "vp_vdpa": "irqs", "ifcvf": "tx_bytes"}
_PCI_DRIVER = {"vp_vdpa": "vp-vdpa", "ifcvf": "ifcvf"}


@dataclass
class Findings:
    """What the exercise measured and judged."""

    checks: list[Check] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)

    def add(self, result: WorkloadResult) -> None:
        """Take over the result of a workload."""
        self.checks += result.checks
        self.metrics += result.metrics


@dataclass
class Exercise:
    """One device under test, its path and what has been found so far."""

    lab: Lab
    devices: Devices
    path: Path
    given: QemuDevice | None
    found: Findings

    def run(self) -> None:
        """Judge where the device sits, then exercise it."""
        action = self.lab.plan.vdpa_scenario.action
        self._judge_topology()
        if isinstance(action, Migrate):
            Migration(self).run(action)
        elif isinstance(action, Unplug):
            GuestUnplug(self).run(action)
        elif isinstance(action, Neighbours):
            neighbours.run(self)
        elif isinstance(action, Remove):
            removal.run(self, action)
        elif isinstance(action, Fault):
            faults.run(self, action)
        else:
            self.prove(self.devices.main)

    def prove(self, device: VdpaDevice, label: str = "") -> None:
        """Run the workload to its end and hold the device's own counters against what it moved."""
        before = sample(self.lab, device)
        job = self._start(label)
        with stopped_on_error(job):
            result = job.finish()
        after = sample(self.lab, device)
        self.found.add(result)
        self.found.checks += datapath.judge(
            self._key(device), before, after, result.moved, machine=self.user, digests=self._digests()
        )

    @property
    def user(self) -> str:
        """The machine that uses the device."""
        return "l2" if self.lab.plan.guests else "l1"

    @property
    def blame(self) -> Level:
        """Whose fault a workload that fails is, when no log tells more."""
        return Level.L2_KERNEL if self.lab.plan.guests else Level.L1_KERNEL

    def background(self, seconds: float, *, reverse: bool = True) -> Job:
        """Traffic that goes on under an action."""
        path, folder = self.path, self.lab.record.path
        if isinstance(path, BlockPath):
            return fio.start_background(path.disk, folder, seconds=seconds, level=self.blame)
        return iperf3.start_background(
            path.server, path.client, folder, seconds=seconds, reverse=reverse, level=self.blame
        )

    def growth(self, device: VdpaDevice) -> str:
        """The counter of a device that grows with whatever traffic."""
        provider = self.lab.plan.provider_of(device.name)
        return "writes" if device.device_class is DeviceClass.BLK else _GROWTH[provider]

    def wait_flowing(self, device: VdpaDevice) -> None:
        """Wait until the device's own counter grows: an action under traffic that has not begun proves nothing.

        Raises DeadlineExceeded when it does not, LabError when it could not be read.
        """
        name = self.growth(device)
        seen: list[int] = []

        def grows() -> bool:
            # A look that fails is not a counter of zero.
            seen.extend(value for key, value in sample(self.lab, device, often=True).items() if key == name)
            return bool(seen) and seen[-1] > seen[0]

        try:
            wait_until(grows, Deadline(_FLOWING_S * self.lab.slowness["l1"]), f"{device.name}: {name} to grow")
        except DeadlineExceeded as error:
            if len(seen) < 2:
                raise LabError(f"{device.name}: {name} could not be read") from error
            raise

    def replug(self, given: QemuDevice) -> None:
        """Plug the device into the guest, which it was taken from, and give its interface the address again."""
        lab, path = self.lab, self.path
        assert isinstance(path, NetPath)
        guest = lab.guests["l2"]
        guest.machine.plug(given)
        mac = lab.plan.macs["sim" if isinstance(lab.plan.vdpa_scenario.device, VdpaSim) else "vf1"]
        self.given, self.path = given, NetPath(bringup.address_in_guest(lab, guest, mac), path.client)

    @staticmethod
    def node(given: QemuDevice) -> str:
        """The vhostdev node of what QEMU was given."""
        return str((given.netdev or given.device)["vhostdev"])

    def _key(self, device: VdpaDevice) -> datapath.Key:
        scenario = self.lab.plan.vdpa_scenario
        return scenario.device_class, self.lab.plan.provider_of(device.name), scenario.attach.mode

    def _start(self, label: str) -> Job:
        workload, path, folder = self.lab.plan.vdpa_scenario.workload, self.path, self.lab.record.path
        if isinstance(workload, Iperf3) and isinstance(path, NetPath):
            return iperf3.start(workload, path.server, path.client, folder, label=label, level=self.blame)
        if isinstance(workload, Fio) and isinstance(path, BlockPath):
            return fio.start(workload, path.disk, folder, label=label, level=self.blame)
        raise LabError(f"{workload.kind} does not run on this device")

    def _digests(self) -> datapath.Digests | None:
        if not isinstance(self.path, BlockPath) or self.path.witness is None:
            return None
        written = integrity.write(self.path.disk, integrity.pattern(secrets.token_hex(8)))
        witness = self.path.witness
        return datapath.Digests(written, integrity.read(witness.host, witness.device))

    def _judge_topology(self) -> None:
        scenario, device = self.lab.plan.vdpa_scenario, self.devices.main
        pci = device.mgmtdev.removeprefix("pci/") if device.mgmtdev.startswith("pci/") else None
        expected = topology.Expected(
            scenario.attach.mode,
            scenario.device_class,
            parent=pci,
            parent_driver=_PCI_DRIVER.get(scenario.device.provider) if pci else None,
            own_group=pci is not None and scenario.attach.mode is AttachMode.VHOST_VDPA,
        )
        self.found.checks += topology.judge(self.lab.host, device.name, expected, netns=self._netns())
        self.found.checks += self._negotiated()
        if self.given:
            held = process.look(self.lab.host, self.lab.guests["l2"].process.pid)
            self.found.checks.append(process.open_node(held, self.node(self.given), machine="l2"))
            self.found.checks += isolation.judge_attached(self.lab, device, self.lab.guests["l2"])

    def _negotiated(self) -> list[Check]:
        """A device of the lab's own model tells which features it has: the kernel must tell the same."""
        lab, device = self.lab, self.devices.main
        if lab.device_model is None or device.device_class is not DeviceClass.NET:
            return []
        state = lab.device_model.ask("state", vf=lab.plan.function_of(device.name))
        told, negotiated = vdpa.negotiated_features(lab.host, device.name), int(state["negotiated"])
        checks = [features.judge(told, negotiated, machine="l1")]
        if not lab.plan.offloads:
            checks.append(features.judge_left_out(negotiated, vdpa.TRANSMIT_OFFLOADS, machine="l1"))
        return checks

    def _netns(self) -> str | None:
        """Where sysfs shows the interface of a device that L1 itself uses."""
        moved = isinstance(self.path, NetPath) and not self.lab.plan.guests
        if not moved or isinstance(self.lab.plan.vdpa_scenario.device, VdpaSim):
            return None
        assert isinstance(self.path, NetPath)
        return self.path.server.netns


@dataclass
class GuestUnplug:
    """device_del under traffic, the device free again, plugged back, traffic again."""

    exercise: Exercise

    def run(self, action: Unplug) -> None:
        """Do it, and prove the path before and after."""
        exercise, lab = self.exercise, self.exercise.lab
        guest, given, device = lab.guests["l2"], exercise.given, exercise.devices.main
        assert given is not None
        exercise.prove(device, "before")
        pid, node = guest.process.pid, exercise.node(given)
        attached = process.look(lab.host, pid)
        traffic = exercise.background(UNDER_ACTION_S)
        with stopped_on_error(traffic):
            exercise.wait_flowing(device)
            with lab.record.step("unplug"):
                record = unplug.run(guest.machine, given, action, lab.slowness["l2"])
        exercise.found.metrics += record.metrics()
        released = process.look(lab.host, pid)
        traffic.stop()
        exercise.found.checks += isolation.judge_released(lab, device, guest.reach_before)
        exercise.found.checks += [
            process.open_node(released, node, machine="l2", attached=False),
            _pinned(lab, guest.held_before, attached, released),
        ]
        with lab.record.step("plug"):
            exercise.replug(given)
        exercise.prove(device, "after")


@dataclass
class Migration:
    """L2 moves between two QEMUs in one L1 while its traffic goes on."""

    exercise: Exercise

    def run(self, action: Migrate) -> None:
        """Do it; the device at the destination must carry what the one at the source carried."""
        exercise, lab = self.exercise, self.exercise.lab
        source, devices = lab.guests["l2"], exercise.devices
        exercise.prove(devices.main, "source")
        assert devices.second is not None
        with lab.record.step("destination"):
            given = bringup.give_to_guest(lab, devices.second)
            destination = lab.start_guest("l2dst", [given], incoming=True)
        assert isinstance(exercise.path, NetPath)
        interface = net.describe(exercise.path.server)
        traffic = exercise.background(UNDER_ACTION_S)
        with stopped_on_error(traffic):
            exercise.wait_flowing(devices.main)
            with lab.record.step("migrate"):
                uri = f"unix:{lab.host.scratch}/{lab.plan.run_id}.migrate"
                record = migrate.run(source.machine, destination.machine, action, uri, lab.slowness["l2"])
        exercise.found.metrics += record.metrics()
        traffic.rehost(source.shell, lab.guest_moved(source, destination))
        with stopped_on_error(traffic):
            exercise.found.checks.append(self._silent(devices.main))
            exercise.found.checks.append(self._given_back(source))
            exercise.found.checks.append(self._survives(exercise.path.server, destination, interface))
            if not lab.plan.leaves_card:
                exercise.found.checks.append(self._goes_on(devices.second, _moved(exercise.path.server, destination)))
        traffic.stop()
        if lab.plan.leaves_card:
            # The simulator reaches nobody, so traffic cannot go on: it is made anew, in a loop.
            exercise.path = bringup.loop_in_guest(lab, destination, lab.plan.macs["vf1"])
        else:
            exercise.found.add(traffic.finish())
            exercise.path = self._path(destination)
        exercise.prove(devices.second, "destination")

    def _silent(self, device: VdpaDevice) -> Check:
        words = released(self.exercise.lab, device)
        return Check.judged(
            "source silent after migration", bool(words), words or "somebody still drives the device",
            "the device was reset and nobody drives it", level=Level.L1_QEMU, machine="l2",
        )  # fmt: skip

    def _survives(self, end: NetEnd, destination: Guest, before: str) -> Check:
        """What the guest had configured must be there before anything is configured anew: its NIC was not replaced."""
        after = net.describe(_moved(end, destination))
        return Check.judged(
            "interface survives the migration", after == before, after, before, level=Level.L1_QEMU, machine="l2dst"
        )

    def _given_back(self, source: Guest) -> Check:
        """What QEMU itself tells of the queues of a device that it has stopped (qapi/virtio.json).

        It is asked until there is no further queue: x-query-virtio-status knows how many there are, and aborts
        QEMU 11.1.3 when vhost has stopped.
        """
        given = self.exercise.given
        assert given is not None
        about = {"path": f"/machine/peripheral/{given.id}/virtio-backend"}
        held: dict[int, int] = {}
        with contextlib.suppress(QmpRefused):
            for queue in itertools.count():
                held[queue] = source.machine.query("x-query-virtio-queue-status", {**about, "queue": queue})["inuse"]
        return virtqueues.judge(held, machine=source.machine.name)

    def _goes_on(self, device: VdpaDevice, end: NetEnd) -> Check:
        name, expected = (
            "traffic goes on at the destination",
            f"{self.exercise.growth(device)} of the device there grows",
        )
        try:
            stalled = self._stalled(device, end)
        except LabError as error:
            return Check.unproven(name, str(error), expected, machine="l2dst", proof=True)
        return Check.judged(
            name, not stalled, stalled or "it grew", expected, level=Level.L1_QEMU, machine="l2dst", proof=True
        )

    def _stalled(self, device: VdpaDevice, end: NetEnd) -> str:
        """Why traffic does not flow, and what the guest's TCP has to say about it; empty when it does."""
        before = _kept(end)
        try:
            self.exercise.wait_flowing(device)
        except DeadlineExceeded as error:
            after = _kept(end)
            times = 0 if before is None or after is None else after - before
            return f"{error}; {times} times TCP did not send again what the driver still held" if times else str(error)
        return ""

    def _path(self, destination: Guest) -> NetPath:
        """The same ends; what is in the guest is reached through the destination."""
        path = self.exercise.path
        assert isinstance(path, NetPath)
        loops = isinstance(self.exercise.lab.plan.vdpa_scenario.device, VdpaSim)
        return NetPath(_moved(path.server, destination), _moved(path.client, destination) if loops else path.client)


def _kept(end: NetEnd) -> int | None:
    """None where the guest cannot be asked: that a stall cannot be explained makes it no less of one."""
    try:
        return net.kept_by_driver(end)
    except LabError:
        return None


def _moved(end: NetEnd, destination: Guest) -> NetEnd:
    return NetEnd(destination.shell, end.interface, end.address, end.netns)


def _pinned(lab: Lab, *held: process.Held | None) -> Check:
    """A parent behind the platform's IOMMU pins the guest's RAM, and so does vdpa_sim without use_va."""
    device = lab.plan.vdpa_scenario.device
    pins = not isinstance(device, VdpaSim) or not device.use_va
    ram_kb = lab.plan.l2.memory_mb * 1024 if pins else 0
    before, attached, released = held
    return process.vm_pinned(before, attached, released, ram_kb=ram_kb, machine="l2")


def exercise(lab: Lab, devices: Devices, path: Path, given: QemuDevice | None, found: Findings) -> None:
    """Exercise the device under test of a lab whose devices are attached; ``found`` is filled as it goes."""
    Exercise(lab, devices, path, given, found).run()
