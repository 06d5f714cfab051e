"""lab.topology.collect: everything that answers is asked, and who does not answer fails nothing."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.errors import StateError
from lab.evidence.record import Record
from lab.host.fake import FakeHost
from lab.topology.collect import collect
from tests.fake_lab import fake_lab


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with contextlib.closing(Record(tmp_path / "run")) as record:
        yield record


@pytest.fixture
def lab(record: Record) -> Any:
    lab: Any = fake_lab(record, "net-vdpa_sim-vhost_vdpa-migrate")
    lab.host.answers = {"dmesg": "[ 1.0] of l1", "*": "an answer"}
    lab.guests["l2"].host.answers = {"dmesg": "[ 1.0] of l2", "*": "an answer"}
    lab.machines = {"l1": SimpleNamespace(query=lambda command, timeout_s: {"asked": command})}
    return lab


def collected(record: Record) -> set[str]:
    return {path.name for path in (record.path / "collect").iterdir()}


def noted(record: Record) -> list[str]:
    events = map(json.loads, (record.path / "events.jsonl").read_text().splitlines())
    return [event["host"] for event in events if event["event"] == "collect-failed"]


def test_everything_that_answers_is_asked(lab: Any, record: Record) -> None:
    assert collect(lab).dmesg == {"l1": "[ 1.0] of l1", "l2": "[ 1.0] of l2"}
    assert {"l1-dmesg.txt", "l1-vdpa.txt", "l1-qmp.json", "l2-dmesg.txt", "l2-interrupts.txt"} <= collected(record)
    assert "l2-vdpa.txt" not in collected(record)
    assert (record.path / "collect/l2-dmesg.txt").read_text() == "[ 1.0] of l2\n"
    assert json.loads((record.path / "collect/l1-qmp.json").read_text())["query-status"] == {"asked": "query-status"}
    assert noted(record) == []


def test_in_a_hurry_nobody_looks_for_leaks_or_cores(lab: Any) -> None:
    lab.l1 = SimpleNamespace()
    lab.host.answers = {"*/var/crash*": "", **lab.host.answers}
    assert collect(lab).leaks == {"l1": "an answer", "l2": "an answer"}
    lab.host.commands.clear()
    assert collect(lab, hurry=True).leaks == {}
    assert not [command for command in lab.host.commands if "kmemleak" in command or "crash" in command]


@contextlib.contextmanager
def stream(words: bytes) -> Iterator[Any]:
    parts = iter([words, b""])
    yield SimpleNamespace(recv=lambda _size: next(parts))


def test_the_core_of_a_qemu_in_l1_is_brought_here(lab: Any, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.l1 = SimpleNamespace()
    lab.host.answers = {"*/var/crash*": "8 core.CPU 0!TCG.123\n16 core.vdpa.7\n", **lab.host.answers}
    monkeypatch.setattr(lab.host, "spawn", lambda argv: stream(argv[-1].encode()))
    collect(lab)
    assert (record.path / "collect/l1-core.CPU_0_TCG.123.gz").read_text() == "/var/crash/core.CPU 0!TCG.123"
    assert (record.path / "collect/l1-core.vdpa.7.gz").read_text() == "/var/crash/core.vdpa.7"
    assert noted(record) == []


def test_a_core_that_is_too_big_or_comes_too_slowly_is_noted(
    lab: Any, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.l1 = SimpleNamespace()
    lab.host.answers = {"*/var/crash*": f"{1 << 21} core.qemu.1", **lab.host.answers}
    collect(lab)
    assert noted(record) == ["l1 cores"]
    lab.host.answers["*/var/crash*"] = "8 core.qemu.1"
    monkeypatch.setattr("lab.topology.collect._CORE_S", 0.01)
    ended = threading.Event()
    slow = SimpleNamespace(recv=lambda _size: b"" if ended.wait(10) else b"x")
    monkeypatch.setattr(lab.host, "spawn", lambda _argv: contextlib.nullcontext(slow))
    collect(lab)
    ended.set()
    assert noted(record) == ["l1 cores", "l1 cores"]


def test_the_cores_of_others_stay_where_they_are(lab: Any) -> None:
    collect(lab)
    assert not [command for command in lab.host.commands if "crash" in command]


def test_who_does_not_answer_is_noted(lab: Any, record: Record) -> None:
    def dead(_command: str, *, timeout_s: float) -> None:
        raise StateError("l1 is exited")

    lab.guests["l2"].host.answers = {}
    lab.machines["l1"].query = dead
    assert collect(lab).dmesg == {"l1": "[ 1.0] of l1", "l2": None}
    assert sorted(noted(record)) == ["l1 QMP", "l2", "l2 kmemleak"]


def test_what_was_said_before_the_connection_broke_is_kept(lab: Any, record: Record) -> None:
    lab.guests["l2"].host.answers = {"dmesg": "[ 1.0] of l2"}
    assert collect(lab).dmesg["l2"] == "[ 1.0] of l2"
    assert noted(record) == ["l2", "l2 kmemleak"]


def test_a_command_that_is_not_there_is_no_reason_to_stop(lab: Any) -> None:
    lab.host.answers = {"vdpa *": (127, "not found"), "lspci *": (127, "not found"), **lab.host.answers}
    assert collect(lab).dmesg["l1"] == "[ 1.0] of l1"


@pytest.mark.parametrize("connected", [True, False])
def test_what_never_answered_is_not_asked(lab: Any, connected: bool) -> None:
    lab.connected = connected
    lab.guests["l2"].host = None
    assert list(collect(lab).dmesg) == (["l1"] if connected else [])
    assert isinstance(lab.host, FakeHost)
    assert bool(lab.host.commands) is connected
