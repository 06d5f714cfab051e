"""The process in which avocado runs a job: ``python -m lab.jobs.controller JOB_DIR``.

A process of its own, because avocado takes over logging, stdout, signals and the event loop of the one it runs in.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from avocado.core.job import Job
from avocado.core.nrunner.runnable import RUNNERS_REGISTRY_STANDALONE_EXECUTABLE, Runnable
from avocado.core.settings import settings
from avocado.core.suite import TestSuite

from lab.evidence.scratch import scratch
from lab.jobs.parent import follow_parent
from lab.jobs.runner import KIND
from lab.jobs.spawner import GRACE_S
from lab.report.job import JOB

# Results and system information are ours; what stays is avocado's job log.
_DISABLED = [
    *(f"result.{name}" for name in ("json", "tmt", "xunit", "zip_archive")),
    *(f"result_events.{name}" for name in ("beaker", "bystatus", "fetchasset", "human", "journal", "sysinfo", "tap")),
    *(f"job.prepost.{name}" for name in ("human", "jobscripts", "testlogsui")),
]


def main() -> int:
    """Run the job that ``job.json`` describes; return avocado's exit code, which decides nothing."""
    follow_parent()
    job_dir = Path(sys.argv[1])
    spec = json.loads((job_dir / JOB).read_text(encoding="utf-8"))
    settings.update_option("plugins.disable", _DISABLED)
    # Any directory that exists; else avocado makes ~/avocado/tests to say in its log where it is.
    settings.update_option("datadir.paths.test_dir", str(job_dir))
    # Known to avocado without being asked for its capabilities, and found without PATH.
    RUNNERS_REGISTRY_STANDALONE_EXECUTABLE[KIND] = [sys.executable, "-P", "-m", "lab.jobs.runner"]
    config = job_config(spec, job_dir)
    suite = TestSuite("", config=config, tests=[_runnable(run) for run in spec["runs"]])
    with scratch(job_dir.parent) as temporary:
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        with Job(config, [suite]) as job:
            return int(job.run())


def job_config(spec: dict[str, Any], job_dir: Path) -> dict[str, Any]:
    """avocado's configuration of a job. How many run at once is decided by the spawner alone."""
    return {
        "run.results_dir": str(job_dir / "avocado"),
        "run.spawner": "vdpalab",
        "run.max_parallel_tasks": max(1, len(spec["runs"])),
        "runner.task.interval.from_soft_to_hard_termination": int(GRACE_S),
        "sysinfo.collect.enabled": False,
        "core.show": {"app"},
        "vdpalab.runs": spec["max_parallel"] or 0,
        "vdpalab.until_fail": spec["until_fail"],
    }


def _runnable(run: dict[str, Any]) -> Runnable:
    return Runnable(KIND, run["name"], **{key: value for key, value in run.items() if key != "name"})


if __name__ == "__main__":
    sys.exit(main())
