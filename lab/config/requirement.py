"""The requirements on the bus, and what checks each: configs/virtbus.toml.

They are what reviewers of the virtbus proposal of 2019 asked for (R) and flaws of it that nobody named (U). A check is
the kernel's own test of that id (module ``vbt_test``), or a procedure that user space drives (lab.checks.virtbus).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Literal

from pydantic import Field

from lab.config.catalog import CONFIGS
from lab.config.scenario import AdapterName, Topic, VirtbusScenario
from lab.config.strict import Strict, read_toml, validate
from lab.errors import InputError

REQUIREMENTS = CONFIGS / "virtbus.toml"
# The page that has a paragraph for each requirement, made of this file; a test holds the two together.
PAGE = "docs/virtbus.md"

TEST = "test"


class Probe(Strict):
    """One way in which a requirement is checked.

    ``run`` is ``test`` for the kernel's own test, else the name of a procedure. ``needs`` are options of the kernel
    under test without which it finds nothing; then it is a SKIP that says so. ``adapters`` are the buses it applies to.
    """

    topic: Topic
    run: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    kind: Literal["static", "build", "runtime"] = "runtime"
    needs: list[str] = []
    adapters: list[AdapterName] | None = None
    id: str = ""

    @property
    def name(self) -> str:
        """``R08`` for the kernel's test of R08, ``R18/freeze`` for a procedure."""
        return self.id if self.run == TEST else f"{self.id}/{self.run}"


class Requirement(Strict):
    """One requirement: what must hold, who asked for it where, and how it is checked."""

    id: str = Field(pattern=r"^[RU]\d{2}$")
    title: Annotated[str, Field(min_length=10, max_length=110)]
    text: Annotated[str, Field(min_length=30)]
    source: Annotated[str, Field(min_length=5, description="who said it when, on the list; or where the flaw was seen")]
    found: Literal["asked", "read"] = Field(
        "asked", description="whether somebody asked for it, or reading the patch that was proposed showed the flaw"
    )
    checks: Annotated[list[Probe], Field(min_length=1)]

    @property
    def link(self) -> str:
        """Its paragraph in the project's documentation."""
        return f"{PAGE}#{self.id.lower()}"

    @property
    def probes(self) -> list[Probe]:
        """The checks, each with this requirement's id."""
        return [probe.model_copy(update={"id": self.id}) for probe in self.checks]


class _File(Strict):
    requirement: list[Requirement]


@cache
def load_requirements() -> tuple[Requirement, ...]:
    """Read configs/virtbus.toml. Raises InputError, also for an id or a check that is there twice."""
    found = validate(_File, read_toml(REQUIREMENTS), str(REQUIREMENTS)).requirement
    problems = [f"requirement {twice}: it is there twice" for twice in _twice([item.id for item in found])]
    names = [f"{probe.name} of {probe.topic}" for item in found for probe in item.probes]
    problems += [f"check {twice}: it is there twice" for twice in _twice(names)]
    if problems:
        raise InputError([f"{REQUIREMENTS}: {problem}" for problem in problems])
    return tuple(found)


def select(scenario: VirtbusScenario) -> list[tuple[Requirement, Probe]]:
    """The checks of a scenario, in the file's order. Raises InputError for what ``only`` names and is none of them."""
    all_of_them = [(item, probe) for item in load_requirements() for probe in item.probes]
    found = [(item, probe) for item, probe in all_of_them if probe.topic in scenario.topics]
    unknown = sorted(name for name in scenario.only if not any(_is_named(probe, name) for _, probe in found))
    if unknown:
        topics = ", ".join(scenario.topics)
        raise InputError([f"only: {name!r} is no check of {topics} in {REQUIREMENTS.name}" for name in unknown])
    wanted = [pair for pair in found if any(_is_named(pair[1], name) for name in scenario.only)]
    return wanted if scenario.only else found


def _is_named(probe: Probe, name: str) -> bool:
    """Whether ``only`` means a check: ``R08/test`` the kernel's, ``R08/word`` a procedure, ``R08`` all of it."""
    return name in (probe.id, f"{probe.id}/{probe.run}")


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
