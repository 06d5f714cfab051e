"""Reading ``events.jsonl`` (lab.evidence.record): the steps of a run and the facts it noted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"

Event = Mapping[str, Any]


@dataclass
class Step:
    """One step of a run. Times are seconds since the run's first event; ``end_s`` is None while it is open."""

    name: str
    depth: int
    begin_s: float
    end_s: float | None = None
    error: str = ""


class StepTracker:
    """Follows the steps of a run event by event."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.first_t: float | None = None
        self.last_t = 0.0

    def feed(self, event: Event) -> None:
        """Take the next event."""
        self.last_t = float(event["t"])
        if self.first_t is None:
            self.first_t = self.last_t
        match event["event"]:
            case "step-begin":
                self.steps.append(Step(str(event["step"]), len(self._open()), self.last_t - self.first_t))
            case "step-end":
                self._end(str(event["step"]), str(event.get("error", "")))

    def current(self) -> str:
        """The open steps, outermost first, as ``outer > inner``; empty between steps."""
        return " > ".join(step.name for step in self._open())

    @property
    def duration_s(self) -> float:
        """Seconds between the first and the last event."""
        return self.last_t - (self.first_t or 0.0)

    def _open(self) -> list[Step]:
        return [step for step in self.steps if step.end_s is None]

    def _end(self, name: str, error: str) -> None:
        # The last one of this name: threads may interleave their steps.
        for step in reversed(self._open()):
            if step.name == name:
                step.end_s = self.last_t - (self.first_t or 0.0)
                step.error = error
                return


def track(events: Iterable[Event]) -> StepTracker:
    """Follow a whole list of events."""
    tracker = StepTracker()
    for event in events:
        tracker.feed(event)
    return tracker


def parse(line: str | bytes) -> Event:
    """One line of the file. Raises ValueError when it is not an event."""
    event = json.loads(line)
    if not isinstance(event, dict) or not isinstance(event.get("t"), int | float) or "event" not in event:
        raise ValueError("not an event")
    if str(event["event"]).startswith("step-") and "step" not in event:
        raise ValueError("a step without a name")
    return event


def read_events(run_dir: Path) -> tuple[list[Event], list[str]]:
    """The events of a run and the problems of the file, which a killed lab may have left half written."""
    try:
        lines = (run_dir / EVENTS).read_bytes().splitlines()
    except OSError as error:
        return [], [f"{EVENTS}: {error.strerror}"]
    events, broken = [], []
    for number, line in enumerate(lines, 1):
        try:
            events.append(parse(line))
        except ValueError:
            broken.append(str(number))
    return events, [f"{EVENTS}: unreadable line {', '.join(broken)}"] if broken else []
