"""``vdpalab bench``: how fast the lab itself is, against what it must reach."""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from lab.cli.exit import ExitStatus
from lab.cli.progress import Report, progress
from lab.errors import InputError, LabError, SiteLacks
from lab.model import Metric, Verdict

if TYPE_CHECKING:
    from lab.artifacts.provide import Artifacts
    from lab.report.bench import Measured

_ROOT = Path(__file__).resolve().parents[2]
_VDPALAB = str(_ROOT / "vdpalab")

# Load per core from which on others take a share of what is measured.
_BUSY = 0.3

_CHECK = "from lab.artifacts.provide import provide; from lab.artifacts.store import Store; " + (
    "from lab.config.request import ArtifactOptions; provide(Store(), ArtifactOptions())"
)


@dataclass(frozen=True)
class Bench:
    """One thing to measure: ``measure`` returns the values of one round; ``rounds`` unless the user says otherwise."""

    name: str
    summary: str
    rounds: int
    measure: Callable[[Surroundings], list[Metric]]


class Surroundings:
    """What the measurements share: the artifacts, and a job directory for what they leave."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._number = 0

    @functools.cached_property
    def artifacts(self) -> Artifacts:
        """Everything the lab is made of, built now if need be."""
        from lab.artifacts.provide import provide
        from lab.artifacts.store import Store
        from lab.config.request import ArtifactOptions

        return provide(Store(report=self._report), ArtifactOptions())

    @functools.cached_property
    def job(self) -> Path:
        """A job of our own."""
        from lab.artifacts.store import cache_root
        from lab.evidence.jobs import new_job
        from lab.report.job import JOB
        from lab.report.result import dumps

        job = new_job(cache_root() / "jobs")
        (job / JOB).write_text(dumps({"command": "vdpalab bench", "began": time.time()}))
        return job

    def run_dir(self, name: str) -> Path:
        """The next run directory."""
        self._number += 1
        return self.job / f"{self._number:03d}-bench-{name}"


def _help(_around: Surroundings) -> list[Metric]:
    from lab.cli.measure import seconds

    return [Metric("help", seconds([_VDPALAB, "--help"]), "s")]


def _check(around: Surroundings) -> list[Metric]:
    from lab.cli.measure import seconds

    assert around.artifacts
    # In a process of its own: nothing may be remembered from the last time.
    return [Metric("artifacts-check", seconds([sys.executable, "-P", "-c", _CHECK]), "s")]


def _l1(around: Surroundings) -> list[Metric]:
    from lab.scenarios.bench import boot_l1

    return boot_l1(around.artifacts, around.run_dir("l1"))


def _l2(around: Surroundings) -> list[Metric]:
    from lab.scenarios.bench import boot_l2

    return boot_l2(around.artifacts, around.run_dir("l2"))


def _vng(around: Surroundings) -> list[Metric]:
    from lab.scenarios.bench import boot_vng

    return boot_vng(around.artifacts, around.run_dir("vng"))


def _of_scenario(name: str) -> Bench:
    def measure(around: Surroundings) -> list[Metric]:
        assert around.artifacts
        return _run(name, ["run", name, "--json"])

    return Bench(name, "the whole run with everything cached, and its memory", 3, measure)


def _quickstart(around: Surroundings) -> list[Metric]:
    assert around.artifacts
    return _run("quickstart", ["quickstart", "--json"])


def _quickstart_empty(_around: Surroundings) -> list[Metric]:
    from lab.artifacts.store import cache_root

    # Beside the cache, not in TMPDIR: that is RAM on Debian 13, and this takes gigabytes.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache_root().resolve().parent) as cache:
        return _run("quickstart-empty", ["quickstart", "--json"], {"VDPALAB_CACHE": cache})


def _run(name: str, words: Sequence[str], env: Mapping[str, str] | None = None) -> list[Metric]:
    """Time and memory of a verb that runs scenarios, all of which must pass. Raises LabError."""
    from lab.cli.measure import run_measured
    from lab.report.bench import RSS
    from lab.report.result import from_dict

    done, memory = run_measured([_VDPALAB, *words], env=env)
    results = [from_dict(result) for result in json.loads(done.stdout)["results"]] if done.stdout else []
    bad = [result for result in results if result.verdict is not Verdict.PASS]
    if bad or done.returncode != 0:
        why = f"{bad[0].scenario}: {bad[0].verdict}: {bad[0].reason}" if bad else f"exit status {done.returncode}"
        raise LabError(f"{name}: {why}", log=Path(bad[0].run_dir) if bad else None)
    return [Metric(name, done.duration_s, "s"), Metric(f"{name}{RSS}", memory.peak_mb, "MiB")]


def _ifcvf(around: Surroundings) -> list[Metric]:
    from lab.scenarios.bench_ifcvf import disk, network

    return [
        *network(around.artifacts, around.run_dir("ifcvf-net")),
        *disk(around.artifacts, around.run_dir("ifcvf-blk")),
    ]


_BENCHES = (
    Bench("help", "vdpalab --help", 5, _help),
    Bench("artifacts-check", "all artifacts are there and nothing has changed", 5, _check),
    Bench("l1-ready", "L1 from power-on to the first command over SSH, and its parts", 5, _l1),
    Bench("vng", "virtme-ng from its start to the first command, on the same kernel", 5, _vng),
    Bench("l2-ready", "the same for an L2 inside L1", 3, _l2),
    _of_scenario("net-vp_vdpa-vhost_vdpa-iperf3"),
    _of_scenario("net-vdpa_sim-vhost_vdpa-migrate"),
    _of_scenario("net-vp_vdpa-vhost_vdpa-unplug"),
)
_ON_REQUEST = (
    Bench("ifcvf", "the emulated IFC VFs against veth and virtio-blk in the same L1", 3, _ifcvf),
    Bench("quickstart", "vdpalab quickstart with everything cached", 1, _quickstart),
    Bench("quickstart-empty", "vdpalab quickstart with an empty cache", 1, _quickstart_empty),
)


def _complete_names(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from lab.config.catalog import names

    known = dict.fromkeys([*(bench.name for bench in (*_BENCHES, *_ON_REQUEST)), *names("scenarios")])
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]


@click.command("bench")
@click.argument("names", nargs=-1, metavar="[NAME...]", shell_complete=_complete_names)
@click.option("-n", "rounds", type=click.IntRange(1), metavar="N", help="Measure each so often")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with every value")
def command(names: tuple[str, ...], rounds: int | None, as_json: bool) -> int:
    """Measure the lab's own speed: medians and spread, against what they must reach on 2 cores without KVM.

    Names: help, artifacts-check, l1-ready, vng (when virtme-ng is installed), l2-ready and any scenario; ifcvf,
    quickstart and quickstart-empty only when named. The exit status is 3 when something could not be measured, 1 when a
    bound was missed, else 0.

    \b
    Examples:
      vdpalab bench
      vdpalab bench l1-ready vng -n 9
      vdpalab bench blk-vdpa_sim-vhost_vdpa-fio --json
    """
    from lab.report.bench import Measured, text

    chosen = choose(names)
    measured, about = Measured(), surroundings()
    with progress() as report:
        around = Surroundings(report)
        for bench in chosen:
            _measure(bench, rounds or bench.rounds, around, measured, report)
    if as_json:
        click.echo(json.dumps(measured.to_json(about), indent=1))
    elif measured.metrics:
        click.echo(text(measured.rows()))
    for name, why in (measured.failed | measured.lacking).items():
        click.echo(f"{name}: not measured: {why}", err=True)
    if measured.failed:
        return ExitStatus.ERROR
    return ExitStatus.FAIL if any(row.met is False for row in measured.rows()) else ExitStatus.OK


def surroundings() -> dict[str, float]:
    """What the times depend on: cores, and the load that others make, which is said when it spoils them."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    if load > cores * _BUSY:
        click.echo(f"vdpalab: this machine is busy (load {load:.1f} on {cores} cores): times will be longer", err=True)
    return {"cores": cores, "load": round(load, 2)}


def choose(names: Sequence[str]) -> list[Bench]:
    """The benches of these names, or the usual ones. Raises InputError with every unknown name."""
    from lab.config.catalog import names as known_names

    by_name = {bench.name: bench for bench in (*_BENCHES, *_ON_REQUEST)}
    scenarios = {name: _of_scenario(name) for name in known_names("scenarios")}
    known = scenarios | by_name
    if unknown := [name for name in names if name not in known]:
        raise InputError([f"nothing to measure is called {name!r}" for name in unknown], hint=", ".join(known))
    return [known[name] for name in dict.fromkeys(names)] or list(_BENCHES)


def _measure(bench: Bench, rounds: int, around: Surroundings, measured: Measured, report: Report) -> None:
    for number in range(1, rounds + 1):
        report(f"{bench.name} {number}/{rounds}: {bench.summary}")
        try:
            measured.metrics += bench.measure(around)
        except SiteLacks as lack:
            measured.lacking[bench.name] = f"this machine lacks {lack.message}"
            return
        except LabError as error:
            measured.failed[bench.name] = str(error)
            return
