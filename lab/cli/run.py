"""``vdpalab run``: run scenarios as one job and judge them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.shell_completion import CompletionItem

from lab.cli.exit import ExitStatus, status_of
from lab.config.request import AccelChoice, ArtifactOptions, RunRequest, StopAt
from lab.errors import InputError, LabError
from lab.model import RunResult, Verdict

if TYPE_CHECKING:
    from lab.jobs.engine import JobOutcome, PlannedRun
    from lab.topology.plan import Plan

# Rounds of --until-fail alone: "until it fails" with an end, and three digits in the run directories' names.
_MANY = 999


class _RunCommand(click.Command):
    """Lets ``--keep`` stand alone before a scenario's name: click would take the name for its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--keep=always" if arg == "--keep" else arg for arg in args])


def _complete_names(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from lab.config.catalog import names
    from lab.config.mutant import mutants

    known = [*names("suites"), *names("scenarios"), *mutants()]
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]


def _complete_kernels(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from lab.config.catalog import names

    return [CompletionItem(name) for name in names("kernels") if name.startswith(incomplete)]


_PATH = click.Path(path_type=Path, resolve_path=True)


class _Series(click.Path):
    """A path, or the word ``none``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "none" else super().convert(value, param, ctx)


_SERIES = _Series(path_type=Path, resolve_path=True)


@click.command("run", cls=_RunCommand)
@click.argument("names", nargs=-1, metavar="NAME|FILE|SUITE...", shell_complete=_complete_names)
@click.option(
    "-j", "--jobs", type=click.IntRange(1), help="At most so many at once, sharing cores  [default: all that fit]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON document")
@click.option(
    "--keep", type=click.Choice(["always", "on-fail"]), help="Keep the lab up until Ctrl-C; --keep alone: always"
)
@click.option("--stop-at", type=click.Choice(get_args(StopAt)), help="Stop after this step")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Change one value of the scenario")
@click.option("--site", default="nested", show_default=True, help="Where to run: a site's name or file")
@click.option("--accel", type=click.Choice(get_args(AccelChoice)), default="auto", show_default=True)
@click.option("--kernel", default="default", show_default=True, help="Kernel variant", shell_complete=_complete_kernels)
@click.option("--kernel-tree", type=_PATH, help="Build this kernel source tree; it is not written to")
@click.option("--kernel-ref", help="Commit, tag or branch of --kernel-tree  [default: the tree as it is]")
@click.option("--kernel-image", type=_PATH, help="Use this built kernel")
@click.option("--kernel-modules", type=_PATH, help="... and its modules: what has lib/modules")
@click.option("--patch", "patches", type=_PATH, multiple=True, help="Apply a patch, mbox or quilt series to the kernel")
@click.option("--virtbus", type=_SERIES, metavar="SERIES|none", help="In place of the lab's own virtbus")
@click.option("--virtbus-adapter", type=_PATH, metavar="HEADER", help="Check the bus that this adapter-NAME.h is for")
@click.option("--qemu-l0", type=_PATH, help="QEMU for L1, on this machine")
@click.option("--qemu-l1", type=_PATH, help="QEMU for L2, inside L1")
@click.option("--tag", "tags", multiple=True, help="Only scenarios with one of these tags; alone: of all scenarios")
@click.option("--cold", is_flag=True, help="Boot, and boot L2 with its device instead of hot-plugging it")
@click.option("--repeat", type=click.IntRange(1, _MANY), help="Run each so many times")
@click.option("--until-fail", is_flag=True, help="Start nothing more after a FAIL or ERROR; alone: repeat until then")
@click.option("--pcap", is_flag=True, help="Record whole packets, not only their heads")
@click.option("--full", is_flag=True, help="Mutants: run every check, not only the one that must catch it")
@click.option("--update", is_flag=True, help="Look for newer packages before building")
def command(names: tuple[str, ...], jobs: int | None, as_json: bool, tags: tuple[str, ...], **options: Any) -> int:
    """Run scenarios, scenario files or suites, and judge them with proof.

    The exit status is 0 when something passed and nothing failed, 1 some FAIL, 2 bad input (nothing was started),
    3 some ERROR, 77 nothing passed, all SKIP, 130 interrupted.

    \b
    Examples:
      vdpalab run net-vp_vdpa-vhost_vdpa-iperf3             one scenario
      vdpalab run smoke -j 2 --json >results.json           a suite, two at a time
      vdpalab run blk-vdpa_sim-vhost_vdpa-fio --set workload.jobs.0.size=32m
      vdpalab run my.toml --kernel-tree ~/linux --keep      my scenario on my kernel, then look around
      vdpalab run net-vp_vdpa-vhost_vdpa-unplug --until-fail
    """
    repeat, until_fail = options.pop("repeat"), options.pop("until_fail")
    return run_scenarios(
        names,
        request_template(names, **options),
        tags=tags,
        jobs=jobs,
        as_json=as_json,
        repeat=repeat or (_MANY if until_fail else 1),
        until_fail=until_fail,
    )


def _full(names: Sequence[str]) -> tuple[str, ...]:
    """What makes a mutant run every check. Raises InputError when something else is to be run."""
    from lab.config.catalog import expand
    from lab.config.mutant import EVERY_CHECK, PREFIX

    others = [name for name in expand(names) if not name.startswith(PREFIX)]
    if others or not names:
        raise InputError([f"--full is for mutants, and {name} is none" for name in others] or ["--full needs mutants"])
    return EVERY_CHECK


def run_scenarios(
    names: Sequence[str],
    template: RunRequest,
    *,
    tags: Sequence[str] = (),
    jobs: int | None = None,
    as_json: bool = False,
    repeat: int = 1,
    until_fail: bool = False,
) -> int:
    """Run what ``names`` (scenarios, files, suites) and ``tags`` select, each as ``template`` says; print the results.

    The template's scenario is ignored. Returns the exit status; raises InputError, before anything is started.
    """
    from lab.artifacts.store import cache_root
    from lab.cli.live import job_display
    from lab.jobs.engine import run_job

    runs = [planned_run(plan) for plan in select(names, tags, template)]
    if template.keep != "never" and len(runs) * repeat != 1:
        raise InputError([f"--keep stays with one lab, and this would run {len(runs) * repeat}"])
    job_dir = _new_job(cache_root() / "jobs")
    clean_up(job_dir.parent)
    with job_display() as display:
        display.say(f"{len(runs) * repeat} to run; evidence in {job_dir}")
        outcome = run_job(runs, job_dir, display, max_parallel=jobs, repeat=repeat, until_fail=until_fail)
    # A runner that was killed left its machines.
    clean_up(job_dir.parent)
    return _conclude(job_dir, outcome, as_json)


def clean_up(root: Path) -> None:
    """End and remove what dead labs of the jobs below ``root`` left, and say so."""
    from lab.evidence.orphans import clean_orphans

    clean_orphans(root, lambda line: click.echo(f"vdpalab: left by a killed lab, {line}", err=True))


def select(names: Sequence[str], tags: Sequence[str], template: RunRequest) -> list[Plan]:
    """The plans of everything that is to run. Raises InputError with the problems of all of them."""
    from lab.artifacts.provide import problems as artifact_problems
    from lab.config.catalog import expand
    from lab.topology.plan import make_plan

    if not names and not tags:
        raise InputError(["name a scenario, a file or a suite"], hint="vdpalab list")
    problems: list[str] = []
    chosen: list[str] = []
    unknown: list[str] = []
    plans: list[Plan] = []
    for word in names or ["all"]:
        try:
            chosen += expand([word])
        except InputError as error:
            unknown += error.problems
    problems += unknown
    if not chosen:
        problems += artifact_problems(template.artifacts)
    for name in dict.fromkeys(chosen):
        try:
            plans.append(make_plan(template.model_copy(update={"scenario": name})))
        except InputError as error:
            problems += error.problems
    if problems:
        # The list helps who named what is not there; any other problem says itself what is wrong.
        raise InputError(list(dict.fromkeys(problems)), hint="vdpalab list" if unknown else "")
    tagged = [plan for plan in plans if not tags or set(tags) & plan.scenario.all_tags]
    if not tagged:
        have = sorted({tag for plan in plans for tag in plan.scenario.all_tags})
        raise InputError([f"no scenario has the tag {' or '.join(tags)}"], hint=f"tags: {', '.join(have) or 'none'}")
    return tagged


def planned_run(plan: Plan) -> PlannedRun:
    """What the job engine needs to know of a plan."""
    from lab.jobs.engine import PlannedRun

    return PlannedRun(plan.name, plan.request, plan.ram_mb, plan.cores, plan.estimate_s)


def exit_code(results: Sequence[RunResult], interrupted: bool) -> ExitStatus:
    """The exit status of a job (design.md section 4)."""
    return ExitStatus.INTERRUPTED if interrupted else status_of(result.verdict for result in results)


def request_template(names: Sequence[str] = (), **options: Any) -> RunRequest:
    """The request that the options of this verb make, but for the scenario. Raises InputError."""
    if options.pop("full", False):
        options["overrides"] = (*options["overrides"], *_full(names))
    artifacts = {field: options.pop(field) for field in ArtifactOptions.model_fields}
    keep = options.pop("keep", None) or "never"
    return RunRequest(scenario="", artifacts=ArtifactOptions(**artifacts), keep=keep, **options)


def _new_job(root: Path) -> Path:
    from lab.evidence.jobs import new_job

    try:
        return new_job(root)
    except OSError as error:
        hint = "set VDPALAB_CACHE to a directory that you can write to"
        raise LabError(f"no job directory could be made: {error}", hint=hint) from error


def _conclude(job_dir: Path, outcome: JobOutcome, as_json: bool) -> ExitStatus:
    from lab.report.job import write_reports
    from lab.report.result import document, dumps

    results = [*outcome.results, *outcome.engine_failed]
    status = exit_code(results, outcome.interrupted)
    try:
        write_reports(job_dir, outcome.engine_failed)
    except OSError as error:
        # A full disk: what is known is still told, and the status says it.
        click.echo(f"vdpalab: the report could not be written: {error}", err=True)
        status = status if outcome.interrupted else ExitStatus.ERROR
    if as_json:
        click.echo(dumps(document(job_dir, results)), nl=False)
    else:
        _print(job_dir, results)
    if outcome.not_started:
        click.echo(f"not started: {_counted(outcome.not_started)}", err=True)
    return status


def _counted(names: Sequence[str]) -> str:
    """Each name once, with how often it stands there: `--until-fail` alone plans hundreds of rounds."""
    return ", ".join(f"{name} ({count} times)" if count > 1 else name for name, count in Counter(names).items())


def _print(job_dir: Path, results: Sequence[RunResult]) -> None:
    from lab.report.result import RESULTS

    print_table(results)
    _print_virtbus(results)
    for result in results:
        if result.verdict in (Verdict.FAIL, Verdict.ERROR):
            click.echo(f"\n{result.scenario}: {result.verdict}\n{_next_steps(result)}")
    click.echo(f"\nresults  {job_dir / RESULTS}\nreport   {job_dir / 'report.html'}")


def _print_virtbus(results: Sequence[RunResult]) -> None:
    """What the virtbus suite found, by requirement and by mutant."""
    from lab.report import requirements
    from lab.report.table import plain

    if rows := requirements.requirement_rows(results):
        click.echo(f"\n{plain(requirements.REQUIREMENT_COLUMNS, rows)}")
    if mutants := requirements.mutant_rows(results):
        click.echo(f"\n{plain(requirements.MUTANT_COLUMNS, [row.cells for row in mutants])}")


def print_table(results: Sequence[RunResult]) -> None:
    """Print results as a table, with colours on a terminal."""
    from lab.report.table import plain_results, rich_results

    if not sys.stdout.isatty():
        click.echo(plain_results(results))
        return
    from rich.console import Console

    Console().print(rich_results(results))


def _next_steps(result: RunResult) -> str:
    """The log that tells more, and the command that repeats the run."""
    from lab.report.repeat import repeat_command
    from lab.report.rundir import RUNNER_LOG, read_request

    run_dir = Path(result.run_dir)
    logs = [run_dir / "machines" / result.machine / "console.log"] if result.machine else []
    log = next((path for path in [*logs, run_dir / RUNNER_LOG] if path.is_file() and path.stat().st_size), run_dir)
    request = read_request(run_dir, [])
    lines = [f"  log   {log}", f"  next  {repeat_command(request)} --keep" if request else ""]
    return "\n".join(line for line in lines if line)
