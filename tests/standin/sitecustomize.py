"""Replaces lab.scenarios.run in every Python that has this folder in PYTHONPATH: a run that does what it is told.

The environment variable STANDIN is JSON: scenario -> list of words. The words: ``step:NAME``, ``progress:TEXT``,
``wait:SECONDS``, ``verdict:V``, ``kept``, ``kill``, ``raise:TEXT``, ``undo:SECONDS`` (the teardown takes so long, and
leaves the file ``undone``).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import types
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.config.request import RunRequest
    from lab.evidence.record import Record
    from lab.model import RunResult


def execute(request: RunRequest, run_dir: Path) -> RunResult:
    from lab.errors import Interrupted
    from lab.evidence.record import Record
    from lab.report.result import write_result
    from lab.report.rundir import scenario_name

    record = Record(run_dir)
    words = json.loads(os.environ.get("STANDIN", "{}")).get(scenario_name(run_dir), [])
    script = [word.partition(":")[::2] for word in words]
    undo_s = next((float(value) for name, value in script if name == "undo"), 0.0)
    verdict, error = "PASS", ""
    try:
        with contextlib.ExitStack() as steps:
            for name, value in script:
                verdict = _do(record, steps, name, value) or verdict
    except Interrupted:
        if not (run_dir / "kept.json").exists():
            verdict, error = "ERROR", "interrupted"
    finally:
        _wait(undo_s)
        (run_dir / "undone").touch()
        (run_dir / "kept.json").unlink(missing_ok=True)
    result = _result(scenario_name(run_dir), verdict, error, run_dir)
    write_result(run_dir, result)
    record.close()
    return result


def _do(record: Record, steps: contextlib.ExitStack, name: str, value: str) -> str:
    match name:
        case "step":
            steps.enter_context(record.step(value))
        case "progress":
            record.event("progress", text=value)
        case "wait":
            _wait(float(value))
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise RuntimeError(value)
        case "kept":
            record.write("kept.json", '{"machines": {"l1": {"shell": "vdpalab shell l1"}}}')
            record.event("kept", file="kept.json")
            _wait(60)
        case "verdict":
            return value
    return ""


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def _result(scenario: str, verdict: str, error: str, run_dir: Path) -> RunResult:
    from lab.model import Check, Level, RunResult, Verdict

    good = verdict == "PASS"
    check = Check("proof", Verdict.PASS, "bytes", "bytes", proof=True)
    return RunResult(
        scenario, Verdict(verdict), None if good else Level.LAB, None, error, 0.5, str(run_dir), checks=(check,)
    )


_module = types.ModuleType("lab.scenarios.run")
_module.execute = execute  # type: ignore[attr-defined]
sys.modules["lab.scenarios.run"] = _module
