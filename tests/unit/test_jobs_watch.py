"""Following runs from their files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.jobs.watch import RunState, Watch
from lab.model import Level, Verdict
from lab.report.result import write_result
from tests.sample_job import PASSED


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.shown: list[RunState] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def show(self, runs: Sequence[RunState]) -> None:
        self.shown = list(runs)

    def new(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


class Run:
    """A run directory that a test fills step by step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.display = Lines()
        self.watch = Watch([("net-a", path)], self.display)

    def look(self) -> list[str]:
        self.watch.look()
        return self.display.new()

    def event(self, kind: str, end: str = "\n", **fields: Any) -> None:
        with (self.path / "events.jsonl").open("a") as events:
            events.write(json.dumps({"t": 1.0, "event": kind, **fields}) + end)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "001-net-a")


def test_nothing_is_said_before_a_run_starts(run: Run) -> None:
    assert run.look() == []
    assert not run.watch.busy
    assert run.display.shown[0].elapsed_s == 0


def test_steps_and_progress(run: Run) -> None:
    run.path.mkdir()
    assert run.look() == ["net-a: started"]
    run.event("begin")
    run.event("step-begin", step="machines")
    run.event("step-begin", step="l1")
    assert run.look() == ["net-a: machines", "net-a: machines > l1"]
    run.event("progress", text="kernel: 40 %")
    run.event("command", host="l1")
    assert run.look() == ["net-a: kernel: 40 %"]
    assert (run.display.shown[0].step, run.display.shown[0].note) == ("machines > l1", "kernel: 40 %")
    run.event("step-end", step="l1")
    assert run.look() == []
    assert (run.display.shown[0].step, run.display.shown[0].note) == ("machines", "")
    assert run.watch.busy


def test_a_line_that_is_being_written_waits(run: Run) -> None:
    run.path.mkdir()
    run.look()
    run.event("step-begin", end="", step="machines")
    assert run.look() == []
    run.event("x")
    (run.path / "events.jsonl").write_text('{"t": 1, "event": "step-begin", "step": "machines"}\nrubbish\n')
    assert run.look() == ["net-a: machines"]


def test_the_end_is_judged_once(run: Run) -> None:
    run.path.mkdir()
    run.event("step-begin", step="undo")
    (run.path / "runner.json").write_text('{"pid": 1, "returncode": null}')
    assert run.look() == ["net-a: started", "net-a: undo"]
    bad = replace(PASSED, verdict=Verdict.FAIL, level=Level.L1_KERNEL, reason="WARNING\nmore")
    write_result(run.path, bad)
    (run.path / "runner.json").write_text('{"pid": 1, "returncode": 0}')
    assert run.look() == ["net-a: FAIL at l1-kernel after 0 s: WARNING"]
    assert run.look() == []
    assert not run.watch.busy
    assert run.watch.runs[0].result is not None


def test_a_runner_without_result_ends_too(run: Run) -> None:
    run.path.mkdir()
    (run.path / "runner.json").write_text('{"pid": 1, "returncode": -9}')
    assert "ERROR at lab after 0 s: the runner was killed by signal 9" in run.look()[1]


def test_a_kept_lab_says_how_to_enter(run: Run) -> None:
    run.path.mkdir()
    run.look()
    (run.path / "kept.json").write_text('{"verdict": "PASS", "machines": {"l1": {"shell": "vdpalab shell l1"}}}')
    run.event("kept", file="kept.json")
    (line,) = run.look()
    assert line.splitlines()[0] == "net-a: the lab stays up; Ctrl-C ends it"
    assert "      shell    vdpalab shell l1" in line.splitlines()
    assert run.watch.kept


def test_a_broken_description_of_a_kept_lab_is_named(run: Run) -> None:
    run.path.mkdir()
    (run.path / "kept.json").write_text("{")
    run.event("kept")
    assert "kept.json cannot be read" in run.look()[1]


def test_errors_are_said_on_one_line(run: Run) -> None:
    run.path.mkdir()
    run.look()
    run.event("error", error="l1: QEMU ended\nlong stderr")
    assert run.look() == ["net-a: error: l1: QEMU ended"]
