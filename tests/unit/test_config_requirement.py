"""configs/virtbus.toml: every check exists, every test and procedure is asked for, and the page says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.artifacts.conformance import VIRTBUS
from lab.checks.virtbus.build import BUILDS
from lab.checks.virtbus.procedures import PROCEDURES
from lab.config import requirement
from lab.config.requirement import PAGE, TEST, load_requirements, select
from lab.config.scenario import VirtbusScenario
from lab.errors import InputError
from lab.report.requirements import paragraphs
from lab.scenarios.conformance import REBOOT

ROOT = Path(__file__).parents[2]
PROBES = [probe for item in load_requirements() for probe in item.probes]


def test_every_test_of_the_kernel_is_asked_for() -> None:
    source = (VIRTBUS / "tests" / "vbt_test.c").read_text()
    there = {name.partition(".")[0] for name in re.findall(r'VBT_TEST\("([^"]+)"', source)}
    assert {probe.id for probe in PROBES if probe.run == TEST} == there


def test_every_procedure_is_asked_for() -> None:
    wanted = {probe.name for probe in PROBES if probe.run != TEST}
    assert wanted == {*PROCEDURES, *BUILDS, *REBOOT}


def test_what_is_built_is_in_the_topic_build() -> None:
    assert {probe.name for probe in PROBES if probe.topic == "build"} == set(BUILDS)
    assert {probe.kind for probe in PROBES if probe.topic == "build"} <= {"build", "static"}


def test_the_page_has_a_paragraph_for_each() -> None:
    page = (ROOT / PAGE).read_text()
    made = page.partition("<!-- made of configs/virtbus.toml -->\n")[2].partition("<!-- end -->")[0]
    assert made == f"{paragraphs()}\n", "docs/virtbus.md: put lab.report.requirements.paragraphs() between its marks"
    assert all(f"### {item.id}\n" in page for item in load_requirements())


def test_only_some_checks() -> None:
    scenario = VirtbusScenario(kind="virtbus", summary="an example of it", topics=["api"], only=["R04", "R27/bind"])
    assert [probe.name for _, probe in select(scenario)] == ["R04", "R27/bind"]
    whole = scenario.model_copy(update={"only": ["R06", "R27/test"]})
    assert [probe.name for _, probe in select(whole)] == ["R06", "R06/uevent", "R06/autoload", "R27"]


def test_a_check_that_is_not_of_the_topic() -> None:
    scenario = VirtbusScenario(kind="virtbus", summary="an example of it", topics=["api"], only=["R99", "R08", "R04"])
    with pytest.raises(InputError) as caught:
        select(scenario)
    assert [problem.split(":")[1].split()[0] for problem in caught.value.problems] == ["'R08'", "'R99'"]


def test_what_is_there_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = """
[[requirement]]
id = "R01"
title = "something that holds"
text = "words about it, and rather more of them"
source = "somebody"
checks = [{ topic = "api", run = "test" }, { topic = "api", run = "test" }]
"""
    monkeypatch.setattr(requirement, "REQUIREMENTS", tmp_path / "virtbus.toml")
    (tmp_path / "virtbus.toml").write_text(entry + entry)
    with pytest.raises(InputError) as caught:
        load_requirements.__wrapped__()
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        "requirement R01: it is there twice",
        "check R01 of api: it is there twice",
    ]
