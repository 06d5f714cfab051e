"""``vdpalab show``: one scenario, suite, site, kernel or finding, explained; or all keys."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from lab.cli.describe import Rows, proof, settings, table, what_happens
from lab.errors import InputError

_FOLDERS = {"scenario": "scenarios", "suite": "suites", "site": "sites", "kernel": "kernels", "finding": "findings"}
_KEYS = "keys"


@dataclass(frozen=True)
class Shown:
    """What is known of one name: its file's content as JSON data, and the explanation in rows."""

    kind: str
    name: str
    path: Path
    data: dict[str, Any]
    rows: Rows

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"schema": 1, "kind": self.kind, "name": self.name, "path": str(self.path), **self.data}


def _complete_names(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from lab.config.catalog import names
    from lab.config.mutant import mutants

    known = [_KEYS, *(name for folder in _FOLDERS.values() for name in names(folder)), *mutants()]
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]


@click.command("show")
@click.argument("name", metavar="NAME|FILE", shell_complete=_complete_names)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document")
def command(name: str, as_json: bool) -> None:
    """Explain one scenario, suite, site, kernel variant or finding: what it does and, for a scenario, how it is proved.

    \b
    Examples:
      vdpalab show net-vdpa_sim-vhost_vdpa-migrate
      vdpalab show smoke
      vdpalab show my.toml --json
      vdpalab show keys               every key of every configuration file
    """
    if name == _KEYS:
        from lab.config.reference import markdown

        click.echo(markdown(), nl=False)
        return
    shown = explain(name)
    if as_json:
        click.echo(json.dumps(shown.to_json(), indent=1))
    else:
        click.echo(f"{shown.kind} {shown.name}\n{table([('file', str(shown.path)), *shown.rows])}")


def explain(name: str) -> Shown:
    """Find what is called so, or the scenario in a file of this name. Raises InputError."""
    from lab.config.catalog import CONFIGS, names
    from lab.config.mutant import MUTANTS, PREFIX, mutants

    if name.endswith(".toml"):
        return _scenario(name, Path(name))
    if name in mutants():
        return _scenario(name, MUTANTS / f"{name.removeprefix(PREFIX)}.patch")
    known = {kind: names(folder) for kind, folder in _FOLDERS.items()}
    for kind, have in known.items():
        if name in have:
            return _EXPLAINERS[kind](name, CONFIGS / _FOLDERS[kind] / f"{name}.toml")
    every = [word for have in [*known.values(), mutants()] for word in have]
    close = [word for word in every if word.startswith(name)] or difflib.get_close_matches(name, every)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise InputError([f"nothing is called {name!r}{hint}"], hint="vdpalab list scenarios suites sites kernels findings")


def _scenario(word: str, path: Path) -> Shown:
    from lab.config.catalog import load_scenario
    from lab.config.request import RunRequest
    from lab.config.scenario import VirtbusScenario
    from lab.topology.plan import contradictions, guests

    name, scenario = load_scenario(word)
    build_only = isinstance(scenario, VirtbusScenario) and scenario.topics == ["build"]
    machines, tags = [] if build_only else ["l1", *guests(scenario)], sorted(scenario.all_tags)
    suites = _suites_with(name)
    problems = contradictions(scenario, RunRequest(scenario=word))
    rows = [
        ("summary", scenario.summary),
        *what_happens(scenario),
        *(("proof", line) for line in proof(scenario)),
        ("machines", ", ".join(machines) or "none"),
        ("tags", ", ".join(tags) or "none"),
        ("suites", ", ".join(suites) or "none"),
        *(("impossible", problem) for problem in problems),
        ("run it", f"vdpalab run {word}"),
    ]
    data = {
        "summary": scenario.summary,
        "config": scenario.model_dump(mode="json", by_alias=True),
        "proof": proof(scenario),
        "machines": machines,
        "tags": tags,
        "suites": suites,
        "impossible": problems,
    }
    return Shown("scenario", name, path, data, rows)


def _suites_with(scenario: str) -> list[str]:
    from lab.config.catalog import load_suite, names

    return [suite for suite in names("suites") if scenario in load_suite(suite).scenarios]


def _suite(name: str, path: Path) -> Shown:
    from lab.config.catalog import load_scenario, load_suite

    suite = load_suite(name)
    members = {member: load_scenario(member)[1].summary for member in suite.scenarios}
    rows = [
        ("summary", suite.summary),
        *(("scenario", f"{member}: {summary}") for member, summary in members.items()),
        ("run it", f"vdpalab run {name}"),
    ]
    return Shown("suite", name, path, {"summary": suite.summary, "scenarios": list(members)}, rows)


def _site(name: str, path: Path) -> Shown:
    from lab.config.catalog import load_site

    site = load_site(name)
    rows = [("summary", site.summary), ("settings", settings(site, without=["summary"]))]
    return Shown("site", name, path, {"summary": site.summary, "config": site.model_dump(mode="json")}, rows)


def _finding(name: str, path: Path) -> Shown:
    from lab.config.finding import Finding
    from lab.config.strict import read_toml, validate

    data = validate(Finding, read_toml(path), str(path)).model_dump(mode="json")
    return Shown("finding", name, path, data, _as_rows(data))


def _kernel(name: str, path: Path) -> Shown:
    from lab.config.kernel import load_config

    data = load_config(name).model_dump(mode="json")
    return Shown("kernel", name, path, data, _as_rows(data))


def _as_rows(data: dict[str, Any]) -> Rows:
    return [(key, line) for key, value in data.items() for line in (value if isinstance(value, list) else [str(value)])]


_EXPLAINERS: dict[str, Callable[[str, Path], Shown]] = {
    "scenario": _scenario,
    "suite": _suite,
    "site": _site,
    "kernel": _kernel,
    "finding": _finding,
}
