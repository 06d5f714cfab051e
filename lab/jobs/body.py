"""One run, in this process: whatever happens to it, a result.json is there afterwards."""

from __future__ import annotations

import os
import signal
import traceback
from pathlib import Path
from types import FrameType

from lab.config.request import RunRequest
from lab.errors import Interrupted
from lab.model import RunResult
from lab.proc import RUN_MARK
from lab.report.result import write_result
from lab.report.rundir import REQUEST, error_result, last_step


def run_one(request: RunRequest, run_dir: Path) -> RunResult:
    """Execute one run and return its result."""
    # Imported here: it is the whole lab, and `avocado list` also imports this module's users.
    from lab.scenarios.run import execute

    run_dir.mkdir(parents=True, exist_ok=True)
    # Builds too, not only machines: when this process is killed, what it started is found by the mark.
    os.environ[RUN_MARK] = str(run_dir)
    (run_dir / REQUEST).write_text(request.model_dump_json(indent=1) + "\n", encoding="utf-8")
    try:
        return execute(request, run_dir)
    except Interrupted as stop:
        result = error_result(run_dir, f"interrupted ({stop}){last_step(run_dir)}")
    except Exception as defect:
        # A defect of the lab is an ERROR of this run; the others of the job go on.
        traceback.print_exc()
        result = error_result(run_dir, f"defect of the lab{last_step(run_dir)}: {type(defect).__name__}: {defect}")
    write_result(run_dir, result)
    return result


def interrupt_once(number: int, _frame: FrameType | None) -> None:
    """Signal handler: raise Interrupted, and let nothing disturb the teardown that follows."""
    for other in (signal.SIGTERM, signal.SIGINT):
        # Not SIG_IGN: the commands of the teardown would inherit it, and could not be ended themselves.
        signal.signal(other, lambda _number, _frame: None)
    raise Interrupted(signal.Signals(number).name)
