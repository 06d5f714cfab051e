"""``vdpalab plan``: what a run would do here; nothing is started, built or written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from lab.cli.run import command as run
from lab.cli.run import request_template, select

if TYPE_CHECKING:
    from lab.cli.describe import Rows
    from lab.topology.plan import Plan

# The options of `run` that decide what would be done; the others only say how it is watched and told.
_DECIDING = (
    "overrides",
    "site",
    "accel",
    "kernel",
    "kernel_tree",
    "kernel_ref",
    "kernel_image",
    "kernel_modules",
    "patches",
    "virtbus",
    "virtbus_adapter",
    "qemu_l0",
    "qemu_l1",
    "tags",
    "cold",
    "full",
)


@click.command("plan")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document")
def command(names: tuple[str, ...], as_json: bool, tags: tuple[str, ...], **options: Any) -> None:
    """Say what running scenarios, files or suites would do here: machines, devices, names, proof. Nothing is touched.

    What cannot be is told with all problems at once, and exit status 2. The options are those of `run`.

    \b
    Examples:
      vdpalab plan net-vp_vdpa-vhost_vdpa-iperf3
      vdpalab plan my.toml --set device.vfs=4 --kernel debug
      vdpalab plan smoke --json | jq '.plans[].ram_mb'
    """
    from lab.cli.describe import table

    plans = select(names, tags, request_template(names, update=False, **options))
    if as_json:
        click.echo(json.dumps({"schema": 1, "plans": [plan.to_json() for plan in plans]}, indent=1))
    else:
        click.echo("\n\n".join(f"{plan.name}\n{table(_rows(plan))}" for plan in plans))


# One definition of each option, where it matters most.
command.params += [parameter for parameter in run.params if parameter.name in ("names", *_DECIDING)]


def _rows(plan: Plan) -> Rows:
    from lab.cli.describe import proof, settings, what_happens

    request, data = plan.request, plan.to_json()
    rows = [
        ("summary", plan.scenario.summary),
        ("site", f"{plan.site_name}: {plan.site.summary}"),
        *(("machine", f"{name}: {_pairs(size)}") for name, size in data["machines"].items()),
        ("boot", str(data["boot"])),
        ("accelerator", request.accel),
        ("artifacts", settings(request.artifacts, without=["update"])),
        *(("artifacts", f"patch={patch}") for patch in request.artifacts.patches),
        *what_happens(plan.scenario),
        *(("proof", line) for line in proof(plan.scenario)),
        *(("vDPA devices", _pairs(names)) for names in [data.get("vdpa")] if names),
        ("MACs", _pairs(plan.macs)),
        *(("addresses", _pairs(names)) for names in [data.get("addresses")] if names),
        ("needs", f"{plan.ram_mb} MiB of RAM, {plan.cores} cores, about {plan.estimate_s:.0f} s"),
    ]
    return rows + [("lacks", f"{what}: it would be skipped") for what in plan.lacks]


def _pairs(data: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in data.items())
