"""``vdpalab kernel``: build kernels and single modules, and show what they are configured with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab.errors import LabError

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
def module(folder: Path, **words: Any) -> None:
    """Compile the modules in FOLDER for a kernel.

    The kernel is not built anew for it. Prints where the modules are.

    \b
    Example:
      vdpalab kernel module ~/linux/drivers/vdpa/vdpa_sim
    """
    from lab.artifacts.kernel import kernel
    from lab.artifacts.modules import build_modules, check
    from lab.artifacts.store import Store
    from lab.cli.progress import progress

    request = _request(**words)
    check(folder, finished=request.image is not None)
    with progress() as report:
        store = Store(report=report)
        built = build_modules(store, kernel(store, request), folder)
    for path in sorted(built.path.glob("*.ko")):
        click.echo(path)


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
