"""``vdpalab quickstart``: from an empty machine to judged traffic."""

from __future__ import annotations

import click

from lab.cli.progress import progress
from lab.cli.run import run_scenarios
from lab.cli.setup import set_up
from lab.config.request import ArtifactOptions, RunRequest

SUITE = "quickstart"


@click.command("quickstart")
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON document")
def command(as_json: bool) -> int:
    """Set this machine up, build the kernel and the images, run the suite `quickstart` and judge it.

    Everything built is kept: the next time takes minutes. The exit status is that of `vdpalab run`.

    \b
    Examples:
      vdpalab quickstart
      vdpalab run quickstart          the same without setting up
      vdpalab show quickstart         what it runs
    """
    set_up()
    build_all()
    # The scenario is a placeholder: run_scenarios puts those of the suite there.
    return run_scenarios([SUITE], RunRequest(scenario=SUITE), as_json=as_json)


def build_all() -> None:
    """Build every artifact that the default options need, with progress; what is there is only checked.

    Raises BuildError.
    """
    # Imported here: `vdpalab quickstart --help` needs none of it.
    from lab.artifacts.provide import provide
    from lab.artifacts.store import Store

    with progress() as report:
        provide(Store(report=report), ArtifactOptions())
