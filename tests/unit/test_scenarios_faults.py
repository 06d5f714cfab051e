"""lab.scenarios.faults: what is declared is held against what is seen, in bounded time."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.actions.unplug import Unplugged
from lab.config.catalog import CONFIGS
from lab.config.scenario import Fault
from lab.config.strict import validate
from lab.errors import CommandError, DeadlineExceeded, LabError, ProductFailure, QmpError
from lab.evidence.record import Record
from lab.host.endpoints import BlockEnd, NetEnd
from lab.host.fake import FakeHost
from lab.host.vdpa import VdpaDevice
from lab.model import Check, DeviceClass, Level, QemuDevice, Verdict, WorkloadResult
from lab.scenarios import faults as module
from lab.scenarios.exercise import Findings
from lab.topology.devices import BlockPath, NetPath

NIC = QemuDevice({"driver": "virtio-net-pci", "id": "dut"}, {"type": "vhost-vdpa", "id": "dut-back"})
MAIN = VdpaDevice("v1a", "pci/0000:01:00.0", DeviceClass.NET, 0x8086, 2, 1024)
STALL = {"kind": "fault", "name": "queue-stall", "parameters": {"queue": 0}, "traffic": "stops", "afterwards": "flows"}


STACKS = """[<0>] do_sys_poll+0x1/0x2

[<0>] msleep+0x2d/0x40
[<0>] ifcvf_reset+0x1/0x60 [ifcvf]
[<0>] vhost_vdpa_reset+0x3a/0x50 [vhost_vdpa]

"""


class World:
    """A device model, a guest and a path. ``flows`` are the answers of ping in order, ``struck`` what it counts."""

    def __init__(self, folder: Path) -> None:
        self.did: list[str] = []
        self.flows: list[bool] = []
        self.struck = 1
        self.asked = 0
        self.hangs = False
        self.refuses = False
        self.stays_on = False
        self.dead = False
        self.end_expected = False
        self.answers: list[dict[str, Any]] = []
        # What traffic that went on all the time has come to, and whether it goes on after the fault.
        self.waited: list[Check] = []
        self.read_per_look = 100
        self.read = 0
        record = Record(folder / "run")
        self.host = FakeHost({"*ping *": self._ping, "sh *": STACKS}, folder / "l1", "l1")
        path = NetPath(NetEnd(self.host, "eth1", "10.0.0.2"), NetEnd(self.host, "eth2", "10.0.0.1", "n1"))
        machine = SimpleNamespace(unplug=self._unplug, finish_unplug=self._finish)
        self.lab: Any = SimpleNamespace(
            device_model=self,
            host=self.host,
            record=record,
            slowness={"l1": 1.0, "l2": 1.0},
            guests={"l2": SimpleNamespace(machine=machine, process=SimpleNamespace(pid=4711))},
            plan=SimpleNamespace(function_of=lambda _name: "vf1"),
            expendable=False,
        )
        self.exercise: Any = SimpleNamespace(
            lab=self.lab,
            devices=SimpleNamespace(main=MAIN),
            given=NIC,
            path=path,
            user="l2",
            blame=Level.L2_KERNEL,
            found=Findings(),
            prove=lambda _device, label: self.did.append(f"prove {label}"),
            background=lambda _seconds: SimpleNamespace(
                stop=lambda: self.did.append("stop"), finish=lambda: WorkloadResult((), tuple(self.waited), {})
            ),
            wait_flowing=lambda _device: self.did.append("flowing"),
            replug=lambda _given: self.did.append("plug"),
        )

    def ask(self, op: str, **fields: Any) -> Any:
        if op == "events":
            return [{"what": "connected"}, *self.answers]
        if op == "faults":
            self.asked += 1
            return {"on": {}, "struck": {"queue-stall": self.struck, "fewer-vectors": self.struck, "dma-outside": 1}}
        if self.stays_on and not fields["on"]:
            raise LabError("no answer")
        more = {key: value for key, value in fields.items() if key not in ("vf", "name", "on")}
        self.did.append(f"{fields['name']} {'on' if fields['on'] else 'off'} {more or ''}".strip())
        if fields["name"] == "death":
            self.dead = True
            raise LabError("no answer")
        return {}

    def counters(self, _vf: str) -> dict[str, int]:
        self.read += self.read_per_look
        return {"reads": self.read, "writes": 9}

    def poll(self) -> int | None:
        return -9 if self.dead else None

    def _ping(self, *_arguments: Any) -> Any:
        if self.flows.pop(0):
            return "1 packets transmitted, 1 received, 0% packet loss"
        return 1, "9 packets transmitted, 0 received, 100% packet loss"

    def _unplug(self, *_arguments: Any) -> float:
        self.did.append("unplug")
        if self.refuses:
            raise ProductFailure("refused", level=Level.L2_KERNEL, machine="l2")
        if self.hangs:
            late = DeadlineExceeded("DEVICE_DELETED", 12)
            raise ProductFailure("not released", level=Level.L2_KERNEL, machine="l2") from late
        return 0.5

    def _finish(self, *_arguments: Any) -> float:
        self.did.append("unplug ends")
        return 1.0

    def run(self, action: dict[str, Any]) -> dict[str, Verdict]:
        module.run(self.exercise, validate(Fault, action, "action"))
        return {check.name: check.verdict for check in self.exercise.found.checks}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path)

    def unplugged(*_arguments: Any) -> Unplugged:
        world.did.append("unplug")
        return Unplugged(0.5)

    monkeypatch.setattr("lab.actions.unplug.run", unplugged)
    monkeypatch.setattr(module, "_SHOW_S", 0.1)
    with contextlib.closing(world.lab.record):
        yield world


def test_a_fault_that_passes(world: World) -> None:
    world.flows = [False, True]
    assert set(world.run(STALL).values()) == {Verdict.PASS}
    assert world.did == [
        "prove before", "flowing", "queue-stall on {'queue': 0}", "queue-stall off", "stop", "prove after",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flows", "failed"), [([True, True], "traffic meanwhile"), ([False, False], "traffic afterwards")]
)
def test_what_is_not_as_declared_fails(world: World, flows: list[bool], failed: str) -> None:
    world.flows = flows
    world.run(STALL)
    [check] = [check for check in world.exercise.found.checks if check.verdict is not Verdict.PASS]
    # The guest's driver is as much on the path as L1's.
    assert (check.name, check.verdict, check.level, check.machine) == (failed, Verdict.FAIL, Level.L2_KERNEL, "l2")


def test_a_fault_that_never_strikes_proves_nothing_about_the_traffic(world: World) -> None:
    world.flows, world.struck = [True], 0
    assert world.run(STALL) == {"fault queue-stall struck": Verdict.ERROR, "traffic afterwards": Verdict.PASS}


def test_a_fault_has_struck_before_traffic_is_judged_by_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "struck", property(lambda self: int(self.asked > 2), lambda *_: None), raising=False)
    world.host.answers["*ping *"] = lambda *_: world._ping() if world.asked > 2 else pytest.fail("too early")
    monkeypatch.setattr(module, "_SHOW_S", 5.0)
    world.flows = [False, True]
    assert set(world.run(STALL).values()) == {Verdict.PASS}


@pytest.mark.parametrize(
    "answer", [(2, "ping: unknown host"), (255, "Cannot open network namespace"), (1, 'exec of "ping" failed')]
)
def test_a_ping_that_did_not_look_is_no_traffic_that_stops(world: World, answer: tuple[int, str]) -> None:
    world.host.answers["*ping *"] = answer
    with pytest.raises(CommandError, match="ping"):
        world.run(STALL)


def fio_check(name: str, verdict: Verdict, seen: str = "seen") -> Check:
    return Check(name, verdict, seen, "expected", Level.LAB if verdict is Verdict.ERROR else Level.L2_KERNEL, "l2")


WRITTEN, READ = fio_check("fio write_64k", Verdict.PASS), fio_check("integrity", Verdict.PASS)
STALLED = fio_check("fio write_64k", Verdict.FAIL, "stalled: it did not end in time")
REFUSED, WRONG = fio_check("fio write_64k", Verdict.FAIL, "error 5"), fio_check("integrity", Verdict.FAIL)


@pytest.mark.parametrize(
    ("meanwhile", "traffic"),
    [([STALLED], "stops"), ([WRITTEN, WRONG], "corrupts"), ([WRITTEN, READ], "flows")],
)
def test_what_a_disk_does(meanwhile: list[Check], traffic: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [meanwhile, [WRITTEN, READ]]

    def start(*_arguments: Any, label: str, **_options: Any) -> Any:
        world.did.append(label)
        return SimpleNamespace(finish=lambda _seconds: WorkloadResult((), tuple(said.pop(0)), {}))

    monkeypatch.setattr("lab.workloads.fio.start", start)
    world.exercise.path = BlockPath(BlockEnd(world.host, "/dev/vdb", 1 << 27), None)
    assert set(world.run({**STALL, "traffic": traffic}).values()) == {Verdict.PASS}
    assert [word for word in world.did if word in ("meanwhile", "afterwards")] == ["meanwhile", "afterwards"]
    said[:] = [meanwhile, [WRITTEN, READ]]
    other = "flows" if traffic == "stops" else "stops"
    world.exercise.found.checks.clear()
    assert world.run({**STALL, "traffic": other})["traffic meanwhile"] is Verdict.FAIL


@pytest.mark.parametrize(
    ("waited", "read_per_look", "failed"),
    [
        ([WRITTEN, READ], 100, []),
        ([WRITTEN, WRONG], 100, ["integrity"]),
        # Written on, and read back no more: because it hangs, or because what was read first was wrong.
        ([fio_check("fio write_64k", Verdict.ERROR)], 0, ["written meanwhile"]),
        ([WRONG], 0, ["integrity", "written meanwhile"]),
    ],
)
def test_what_became_of_the_requests_that_waited(
    waited: list[Check], read_per_look: int, failed: list[str], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [[STALLED], [WRITTEN, READ]]
    job = SimpleNamespace(finish=lambda _seconds: WorkloadResult((), tuple(said.pop(0)), {}))
    monkeypatch.setattr("lab.workloads.fio.start", lambda *_arguments, **_options: job)
    monkeypatch.setattr(module, "_BACK_S", 0.2)
    world.exercise.path = BlockPath(BlockEnd(world.host, "/dev/vdb", 1 << 27), None)
    world.waited, world.read_per_look = waited, read_per_look
    verdicts = world.run(STALL)
    assert "written meanwhile" in verdicts
    assert [name for name, verdict in verdicts.items() if verdict is not Verdict.PASS] == failed


def test_a_disk_that_refuses_does_not_stop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [[REFUSED], [WRITTEN, READ]]
    job = SimpleNamespace(finish=lambda _seconds: WorkloadResult((), tuple(said.pop(0)), {}))
    monkeypatch.setattr("lab.workloads.fio.start", lambda *_arguments, **_options: job)
    world.exercise.path = BlockPath(BlockEnd(world.host, "/dev/vdb", 1 << 27), None)
    assert world.run(STALL)["traffic meanwhile"] is Verdict.FAIL
    [check] = [check for check in world.exercise.found.checks if check.name == "traffic meanwhile"]
    assert check.seen == "fails"


def test_a_fio_that_did_not_look_is_no_disk_that_stops(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    result = WorkloadResult((), (fio_check("fio write_64k", Verdict.ERROR),), {})
    job = SimpleNamespace(finish=lambda _seconds: result)
    monkeypatch.setattr("lab.workloads.fio.start", lambda *_arguments, **_options: job)
    world.exercise.path = BlockPath(BlockEnd(world.host, "/dev/vdb", 1 << 27), None)
    with pytest.raises(LabError, match="fio did not look"):
        world.run(STALL)


def test_a_host_that_hangs_as_long_as_the_fault_is_on(world: World) -> None:
    def ping(*_arguments: Any) -> Any:
        if world.flows.pop(0):
            return "1 packets transmitted, 1 received, 0% packet loss"
        raise DeadlineExceeded("l1: the end of ip", 30)

    world.flows = [False, True]
    world.host.answers["*ping *"] = ping
    assert world.run(STALL) == {
        "fault queue-stall struck": Verdict.PASS, "traffic meanwhile": Verdict.FAIL, "traffic afterwards": Verdict.PASS,
    }  # fmt: skip
    [check] = [check for check in world.exercise.found.checks if check.verdict is Verdict.FAIL]
    assert (check.level, check.seen) == (Level.L1_KERNEL, "with queue-stall on, ping has not ended after 30 s")
    assert world.did[-3:] == ["queue-stall off", "stop", "prove after"]


def test_a_ping_that_does_not_end_is_the_products_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*_arguments: Any, **_options: Any) -> Any:
        raise DeadlineExceeded("l1: the end of ip", 30)

    monkeypatch.setattr(world.host, "run", hangs)
    with pytest.raises(ProductFailure) as caught:
        world.run(STALL)
    assert (caught.value.level, caught.value.machine) == (Level.L1_KERNEL, "l1")


@pytest.mark.parametrize(("stays_on", "more"), [(False, ["queue-stall off", "stop"]), (True, [])])
def test_what_breaks_while_a_fault_is_on_leaves_none_behind(world: World, stays_on: bool, more: list[str]) -> None:
    world.host.answers["*ping *"] = (255, "Cannot open network namespace")
    world.stays_on = stays_on
    with pytest.raises(CommandError):
        world.run(STALL)
    assert world.did == ["prove before", "flowing", "queue-stall on {'queue': 0}", *more]
    assert world.lab.expendable is stays_on


def test_a_guest_that_refuses_does_not_hang(world: World) -> None:
    world.flows, world.refuses = [False], True
    with pytest.raises(ProductFailure, match="refused") as caught:
        world.run({**STALL, "release": "done", "afterwards": "replug"})
    assert caught.value.level is Level.L2_KERNEL
    assert world.did[3:] == ["unplug", "queue-stall off", "stop"]


def test_what_hangs_ends_when_the_fault_does(world: World) -> None:
    world.flows, world.hangs = [False], True
    verdicts = world.run({**STALL, "release": "done", "afterwards": "replug"})
    assert (verdicts["release meanwhile"], verdicts["release afterwards"]) == (Verdict.FAIL, Verdict.PASS)
    [check] = [check for check in world.exercise.found.checks if check.name == "release meanwhile"]
    assert (check.seen, check.level) == ("hangs in msleep < ifcvf_reset < vhost_vdpa_reset", Level.L1_KERNEL)
    assert world.did[3:] == ["unplug", "queue-stall off", "unplug ends", "stop", "plug", "prove after"]


def test_a_release_in_time(world: World) -> None:
    world.flows = [False]
    assert set(world.run({**STALL, "release": "done", "afterwards": "replug"}).values()) == {Verdict.PASS}
    assert world.did[3:] == ["unplug", "queue-stall off", "stop", "plug", "prove after"]


def test_who_hangs_somewhere_else(world: World) -> None:
    world.flows, world.hangs = [False], True
    world.host.answers["sh *"] = "[<0>] futex_wait+0x1/0x2\n"
    world.run({**STALL, "release": "done", "afterwards": "replug"})
    assert "hangs in no call into vDPA" in [check.seen for check in world.exercise.found.checks]


def test_what_never_ends_afterwards(world: World) -> None:
    def hang(*_arguments: Any) -> float:
        raise DeadlineExceeded("l2: the end of dut", 20)

    world.flows, world.hangs = [False], True
    world.lab.guests["l2"].machine.finish_unplug = hang
    assert world.run({**STALL, "release": "done", "afterwards": "replug"})["release afterwards"] is Verdict.FAIL
    # Nothing waits for what hangs in L1, and QEMU is not given a device that it still has.
    assert world.lab.expendable
    assert world.did[3:] == ["unplug", "queue-stall off"]


def test_a_monitor_that_breaks_while_a_release_hangs(world: World) -> None:
    def broken(*_arguments: Any) -> float:
        raise QmpError("l2: the monitor broke off")

    world.flows, world.hangs = [False], True
    world.lab.guests["l2"].machine.finish_unplug = broken
    with pytest.raises(QmpError):
        world.run({**STALL, "release": "done", "afterwards": "replug"})
    assert world.lab.expendable


def test_a_fault_before_the_guest_has_the_device(world: World) -> None:
    world.flows = [False]
    assert set(world.run({**STALL, "when": "attach", "afterwards": "replug"}).values()) == {Verdict.PASS}
    assert world.did == [
        "prove before", "unplug", "queue-stall on {'queue': 0}", "plug", "queue-stall off", "unplug", "plug",
        "prove after",
    ]  # fmt: skip


def test_a_fault_from_the_first_moment_is_not_switched_on_again(world: World) -> None:
    world.flows = [True, True]
    action = {"kind": "fault", "name": "fewer-vectors", "when": "start", "traffic": "flows", "afterwards": "flows"}
    assert set(world.run(action).values()) == {Verdict.PASS}
    assert "fewer-vectors on" not in world.did


def test_a_host_is_expendable_before_its_device_is_lost(world: World) -> None:
    world.host.answers["*ping *"] = (255, "Cannot open network namespace")
    action = {"kind": "fault", "name": "death", "traffic": "stops", "release": "done", "afterwards": "lost"}
    with pytest.raises(CommandError):
        world.run(action)
    assert world.lab.expendable
    assert "stop" not in world.did, "a guest that hangs for good cannot be told so"


def test_a_dead_device_model_is_expected_and_its_host_expendable(world: World) -> None:
    world.flows, world.hangs = [False], True
    action = {"kind": "fault", "name": "death", "traffic": "stops", "release": "done", "afterwards": "lost"}
    assert world.run(action) == {"traffic meanwhile": Verdict.PASS, "release meanwhile": Verdict.FAIL}
    assert (world.end_expected, world.lab.expendable, "prove after" in world.did) == (True, True, False)


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [([True], Verdict.PASS), ([False], Verdict.FAIL), ([True, False], Verdict.FAIL), ([], Verdict.FAIL)],
)
def test_dma_outside_has_to_be_refused(world: World, answers: list[bool], verdict: Verdict) -> None:
    world.flows = [True, True]
    world.answers = [{"what": "DMA by the device at 0x60000000", "refused": refused} for refused in answers]
    action = {"kind": "fault", "name": "dma-outside", "traffic": "flows", "afterwards": "flows"}
    assert world.run(action)["DMA outside the map"] is verdict


@pytest.mark.parametrize("path", sorted((CONFIGS / "scenarios").glob("*-fault-*.toml")), ids=lambda path: path.stem)
def test_what_is_lost_is_what_no_switch_brings_back(path: Path) -> None:
    action = validate(Fault, tomllib.loads(path.read_text())["action"], path.name)
    assert (action.afterwards == "lost") == (action.name in ("disconnect", "death"))
