"""lab.machine.machine: what each state allows, and what is said when a machine does not do what it should."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.errors import DeadlineExceeded, LabError, MachineDied, MachineError, ProductFailure, QmpError, StateError
from lab.evidence.record import Record
from lab.host.ssh import SshAddress
from lab.machine import machine as module
from lab.machine import qmp
from lab.machine.argv import READY_LINE
from lab.machine.machine import Machine, State, tail
from lab.model import Level, QemuDevice
from lab.wait import Deadline, wait_until
from tests.fake_machine import FakeProcess, make_machine
from tests.fake_qmp import Refused

ADDRESS = SshAddress("127.0.0.1", 40022, "root", Path("/identity"), "ssh-ed25519 AAAA")
BLOCK = QemuDevice({"driver": "vhost-vdpa-device-pci", "id": "dut", "vhostdev": "/dev/vhost-vdpa-0"})
NIC = QemuDevice({"driver": "virtio-net-pci", "id": "dut"}, {"type": "vhost-vdpa", "id": "dut-back"})
LIVE = {State.LAUNCHED, State.INCOMING, State.RUNNING, State.PAUSED, State.READY}


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with contextlib.closing(Record(tmp_path / "run")) as record:
        yield record


@pytest.fixture
def parts(record: Record, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Machine, FakeProcess]]:
    monkeypatch.setattr(module, "connect", lambda *_arguments, **_options: object())
    monkeypatch.setattr(module, "_QUIT_S", 0.2)
    monkeypatch.setattr("lab.machine.qmp._SLICE_S", 0.05)
    machine, process = make_machine(record)
    yield machine, process
    machine.quit()


@pytest.fixture
def machine(parts: tuple[Machine, FakeProcess]) -> Machine:
    return parts[0]


@pytest.fixture
def process(parts: tuple[Machine, FakeProcess]) -> FakeProcess:
    return parts[1]


@pytest.fixture
def running(machine: Machine, process: FakeProcess) -> Machine:
    machine.launch()
    return machine


def events(record: Record) -> list[dict[str, object]]:
    return [json.loads(line) for line in (record.path / "events.jsonl").read_text().splitlines()]


def kinds(record: Record) -> list[str]:
    return [str(event["event"]) for event in events(record)]


def ended(machine: Machine) -> None:
    with contextlib.suppress(DeadlineExceeded):
        machine.wait_end(Deadline(0))


ALLOWED: dict[str, tuple[Callable[[Machine], object], set[State]]] = {
    "launch": (Machine.launch, {State.DEFINED}),
    "wait_ready": (lambda machine: machine.wait_ready(Deadline(10)), {State.RUNNING}),
    "log_in": (lambda machine: machine.log_in(ADDRESS, Deadline(10)), {State.RUNNING}),
    "monitor": (lambda machine: machine.qmp, LIVE),
    "migrated": (Machine.migrated, {State.RUNNING, State.READY}),
    "resumed": (Machine.resumed, {State.INCOMING}),
    "wait_end": (ended, {State.READY}),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_each_state_allows(machine: Machine, process: FakeProcess, name: str) -> None:
    call, allowed = ALLOWED[name]
    process.says(READY_LINE)
    refused = {}
    for state in State:
        machine.state = state
        try:
            call(machine)
        except StateError as error:
            refused[state] = str(error).partition("; this needs it ")[0]
    machine.state = State.DEFINED
    assert refused == {state: f"l1 is {state}" for state in State if state not in allowed}


@pytest.mark.parametrize(("incoming", "state"), [(False, State.RUNNING), (True, State.INCOMING)])
def test_launch(machine: Machine, incoming: bool, state: State) -> None:
    machine.launch(incoming=incoming)
    assert machine.state is state


def test_the_way_of_a_machine(running: Machine, process: FakeProcess, record: Record) -> None:
    process.says(f"[    1.2] {READY_LINE}")
    running.wait_ready(Deadline(10))
    assert running.ready_s > 0
    assert running.forwarded_port() == ADDRESS.port
    running.log_in(ADDRESS, Deadline(10))
    running.migrated()
    running.quit()
    assert process.status == 0
    states = [event["state"] for event in events(record) if event["event"] == "machine-state"]
    assert states == ["launched", "running", "ready", "paused", "exited"]
    assert [kind for kind in kinds(record) if kind.startswith("machine-") and kind != "machine-state"] == [
        "machine-ready", "machine-login", "machine-quit",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (1, MachineError, "l1: QEMU refused to start\n-device frobnicate: not a valid device model"),
        (-11, MachineDied, r"l1: QEMU ended \(killed by signal 11\)"),
    ],
)
def test_qemu_ends_at_its_start(
    machine: Machine, process: FakeProcess, status: int, error: type[LabError], words: str
) -> None:
    process.dies(status, "-device frobnicate: not a valid device model")
    with pytest.raises(error, match=words) as caught:
        machine.launch()
    assert isinstance(caught.value, MachineDied) == (status < 0)
    assert caught.value.log == process.stderr


def test_a_qemu_that_cannot_be_started(machine: Machine, process: FakeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise LabError("no such program")

    monkeypatch.setattr(process, "start", fail)
    with pytest.raises(LabError, match="no such program") as caught:
        machine.launch()
    assert caught.value.__cause__ is None


def test_a_panic_while_booting_is_the_kernels(running: Machine, process: FakeProcess) -> None:
    process.says("[    0.5] Kernel panic - not syncing: Attempted to kill init!")
    with pytest.raises(ProductFailure, match=r"(?s)l1: the kernel panicked while booting:.*kill init") as caught:
        running.wait_ready(Deadline(10))
    assert (caught.value.level, caught.value.machine, caught.value.log) == (Level.L1_KERNEL, "l1", process.console)


def test_a_guest_that_does_not_become_ready(running: Machine, process: FakeProcess) -> None:
    process.says("[    0.5] nothing but noise")
    with pytest.raises(ProductFailure, match="l1: 'vdpalab: sshd ready' on its console") as caught:
        running.wait_ready(Deadline(0.1))
    assert (caught.value.level, caught.value.machine) == (Level.L1_KERNEL, "l1")


def test_qemu_dies_while_the_guest_boots(running: Machine, process: FakeProcess, record: Record) -> None:
    process.dies(-9, "terminating")
    with pytest.raises(MachineDied, match=r"(?s)killed by signal 9.*terminating") as caught:
        running.wait_ready(Deadline(10))
    assert caught.value.level is Level.L0_QEMU
    assert running.state is State.EXITED
    assert {"event": "machine-exit", "machine": "l1", "status": -9}.items() <= events(record)[-1].items()


def test_a_guest_that_resets_its_machine_is_told_from_a_qemu_that_dies(running: Machine, process: FakeProcess) -> None:
    process.qmp.event("SHUTDOWN", guest=True, reason="guest-reset")
    wait_until(lambda: process.status == 0, Deadline(10), "the end of QEMU")
    with pytest.raises(MachineDied, match=r"QEMU ended .its guest ended it: guest-reset") as caught:
        running.check_alive()
    assert caught.value.level is running.kernel_level


def test_a_death_that_the_scenario_wanted_is_none(running: Machine, process: FakeProcess) -> None:
    running.end_expected = True
    process.dies(-9)
    running.check_alive()
    with pytest.raises(QmpError, match="the monitor broke off"):
        running.query("query-status")


def test_a_forwarded_port_that_is_not_there(running: Machine, process: FakeProcess) -> None:
    process.qmp.answers["human-monitor-command"] = "Hub -1 (mgmt):\n"
    with pytest.raises(LabError, match="forwards no port"):
        running.forwarded_port()


@pytest.mark.parametrize(("device", "plugged"), [(NIC, ["netdev_add", "device_add"]), (BLOCK, ["device_add"])])
def test_plug(running: Machine, process: FakeProcess, device: QemuDevice, plugged: list[str]) -> None:
    process.qmp.answers |= {"netdev_add": {}, "device_add": {}}
    running.plug(device)
    assert process.qmp.asked == plugged
    assert process.qmp.commands[-1] == ("device_add", dict(device.device))


def test_a_device_that_qemu_does_not_take(running: Machine, process: FakeProcess) -> None:
    process.qmp.answers["device_add"] = Refused("Device needs media, but drive is empty")
    with pytest.raises(ProductFailure, match="l1: device_add: Device needs media") as caught:
        running.plug(BLOCK)
    assert (caught.value.level, caught.value.machine) == (Level.L0_QEMU, "l1")


@pytest.mark.parametrize(("device", "after"), [(NIC, ["device_del", "netdev_del"]), (BLOCK, ["device_del"])])
def test_unplug(running: Machine, process: FakeProcess, device: QemuDevice, after: list[str]) -> None:
    def delete(_arguments: object) -> object:
        # A bridge's child goes first, and has no id.
        process.qmp.event("DEVICE_DELETED", path="/machine/x")
        process.qmp.event("DEVICE_DELETED", device="dut", path="/machine/dut")
        return {}

    process.qmp.answers |= {"device_del": delete, "netdev_del": {}}
    assert running.unplug(device, Deadline(10)) >= 0
    assert process.qmp.asked == after


def test_a_guest_that_refuses_to_let_go(running: Machine, process: FakeProcess) -> None:
    def refuse(_arguments: object) -> object:
        process.qmp.event("DEVICE_UNPLUG_GUEST_ERROR", device="dut", path="/machine/dut")
        return {}

    process.qmp.answers["device_del"] = refuse
    with pytest.raises(ProductFailure, match="refused to release dut") as caught:
        running.unplug(NIC, Deadline(10))
    assert caught.value.level is Level.L1_KERNEL
    assert "netdev_del" not in process.qmp.asked


def test_a_qemu_that_refuses_an_unplug_is_the_products(running: Machine, process: FakeProcess) -> None:
    process.qmp.answers["device_del"] = Refused("Bus 'pcie.0' does not support hotplugging")
    with pytest.raises(ProductFailure, match="does not support hotplugging") as caught:
        running.begin_unplug(NIC)
    assert (caught.value.level, caught.value.machine) == (Level.L0_QEMU, "l1")


def test_an_answer_that_comes_before_anybody_waits_for_it_is_heard(running: Machine, process: FakeProcess) -> None:
    def refuse(_arguments: object) -> object:
        process.qmp.event("DEVICE_UNPLUG_GUEST_ERROR", device="dut", path="/machine/dut")
        return {}

    process.qmp.answers |= {"device_del": refuse, "qom-list": [{"name": "dut"}]}
    pending = running.begin_unplug(BLOCK)
    assert running.has(BLOCK)
    with pytest.raises(ProductFailure, match="refused to release dut"):
        pending.finish(Deadline(10))


def test_a_guest_that_does_not_answer_an_unplug(running: Machine, process: FakeProcess) -> None:
    process.qmp.answers["device_del"] = {}
    with pytest.raises(ProductFailure, match="has not released"):
        running.unplug(NIC, Deadline(0.1))


def test_an_end_that_was_asked_of_the_guest(running: Machine, process: FakeProcess) -> None:
    running.state = State.READY
    process.dies(0)
    assert running.wait_end(Deadline(10)) == 0
    assert running.state is State.EXITED
    assert running.check_alive() is False


def test_an_end_that_does_not_come_leaves_the_machine_as_it_was(running: Machine, process: FakeProcess) -> None:
    running.state = State.READY
    with pytest.raises(DeadlineExceeded, match="the end of QEMU"):
        running.wait_end(Deadline(0))
    assert (running.state, running.end_expected) == (State.READY, False)
    process.dies(-11, "gone")
    with pytest.raises(MachineDied):
        running.check_alive()


def test_quit_is_done_once(running: Machine, process: FakeProcess, record: Record) -> None:
    running.quit()
    running.quit()
    assert process.qmp.asked == ["quit"]
    assert (process.status, process.forced, running.state, running.bad_end) == (0, False, State.EXITED, "")
    assert kinds(record).count("machine-quit") == 1
    assert "machine-killed" not in kinds(record)
    running.check_alive()


def test_a_qemu_that_does_not_obey_is_killed_and_that_is_recorded(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_QUIT_S", 0.1)
    machine, process = make_machine(record, obeys=False)
    machine.launch()
    machine.quit()
    assert process.forced
    assert machine.bad_end == "had to be killed"
    assert "machine-killed" in kinds(record)


def test_a_qemu_of_a_slow_machine_has_more_time_to_end(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUIT_S", 0.05)
    machine, process = make_machine(record, obeys=False)
    machine.launch(slowness=100)
    looks = iter(range(5))
    monkeypatch.setattr(process, "poll", lambda: None if next(looks, None) is not None else 0)
    machine.quit()
    assert machine.bad_end == ""


def test_a_qemu_whose_monitor_is_gone_was_not_asked(
    running: Machine, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp, "_END_S", 0.1)
    process.qmp.hang_up()
    running.quit()
    assert (process.forced, running.bad_end) == (True, "")


def test_a_qemu_that_dies_while_it_ends(running: Machine, process: FakeProcess) -> None:
    process.qmp.answers["quit"] = lambda _arguments: process.dies(-11)
    running.quit()
    assert running.bad_end == "SIGSEGV"


def test_quit_after_a_death_asks_nobody(running: Machine, process: FakeProcess) -> None:
    process.dies(-6)
    with pytest.raises(MachineDied):
        running.check_alive()
    running.quit()
    assert process.qmp.asked == []


def test_quit_of_a_machine_that_never_was(machine: Machine, process: FakeProcess, record: Record) -> None:
    machine.quit()
    assert (machine.state, process.started) == (State.DEFINED, 0)
    assert not {"machine-quit", "machine-killed", "machine-state"} & set(kinds(record))


def test_tail() -> None:
    assert tail("\n".join(map(str, range(20))) + "\n\n", 3) == "17\n18\n19"
