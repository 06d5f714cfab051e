"""Reading a run directory, whatever state it is in: what is missing or broken is named, never raised.

::

    request.json   what was asked (lab.config.request)      runner.json  pid and returncode of the runner process
    runner.log     what the runner printed                  the rest: lab.evidence.record
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lab.config.request import RunRequest
from lab.errors import LabError
from lab.model import Level, RunResult, Verdict
from lab.report.events import Event, Step, StepTracker, read_events, track
from lab.report.result import RESULT, read

REQUEST = "request.json"
RUNNER = "runner.json"
RUNNER_LOG = "runner.log"

# Escape sequences of a terminal (ECMA-48) and carriage returns, of which consoles are full.
_NOT_PRINTED = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_c]|\r")

# A console, a QEMU, the device model.
_LOGS = ("console.log", "qemu.log", "server.log")
_TAIL_LINES = 40
_TAIL_BYTES = 16384


@dataclass(frozen=True)
class Series:
    """Measured values over time: ``points`` are (seconds, value)."""

    title: str
    unit: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Command:
    """One recorded command; ``base`` is its files' path below the run directory, without ending."""

    host: str
    base: str
    command: str
    returncode: int
    seconds: float
    files: tuple[str, ...]


@dataclass(frozen=True)
class RunView:
    """Everything that a report shows of one run."""

    path: Path
    result: RunResult
    request: RunRequest | None
    facts: dict[str, str]
    began: float | None
    steps: list[Step]
    events: list[Event]
    series: list[Series]
    commands: list[Command]
    tails: dict[str, str]
    files: list[str]
    problems: list[str] = field(default_factory=list)


def result_of(run_dir: Path) -> RunResult:
    """The run's result; an ERROR of the lab that says what happened when the run left none."""
    try:
        return result_in(run_dir)
    except LabError as problem:
        return _vanished(run_dir, problem.message)


def result_in(run_dir: Path) -> RunResult:
    """The result that the run itself wrote, wherever its directory is now. Raises LabError."""
    return replace(read(run_dir / RESULT), run_dir=str(run_dir))


def error_result(run_dir: Path, reason: str) -> RunResult:
    """The result of a run that the lab could not bring to a verdict of its own."""
    events, _ = read_events(run_dir)
    return RunResult(
        scenario=scenario_name(run_dir),
        verdict=Verdict.ERROR,
        level=Level.LAB,
        machine=None,
        reason=reason,
        duration_s=round(track(events).duration_s, 3),
        run_dir=str(run_dir),
    )


def scenario_name(run_dir: Path) -> str:
    """The scenario's name, from the request; without one from the directory's name (lab.evidence.jobs.run_dirs)."""
    if request := read_request(run_dir, []):
        return Path(request.scenario).stem if request.scenario.endswith(".toml") else request.scenario
    number, _, name = run_dir.name.partition("-")
    return name if number.isdigit() and name else run_dir.name


def last_step(run_dir: Path) -> str:
    """The step that the run was in, as `` during STEP``; empty when it was in none."""
    step = track(read_events(run_dir)[0]).current()
    return f" during {step}" if step else ""


def read_run(run_dir: Path) -> RunView:
    """Read a run directory. Never raises for what is in it."""
    problems: list[str] = []
    plan = _read_json(run_dir / "plan.json", problems)
    raw_result = _read_json(run_dir / RESULT, [])
    try:
        result = result_in(run_dir)
    except LabError as problem:
        problems.append(problem.message)
        result = _vanished(run_dir, problem.message)
    events, event_problems = read_events(run_dir)
    tracker: StepTracker = track(events)
    began = next((event["wall"] for event in events if isinstance(event.get("wall"), float)), None)
    return RunView(
        path=run_dir,
        result=result,
        request=read_request(run_dir, problems),
        facts=_facts(plan, raw_result, events),
        began=began,
        steps=tracker.steps,
        events=events,
        series=_all_series(run_dir, problems),
        commands=_commands(run_dir, problems),
        tails=_tails(run_dir),
        files=_files(run_dir),
        problems=problems + event_problems,
    )


def read_request(run_dir: Path, problems: list[str]) -> RunRequest | None:
    """What the run was asked to do; None, and one more problem, when that cannot be read."""
    try:
        return RunRequest.model_validate_json((run_dir / REQUEST).read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{REQUEST}: {error.strerror}")
    except ValueError as error:
        problems.append(f"{REQUEST} is broken: {str(error).splitlines()[0]}")
    return None


def _vanished(run_dir: Path, problem: str) -> RunResult:
    reason = f"{_runner_end(run_dir)}{last_step(run_dir)} and left no result ({problem})"
    lines = [line for line in _tail(run_dir / RUNNER_LOG).splitlines() if line.strip()]
    return error_result(run_dir, f"{reason}; it last said: {lines[-1].strip()}" if lines else reason)


def _runner_end(run_dir: Path) -> str:
    runner = _read_json(run_dir / RUNNER, [])
    status = runner.get("returncode")
    if not isinstance(status, int):
        return "the runner vanished"
    if status < 0:
        return f"the runner was killed by signal {-status}"
    return f"the runner ended with status {status}"


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{path.name}: {error.strerror}")
    except ValueError as error:
        problems.append(f"{path.name} is broken: {error}")
    else:
        if isinstance(data, dict):
            return data
        problems.append(f"{path.name} is broken: not an object")
    return {}


_RESULT_KEYS = {
    "scenario", "verdict", "level", "machine", "reason", "known", "duration_s", "run_dir", "warm", "accel", "checks",
    "metrics", "schema",
}  # fmt: skip


def _facts(plan: dict[str, Any], result: dict[str, Any], events: list[Event]) -> dict[str, str]:
    """What ran where: what was found out on the way, what the result says beyond its schema, and the plan."""
    facts: dict[str, Any] = {}
    for event in events:
        match event["event"]:
            case "accel":
                facts[f"accel.{event.get('level')}"] = f"{event.get('accel')}: {event.get('reason')}"
            case "slowness" | "versions" as kind:
                facts[kind] = {key: value for key, value in event.items() if key not in ("t", "event")}
    facts |= {key: value for key, value in result.items() if key not in _RESULT_KEYS}
    # The request stands in the report as the command that repeats the run.
    return _flat(facts | {key: value for key, value in plan.items() if key != "request"})


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested objects as ``a.b.c``; lists of plain values on one line, null and empty ones left out."""
    flat: dict[str, str] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            flat |= _flat({str(number): item for number, item in enumerate(value)}, f"{name}.")
        elif value not in (None, "", []):
            flat[name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


def _all_series(run_dir: Path, problems: list[str]) -> list[Series]:
    found = []
    for path in sorted(run_dir.glob("workloads/**/*.json")):
        broken: list[str] = []
        data = _read_json(path, broken)
        try:
            series = _iperf3_series(path.stem, data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            broken.append(f"{path.name}: intervals not understood: {error!r}")
            series = None
        found += [series] if series else []
        problems += [f"workloads/{problem}" for problem in broken]
    return found


def _iperf3_series(name: str, data: dict[str, Any]) -> Series | None:
    """Throughput per interval of an iperf3 JSON report (iperf3(1), -J)."""
    sums = [interval["sum"] for interval in data.get("intervals", [])]
    points = tuple((float(s["end"]), float(s["bits_per_second"]) / 1e6) for s in sums)
    return Series(name, "Mbit/s", points) if len(points) > 1 else None


def _commands(run_dir: Path, problems: list[str]) -> list[Command]:
    found = []
    for path in sorted(run_dir.glob("hosts/*/cmd-*.json")):
        about = _read_json(path, problems)
        base = path.with_suffix("")
        files = tuple(
            str(file.relative_to(run_dir)) for file in sorted(path.parent.glob(f"{base.name}.*")) if file != path
        )
        argv = about.get("argv")
        try:
            command = " ".join(map(str, argv)) if isinstance(argv, list) else "?"
            status, seconds = int(about.get("returncode", -1)), float(about.get("seconds", 0))
        except (TypeError, ValueError):
            problems.append(f"{path.relative_to(run_dir)} is broken")
            continue
        found.append(Command(path.parent.name, str(base.relative_to(run_dir)), command, status, seconds, files))
    return found


def _tails(run_dir: Path) -> dict[str, str]:
    """The last lines of what the machines, their processes and the runner said, by path below the run directory."""
    logs = [log for name in _LOGS for log in sorted(run_dir.glob(f"machines/*/{name}"))]
    tails = {str(log.relative_to(run_dir)): _tail(log) for log in [*logs, run_dir / RUNNER_LOG]}
    return {name: text for name, text in tails.items() if text.strip()}


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(_NOT_PRINTED.sub("", text).splitlines()[-_TAIL_LINES:])


def _files(run_dir: Path) -> list[str]:
    """The files a reader may want to open, commands left out: they have a table of their own."""
    files = (path for path in run_dir.rglob("*") if path.is_file() and not path.is_symlink())
    names = sorted(str(path.relative_to(run_dir)) for path in files)
    return [name for name in names if not name.startswith("hosts/") and not name.endswith((".lock", "report.html"))]
