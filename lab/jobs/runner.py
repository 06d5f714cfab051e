"""The avocado runner of scenarios: ``avocado-runner-vdpalab-scenario``, one process per run.

The run is executed in the main thread, so that a signal reaches it; avocado needs no heartbeat (it watches the
process), and gets none.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avocado.core.nrunner.app import BaseRunnerApp
from avocado.core.nrunner.runner import BaseRunner
from avocado.core.utils import messages

from lab.artifacts.store import cache_root
from lab.config.request import RunRequest
from lab.evidence.jobs import new_job, run_dirs
from lab.jobs.body import interrupt_once, run_one
from lab.jobs.parent import follow_parent
from lab.report.job import JOB, write_reports
from lab.report.result import dumps

KIND = "vdpalab-scenario"

# In avocado's directory of a test: a link to the run directory.
RUN_LINK = "run"


class ScenarioRunner(BaseRunner):  # type: ignore[misc]  # avocado has no types
    """Executes one runnable of our kind. Its kwargs: ``request`` (JSON of RunRequest), ``run_dir`` (may be missing)."""

    name = KIND
    description = "Runs vDPA scenarios"
    CONFIGURATION_USED: list[str] = []

    def run(self, runnable: Any) -> Iterator[dict[str, Any]]:
        """Yield avocado's messages around the run."""
        yield messages.StartedMessage.get()
        request = _request(runnable)
        run_dir = _run_dir(runnable, request)
        yield messages.LogMessage.get(f"evidence: {run_dir}")
        result = run_one(request, run_dir)
        if not runnable.kwargs.get("run_dir"):
            write_reports(run_dir.parent)
        yield messages.FinishedMessage.get(result.verdict.lower(), result.reason)


class RunnerApp(BaseRunnerApp):  # type: ignore[misc]  # avocado has no types
    """The command line that avocado's spawners call."""

    PROG_NAME = f"avocado-runner-{KIND}"
    PROG_DESCRIPTION = "Runs vDPA scenarios for avocado"
    RUNNABLE_KINDS_CAPABLE = [KIND]


def main() -> None:
    """Entry point. Raises Interrupted only outside of a run."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt_once)
    follow_parent()
    RunnerApp(_echo).run()


def _echo(message: object) -> None:
    """Answer questions about the runner; the messages of a run go to avocado's socket, and are no evidence."""
    if isinstance(message, str):
        print(message)


def _request(runnable: Any) -> RunRequest:
    """The engine hands over a whole request; `avocado run` has only the scenario."""
    if text := runnable.kwargs.get("request"):
        return RunRequest.model_validate_json(text)
    return RunRequest(scenario=str(runnable.uri))


def _run_dir(runnable: Any, request: RunRequest) -> Path:
    """Where the run writes. Under `avocado run` a job of our own: avocado's paths are too long for UNIX sockets."""
    if path := runnable.kwargs.get("run_dir"):
        return Path(path)
    job = new_job(cache_root() / "jobs")
    (job / JOB).write_text(dumps({"command": f"avocado run {runnable.uri}", "began": time.time()}))
    run_dir = run_dirs(job, [Path(request.scenario).stem])[0][1]
    if runnable.output_dir:
        (Path(runnable.output_dir) / RUN_LINK).symlink_to(run_dir)
    return run_dir


if __name__ == "__main__":
    main()
