"""The HTML reports: one self-contained page per run and per job, no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import lab
from lab.model import Check, RunResult, Verdict
from lab.report import requirements
from lab.report.compare import worst_verdict
from lab.report.events import Step
from lab.report.repeat import repeat_command
from lab.report.rundir import RunView
from lab.report.svg import Bar, line_chart, timeline


def run_page(run: RunView) -> str:
    """The report of one run; its links are relative to the run directory."""
    end = max((event["t"] for event in run.events), default=0.0) - min((e["t"] for e in run.events), default=0.0)
    return _environment().get_template("run.html.j2").render(
        run=run,
        result=run.result,
        repeat=repeat_command(run.request) if run.request else "",
        timeline=timeline([_step_bar(step, end) for step in run.steps]),
        charts=[(series.title, series.unit, line_chart(series.points, series.unit)) for series in run.series],
        show_tails=run.result.verdict in (Verdict.FAIL, Verdict.ERROR),
    )  # fmt: skip


def job_page(
    path: Path, command: str, began: float | None, runs: Sequence[RunView], results: Sequence[RunResult]
) -> str:
    """The report of a job; it links to its runs' reports. ``began`` is seconds since the epoch."""
    ends = [run.began + run.result.duration_s for run in runs if run.began is not None]
    return _environment().get_template("job.html.j2").render(
        path=path,
        command=command,
        began=began,
        elapsed=max(ends) - began if ends and began else None,
        results=results,
        reports={str(run.path): f"{run.path.name}/report.html" for run in runs},
        worst=worst_verdict(results) or "",
        counts=[(verdict, sum(r.verdict is verdict for r in results)) for verdict in Verdict],
        timeline=timeline(_run_bars(runs)) if len(runs) > 1 else "",
        requirements=requirements.by_requirement(results),
        log_link=_log_link,
        mutant_columns=requirements.MUTANT_COLUMNS,
        mutants=requirements.mutant_rows(results),
    )  # fmt: skip


def _log_link(run: RunResult, check: Check) -> str:
    """Where the kernel's log of a check lies, as the job's page links to it; empty when there is none."""
    log = Path(run.run_dir) / requirements.log_file(check.name)
    return f"{log.parents[1].name}/collect/{log.name}" if log.is_file() else ""


def _step_bar(step: Step, end: float) -> Bar:
    """An open step lasts until the record ends: that is where the run was when it died."""
    unfinished = step.end_s is None
    style = "error" if step.error or unfinished else ""
    note = f"{step.name}: {step.error}" if step.error else (f"{step.name}: not finished" if unfinished else "")
    return Bar(step.name, step.begin_s, end if step.end_s is None else step.end_s, style, note, step.depth)


def _run_bars(runs: Sequence[RunView]) -> list[Bar]:
    begun = [(run.began, run) for run in runs if run.began is not None]
    first = min((began for began, _ in begun), default=0.0)
    return [
        Bar(
            run.result.scenario,
            began - first,
            began - first + run.result.duration_s,
            run.result.verdict.lower(),
            f"{run.result.scenario}: {run.result.verdict} {run.result.reason}",
        )
        for began, run in begun
    ]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["when"] = _when
    environment.filters["number"] = _number
    environment.globals["version"] = lab.__version__
    return environment


def _when(seconds: float) -> str:
    """A wall clock time with its zone."""
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def _number(value: float) -> str:
    """A measured value: whole numbers in full, others with four digits that matter."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.4g}"
