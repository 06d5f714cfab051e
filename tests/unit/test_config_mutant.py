"""lab.config.mutant: headers, right and wrong, and that the lab's own are right."""

from __future__ import annotations

from typing import Any

import pytest

from lab.config import mutant as mutants
from lab.config.catalog import load_scenario
from lab.config.mutant import load_mutant, parse
from lab.config.requirement import select
from lab.config.scenario import VirtbusScenario
from lab.errors import InputError

HEADER = """\
A device that could not be added is deleted all the same.

Check: R08
Kernel: default
Expect: oops

"""
DIFF = "--- a/tree/drivers/bus/virtual_bus.c\n+++ b/tree/drivers/bus/virtual_bus.c\n@@ -1 +1 @@\n-a\n+Check: R09\n"


def test_a_header() -> None:
    mutant = parse("R08-deletes", HEADER + DIFF, "x.patch")
    assert mutant.model_dump() == {
        "name": "R08-deletes",
        "what": "A device that could not be added is deleted all the same.",
        "check": "R08",
        "kernel": "default",
        "expect": ("oops",),
    }
    several = parse("R08-deletes", HEADER.replace("oops", "oops, KASAN") + DIFF, "x.patch")
    assert several.expect == ("oops", "KASAN")


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (HEADER, ["x.patch: holds no patch"]),
        (
            DIFF,
            ["what: String should have", "check: Field required", "kernel: Field required", "expect: Field required"],
        ),
        (HEADER.replace("R08", "08") + DIFF, ["check: String should match"]),
        (HEADER.replace("R08", "R08/Freeze") + DIFF, ["check: String should match"]),
        (HEADER.replace("default", "newest") + DIFF, ["kernel: Input should be 'default' or 'debug'"]),
        (HEADER.replace("oops", "smoke") + DIFF, ["expect.0: Input should be"]),
    ],
)
def test_what_is_wrong_with_a_header(text: str, problems: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        parse("R08-deletes", text, "x.patch")
    assert len(caught.value.problems) == len(problems)
    for found, wanted in zip(caught.value.problems, problems, strict=True):
        assert wanted in found


def test_every_mutant_names_a_check_that_there_is() -> None:
    for name in mutants.mutants():
        _, scenario = load_scenario(name)
        assert isinstance(scenario, VirtbusScenario)
        assert (scenario.mutant, scenario.kernel) == (
            name.removeprefix("mutant-"),
            load_mutant(name.removeprefix("mutant-")).kernel,
        )
        assert select(scenario)


def test_a_mutant_that_is_not_there() -> None:
    with pytest.raises(InputError, match="R99-none"):
        load_mutant("R99-none")


def test_the_check_is_a_key_like_any_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(mutants, "MUTANTS", tmp_path)
    (tmp_path / "R08-deletes.patch").write_text(HEADER.replace("R08", "R08.twice") + DIFF)
    name, scenario = load_scenario("mutant-R08-deletes", ["only=[]"])
    assert isinstance(scenario, VirtbusScenario)
    assert (name, scenario.only, scenario.mutant) == ("mutant-R08-deletes", [], "R08-deletes")
    assert load_scenario("mutant-R08-deletes")[1].model_dump()["only"] == ["R08"]
