"""``vdpalab kernel``: build kernels and single modules, and show what they are configured with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab.cli.attached import run_option, the_run
from lab.errors import InputError, LabError
from lab.proc import run

if TYPE_CHECKING:
    from lab.artifacts.kernel import KernelRequest

_PATH = click.Path(path_type=Path)


def _source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which kernel, for every subcommand."""
    options = [
        click.option("--kernel", "variant", default="default", metavar="NAME", help="A name of configs/kernels."),
        click.option("--version", metavar="V", help="Take the source of another kernel there: 6.1, backports."),
        click.option("--kernel-tree", "tree", type=_PATH, help="Build this source tree; nothing is written into it."),
        click.option("--kernel-ref", "ref", metavar="REF", help="... as it is at a commit, tag or branch."),
        click.option("--kernel-image", "image", type=_PATH, help="Take this bzImage or vmlinux; nothing is built."),
        click.option("--kernel-modules", "modules", type=_PATH, help="... and its modules: what has lib/modules."),
        click.option(
            "--patch", "patches", type=_PATH, multiple=True, help="Diff, mailbox or quilt series; repeatable."
        ),
        click.option("--virtbus", metavar="SERIES|none", help="In place of the lab's own virtbus."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _request(virtbus: str | None, **words: Any) -> KernelRequest:
    from lab.artifacts.kernel import KernelRequest

    if virtbus == "none":
        return KernelRequest(virtbus="none", **words)
    return KernelRequest(virtbus=Path(virtbus) if virtbus else None, **words)


@click.group("kernel")
def command() -> None:
    """Build kernels for the lab from Debian's source packages or your own tree.

    \b
    Examples:
      vdpalab kernel build                              the default kernel
      vdpalab kernel build --kernel debug               with KASAN, lockdep, kmemleak
      vdpalab kernel build --kernel-tree ~/linux --kernel-ref v6.18 --patch 0001-fix.patch
      vdpalab kernel module ~/linux/drivers/vdpa/vdpa_sim   one module for the default kernel
      vdpalab kernel module ~/linux/drivers/vdpa/vdpa_sim --load   and into a lab that is up
      vdpalab kernel config --kernel debug              the options it asks for
    """


@command.command()
@_source_options
@click.option("--update", is_flag=True, help="Ask the archive for newer source packages.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def build(update: bool, as_json: bool, **words: Any) -> None:
    """Build a kernel unless it is built already, and print where it is.

    \b
    Example:
      vdpalab kernel build --version 6.1 --patch series/
    """
    from lab.artifacts.kernel import kernel
    from lab.artifacts.store import Store
    from lab.cli.progress import progress

    with progress() as report:
        built = kernel(Store(report=report), _request(**words), update=update)
    if as_json:
        files = {"bzimage": str(built.bzimage), "vmlinux": str(built.vmlinux), "disk": str(built.disk)}
        click.echo(json.dumps({"release": built.release, "key": built.key, "built": built.artifact.built, **files}))
    else:
        click.echo(f"Linux {built.release} in {built.artifact.path}")


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_source_options
@click.option("--load", is_flag=True, help="For the kernel of a lab that is up; load them into its L1.")
@run_option()
def module(folder: Path, load: bool, where: str, **words: Any) -> None:
    """Compile the modules in FOLDER for a kernel.

    The kernel is not built anew for it. Prints where the modules are. With --load they take the place of modules of
    the same names in L1, which must not be in use.

    \b
    Examples:
      vdpalab kernel module ~/linux/drivers/vdpa/vdpa_sim
      vdpalab kernel module ~/linux/drivers/vdpa/vdpa_sim --load
    """
    from lab.artifacts.kernel import kernel, kernel_there
    from lab.artifacts.modules import build_modules, check
    from lab.artifacts.store import Store
    from lab.cli.progress import progress
    from lab.host.modules import replace
    from lab.topology.attachable import kernel_key, logged_in

    request = _request(**words)
    run_dir = _lab_to_load(request, where, load=load)
    check(folder, finished=request.image is not None)
    with progress() as report:
        store = Store(report=report)
        made_for = kernel_there(store, kernel_key(run_dir)) if run_dir else kernel(store, request)
        built = build_modules(store, made_for, folder)
    files = sorted(built.path.glob("*.ko"))
    for path in files:
        click.echo(path)
    if run_dir:
        with logged_in(run_dir, "l1") as host:
            click.echo(f"loaded into l1: {', '.join(replace(host, files, made_for.release))}", err=True)


def _lab_to_load(request: KernelRequest, where: str, *, load: bool) -> Path | None:
    """The run that --load means. Raises InputError for options that do not go with it."""
    from lab.artifacts.kernel import KernelRequest
    from lab.evidence.runs import LATEST

    if load and request != KernelRequest():
        raise InputError(["--load builds for the kernel that the lab runs: no other can be named"])
    if not load and where != LATEST:
        raise InputError(["--run needs --load"])
    return the_run(where) if load else None


@command.command()
@_source_options
@click.option("--full", is_flag=True, help="The whole .config of the kernel, built first if need be.")
def config(full: bool, **words: Any) -> None:
    """Print the options that a kernel is asked to have.

    Each with the fragment that it comes from.

    \b
    Example:
      vdpalab kernel config --kernel debug
    """
    from lab.artifacts.kernel import kernel, wanted_options
    from lab.artifacts.store import Store
    from lab.cli.progress import progress

    request = _request(**words)
    if full:
        with progress() as report:
            path = kernel(Store(report=report), request).artifact.path / "config"
        if not path.exists():
            raise LabError("a finished kernel comes without its configuration")
        click.echo(path.read_text(), nl=False)
        return
    for option in wanted_options(request):
        click.echo(f"{option!s:50} {option.fragment}")


@command.command("export-series")
@click.argument("folder", metavar="DIR", type=_PATH)
@click.option("--version", metavar="X.Y", help="For which Linux; without it for the newest that is known.")
@click.option("--author", metavar="'NAME <ADDRESS>'", help="Without it, whom git knows here.")
@click.option("--signoff", is_flag=True, help="Sign each mail off as the author.")
def export_series(folder: Path, version: str | None, author: str | None, signoff: bool) -> None:
    """Write the lab's virtbus as mails into DIR, for git am.

    DIR must be empty or not be there. Prints the files.

    \b
    Example:
      vdpalab kernel export-series /tmp/virtbus --version 6.12 --signoff && git am /tmp/virtbus/*.patch
    """
    from datetime import UTC, datetime

    from lab.artifacts import series
    from lab.artifacts.kernel import IMAGES
    from lab.artifacts.virtbus import overlay

    layer = overlay(IMAGES / "virtbus", None)
    wanted = _version(version) if version else max(layer.since)
    sender = series.Sender(author or _git_author(), datetime.now(UTC), signoff)
    mails = series.export(layer, series.series_words(IMAGES / "virtbus" / "series.toml"), wanted, sender)
    for path in series.write(mails, folder):
        click.echo(path)


def _version(text: str) -> tuple[int, int]:
    if not (match := re.fullmatch(r"(\d+)\.(\d+)(?:\.\d+)?", text)):
        raise InputError([f"--version {text}: a version of Linux is like 6.12"])
    return int(match[1]), int(match[2])


def _git_author() -> str:
    """Name and address of git's configuration here. Raises InputError when there are none."""
    found = [run(["git", "config", f"user.{key}"], check=False).text.strip() for key in ("name", "email")]
    if not all(found):
        raise InputError(["git knows neither name nor address here"], hint="give --author 'NAME <ADDRESS>'")
    return f"{found[0]} <{found[1]}>"
