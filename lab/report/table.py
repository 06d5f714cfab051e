"""Results as a table for a terminal: rich on a tty, aligned text elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab.model import RunResult, Verdict

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("scenario", "verdict", "level", "seconds", "reason")

_STYLES = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.ERROR: "bold magenta", Verdict.SKIP: "yellow"}


def row(result: RunResult) -> tuple[str, str, str, str, str]:
    """One result as the cells of ``COLUMNS``; the machine stands with the level, findings with the reason."""
    where = f"{result.level} ({result.machine})" if result.level and result.machine else result.level or ""
    first_line = result.reason.splitlines()[0] if result.reason else ""
    known = f"[known: {', '.join(result.known)}]" if result.known else ""
    return (
        result.scenario,
        result.verdict.value,
        where,
        f"{result.duration_s:.1f}",
        " ".join(part for part in (first_line, known) if part),
    )


def plain(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Aligned text; columns whose number is in ``right`` are aligned to the right."""
    lines = [list(header), *(list(cells) for cells in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))]
    text = (
        "  ".join(cell.rjust(widths[n]) if n in right else cell.ljust(widths[n]) for n, cell in enumerate(line))
        for line in lines
    )
    return "\n".join(line.rstrip() for line in text)


def plain_results(results: Sequence[RunResult]) -> str:
    """The results as aligned text."""
    return plain(COLUMNS, [row(result) for result in results], right=frozenset({3}))


def rich_results(results: Sequence[RunResult]) -> Table:
    """The results as a rich table."""
    # Imported here: the plain table of a CI must not pay for it.
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
    for result in results:
        cells = [Text(cell) for cell in row(result)]
        cells[1].stylize(_STYLES[result.verdict])
        table.add_row(*cells)
    return table
