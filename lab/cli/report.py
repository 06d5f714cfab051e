"""``vdpalab report``: rebuild and show the report of a job; compare two jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from lab.errors import InputError

if TYPE_CHECKING:
    from lab.report.compare import Comparison


@click.command("report")
@click.argument("job", required=False, metavar="[JOB|RUN|latest]")
@click.option("--compare", nargs=2, metavar="JOB JOB", help="What changed from the first job to the second")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document")
def command(job: str | None, compare: tuple[str, str] | None, as_json: bool) -> int:
    """Rebuild a job's results and reports from its run directories, and print them.

    A job is `latest` (the default), the begin of its name, or its directory or that of one of its runs.

    \b
    Examples:
      vdpalab report
      vdpalab report 20261120-0912
      vdpalab report --compare 20261119 latest
    """
    if compare and job:
        raise InputError(["--compare names both jobs; a third one is too many"])
    if compare:
        _print_comparison(compare, as_json)
    else:
        _rebuild(job or "latest", as_json)
    return 0


def _rebuild(word: str, as_json: bool) -> None:
    from lab.artifacts.store import cache_root
    from lab.cli.run import print_table
    from lab.report.job import REPORT, find_job, write_reports
    from lab.report.result import document, dumps

    path = find_job(cache_root() / "jobs", word)
    job = write_reports(path)
    if as_json:
        click.echo(dumps(document(path, job.results)), nl=False)
        return
    print_table(job.results)
    for run in job.runs:
        for problem in run.problems:
            click.echo(f"{run.path.name}: {problem}", err=True)
    click.echo(f"\nreport  {path / REPORT}")


def _print_comparison(words: Sequence[str], as_json: bool) -> None:
    from lab.artifacts.store import cache_root
    from lab.report.compare import compare, to_dict
    from lab.report.job import find_job, stored_results

    old, new = (find_job(cache_root() / "jobs", word) for word in words)
    comparison = compare(stored_results(old), stored_results(new))
    if as_json:
        click.echo(json.dumps(to_dict(comparison) | {"old": str(old), "new": str(new)}, indent=1))
    else:
        click.echo(comparison_text(comparison, old.name, new.name))


def comparison_text(comparison: Comparison, old: str, new: str) -> str:
    """The comparison as two tables."""
    from lab.report.table import plain

    verdicts = [(c.scenario, c.old or "not run", c.new or "not run") for c in comparison.verdicts]
    metrics = [
        (m.scenario, m.metric, f"{m.old:.4g}", f"{m.new:.4g}", m.unit, f"{m.ratio:.3f}" if m.ratio is not None else "-")
        for m in comparison.metrics
    ]
    first = plain(("scenario", old, new), verdicts) if verdicts else "no verdict changed"
    header = ("scenario", "metric", old, new, "unit", "ratio")
    second = plain(header, metrics, right=frozenset({2, 3, 5})) if metrics else "no metric in both"
    return f"{first}\n\n{second}"
