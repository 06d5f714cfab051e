"""configs/matrix.toml: product = scenarios + exclusions, and every exclusion is true."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from lab.config.catalog import load_scenario, names
from lab.config.matrix import EXERCISES, Matrix, canonical_name, load_matrix
from lab.config.request import RunRequest
from lab.config.scenario import Ifcvf, VdpaScenario, VdpaSim, VirtbusScenario, VpVdpa
from lab.config.strict import validate
from lab.errors import InputError
from lab.model import AttachMode, DeviceClass
from lab.topology.plan import contradictions

MATRIX = load_matrix()
ALL = {name: load_scenario(name)[1] for name in names("scenarios")}
SCENARIOS = {name: scenario for name, scenario in ALL.items() if isinstance(scenario, VdpaScenario)}
NET_WORKLOAD = {"kind": "iperf3", "streams": [{}]}
BLK_WORKLOAD = {"kind": "fio", "jobs": [{}]}


def example(name: str) -> VdpaScenario:
    """What a scenario of this name would say."""
    device_class, provider, attach, exercise = name.split("-", 3)
    own = {"iperf3": NET_WORKLOAD, "loopback": NET_WORKLOAD, "fio": BLK_WORKLOAD}
    data: dict[str, Any] = {
        "summary": f"example of {name}",
        "class": device_class,
        "device": {"provider": provider},
        "attach": {"mode": attach},
        "workload": own.get(exercise, NET_WORKLOAD if device_class == "net" else BLK_WORKLOAD),
    }
    return validate(VdpaScenario, data | ({} if exercise in own else {"action": action(exercise)}), name)


def action(exercise: str) -> dict[str, Any]:
    if exercise.startswith("migrate-"):
        more: dict[str, dict[str, Any]] = {
            "migrate-no_svq": {},
            "migrate-vdpa_sim": {"destination": "vdpa_sim", "shadow_vq": True},
            "migrate-vdpa_sim-no_svq": {"destination": "vdpa_sim"},
        }
        return {"kind": "migrate", **more[exercise]}
    if not exercise.startswith("fault-"):
        return {"kind": exercise}
    name = exercise.removeprefix("fault-")
    return {"kind": "fault", "name": name, "traffic": "flows", "afterwards": "flows"}


def matching(pattern: str) -> list[str]:
    [exclusion] = [e for e in MATRIX.exclude if e.match == pattern]
    return [name for name in MATRIX.combinations() if exclusion.excludes(name)]


def test_product_is_scenarios_plus_exclusions() -> None:
    excluded = {name for name in MATRIX.combinations() if MATRIX.excluded(name)}
    assert Counter(MATRIX.combinations()) == Counter([*SCENARIOS, *excluded])


@pytest.mark.parametrize("pattern", [exclusion.match for exclusion in MATRIX.exclude])
def test_each_exclusion_excludes_something_and_no_scenario(pattern: str) -> None:
    assert matching(pattern)
    assert set(matching(pattern)).isdisjoint(SCENARIOS)


@pytest.mark.parametrize("pattern", [e.match for e in MATRIX.exclude if e.kind != "covered"])
def test_what_is_impossible_or_unwritten_is_refused(pattern: str) -> None:
    for name in matching(pattern):
        assert contradictions(example(name), RunRequest(scenario=name)), name


def test_only_what_is_unwritten_says_that_it_may_come() -> None:
    later = ("not written", "so far", "written for")
    assert {e.kind for e in MATRIX.exclude if any(words in e.reason for words in later)} == {"unwritten"}


@pytest.mark.parametrize("pattern", [e.match for e in MATRIX.exclude if e.kind == "covered"])
def test_what_is_covered_is_possible_and_its_cover_exists(pattern: str) -> None:
    [exclusion] = [e for e in MATRIX.exclude if e.match == pattern]
    assert exclusion.by in SCENARIOS
    for name in matching(pattern):
        assert not contradictions(example(name), RunRequest(scenario=name)), name


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_name_says_what_the_scenario_does(name: str) -> None:
    assert canonical_name(SCENARIOS[name]) == name
    assert contradictions(SCENARIOS[name], RunRequest(scenario=name)) == []


@pytest.mark.parametrize("name", sorted(ALL.keys() - SCENARIOS.keys()))
def test_a_name_says_the_topics_of_a_virtbus_scenario(name: str) -> None:
    scenario = ALL[name]
    assert isinstance(scenario, VirtbusScenario)
    assert [name] == [f"virtbus-{topic}" for topic in scenario.topics]


def test_a_wrong_name_is_noticed() -> None:
    assert canonical_name(example("net-vp_vdpa-vhost_vdpa-loopback")) == "net-vp_vdpa-vhost_vdpa-iperf3"


@pytest.mark.parametrize(("shadow_vq", "exercise"), [(True, "migrate-vdpa_sim"), (False, "migrate-vdpa_sim-no_svq")])
def test_a_name_tells_shadow_virtqueues_whatever_the_destination(shadow_vq: bool, exercise: str) -> None:
    sets = [f"action.shadow_vq={str(shadow_vq).lower()}"]
    _, scenario = load_scenario("net-ifcvf-vhost_vdpa-migrate-vdpa_sim", sets)
    assert isinstance(scenario, VdpaScenario)
    assert canonical_name(scenario) == f"net-ifcvf-vhost_vdpa-{exercise}"


def test_the_axes_are_those_of_the_model() -> None:
    axes = MATRIX.dimensions
    assert set(axes.device_class) == set(DeviceClass)
    assert set(axes.attach) == set(AttachMode)
    assert set(axes.exercise) == set(EXERCISES)
    models = {get_args(m.model_fields["provider"].annotation)[0] for m in (VdpaSim, VpVdpa, Ifcvf)}
    assert set(axes.provider) == models


@pytest.mark.parametrize(
    ("exclude", "problem"),
    [
        ({"match": "x", "kind": "covered", "reason": "long enough"}, "`by` names the scenario"),
        ({"match": "x", "kind": "impossible", "by": "y", "reason": "long enough"}, "`by` names the scenario"),
        ({"match": "x", "kind": "boring", "reason": "long enough"}, "'impossible', 'unwritten' or 'covered'"),
        ({"match": "x", "kind": "impossible", "reason": "no"}, "at least 10 characters"),
    ],
)
def test_a_broken_exclusion_is_refused(exclude: dict[str, str], problem: str) -> None:
    dimensions = MATRIX.dimensions.model_dump(by_alias=True)
    with pytest.raises(InputError, match=problem):
        validate(Matrix, {"dimensions": dimensions, "exclude": [exclude]}, str(Path("matrix.toml")))
