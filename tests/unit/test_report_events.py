"""Steps of a run, from its events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.report.events import parse, read_events, track


def event(t: float, kind: str, **fields: Any) -> dict[str, Any]:
    return {"t": t, "event": kind, **fields}


def test_steps_nest_and_carry_their_errors() -> None:
    tracker = track(
        [
            event(10, "begin"),
            event(11, "step-begin", step="machines"),
            event(12, "step-begin", step="l1"),
            event(14, "step-end", step="l1", error="MachineDied('l1')"),
            event(15, "step-end", step="machines"),
            event(16, "step-begin", step="attach"),
        ]
    )
    assert [(s.name, s.depth, s.begin_s, s.end_s, s.error) for s in tracker.steps] == [
        ("machines", 0, 1, 5, ""),
        ("l1", 1, 2, 4, "MachineDied('l1')"),
        ("attach", 0, 6, None, ""),
    ]
    assert tracker.current() == "attach"
    assert tracker.duration_s == 6


def test_current_names_all_open_steps() -> None:
    tracker = track([event(1, "step-begin", step="machines"), event(2, "step-begin", step="l2")])
    assert tracker.current() == "machines > l2"


def test_an_end_without_a_begin_is_no_step() -> None:
    assert track([event(1, "step-end", step="x")]).steps == []


def test_nothing_has_happened_yet() -> None:
    assert (track([]).current(), track([]).duration_s) == ("", 0.0)


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "{}", '{"t": 1}', '{"t": "1", "event": "x"}', '{"t": 1, "event": "step-begin"}']
)
def test_what_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        parse(line)


def test_broken_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'{"t": 1, "event": "begin"}\nrubbish \xff\n{"t": 2, "event": "end"}\n{"t"')
    events, problems = read_events(tmp_path)
    assert [e["event"] for e in events] == ["begin", "end"]
    assert problems == ["events.jsonl: unreadable line 2, 4"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert read_events(tmp_path) == ([], ["events.jsonl: No such file or directory"])
