"""lab.evidence.record: what a killed lab leaves can be read, and a full disk stops no teardown."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.evidence.record import Record, owner_alive
from lab.model import Completed


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with contextlib.closing(Record(tmp_path / "run")) as record:
        yield record


def events(record: Record) -> list[dict[str, object]]:
    return [json.loads(line) for line in (record.path / "events.jsonl").read_text().splitlines()]


def completed(status: int = 0, stdout: bytes = b"", stderr: bytes = b"") -> Completed:
    return Completed(("vdpa", "dev", "a b"), status, stdout, stderr, 0.12345)


def test_events_are_there_at_once_with_rising_times(record: Record) -> None:
    record.event("accel", level="l1", path=Path("/x"))
    begin, accel = events(record)
    assert (begin["event"], set(begin)) == ("begin", {"t", "event", "wall", "pid"})
    assert (accel["event"], accel["level"], accel["path"]) == ("accel", "l1", "/x")
    assert float(str(accel["t"])) >= float(str(begin["t"]))


def test_a_step_has_an_end_and_a_duration(record: Record) -> None:
    with record.step("plan"):
        record.event("inside")
    with pytest.raises(KeyboardInterrupt), record.step("artifacts"):
        raise KeyboardInterrupt
    kinds = [(event["event"], event.get("step"), event.get("error")) for event in events(record)[1:]]
    assert kinds == [
        ("step-begin", "plan", None), ("inside", None, None), ("step-end", "plan", None),
        ("step-begin", "artifacts", None), ("step-end", "artifacts", "KeyboardInterrupt()"),
    ]  # fmt: skip


def test_each_command_is_kept_with_its_output(record: Record) -> None:
    about = record.command("l1", completed(1, b"out", b"err"))
    record.command("l1", completed())
    record.command("l2", completed())
    assert json.loads(about.read_text()) == {"argv": ["vdpa", "dev", "a b"], "returncode": 1, "seconds": 0.123}
    assert {str(path.relative_to(record.path)) for path in (record.path / "hosts").rglob("*.*")} == {
        "hosts/l1/cmd-001.json", "hosts/l1/cmd-001.out", "hosts/l1/cmd-001.err",
        "hosts/l1/cmd-002.json", "hosts/l1/cmd-002.out", "hosts/l2/cmd-001.json", "hosts/l2/cmd-001.out",
    }  # fmt: skip
    assert events(record)[1]["command"] == "vdpa dev 'a b'"


def test_threads_do_not_share_a_number(record: Record) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: record.command("l1", completed()), range(40)))
    assert len(set(paths)) == 40


def test_a_file_is_written_whole_and_replaced(record: Record) -> None:
    record.write("collect/l1-dmesg.txt", "one")
    path = record.write("collect/l1-dmesg.txt", "two")
    assert path.read_text() == "two"
    assert [path.name for path in path.parent.iterdir()] == ["l1-dmesg.txt"]


def test_a_closed_record_takes_no_more_and_is_disowned(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    assert owner_alive(record.path)
    record.close()
    record.event("late")
    assert [event["event"] for event in events(record)] == ["begin", "end"]
    assert not owner_alive(record.path)
    assert not owner_alive(tmp_path / "absent")


def test_a_full_disk_loses_events_and_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "events.jsonl").symlink_to("/dev/full")
    record = Record(run)
    with pytest.raises(LabError, match="the reason"), record.step("devices"):
        raise LabError("the reason")
    record.close()
    assert not owner_alive(run)
