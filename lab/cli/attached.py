"""What the verbs share that attach to a lab from another terminal: which run is meant, and completing its machines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from lab.errors import LabError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_HELP = "A run's or a job's directory, or the begin of a job's name; the newest run that is up, if any."


def run_option() -> Decorator:
    """The option ``--run``, given to the command as ``where``."""
    return click.option("--run", "where", default="latest", show_default=True, metavar="DIR|latest", help=_HELP)


def the_run(where: str, *, alive: bool = True) -> Path:
    """The run directory that ``--run`` means; says so when there was a choice between labs that are up.

    Raises InputError; with ``alive`` also when that lab is not up.
    """
    from lab.artifacts.store import cache_root
    from lab.evidence.runs import LATEST, find_run, runs_up

    root = cache_root() / "jobs"
    run = find_run(root, where, alive=alive)
    if where == LATEST and len(runs_up(root)) > 1:
        click.echo(f"vdpalab: several labs are up; this is --run {run}", err=True)
    return run


def complete_machines(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Machines of the lab that ``--run`` means; none when it is not up."""
    from lab.topology.attachable import entrances

    names: list[str] = []
    with contextlib.suppress(LabError):
        names = list(entrances(the_run(ctx.params.get("where") or "latest")))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
