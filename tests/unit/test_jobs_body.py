"""One run in this process always leaves a result; a process follows its parent."""

from __future__ import annotations

import json
import os
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import proc
from lab.config.request import RunRequest
from lab.errors import Interrupted
from lab.evidence.record import Record
from lab.jobs.body import interrupt_once, run_one
from lab.jobs.parent import PARENT
from lab.model import RunResult, Verdict
from lab.report.rundir import result_of
from lab.wait import Deadline
from tests.sample_job import PASSED

REQUEST = RunRequest(scenario="net-a")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stands in for lab.scenarios.run; a test sets its ``execute``."""
    monkeypatch.setenv(proc.RUN_MARK, "")
    module = types.ModuleType("lab.scenarios.run")
    monkeypatch.setitem(sys.modules, "lab.scenarios.run", module)
    return module


def test_the_engines_result_is_the_result(engine: types.ModuleType, tmp_path: Path) -> None:
    engine.execute = lambda _request, _run_dir: PASSED  # type: ignore[attr-defined]
    assert run_one(REQUEST, tmp_path / "run") == PASSED
    assert json.loads((tmp_path / "run" / "request.json").read_text())["scenario"] == "net-a"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("oops"), "defect of the lab during attach: RuntimeError: oops"),
        (Interrupted("SIGTERM"), "interrupted (SIGTERM) during attach"),
    ],
)
def test_what_the_engine_raises_becomes_an_error(
    engine: types.ModuleType, tmp_path: Path, error: BaseException, reason: str
) -> None:
    def execute(_request: RunRequest, run_dir: Path) -> RunResult:
        record = Record(run_dir)
        record.event("step-begin", step="attach")
        raise error

    engine.execute = execute  # type: ignore[attr-defined]
    result = run_one(REQUEST, tmp_path)
    assert (result.scenario, result.verdict, result.level, result.reason) == ("net-a", Verdict.ERROR, "lab", reason)
    assert result_of(tmp_path) == result


@pytest.fixture
def _own_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_handlers")
def test_only_the_first_signal_interrupts() -> None:
    signal.signal(signal.SIGTERM, interrupt_once)
    with pytest.raises(Interrupted, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    with proc.spawn(["sleep", "60"]) as child:
        child.signal(signal.SIGTERM)
        assert child.wait(Deadline(20)) == -signal.SIGTERM, "the handlers are not inherited"


_FOLLOW = """
import signal
from lab.jobs.parent import follow_parent
follow_parent()
print("following", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("parent_is_dead", [False, True])
def test_a_process_ends_with_its_parent(parent_is_dead: bool) -> None:
    with proc.spawn(["sleep", "60"]) as parent:
        if parent_is_dead:
            parent.stop()
        with proc.spawn(
            [sys.executable, "-P", "-c", _FOLLOW], env={PARENT: str(parent.pid)}, stdout=proc.PIPE
        ) as child:
            assert child.stdout is not None
            if not parent_is_dead:
                assert child.stdout.readline() == b"following\n"
                assert child.poll() is None
                parent.stop()
            assert child.wait(Deadline(20)) == -signal.SIGTERM
