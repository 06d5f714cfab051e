"""lab.topology.undo: everything is undone in reverse, whatever fails."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.evidence.record import Record
from lab.topology.undo import Undo


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with contextlib.closing(Record(tmp_path)) as record:
        yield record


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def failures(record: Record) -> list[dict[str, str]]:
    events = map(json.loads, (record.path / "events.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "undo-failed"]


def test_managers_and_callbacks_are_left_in_reverse(record: Record) -> None:
    seen: list[str] = []

    @contextlib.contextmanager
    def device(name: str) -> Iterator[str]:
        seen.append(f"+{name}")
        yield name.upper()
        seen.append(f"-{name}")

    undo = Undo(record)
    assert undo.enter("a", device("a")) == "A"
    undo.callback("b", lambda: seen.append("-b"))
    undo.enter("c", device("c"))
    assert undo.unwind() == []
    assert seen == ["+a", "+c", "-c", "-b", "-a"]
    assert undo.unwind() == []
    assert len(seen) == 5


def test_what_could_not_be_entered_is_not_left(record: Record) -> None:
    @contextlib.contextmanager
    def device() -> Iterator[None]:
        raise LabError("no such mgmtdev")
        yield

    undo = Undo(record)
    with pytest.raises(LabError):
        undo.enter("device", device())
    assert undo.unwind() == []


@pytest.mark.parametrize(
    ("error", "words"),
    [(LabError("busy"), "busy"), (OSError(28, "No space left"), "No space left"), (KeyError("pf"), "KeyError('pf')")],
)
def test_a_failing_undo_is_recorded_and_the_rest_is_undone(record: Record, error: Exception, words: str) -> None:
    done: list[int] = []
    undo = Undo(record)
    undo.callback("first", lambda: done.append(1))
    undo.callback("the device", failing(error))
    undo.callback("last", lambda: done.append(2))
    [failed] = undo.unwind()
    assert done == [2, 1]
    assert failed.startswith("the device: ")
    assert words in failed
    [event] = failures(record)
    assert (event["what"], event["pointless"]) == ("the device", "")


def test_a_failure_is_no_news_when_its_machine_is_gone(record: Record) -> None:
    undo = Undo(record)
    undo.callback("the device", failing(LabError("unreachable")))
    assert undo.unwind(lambda: "l1 is gone") == []
    assert failures(record)[0]["pointless"] == "l1 is gone"
