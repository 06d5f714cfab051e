"""``vdpalab list``: what there is to run, where, and what has been run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import click

from lab.errors import InputError


@click.command("list")
@click.argument(
    "kinds", nargs=-1, type=click.Choice(["scenarios", "suites", "mutants", "sites", "kernels", "findings", "jobs"])
)
@click.option("--tag", "tags", multiple=True, help="Only scenarios with one of these tags")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document")
def command(kinds: tuple[str, ...], tags: tuple[str, ...], as_json: bool) -> int:
    """List scenarios and suites, or what is asked for.

    \b
    Examples:
      vdpalab list                       scenarios and suites
      vdpalab list scenarios --tag net
      vdpalab list jobs                  what has been run, newest last
    """
    chosen = kinds or ("scenarios", "suites")
    listing = {kind: [row for row in _ROWS[kind]() if kind != "scenarios" or _tagged(row, tags)] for kind in chosen}
    if as_json:
        click.echo(json.dumps({"schema": 1, **listing}, indent=1))
    else:
        click.echo("\n\n".join(_text(kind, rows) for kind, rows in listing.items()))
    return 0


def scenario_rows() -> Iterator[dict[str, Any]]:
    """Each scenario with its summary and tags; a broken file with its problem, so that the others are listed."""
    from lab.config.catalog import load_scenario, names

    for name in names("scenarios"):
        try:
            scenario = load_scenario(name)[1]
        except InputError as error:
            yield {"name": name, "summary": f"broken: {error.problems[0]}", "tags": []}
        else:
            yield {"name": name, "summary": scenario.summary, "tags": sorted(scenario.all_tags)}


def suite_rows() -> Iterator[dict[str, Any]]:
    """Each suite with its summary and scenarios."""
    from lab.config.catalog import load_suite, names

    for name in names("suites"):
        try:
            suite = load_suite(name)
        except InputError as error:
            yield {"name": name, "summary": f"broken: {error.problems[0]}", "scenarios": []}
        else:
            yield {"name": name, "summary": suite.summary, "scenarios": suite.scenarios}


def job_rows() -> Iterator[dict[str, Any]]:
    """Each job with how often each verdict came, its command, and whether it still runs."""
    from lab.artifacts.store import cache_root
    from lab.evidence.jobs import alive, jobs
    from lab.report.job import job_command, stored_results

    for job in jobs(cache_root() / "jobs"):
        verdicts = [result.verdict for result in stored_results(job)]
        counts = {str(verdict): verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
        summary = ", ".join(f"{number} {verdict}" for verdict, number in counts.items()) or "no results"
        running = alive(job)
        yield {
            "name": job.name,
            "summary": "running" if running else summary,
            "running": running,
            "verdicts": counts,
            "command": job_command(job),
            "path": str(job),
        }


def _config_rows(kind: str) -> Callable[[], Iterator[dict[str, Any]]]:
    def rows() -> Iterator[dict[str, Any]]:
        from lab.config.catalog import CONFIGS, names
        from lab.config.strict import read_toml

        for name in names(kind):
            try:
                summary = str(read_toml(CONFIGS / kind / f"{name}.toml").get("summary", ""))
            except InputError as error:
                summary = f"broken: {error.problems[0]}"
            yield {"name": name, "summary": summary}

    return rows


def mutant_rows() -> Iterator[dict[str, Any]]:
    """Each mutant of the virtbus with what is wrong with it, its check and the kernel that it needs."""
    from lab.config.mutant import PREFIX, load_mutant, mutants

    for name in mutants():
        try:
            mutant = load_mutant(name.removeprefix(PREFIX))
        except InputError as error:
            yield {"name": name, "summary": f"broken: {error.problems[0]}", "tags": []}
        else:
            yield {"name": name, "summary": mutant.what, "tags": [mutant.check, mutant.kernel, *mutant.expect]}


_ROWS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "scenarios": scenario_rows,
    "suites": suite_rows,
    "mutants": mutant_rows,
    "sites": _config_rows("sites"),
    "kernels": _config_rows("kernels"),
    "findings": _config_rows("findings"),
    "jobs": job_rows,
}


def _tagged(row: dict[str, Any], tags: tuple[str, ...]) -> bool:
    return not tags or bool(set(tags) & set(row["tags"]))


def _text(kind: str, rows: list[dict[str, Any]]) -> str:
    from lab.report.table import plain

    if not rows:
        return f"{kind}: none"
    return plain((kind, "", ""), [(row["name"], row["summary"], _detail(row)) for row in rows])


def _detail(row: dict[str, Any]) -> str:
    if "scenarios" in row:
        return f"{len(row['scenarios'])} scenarios"
    return ", ".join(row.get("tags", ())) or str(row.get("command", ""))
