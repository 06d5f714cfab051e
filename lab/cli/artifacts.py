"""``vdpalab artifacts``: what the store holds, why it was built, whether it is whole, and making room."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import datetime

import click

from lab.cli.exit import ExitStatus

_DAY_S = 86400.0
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@click.group("artifacts")
def command() -> None:
    """Built kernels, images and QEMUs: each is kept by its inputs, and rebuilt when one of them changes.

    \b
    Examples:
      vdpalab artifacts list
      vdpalab artifacts explain kernel-default     why it was built; which input changed
      vdpalab artifacts verify                     read everything; what is broken is rebuilt at its next use
      vdpalab artifacts gc --max-age 30 --max-size 20G
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(as_json: bool) -> None:
    """List what is built, last used first.

    \b
    Example:
      vdpalab artifacts list --json
    """
    from lab.artifacts.store import Store

    store = Store()
    entries = store.entries()
    if as_json:
        click.echo(json.dumps([{**asdict(entry), "path": str(entry.path)} for entry in entries], indent=1))
        return
    for entry in entries:
        used = datetime.fromtimestamp(entry.used).strftime("%F %R")
        click.echo(f"{entry.name:24} {entry.key}  {entry.size / (1 << 20):8.1f} MiB  used {used}")
    click.echo(
        f"{len(entries)} artifacts, {sum(e.size for e in entries) / (1 << 30):.2f} GiB in {store.root}", err=True
    )


@command.command()
@click.argument("name")
def explain(name: str) -> None:
    """Say why NAME was built, and which input changed.

    \b
    Example:
      vdpalab artifacts explain kernel-default
    """
    from lab.artifacts.store import Store

    click.echo("\n".join(Store().explain(name)))


@command.command()
@click.argument("name", required=False)
def verify(name: str | None) -> ExitStatus:
    """Compare every file with what was published.

    Looks at all artifacts, or at those called NAME. Exit status 3 when something is not as it was; that artifact is
    rebuilt at its next use.

    \b
    Example:
      vdpalab artifacts verify host-image
    """
    from lab.artifacts.store import Store

    found = Store().verify(name)
    for label, problems in found.items():
        click.echo(f"{label}: {'whole' if not problems else 'CORRUPT, will be rebuilt'}")
        click.echo("".join(f"  {problem}\n" for problem in problems), nl=False)
    return ExitStatus.ERROR if any(found.values()) else ExitStatus.OK


def parse_size(_ctx: object, _parameter: object, text: str | None) -> int | None:
    """Bytes of a size such as ``20G`` or ``0``; None for none. Raises click.BadParameter."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text.strip().upper().replace("IB", "B"))
    if not match:
        raise click.BadParameter(f"{text!r} is no size: write 500M or 20G")
    return int(float(match[1]) * _SIZES[match[2]])


@command.command()
@click.option("--max-age", type=click.FloatRange(min=0), metavar="DAYS", help="Remove what was not used for so long.")
@click.option("--max-size", callback=parse_size, metavar="SIZE", help="Then the longest unused, until this holds.")
def gc(max_age: float | None, max_size: int | None) -> None:
    """Remove what was not used for long.

    Without options, for 30 days. Nothing that is in use is removed.

    \b
    Example:
      vdpalab artifacts gc --max-age 7 --max-size 20G
    """
    from lab.artifacts.store import Store

    if max_age is None and max_size is None:
        max_age = 30.0
    store = Store()
    removed = store.gc(max_age_s=None if max_age is None else max_age * _DAY_S, max_bytes=max_size)
    for entry in removed:
        click.echo(f"removed {entry.name}@{entry.key}, {entry.size / (1 << 20):.1f} MiB")
    if not removed:
        click.echo("nothing to remove")
