"""The product of everything that can be combined, and why most of it is no scenario: configs/matrix.toml.

A unit test holds that product = scenarios + exclusions, so that a combination can neither be forgotten nor be
excluded for a reason that is not true.
"""

from __future__ import annotations

import itertools
from fnmatch import fnmatchcase
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from lab.config.catalog import CONFIGS
from lab.config.scenario import Fault, FaultName, Ifcvf, Iperf3, Migrate, Provider, VdpaScenario, VdpaSim
from lab.config.strict import Strict, read_toml, validate
from lab.model import AttachMode, DeviceClass

MATRIX = CONFIGS / "matrix.toml"

EXERCISES = (
    *("iperf3", "loopback", "fio", "unplug", "neighbours", "delete", "unbind", "rescan", "unplug-parent"),
    *("migrate", "migrate-no_svq", "migrate-vdpa_sim", "migrate-vdpa_sim-no_svq"),
    *(f"fault-{name}" for name in get_args(FaultName)),
)


def _exercise_that_exists(name: str) -> str:
    if name not in EXERCISES:
        raise ValueError(f"no exercise is called {name!r}")
    return name


Exercise = Annotated[str, AfterValidator(_exercise_that_exists)]


class Dimensions(Strict):
    """The axes, in the order of a scenario's name."""

    device_class: Annotated[tuple[DeviceClass, ...], Field(alias="class", min_length=1)]
    provider: Annotated[tuple[Provider, ...], Field(min_length=1)]
    attach: Annotated[tuple[AttachMode, ...], Field(min_length=1)]
    exercise: Annotated[tuple[Exercise, ...], Field(min_length=1)]


class Exclusion(Strict):
    """Combinations that are no scenario. ``match`` is a name with shell wildcards."""

    match: str
    kind: Literal["impossible", "unwritten", "covered"] = Field(
        description="impossible: `plan` refuses it too; unwritten: so it does, since the lab has no code for it yet; "
        "covered: the scenario `by` shows everything that it would"
    )
    by: str | None = None
    reason: Annotated[str, Field(min_length=10)]

    @model_validator(mode="after")
    def _names_what_covers(self) -> Exclusion:
        if (self.kind == "covered") != (self.by is not None):
            raise ValueError(f"{self.match}: `by` names the scenario that covers it, and stands with that kind only")
        return self

    def excludes(self, name: str) -> bool:
        """Whether the combination called ``name`` is meant."""
        return fnmatchcase(name, self.match)


class Matrix(Strict):
    """Dimensions and exclusions."""

    dimensions: Dimensions
    exclude: list[Exclusion]

    def combinations(self) -> list[str]:
        """Every name that the dimensions span."""
        d = self.dimensions
        return ["-".join(parts) for parts in itertools.product(d.device_class, d.provider, d.attach, d.exercise)]

    def excluded(self, name: str) -> list[Exclusion]:
        """The exclusions that say why a combination is no scenario."""
        return [exclusion for exclusion in self.exclude if exclusion.excludes(name)]


def load_matrix() -> Matrix:
    """Read configs/matrix.toml. Raises InputError."""
    return validate(Matrix, read_toml(MATRIX), str(MATRIX))


def canonical_name(scenario: VdpaScenario) -> str:
    """``<class>-<provider>-<attach>-<exercise>`` as the content of a scenario says it."""
    parts = (scenario.device_class, scenario.device.provider, scenario.attach.mode, _exercise(scenario))
    return "-".join(parts)


def _exercise(scenario: VdpaScenario) -> str:
    if isinstance(scenario.action, Fault):
        return f"fault-{scenario.action.name}"
    if isinstance(scenario.action, Migrate):
        return _migration(scenario, scenario.action)
    if scenario.action:
        return scenario.action.kind
    # iperf3 through one looping device has a name of its own only where a guest holds both ends of it: in L1 the
    # two network namespaces look like any other pair.
    loops = isinstance(scenario.workload, Iperf3) and isinstance(scenario.device, VdpaSim)
    return "loopback" if loops and scenario.attach.mode is AttachMode.VHOST_VDPA else scenario.workload.kind


def _migration(scenario: VdpaScenario, action: Migrate) -> str:
    needs_svq = isinstance(scenario.device, Ifcvf) and not action.shadow_vq
    parts = (action.kind, *(() if action.destination == "same" else (action.destination,)), *(("no_svq",) * needs_svq))
    return "-".join(parts)
