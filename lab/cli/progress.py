"""What a person sees while the lab works: a live line on a terminal, plain lines with the elapsed time elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

Report = Callable[[str], None]


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """Yield the function that takes one line of progress at a time. Everything goes to stderr."""
    with _live() if sys.stderr.isatty() else _plain() as report:
        yield report


@contextlib.contextmanager
def _plain() -> Iterator[Report]:
    begin = time.monotonic()

    def report(message: str) -> None:
        click.echo(f"[{time.monotonic() - begin:6.1f} s] {message}", err=True)

    yield report


@contextlib.contextmanager
def _live() -> Iterator[Report]:
    # Imported here: rich costs 40 ms, and most verbs have nothing to wait for.
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    # Not stdout: what is written there is a result, wherever it goes.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as display:
        task = display.add_task("")

        def report(message: str) -> None:
            display.update(task, description=message.replace("\n", " "))

        yield report
