"""Following the runs of a job from their files, as they are written."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lab.model import RunResult
from lab.report.events import EVENTS, Event, StepTracker, parse
from lab.report.rundir import RUNNER, result_of

KEPT = "kept.json"


@dataclass
class RunState:
    """One run as a display shows it. Times are of the monotonic clock; ``result`` is None until the run has ended."""

    scenario: str
    run_dir: Path
    began: float | None = None
    ended: float | None = None
    step: str = ""
    note: str = ""
    result: RunResult | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run was started, until it ended."""
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0


class Display(Protocol):
    """What shows a job to the user while it runs."""

    def say(self, line: str) -> None:
        """Something happened."""

    def show(self, runs: Sequence[RunState]) -> None:
        """How all runs stand."""


@dataclass
class _Follower:
    """Reads the new events of one run at each look."""

    state: RunState
    offset: int = 0
    tracker: StepTracker = field(default_factory=StepTracker)

    def look(self) -> list[str]:
        """Return what happened since the last look, as lines."""
        state = self.state
        if state.ended or not state.run_dir.is_dir():
            return []
        lines = []
        if state.began is None:
            state.began = time.monotonic()
            lines.append("started")
        # The end first: what the run wrote before it is then read for certain.
        ended = self._runner_ended()
        lines += [line for event in self._new_events() if (line := self._take(event))]
        if ended:
            state.ended = time.monotonic()
            state.result = result_of(state.run_dir)
            state.step = state.note = ""
            lines.append(_end_line(state))
        return [f"{state.scenario}: {line}" for line in lines]

    def _new_events(self) -> list[Event]:
        """The events after ``offset``; a line that is still being written waits for the next look."""
        try:
            with (self.state.run_dir / EVENTS).open("rb") as file:
                file.seek(self.offset)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        return [event for line in whole.splitlines() if (event := _parse_or_none(line))]

    def _take(self, event: Event) -> str:
        self.tracker.feed(event)
        self.state.step = self.tracker.current()
        match event["event"]:
            case "step-begin" | "step-end" as kind:
                self.state.note = ""
                return self.state.step if kind == "step-begin" else ""
            case "progress":
                self.state.note = str(event.get("text", ""))
                return self.state.note
            case "error":
                return f"error: {str(event.get('error', '')).partition(chr(10))[0]}"
            case "kept":
                return "\n".join(["the lab stays up; Ctrl-C ends it", *_kept_lines(self.state.run_dir)])
        return ""

    def _runner_ended(self) -> bool:
        try:
            status = json.loads((self.state.run_dir / RUNNER).read_bytes())["returncode"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return status is not None


class Watch:
    """Follows all runs of a job and tells the display."""

    def __init__(self, runs: Sequence[tuple[str, Path]], display: Display) -> None:
        self._followers = [_Follower(RunState(name, run_dir)) for name, run_dir in runs]
        self._display = display

    @property
    def runs(self) -> list[RunState]:
        """How all runs stand, in the order of the job."""
        return [follower.state for follower in self._followers]

    def look(self) -> None:
        """Read what is new and show it."""
        for follower in self._followers:
            for line in follower.look():
                self._display.say(line)
        self._display.show(self.runs)

    @property
    def kept(self) -> bool:
        """Whether a run has come to its verdict and keeps its lab up."""
        return any((state.run_dir / KEPT).exists() for state in self.runs)

    @property
    def busy(self) -> bool:
        """Whether a run has been started and has not ended."""
        return any(state.began and not state.ended for state in self.runs)


def _end_line(state: RunState) -> str:
    result = state.result
    if result is None:
        return "ended"
    where = f" at {result.level}" if result.level else ""
    reason = f": {result.reason.partition(chr(10))[0]}" if result.reason else ""
    return f"{result.verdict}{where} after {state.elapsed_s:.0f} s{reason}"


def _kept_lines(run_dir: Path) -> list[str]:
    """How to enter each level, from what the run wrote (lab.scenarios.keep)."""
    try:
        kept = json.loads((run_dir / KEPT).read_bytes())
    except (OSError, ValueError) as error:
        return [f"  {KEPT} cannot be read: {error}"]
    return _tree(kept, "  ") if isinstance(kept, dict) else []


def _tree(node: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in node.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}", *_tree(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key:<8} {value}")
    return lines


def _parse_or_none(line: bytes) -> Event | None:
    try:
        return parse(line)
    except ValueError:
        return None
