"""A job directory: read it, and (re)write everything that is made from it.

::

    job.json       the command, when it began (wall clock, seconds since the epoch), see lab.jobs.engine
    NNN-SCENARIO/  run directories                     avocado/  the job engine's own logs
    results.json  junit.xml  results.tap  report.html  written here
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import InputError
from lab.evidence.jobs import jobs
from lab.model import RunResult
from lab.report import junit, pages, tap
from lab.report.result import RESULTS, document, dumps, from_dict, write_text
from lab.report.rundir import RunView, read_run

JOB = "job.json"
REPORT = "report.html"

_RUN_DIR = re.compile(r"\d{3,}-.+")


@dataclass(frozen=True)
class JobView:
    """Everything that a report shows of one job. ``began`` is None when the job did not say."""

    path: Path
    command: str
    began: float | None
    runs: list[RunView]
    results: list[RunResult]


def run_dirs(job_dir: Path) -> list[Path]:
    """The run directories of a job, in order."""
    folders = (path for path in job_dir.iterdir() if path.is_dir() and _RUN_DIR.fullmatch(path.name))
    return sorted(folders, key=lambda path: (int(path.name.partition("-")[0]), path.name))


def read_job(job_dir: Path, extra: Sequence[RunResult] = ()) -> JobView:
    """Read a job directory; ``extra`` are results of runs that never got a directory."""
    runs = [read_run(path) for path in run_dirs(job_dir)]
    began = _about(job_dir).get("began")
    if not isinstance(began, int | float):
        began = min((run.began for run in runs if run.began), default=None)
    return JobView(job_dir, job_command(job_dir), began, runs, [*(run.result for run in runs), *extra])


def job_command(job_dir: Path) -> str:
    """The command line that the job was; empty when it did not say."""
    return str(_about(job_dir).get("command", ""))


def write_reports(job_dir: Path, extra: Sequence[RunResult] = ()) -> JobView:
    """Write every result file of the job from its run directories, and each run's report; return what was read."""
    job = read_job(job_dir, extra or _without_directory(job_dir))
    write_text(job_dir / RESULTS, dumps(document(job_dir, job.results)))
    write_text(job_dir / "junit.xml", junit.render(job.results, name=job_dir.name, began=job.began))
    write_text(job_dir / "results.tap", tap.render(job.results))
    for run in job.runs:
        write_text(run.path / REPORT, pages.run_page(run))
    write_text(job_dir / REPORT, pages.job_page(job.path, job.command, job.began, job.runs, job.results))
    return job


def find_job(root: Path, word: str) -> Path:
    """The job that ``word`` means: ``latest``, the (unique) begin of a name below ``root``, a job's or a run's path.

    Raises InputError.
    """
    known = jobs(root)
    if word == "latest" and known:
        return known[-1]
    path = Path(word).resolve()
    for candidate in (path, path.parent) if path.is_dir() else ():
        if (candidate / JOB).is_file():
            return candidate
    matching = [job for job in known if job.name.startswith(word)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise InputError([f"{word!r} begins the names of {len(matching)} jobs"], hint="vdpalab list jobs")
    raise InputError([f"no job {word!r}" if known else f"no job in {root} yet"], hint="vdpalab list jobs")


def stored_results(job_dir: Path) -> list[RunResult]:
    """The results of a job that has ended, from its results.json; of its run directories when that is unreadable."""
    try:
        return _read_results(job_dir)
    except (OSError, ValueError, KeyError, TypeError):
        return read_job(job_dir).results


def _about(job_dir: Path) -> dict[str, Any]:
    try:
        about = json.loads((job_dir / JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _without_directory(job_dir: Path) -> list[RunResult]:
    """Results of runs that were never started: they stand only in an earlier results.json."""
    try:
        stored = _read_results(job_dir)
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [result for result in stored if not (job_dir / Path(result.run_dir).name).is_dir()]


def _read_results(job_dir: Path) -> list[RunResult]:
    elements = json.loads((job_dir / RESULTS).read_text(encoding="utf-8"))["results"]
    return [from_dict(element) for element in elements]
