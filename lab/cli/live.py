"""How a running job looks: a live table on a terminal, plain lines with the elapsed time elsewhere; all on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from lab.cli.progress import progress
from lab.jobs.watch import Display, RunState

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


@contextlib.contextmanager
def job_display() -> Iterator[Display]:
    """Yield the display that fits stderr."""
    if not sys.stderr.isatty():
        with progress() as report:
            yield PlainDisplay(report)
        return
    # Imported here: rich costs 40 ms, and a CI has no terminal.
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=5, transient=True) as live:
        yield LiveDisplay(live)


class PlainDisplay:
    """One line for everything that happens."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report

    def say(self, line: str) -> None:
        """Print a line, or each line of several."""
        for part in line.splitlines():
            self._report(part)

    def show(self, runs: Sequence[RunState]) -> None:
        """Nothing: what changed was said."""


class LiveDisplay:
    """A table of the runs that go on, below the lines of those that ended."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def say(self, line: str) -> None:
        """Print what stays; steps and progress stand in the table and pass."""
        if _stays(line):
            self._live.console.print(line, markup=False, highlight=False)

    def show(self, runs: Sequence[RunState]) -> None:
        """Redraw the table."""
        self._live.update(table(runs))


def table(runs: Sequence[RunState]) -> Table:
    """The runs that go on with their elapsed time and step, and how many wait."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for run in runs:
        if run.began and not run.ended:
            step = Text(run.step + (f": {run.note}" if run.note else ""), overflow="ellipsis", no_wrap=True)
            grid.add_row(f"{run.elapsed_s:5.0f} s", Text(run.scenario, style="bold"), step)
    waiting = sum(run.began is None for run in runs)
    if waiting:
        grid.add_row("", Text(f"{waiting} waiting", style="dim"), "")
    return grid


def _stays(line: str) -> bool:
    """Whether a line is worth keeping on a terminal: the end of a run, an error, how to enter a kept lab."""
    _, colon, what = line.partition(": ")
    words = ("PASS", "FAIL", "ERROR", "SKIP", "error:", "the lab stays up")
    return not colon or what.startswith(words) or line.startswith("interrupted")
