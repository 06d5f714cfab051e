"""``vdpalab clean``: remove what killed labs left, and old jobs when asked to."""

from __future__ import annotations

import click

from lab.cli.artifacts import parse_size

_DEFAULT_DAYS = 30.0
_NO_LIMIT = 1 << 62


@click.command("clean")
@click.option("--jobs", is_flag=True, help=f"Remove old jobs too: those of more than {_DEFAULT_DAYS:.0f} days ago.")
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Remove jobs older than this.")
@click.option("--max-size", callback=parse_size, metavar="SIZE", help="Remove the oldest jobs until this holds them.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def command(jobs: bool, older_than: float | None, max_size: int | None, dry_run: bool) -> None:
    """End the QEMUs of labs that were killed; remove their disks, keys and sockets and half-built artifacts.

    Labs that are up are left alone, and so is the evidence of every run. The next `run` does the same by itself.
    Jobs, which are evidence, go only when one of the options about them is given.

    \b
    Examples:
      vdpalab clean --dry-run
      vdpalab clean
      vdpalab clean --older-than 7 --max-size 10G
    """
    said = _clean_leftovers(dry_run)
    if jobs or older_than is not None or max_size is not None:
        days = older_than if older_than is not None else _NO_LIMIT if max_size is not None else _DEFAULT_DAYS
        said += _prune_jobs(days, _NO_LIMIT if max_size is None else max_size, dry_run)
    if not said:
        click.echo("nothing to clean")


def _clean_leftovers(dry_run: bool) -> int:
    """Clean, or say what would be; return how many things there were."""
    from lab.artifacts.store import Store, cache_root
    from lab.evidence.orphans import clean_orphans, find_orphans

    root = cache_root() / "jobs"
    lines: list[str] = []
    if dry_run:
        lines += [f"would go: {line}" for found in find_orphans(root) for line in found.describe()]
    else:
        clean_orphans(root, lines.append)
    builds = Store().clean_dead_builds(dry_run=dry_run)
    lines += [f"{'would go' if dry_run else 'removed'}: {folder}" for folder in builds]
    for line in lines:
        click.echo(line)
    return len(lines)


def _prune_jobs(days: float, max_bytes: int, dry_run: bool) -> int:
    from lab.artifacts.store import cache_root
    from lab.evidence.jobs import outdated, prune

    select = outdated if dry_run else prune
    doomed = select(cache_root() / "jobs", keep_days=days, keep_bytes=max_bytes)
    for job in doomed:
        click.echo(f"{'would go' if dry_run else 'removed'}: {job}")
    return len(doomed)
