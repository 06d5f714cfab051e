"""``vdpalab logs``: consoles and logs of a run, as they are or as they grow."""

from __future__ import annotations

import json
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from lab.cli.attached import run_option, the_run
from lab.errors import InputError, LabError

_LOGS = ("machines/*/console.log", "machines/*/qemu.log", "machines/*/server.log", "runner.log")
_MORE = ("machines/*/qmp.jsonl", "machines/*/argv.txt", "events.jsonl", "traceback.txt", "collect/*", "workloads/*")


def _complete_logs(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    try:
        run_dir = the_run(ctx.params.get("where") or "latest", alive=False)
    except LabError:
        return []
    return [CompletionItem(name) for name in known_logs(run_dir) if name.startswith(incomplete)]


@click.command("logs")
@run_option()
@click.option("--list", "listing", is_flag=True, help="Say which logs there are.")
@click.option("-f", "--follow", is_flag=True, help="Go on as they grow, until the lab ends.")
@click.option("-n", "--lines", type=click.IntRange(0), metavar="N", help="Only the last N lines of each.")
@click.argument("log", required=False, metavar="[MACHINE|LOG]", shell_complete=_complete_logs)
def command(where: str, listing: bool, follow: bool, lines: int | None, log: str | None) -> int:
    """Show the consoles of a run's machines and what their QEMUs said, or the log that is named.

    A run that has ended is as good as one that is up; without --run it is the newest.

    \b
    Examples:
      vdpalab logs --list
      vdpalab logs l1 -f                       L1's console as it grows
      vdpalab logs -n 20                       the end of everything
      vdpalab logs machines/l2/qmp.jsonl
    """
    from lab import proc

    run_dir = the_run(where, alive=False)
    if listing:
        click.echo("\n".join(f"{(run_dir / name).stat().st_size:>10}  {name}" for name in known_logs(run_dir)))
        return 0
    return proc.foreground(tail_argv(run_dir, chosen_logs(run_dir, log), follow=follow, lines=lines), cwd=run_dir)


def known_logs(run_dir: Path) -> dict[str, Path]:
    """Every log of a run by its path below the run directory."""
    paths = [path for pattern in (*_LOGS, *_MORE) for path in sorted(run_dir.glob(pattern)) if path.is_file()]
    return {str(path.relative_to(run_dir)): path for path in paths}


def chosen_logs(run_dir: Path, word: str | None) -> list[str]:
    """The logs that a word means: a machine's console and QEMU log, or one log; without it those of all machines.

    Raises InputError.
    """
    known = known_logs(run_dir)
    if word in known:
        return [str(word)]
    folder = f"machines/{word}/" if word else ""
    chosen = [name for name in known if name.startswith(folder) and any(Path(name).match(log) for log in _LOGS)]
    if not chosen:
        machines = sorted({Path(name).parts[1] for name in known if name.startswith("machines/")})
        what = f"no machine or log {word!r}" if word else "no log yet"
        raise InputError(
            [f"{what} in {run_dir}; machines: {', '.join(machines) or 'none'}"], hint="vdpalab logs --list"
        )
    return chosen


def tail_argv(run_dir: Path, names: list[str], *, follow: bool, lines: int | None) -> list[str]:
    """tail(1) knows how to show several files at once, and to follow them until the lab is gone."""
    owner = _owner(run_dir) if follow else None
    follow_words = ["--follow=name", "--retry", f"--pid={owner}"] if owner else []
    return ["tail", "-n", "+1" if lines is None else str(lines), *follow_words, "--", *names]


def _owner(run_dir: Path) -> int | None:
    """Process id of the lab that writes the run, as its first event says; None when it has ended."""
    from lab.evidence.record import owner_alive

    if not owner_alive(run_dir):
        return None
    with (run_dir / "events.jsonl").open(encoding="utf-8") as events:
        return int(json.loads(events.readline())["pid"])
