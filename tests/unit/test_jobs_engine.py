"""What the engine tells avocado, and what it makes of what is left; with real processes in tests/e2e/test_jobs.py."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab import proc
from lab.config.request import RunRequest
from lab.jobs import engine
from lab.jobs.engine import PlannedRun, _counted_signals, run_job
from lab.jobs.watch import RunState
from lab.report.result import read, write_result
from tests.sample_job import FAILED, PASSED


class Quiet:
    def say(self, line: str) -> None:
        pass

    def show(self, runs: Sequence[RunState]) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_avocado(monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller is a program that ends at once."""
    monkeypatch.setattr(sys, "executable", "true")


def planned(name: str, estimate_s: float = 1, keep: str = "never") -> PlannedRun:
    request = RunRequest.model_validate({"scenario": name, "keep": keep})
    return PlannedRun(name, request, 2348, 2, estimate_s)


def test_the_controller_is_told_the_longest_first(tmp_path: Path) -> None:
    run_job([planned("short"), planned("long", 90)], tmp_path, Quiet(), max_parallel=2, repeat=2, until_fail=True)
    spec = json.loads((tmp_path / "job.json").read_text())
    assert [run["name"] for run in spec["runs"]] == ["002-long.1", "004-long.2", "001-short.1", "003-short.2"]
    assert (spec["max_parallel"], spec["until_fail"]) == (2, True)
    first = spec["runs"][0]
    assert first["run_dir"] == str(tmp_path / "002-long.1")
    assert (first["ram_mb"], first["cores"], json.loads(first["request"])["scenario"]) == (2348, 2, "long")


def test_a_run_has_a_limit_unless_its_lab_is_kept() -> None:
    assert planned("a", 90).limit_s > 3600
    assert planned("a", 90, keep="on-fail").limit_s == 0


def test_what_never_started_is_an_error(tmp_path: Path) -> None:
    outcome = run_job([planned("a")], tmp_path, Quiet())
    assert outcome.results == []
    assert [(r.scenario, r.verdict, r.level) for r in outcome.engine_failed] == [("a", "ERROR", "lab")]
    assert "controller.log" in outcome.engine_failed[0].reason


def test_after_a_failure_with_until_fail_the_rest_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / "001-a.1").mkdir()
    write_result(tmp_path / "001-a.1", FAILED)
    outcome = run_job([planned("a")], tmp_path, Quiet(), repeat=3, until_fail=True)
    assert [r.verdict for r in outcome.results] == ["FAIL"]
    assert (outcome.not_started, outcome.engine_failed) == (["a", "a"], [])


def test_until_fail_that_passed_must_have_run_everything(tmp_path: Path) -> None:
    (tmp_path / "001-a.1").mkdir()
    write_result(tmp_path / "001-a.1", PASSED)
    assert len(run_job([planned("a")], tmp_path, Quiet(), repeat=3, until_fail=True).engine_failed) == 2


def test_a_run_without_result_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "001-a").mkdir()
    (result,) = run_job([planned("a")], tmp_path, Quiet()).results
    assert (result.verdict, result.level) == ("ERROR", "lab")
    assert read(tmp_path / "001-a" / "result.json") == result


def test_signals_are_counted_not_raised() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _counted_signals() as seen:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert seen == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_takes_no_signals() -> None:
    thread = threading.Thread(target=lambda: _counted_signals().__enter__())
    thread.start()
    thread.join()


def test_a_display_that_fails_leaves_no_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[proc.Process] = []
    real = proc.start

    def start(_argv: object, **kwargs: object) -> proc.Process:
        started.append(real(["sleep", "60"], **kwargs))  # type: ignore[arg-type]
        return started[-1]

    class Broken(Quiet):
        def show(self, runs: Sequence[RunState]) -> None:
            raise RuntimeError("no terminal")

    monkeypatch.setattr(proc, "start", start)
    with pytest.raises(RuntimeError, match="no terminal"):
        run_job([planned("a")], tmp_path, Broken())
    assert started[0].poll() == -signal.SIGTERM


def test_a_controller_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = proc.start
    monkeypatch.setattr(proc, "start", lambda _argv, **kwargs: real(["sleep", "60"], **kwargs))
    monkeypatch.setattr(engine, "_CONTROLLER_IDLE_S", 0.3)
    assert [r.verdict for r in run_job([planned("a")], tmp_path, Quiet()).engine_failed] == ["ERROR"]
