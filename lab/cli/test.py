"""``vdpalab test``: the project's own checks and tests. The one place that has their commands; tox and CI call it."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import click
from filelock import FileLock

from lab import proc
from lab.cli.exit import ExitStatus
from lab.cli.setup import set_up
from lab.errors import HostError, InputError, LabError

ROOT = Path(__file__).parents[2]
GROUPS = ("lint", "types", "unit", "e2e")

_PYTEST = ("pytest", "-n", "2", "--dist", "loadgroup")
_PYTEST_NOTHING_COLLECTED = 5


@dataclass(frozen=True)
class Step:
    """One command of a group, run in the checkout with the virtual environment's programs first in PATH."""

    group: str
    name: str
    argv: tuple[str, ...]

    @property
    def is_pytest(self) -> bool:
        """Whether the command is pytest, which says by a JUnit file what it did."""
        return self.argv[0] == "pytest"


@dataclass(frozen=True)
class Outcome:
    """How a step ended. ``counts`` are pytest's: passed, failed, errors, skipped."""

    step: Step
    ok: bool
    seconds: float
    counts: dict[str, int]

    @property
    def detail(self) -> str:
        """pytest's counts in pytest's words: ``12 passed, 1 skipped``."""
        return ", ".join(f"{number} {word}" for word, number in self.counts.items() if number)


def steps(groups: Sequence[str], *, nightly: bool, expression: str, paths: Sequence[str]) -> list[Step]:
    """The commands to run: whole groups, or pytest alone when tests are selected by expression or path."""
    select = ("-k", expression) if expression else ()
    if paths:
        return [Step("tests", "pytest", (*_PYTEST, *select, *paths))]
    tiers = "push or nightly" if nightly else "push"
    table = [
        *(_lint_steps() if "lint" in groups else ()),
        Step("types", "mypy", ("mypy",)),
        # Many of them wait for a process or a socket: a third worker takes the core meanwhile.
        Step("unit", "pytest unit", (*_PYTEST, "-n", "3", *select, "tests/unit")),
        Step("e2e", f"pytest e2e ({tiers})", (*_PYTEST, *select, "-m", tiers, "tests/e2e")),
    ]
    return [step for step in table if step.group in groups and (step.is_pytest or not expression)]


def _lint_steps() -> list[Step]:
    commands: dict[str, tuple[str, ...]] = {
        "ruff check": ("ruff", "check", "."),
        "ruff format": ("ruff", "format", "--check", "."),
        "import-linter": ("lint-imports",),
        "shellcheck": ("shellcheck", *shell_files()),
        "ansible syntax": (
            "ansible-playbook",
            "-i",
            "ansible/inventory/hosts.yml",
            "--syntax-check",
            "ansible/site.yml",
        ),
        "ansible-lint": ("ansible-lint", "--offline", "-q", "--profile", "production", "ansible"),
    }
    return [Step("lint", name, argv) for name, argv in commands.items()]


def shell_files() -> list[str]:
    """Files that git knows, or would take, and that are shell scripts by name or first line."""
    listed = proc.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT).stdout
    names = [os.fsdecode(name) for name in listed.split(b"\0") if name]
    return sorted({name for name in names if (ROOT / name).is_file() and _is_shell(ROOT / name)})


def _is_shell(file: Path) -> bool:
    with file.open("rb") as source:
        return file.suffix == ".sh" or re.match(rb"#!.*\b(sh|dash|bash)\b", source.readline(80)) is not None


def run_step(step: Step, scratch: Path) -> Outcome:
    """Run one step with its output going to the user. A program that is not there is a failed step."""
    click.echo(f"== {step.name}", err=True)
    begin = time.monotonic()
    junit = scratch / f"{step.group}.xml"
    argv = [*step.argv, f"--junitxml={junit}"] if step.is_pytest else list(step.argv)
    path = f"{Path(sys.prefix, 'bin')}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    try:
        status = proc.foreground(argv, cwd=ROOT, env={"PATH": path})
    except HostError as error:
        click.echo(error.message, err=True)
        status = 127
    counts = read_counts(junit)
    # That a selection leaves nothing in one of the directories is judged over all of them, in `verdict`.
    ok = status == 0 or (status == _PYTEST_NOTHING_COLLECTED and "-k" in argv)
    return Outcome(step, ok, time.monotonic() - begin, counts)


def read_counts(junit: Path) -> dict[str, int]:
    """pytest's counts from a JUnit file; empty when there is none."""
    if not junit.exists():
        return {}
    suites = ElementTree.parse(junit).getroot().iter("testsuite")
    total = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in suites:
        for key in total:
            total[key] += int(suite.get(key, "0"))
    failed, errors, skipped = total["failures"], total["errors"], total["skipped"]
    passed = total["tests"] - failed - errors - skipped
    return {"failed": failed, "passed": passed, "skipped": skipped, "errors": errors}


def verdict(outcomes: Sequence[Outcome]) -> str:
    """Why the whole failed, in words; empty when it did not. Tests that were asked for and did not run failed."""
    failed = [outcome.step.name for outcome in outcomes if not outcome.ok]
    tests = [outcome for outcome in outcomes if outcome.step.is_pytest]
    if tests and not any(sum(outcome.counts.values()) for outcome in tests):
        failed.append("no test was collected")
    return ", ".join(failed)


def _write_summary(outcomes: Sequence[Outcome]) -> None:
    """The table of steps on stderr; then, last and on stdout, one closing line for all of pytest's runs."""
    sys.stdout.flush()
    for outcome in outcomes:
        word = "ok" if outcome.ok else "FAILED"
        click.echo(f"{word:8}{outcome.step.name:24}{outcome.seconds:7.1f} s  {outcome.detail}", err=True)
    if failed := verdict(outcomes):
        click.echo(f"vdpalab: failed: {failed}", err=True)
    tests = [outcome for outcome in outcomes if outcome.step.is_pytest]
    total = {word: sum(o.counts.get(word, 0) for o in tests) for word in ("failed", "passed", "skipped", "errors")}
    words = ", ".join(f"{number} {word}" for word, number in total.items() if number)
    if tests:
        click.echo(f"===== {words or 'no tests ran'} in {sum(o.seconds for o in tests):.2f}s =====")


def add_dev_extra() -> None:
    """Install the tools of the extra ``dev`` at their pinned versions, when one of them is not there.

    Raises LabError when pip fails.
    """
    with FileLock(f"{sys.prefix}.lock"):  # the file that the bootstrap locks
        if not _lacking_tools():
            return
        click.echo("vdpalab: installing the tools for development", err=True)
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        argv = [*pip, "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[dev]"]
        if proc.foreground(argv, stdout=sys.stderr.buffer) != 0:
            raise LabError("pip could not install the extra `dev` of pyproject.toml", hint="vdpalab test")


def _lacking_tools() -> list[str]:
    """Requirements of the extra ``dev`` that are not installed at the version that constraints.txt pins."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in project["optional-dependencies"]["dev"]]
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    return [name for name in wanted if name not in pins or _installed(name) != pins[name]]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Groups and test paths among the arguments. Raises InputError for what is neither."""
    groups = [word for word in arguments if word in GROUPS]
    paths = [word for word in arguments if word not in GROUPS]
    problems = [
        f"{word}: neither a group ({', '.join(GROUPS)}) nor a test file"
        for word in paths
        if not (ROOT / word.split("::")[0]).exists()
    ]
    if groups and paths:
        problems.append("give groups or test files, not both")
    if problems:
        raise InputError(problems, hint="vdpalab test --help")
    return groups or list(GROUPS), paths


@click.command("test")
@click.option("--all", "nightly", is_flag=True, help="The nightly tier of the end-to-end tests too.")
@click.option("-k", "expression", default="", metavar="EXPR", help="Only tests whose names match, as in pytest.")
@click.argument("what", nargs=-1, metavar="[GROUP|PATH]...")
def command(nightly: bool, expression: str, what: tuple[str, ...]) -> ExitStatus:
    """Run the project's checks and tests: groups lint, types, unit and e2e, or single test files.

    Sets up what they need. Exit status 0 when every step passed, else 1.

    \b
    Examples:
      vdpalab test                                  what CI runs
      vdpalab test lint types unit                  in two minutes, without a machine being started
      vdpalab test -k unplug                        tests by name
      vdpalab test tests/unit/test_plan.py::test_x  one test
    """
    groups, paths = _split(what)
    if "e2e" in groups and not (paths or expression):
        set_up()
    add_dev_extra()
    with tempfile.TemporaryDirectory(prefix="vdpalab-test-") as scratch:
        selected = steps(groups, nightly=nightly, expression=expression, paths=paths)
        outcomes = [run_step(step, Path(scratch)) for step in selected]
    _write_summary(outcomes)
    return ExitStatus.FAIL if verdict(outcomes) else ExitStatus.OK
