"""Planning scenarios of the virtbus suite: one machine or none, the kernel and the adapter that they are for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from lab.cli.plan import _rows
from lab.cli.run import select
from lab.config import mutant as mutants
from lab.config.request import ArtifactOptions, RunRequest
from lab.config.scenario import VirtbusScenario
from lab.errors import InputError, LabError
from lab.topology.plan import make_plan
from tests.unit.test_config_mutant import DIFF, HEADER


def request(name: str = "virtbus-api", *sets: str, **options: object) -> RunRequest:
    return RunRequest(scenario=name, overrides=sets, artifacts=ArtifactOptions.model_validate(options))


def problems(wanted: RunRequest) -> list[str]:
    with pytest.raises(InputError) as caught:
        make_plan(wanted)
    return list(caught.value.problems)


@pytest.fixture
def mutant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(mutants, "MUTANTS", tmp_path)
    (tmp_path / "R08-deletes.patch").write_text(HEADER.replace("default", "debug") + DIFF)
    return "mutant-R08-deletes"


def test_one_small_machine_and_no_guest() -> None:
    plan = make_plan(request())
    data = plan.to_json()
    assert (plan.guests, plan.needs_host, plan.ram_mb, plan.cores) == ((), True, 1324, 1)
    assert data["machines"] == {"l1": {"memory_mb": 1024, "cpus": 2}}
    assert list(data["macs"]) == ["l1"]
    assert "vdpa" not in data
    assert data["boot"] == "L1 alone"
    assert "vDPA devices" not in {name for name, _ in _rows(plan)}
    with pytest.raises(LabError, match="virtbus-api has no vDPA device"):
        _ = plan.vdpa_scenario


def test_what_is_only_compiled_needs_no_machine() -> None:
    plan = make_plan(request("virtbus-build"))
    assert (plan.needs_host, plan.ram_mb, plan.to_json()["machines"]) == (False, 1500, {})
    assert plan.cores == 2


@pytest.mark.parametrize(
    ("name", "sets", "cores"),
    [
        ("virtbus-pm", (), 1),
        ("virtbus-races", (), 2),
        ("virtbus-races", ('topics=["races", "naming"]', 'only=["R09/hold"]'), 1),
        ("virtbus-naming", ('topics=["races", "naming"]',), 2),
    ],
)
def test_only_what_is_one_shell_leaves_a_processor_free(name: str, sets: tuple[str, ...], cores: int) -> None:
    assert make_plan(request(name, *sets)).cores == cores


def test_races_wait_for_late_releases() -> None:
    assert make_plan(request("virtbus-races", kernel="debug")).cores == 1


@pytest.mark.parametrize(
    ("kernel", "longest_first"),
    [
        ("default", ["races", "api", "pm"]),
        ("debug", ["lifetime", "api", "races", "errors", "naming", "pm"]),
    ],
)
def test_the_longest_topics_start_first(kernel: str, longest_first: list[str]) -> None:
    plans = [make_plan(request(f"virtbus-{topic}", kernel=kernel)) for topic in longest_first]
    assert all(first.estimate_s > second.estimate_s for first, second in pairwise(plans))


def test_a_mutant_names_its_kernel_and_the_user_may_name_another(mutant: str) -> None:
    assert make_plan(request(mutant)).request.artifacts.kernel == "debug"
    assert make_plan(request(mutant, kernel="backports")).request.artifacts.kernel == "backports"
    assert make_plan(request()).request.artifacts.kernel == "default"


def test_the_adapter_of_a_user_takes_the_place_of_the_bus_under_test(tmp_path: Path) -> None:
    header = tmp_path / "adapter-mine.h"
    header.touch()
    plan = make_plan(request(virtbus_adapter=header, virtbus="none"))
    assert isinstance(plan.scenario, VirtbusScenario)
    assert plan.scenario.adapters == ["mine", "auxiliary"]
    other = tmp_path / "mine.h"
    other.touch()
    assert problems(request(virtbus_adapter=other)) == [f"--virtbus-adapter {other}: its name must be adapter-NAME.h"]
    assert problems(request(virtbus_adapter=tmp_path / "adapter-gone.h"))[0].endswith("does not exist")


def test_what_cannot_be(mutant: str, tmp_path: Path) -> None:
    assert problems(request("virtbus-api", 'adapters=["pci"]'))[0].startswith(
        "virtbus-api: adapters: there is no 'pci', only auxiliary, "
    )
    assert problems(request(virtbus="none")) == ["virtbus-api: --virtbus none leaves no bus to check"]
    (tmp_path / "image").touch()
    assert any(
        problem.startswith("virtbus-api: --kernel-image is a finished kernel")
        for problem in problems(request(kernel_image=tmp_path / "image"))
    )
    assert problems(request(mutant, virtbus=tmp_path)) == [
        f"{mutant}: mutants are of the lab's own virtbus: --virtbus does not go with them"
    ]
    assert problems(request("virtbus-api", 'only=["R08"]')) == [
        "virtbus-api: only: 'R08' is no check of api in virtbus.toml"
    ]
    assert "topics" in problems(request("virtbus-api", 'topics=["apis"]'))[0]


def test_a_mutant_is_a_scenario_like_any_other(mutant: str) -> None:
    [plan] = select([mutant], [], RunRequest(scenario=""))
    assert plan.name == mutant
    assert "mutant" in plan.scenario.all_tags
    [none] = select([mutant], ["mutant"], RunRequest(scenario=""))
    assert none.name == mutant


def test_a_real_machine_is_not_crashed(tmp_path: Path) -> None:
    key, site = tmp_path / "key", tmp_path / "site.toml"
    key.touch()
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKqfAGN9jvd8Kn2nUh6MIaaIu3PYsfkuXnpO9AnC7gGL"
    site.write_text(f'kind = "ssh"\nsummary = "a server"\naddress = "a"\nidentity = "{key}"\nhost_key = "{host_key}"\n')
    plan = make_plan(RunRequest(scenario="virtbus-api", site=str(site)))
    assert plan.lacks[0].startswith("a machine that may crash")
    assert plan.to_json()["machines"] == {"l1": {"address": "a"}}
    alone = make_plan(RunRequest(scenario="virtbus-build", site=str(site)))
    assert (alone.lacks, alone.ram_mb) == ((), 1500)
