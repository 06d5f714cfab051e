"""lab.machine.qmp: the real client of qemu.qmp against a server in this process."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.errors import DeadlineExceeded, MachineDied, QmpError
from lab.machine import qmp as module
from lab.machine.qmp import Qmp
from lab.model import Level
from lab.wait import Deadline
from tests.fake_qmp import SILENCE, FakeQmp, Refused


class Qemu:
    """Whether QEMU lives, as the session asks."""

    dead = False

    def alive(self) -> bool:
        if self.dead:
            raise MachineDied("l1", -9, "", level=Level.L0_QEMU)
        return True


@pytest.fixture
def qemu(monkeypatch: pytest.MonkeyPatch) -> Qemu:
    monkeypatch.setattr(module, "_SLICE_S", 0.05)
    monkeypatch.setattr(module, "_END_S", 0.5)
    return Qemu()


@pytest.fixture
def session(qemu: Qemu, tmp_path: Path) -> Iterator[Qmp]:
    with contextlib.closing(Qmp("l1", tmp_path / "qmp.jsonl", qemu.alive)) as session:
        yield session


@pytest.fixture
def server(session: Qmp) -> FakeQmp:
    server = FakeQmp({"query-status": {"status": "running"}, "device_del": {}})
    session.connect(server.client, Deadline(10))
    return server


def quits(server: FakeQmp) -> threading.Event:
    """What tells that QEMU was asked to end."""
    asked = threading.Event()

    def end(_arguments: object) -> object:
        asked.set()
        return {}

    server.answers["quit"] = end
    return asked


def transcript(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "qmp.jsonl").read_text().splitlines()]


def test_a_command_is_answered(session: Qmp, server: FakeQmp) -> None:
    assert session.execute("query-status") == {"status": "running"}
    session.execute("device_del", {"id": "dut"})
    assert server.commands[-2:] == [("query-status", {}), ("device_del", {"id": "dut"})]


def test_a_line_of_the_human_monitor(session: Qmp, server: FakeQmp) -> None:
    server.answers["human-monitor-command"] = lambda arguments: f"seen {arguments['command-line']}\r\n"
    assert session.human("info usernet") == "seen info usernet\r\n"


def test_a_refused_command_raises_with_qemus_words(session: Qmp, server: FakeQmp) -> None:
    server.answers["device_add"] = Refused("Bus 'rp9' not found")
    with pytest.raises(QmpError, match="l1: device_add: Bus 'rp9' not found"):
        session.execute("device_add", {"driver": "virtio-net-pci"})
    assert session.execute("query-status")


def test_everything_is_written_down(session: Qmp, server: FakeQmp, tmp_path: Path) -> None:
    with session.listen("RESUME") as events:
        session.execute("query-status")
        with pytest.raises(QmpError):
            session.execute("frobnicate")
        server.event("RESUME")
        events.wait(Deadline(10))
    kinds = [next(key for key in line if key != "t") for line in transcript(tmp_path)]
    assert [kind for kind in kinds if kind != "timestamp"] == ["execute", "return", "execute", "error", "event"]


REGISTERS = """
CPU#0
RSI=ffffc9000002e004 RDI=0000000000000001 RBP=ffff8880037df000 RSP=ffff88800351bcd8
RIP=ffffffffa00a5d3c RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0
IDT=     fffffe0000000000 00000fff
CR0=80050033 CR2=fffffe0000000080 CR3=00000000036f5018 CR4=00350eb0

CPU#1
EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0
"""


def test_a_guest_that_ends_its_machine_leaves_its_registers(session: Qmp, server: FakeQmp, tmp_path: Path) -> None:
    ended = quits(server)
    asked: list[tuple[str, int]] = []

    def answer(arguments: Any) -> str:
        asked.append((arguments["command-line"], arguments["cpu-index"]))
        return REGISTERS.replace("\n", "\r\n") if len(asked) == 1 else f"answer {len(asked)}\r\n"

    server.answers["human-monitor-command"] = answer
    server.event("SHUTDOWN", guest=True, reason="guest-reset")
    assert ended.wait(10), "a QEMU that halts where its guest ended must be let go"
    assert session.guest_end == "guest-reset"
    # Of a processor that was reset, or is in another mode, there is nothing to follow.
    assert asked == [
        ("info registers -a", 0),
        ("gva2gpa 0xffff88800351bcd8", 0),
        ("gva2gpa 0xffffffffa00a5d3c", 0),
        ("gva2gpa 0xfffffe0000000000", 0),
        ("xp /512gx 0x36f5000", 0),
    ]
    kept = (tmp_path / "registers.txt").read_text()
    assert kept.startswith(REGISTERS)
    assert kept.endswith("\nCPU#0 CR3: xp /512gx 0x36f5000\nanswer 5\n")


def test_a_question_that_is_refused_costs_no_other(session: Qmp, server: FakeQmp, tmp_path: Path) -> None:
    ended = quits(server)

    def answer(arguments: Any) -> object:
        line = arguments["command-line"]
        return REGISTERS if line.startswith("info") else Refused("no") if "gva2gpa" in line else "the table\r\n"

    server.answers["human-monitor-command"] = answer
    server.event("SHUTDOWN", guest=True, reason="guest-reset")
    assert ended.wait(10)
    kept = (tmp_path / "registers.txt").read_text()
    assert kept.count("refused: ") == 3
    assert kept.endswith("xp /512gx 0x36f5000\nthe table\n")


def test_an_end_that_the_lab_asked_for_is_none_of_the_guest(session: Qmp, server: FakeQmp, tmp_path: Path) -> None:
    server.event("SHUTDOWN", guest=False, reason="host-qmp-quit")
    session.execute("query-status")
    assert server.asked == ["query-status"]
    assert not session.guest_end
    assert not (tmp_path / "registers.txt").exists()


def test_a_guest_whose_registers_cannot_be_had_is_let_go(session: Qmp, server: FakeQmp) -> None:
    ended = quits(server)
    server.event("SHUTDOWN", guest=True, reason="guest-shutdown")
    assert ended.wait(10)


def test_an_event_that_came_before_the_wait_is_not_missed(session: Qmp, server: FakeQmp) -> None:
    def delete(_arguments: object) -> object:
        server.event("DEVICE_DELETED", device="dut", path="/x")
        return {}

    server.answers["device_del"] = delete
    with session.listen("DEVICE_DELETED") as events:
        session.execute("device_del", {"id": "dut"})
        assert events.wait(Deadline(10))["data"]["device"] == "dut"


def test_only_the_named_and_accepted_event_ends_the_wait(session: Qmp, server: FakeQmp) -> None:
    with session.listen("DEVICE_DELETED") as events:
        server.event("RTC_CHANGE", device="dut")
        server.event("DEVICE_DELETED", path="/child")
        server.event("DEVICE_DELETED", device="dut")
        event = events.wait(Deadline(10), lambda event: event["data"].get("device") == "dut")
    assert event["data"] == {"device": "dut"}


def test_an_event_that_does_not_come_is_named(session: Qmp, server: FakeQmp) -> None:
    with (
        session.listen("MIGRATION", "RESUME") as events,
        pytest.raises(DeadlineExceeded, match="l1: the event MIGRATION or RESUME"),
    ):
        events.wait(Deadline(0.1))


def test_a_command_without_an_answer_is_named(session: Qmp, server: FakeQmp) -> None:
    server.answers["query-block"] = SILENCE
    with pytest.raises(DeadlineExceeded, match="l1: query-block"):
        session.execute("query-block", timeout_s=0.1)
    assert session.execute("query-status")


@pytest.mark.parametrize("hangs_up", [True, False])
def test_qemu_dies_during_a_command(session: Qmp, server: FakeQmp, qemu: Qemu, hangs_up: bool) -> None:
    def die(_arguments: object) -> object:
        qemu.dead = True
        if hangs_up:
            server.hang_up()
        return SILENCE

    server.answers["query-status"] = die
    with pytest.raises(MachineDied, match="killed by signal 9"):
        session.execute("query-status")


def test_a_qemu_that_hangs_up_before_its_end_can_be_seen(session: Qmp, server: FakeQmp, qemu: Qemu) -> None:
    def die(_arguments: object) -> object:
        server.hang_up()
        threading.Timer(0.2, lambda: setattr(qemu, "dead", True)).start()
        return SILENCE

    server.answers["query-status"] = die
    with pytest.raises(MachineDied):
        session.execute("query-status")


def test_qemu_dies_while_an_event_is_awaited(session: Qmp, server: FakeQmp, qemu: Qemu) -> None:
    with session.listen("RESUME") as events:
        qemu.dead = True
        server.hang_up()
        with pytest.raises(MachineDied):
            events.wait(Deadline(10))


def test_a_monitor_that_breaks_off_under_a_living_qemu(session: Qmp, server: FakeQmp) -> None:
    def hang_up(_arguments: object) -> object:
        server.hang_up()
        return SILENCE

    server.answers["query-status"] = hang_up
    with pytest.raises(QmpError, match="l1: the monitor broke off during query-status"):
        session.execute("query-status")


def test_nobody_greets(session: Qmp) -> None:
    mute = FakeQmp(mute=True)
    with pytest.raises(DeadlineExceeded, match="the QMP greeting"):
        session.connect(mute.client, Deadline(0.1))


def test_qemu_dies_before_it_greets(session: Qmp, qemu: Qemu) -> None:
    mute = FakeQmp(mute=True)
    mute.hang_up()
    qemu.dead = True
    with pytest.raises(MachineDied):
        session.connect(mute.client, Deadline(10))


def test_a_closed_session_gives_back_its_files(qemu: Qemu, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        session, server = Qmp("l1", tmp_path / "qmp.jsonl", qemu.alive), FakeQmp()
        session.connect(server.client, Deadline(10))
        session.close()
        server.close()
    assert len(os.listdir("/proc/self/fd")) <= before
