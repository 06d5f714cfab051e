"""Running scenarios as one job, and judging them by what their run directories hold."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from lab import proc
from lab.config.request import RunRequest
from lab.errors import DeadlineExceeded
from lab.evidence.jobs import run_dirs
from lab.evidence.record import owner_alive
from lab.jobs.parent import PARENT
from lab.jobs.watch import Display, Watch
from lab.model import Level, RunResult, Verdict
from lab.report.job import JOB
from lab.report.result import RESULT, dumps, write_result
from lab.report.rundir import result_of
from lab.wait import Deadline, wait_until

# How often the runs are looked at, in seconds: often enough for a clock that shows seconds.
_LOOK_S = 0.2

# avocado needs a second to start, and less between two runs and to its end.
_CONTROLLER_IDLE_S = 60.0

# What a teardown may take (lab.jobs.spawner.GRACE_S) and something for the judging after it.
_TEARDOWN_S = 75.0

# A run may have to build a kernel and two images first.
_BUILD_S = 7200.0
_SLOWEST = 20.0


@dataclass(frozen=True)
class PlannedRun:
    """A run that was validated: what it is asked to do and what it needs (lab.topology.plan)."""

    name: str
    request: RunRequest
    ram_mb: int
    cores: int
    estimate_s: float

    @property
    def limit_s(self) -> float:
        """After so many seconds the run counts as hung; 0 is never, for a lab that is kept."""
        return 0.0 if self.request.keep != "never" else _BUILD_S + _SLOWEST * self.estimate_s


@dataclass(frozen=True)
class JobOutcome:
    """What a job came to. ``results`` are of the runs that were started, ``engine_failed`` of those that never were.

    A run that is missing from both was not started because the job was interrupted, or had failed before.
    """

    results: list[RunResult]
    interrupted: bool = False
    not_started: list[str] = field(default_factory=list)
    engine_failed: list[RunResult] = field(default_factory=list)


def run_job(
    runs: Sequence[PlannedRun],
    job_dir: Path,
    display: Display,
    *,
    max_parallel: int | None = None,
    repeat: int = 1,
    until_fail: bool = False,
) -> JobOutcome:
    """Run all of them, ``repeat`` times, in the existing directory ``job_dir``.

    ``max_parallel`` of None means as many as RAM and cores allow. With ``until_fail`` nothing is started after the
    first FAIL or ERROR. SIGINT, SIGTERM and SIGHUP end the job with every lab torn down; they raise nothing.
    Call it in the main thread.
    """
    folders = run_dirs(job_dir, [run.name for run in runs], repeat)
    _write_spec(job_dir, list(runs) * repeat, folders, max_parallel, until_fail)
    watch = Watch(folders, display)
    with _counted_signals() as interrupts:
        status, kept = _run_controller(job_dir, watch, display, interrupts)
        _wait_for_orphans(watch, display)
        watch.look()
        return _judge(watch, job_dir, status, until_fail, bool(interrupts) and not kept)


def _write_spec(
    job_dir: Path,
    runs: Sequence[PlannedRun],
    folders: Sequence[tuple[str, Path]],
    max_parallel: int | None,
    until_fail: bool,
) -> None:
    """Write what the controller runs, the longest first: then a long one does not start when all others are done."""
    specs = [
        {
            "name": run_dir.name,
            "request": run.request.model_dump_json(),
            "run_dir": str(run_dir),
            "ram_mb": run.ram_mb,
            "cores": run.cores,
            "limit_s": run.limit_s,
        }
        for run, (_, run_dir) in sorted(zip(runs, folders, strict=True), key=lambda pair: -pair[0].estimate_s)
    ]
    spec = {
        "command": shlex.join(["vdpalab", *sys.argv[1:]]),
        "began": time.time(),
        "max_parallel": max_parallel,
        "until_fail": until_fail,
        "runs": specs,
    }
    (job_dir / JOB).write_text(dumps(spec), encoding="utf-8")


def _run_controller(job_dir: Path, watch: Watch, display: Display, interrupts: list[int]) -> tuple[int, bool]:
    """Run avocado to its end; return its exit status and whether a kept lab was what the user ended."""
    (job_dir / "avocado").mkdir()
    argv = [sys.executable, "-P", "-m", "lab.jobs.controller", str(job_dir)]
    kept = False
    with (
        (job_dir / "avocado" / "controller.log").open("ab") as log,
        proc.spawn(argv, env={PARENT: str(os.getpid())}, stdout=log, stderr=log, grace_s=_TEARDOWN_S) as controller,
    ):
        answered, idle = 0, Deadline(_CONTROLLER_IDLE_S)
        while True:
            with contextlib.suppress(DeadlineExceeded):
                return controller.wait(Deadline(_LOOK_S)), kept
            watch.look()
            if len(interrupts) > answered:
                kept = kept or watch.kept
                _interrupt(controller, display, first=answered == 0)
                answered = len(interrupts)
            if watch.busy:
                idle = Deadline(_CONTROLLER_IDLE_S)
            elif idle.over():
                return controller.stop(), kept


def _interrupt(controller: proc.Process, display: Display, *, first: bool) -> None:
    if first:
        display.say("interrupted: ending every lab cleanly")
        controller.signal(signal.SIGTERM)
    else:
        display.say("still ending; `vdpalab clean` removes what a killed lab leaves")


def _wait_for_orphans(watch: Watch, display: Display) -> None:
    """A controller that died hard leaves runners that are tearing down; their results are still to come."""
    folders = [state.run_dir for state in watch.runs if not state.ended]
    if any(owner_alive(folder) for folder in folders):
        display.say("the job engine is gone; waiting for its runs to end")
        with contextlib.suppress(DeadlineExceeded):
            wait_until(lambda: not any(map(owner_alive, folders)), Deadline(_TEARDOWN_S), "the end of orphaned runs")


def _judge(watch: Watch, job_dir: Path, status: int, until_fail: bool, interrupted: bool) -> JobOutcome:
    results = [state.result or result_of(state.run_dir) for state in watch.runs if state.run_dir.is_dir()]
    for result in results:
        _complete(result)
    missing = [state for state in watch.runs if not state.run_dir.is_dir()]
    stopped = until_fail and any(result.verdict in (Verdict.FAIL, Verdict.ERROR) for result in results)
    if interrupted or stopped or not missing:
        return JobOutcome(results, interrupted, [state.scenario for state in missing])
    log = job_dir / "avocado" / "controller.log"
    reason = f"never started: the job engine ended with status {status}, see {log}"
    failed = [_never_started(state.scenario, state.run_dir, reason) for state in missing]
    return JobOutcome(results, interrupted, [state.scenario for state in missing], failed)


def _complete(result: RunResult) -> None:
    """Write the result that a killed runner could not write: whoever reads the run directory finds one."""
    run_dir = Path(result.run_dir)
    if not (run_dir / RESULT).exists():
        with contextlib.suppress(OSError):  # a full disk, which the report will tell
            write_result(run_dir, result)


def _never_started(scenario: str, run_dir: Path, reason: str) -> RunResult:
    return RunResult(scenario, Verdict.ERROR, Level.LAB, None, reason, 0.0, str(run_dir))


@contextlib.contextmanager
def _counted_signals() -> Iterator[list[int]]:
    """While this is entered, signals that ask for the end are noted instead of raising somewhere."""
    seen: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.signal(number, note)) for number in numbers]
    try:
        yield seen
    finally:
        for number, handler in before:
            signal.signal(number, handler)
