"""The verb that runs the project's checks: which commands, and how their ends are judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lab import proc
from lab.cli import main, test
from lab.cli.test import ROOT, Outcome, Step
from lab.errors import CommandError, InputError
from lab.model import Completed

JUNIT = '<testsuites><testsuite errors="{e}" failures="{f}" skipped="{s}" tests="{t}"/></testsuites>'


class Tools:
    """Stands in for every tool: remembers command lines, ends as told, writes pytest's JUnit file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[str, ...]] = []
        self.status: dict[str, int] = {}
        self.tests = {"tests/unit": 3, "tests/e2e": 2}
        self.set_up = 0
        monkeypatch.setattr(proc, "foreground", self.foreground)
        monkeypatch.setattr(test, "set_up", self._count_set_up)
        monkeypatch.setattr(test, "add_dev_extra", lambda: None)

    def _count_set_up(self) -> None:
        self.set_up += 1

    def foreground(self, argv: Sequence[str], **_options: object) -> int:
        self.ran.append(tuple(argv))
        name = argv[0]
        if name == "pytest":
            name = next((word for word in argv if word.startswith("tests/")), "")
            junit = argv[-1].removeprefix("--junitxml=")
            Path(junit).write_text(
                JUNIT.format(e=0, f=0, s=1, t=self.tests[name]) if self.tests[name] else "<testsuites/>"
            )
        return self.status.get(name, 0)

    @property
    def names(self) -> list[str]:
        return [argv[0] for argv in self.ran]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Tools:
    return Tools(monkeypatch)


def test_everything_runs_and_the_closing_line_is_last(tools: Tools, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["test"]) == 0
    lint = ["ruff", "ruff", "lint-imports", "shellcheck", "ansible-playbook", "ansible-lint"]
    assert tools.names == [*lint, "mypy", "pytest", "pytest"]
    assert tools.set_up == 1
    captured = capfd.readouterr()
    assert captured.out.startswith("===== 3 passed, 2 skipped in ")
    assert "ok      mypy" in captured.err


def test_push_and_nightly_tiers(tools: Tools) -> None:
    main(["test", "e2e"])
    main(["test", "--all", "e2e"])
    tiers = [argv[argv.index("-m") + 1] for argv in tools.ran]
    assert tiers == ["push", "push or nightly"]


@pytest.mark.parametrize("group", ["lint", "types", "unit"])
def test_groups_that_start_no_machine_need_no_setup(group: str, tools: Tools) -> None:
    assert main(["test", group]) == 0
    assert tools.set_up == 0


@pytest.mark.parametrize("broken", ["ruff", "mypy", "shellcheck", "tests/unit", "tests/e2e"])
def test_one_failed_step_fails_all_and_the_rest_still_runs(broken: str, tools: Tools) -> None:
    tools.status[broken] = 1
    assert main(["test"]) == 1
    assert len(tools.ran) == 9


def test_no_test_collected_fails(tools: Tools, capsys: pytest.CaptureFixture[str]) -> None:
    tools.tests, tools.status = {"tests/unit": 0}, {"tests/unit": 5}
    assert main(["test", "unit"]) == 1
    assert "no test was collected" in capsys.readouterr().err


def test_pytest_that_counts_nothing_fails_whatever_its_status(tools: Tools) -> None:
    tools.tests = {"tests/unit": 0}
    assert main(["test", "unit"]) == 1


def test_expression_selects_in_both_directories(tools: Tools) -> None:
    tools.tests, tools.status = {"tests/unit": 0, "tests/e2e": 2}, {"tests/unit": 5}
    assert main(["test", "-k", "unplug"]) == 0
    assert tools.names == ["pytest", "pytest"]
    assert all("unplug" in argv for argv in tools.ran)
    tools.tests, tools.status = {"tests/unit": 0, "tests/e2e": 0}, {"tests/unit": 5, "tests/e2e": 5}
    assert main(["test", "-k", "nothing_has_this_name"]) == 1


def test_paths_run_alone_and_in_every_tier(tools: Tools) -> None:
    path = "tests/unit/test_cli_test.py::test_paths_run_alone"
    tools.tests[path] = 1
    assert main(["test", path]) == 0
    [argv] = tools.ran
    assert path in argv
    assert "-m" not in argv


@pytest.mark.parametrize("words", [["frob"], ["tests/unit/absent.py"], ["lint", "tests/unit"]])
def test_unknown_words_are_bad_input(words: list[str], tools: Tools) -> None:
    with pytest.raises(InputError):
        test._split(words)
    assert main(["test", *words]) == 2
    assert tools.ran == []


def test_a_program_that_is_not_there_is_a_failed_step(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(*_arguments: object, **_options: object) -> int:
        raise CommandError("lab", Completed(("mypy",), 127, b"", b"No such file", 0.0))

    monkeypatch.setattr(proc, "foreground", missing)
    assert not test.run_step(Step("types", "mypy", ("mypy",)), tmp_path).ok


def test_counts_of_a_junit_file(tmp_path: Path) -> None:
    junit = tmp_path / "unit.xml"
    assert test.read_counts(junit) == {}
    junit.write_text(JUNIT.format(e=1, f=2, s=3, t=10))
    outcome = Outcome(Step("unit", "x", ("pytest",)), ok=False, seconds=1.0, counts=test.read_counts(junit))
    assert outcome.detail == "2 failed, 4 passed, 3 skipped, 1 errors"


def test_shell_files_are_found_by_name_and_first_line(tmp_path: Path) -> None:
    found = test.shell_files()
    assert {"vdpalab", ".ci/run"} <= set(found)
    assert not [name for name in found if name.endswith((".py", ".toml", ".md"))]
    for first_line, is_shell in {"#!/bin/sh": True, "#!/usr/bin/env bash": True, "#!/usr/bin/python3": False}.items():
        (tmp_path / "script").write_text(first_line + "\n")
        assert test._is_shell(tmp_path / "script") == is_shell


def test_tools_at_the_wrong_version_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pins = {"ruff": None, "pytest": "0.1"}
    monkeypatch.setattr(test, "_installed", pins.get)
    assert {"ruff", "pytest"} <= set(test._lacking_tools())


def test_every_tool_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "constraints.txt").read_text()
    monkeypatch.setattr(test, "_installed", lambda name: text.partition(f"\n{name}==")[2].split("\n")[0])
    assert test._lacking_tools() == []


def test_failure_of_pip_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(test, "_lacking_tools", lambda: ["ruff"])
    monkeypatch.setattr(proc, "foreground", lambda *_a, **_k: 1)
    with pytest.raises(Exception, match="pip could not install"):
        test.add_dev_extra()
