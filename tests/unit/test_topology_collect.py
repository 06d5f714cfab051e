"""lab.topology.collect: everything that answers is asked, and who does not answer fails nothing."""

from __future__ import annotations

import contextlib
import json
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
    lab.machines = {"l1": SimpleNamespace(query=lambda command: {"asked": command})}
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


def test_a_scan_for_leaks_is_left_out_when_there_is_no_time(lab: Any) -> None:
    assert collect(lab).leaks == {"l1": "an answer", "l2": "an answer"}
    lab.host.commands.clear()
    assert collect(lab, scan=False).leaks == {}
    assert not [command for command in lab.host.commands if "kmemleak" in command]


def test_who_does_not_answer_is_noted(lab: Any, record: Record) -> None:
    def dead(_command: str) -> None:
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
