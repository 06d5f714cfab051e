"""lab.config.catalog: names, close matches, and --set with all its problems at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.config import catalog
from lab.config.catalog import expand, load_scenario, load_site, load_suite, names
from lab.config.scenario import Iperf3, VdpaScenario, VpVdpa
from lab.config.site import NestedSite
from lab.errors import InputError

IPERF3 = "net-vp_vdpa-vhost_vdpa-iperf3"


def problems(*overrides: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_scenario(IPERF3, overrides)
    return list(caught.value.problems)


def iperf3(*overrides: str) -> VdpaScenario:
    name, scenario = load_scenario(IPERF3, overrides)
    assert name == IPERF3
    assert isinstance(scenario, VdpaScenario)
    return scenario


def test_a_kind_that_is_none_is_refused() -> None:
    assert problems("kind=virtbsu")[0].endswith(": kind: there is no 'virtbsu', only vdpa and virtbus")


def test_set_reaches_every_kind_of_value() -> None:
    sets = ("device.vfs=3", "workload.streams.0.seconds=0.5", "summary=a text of words", "cold=true",
            'tags=["a", "b"]', "inject.private_ram=true", "workload.streams.3.bitrate=7M")  # fmt: skip
    scenario = iperf3(*sets)
    assert (scenario.summary, scenario.cold, scenario.tags) == ("a text of words", True, ["a", "b"])
    assert isinstance(scenario.device, VpVdpa)
    assert isinstance(scenario.workload, Iperf3)
    assert scenario.device.vfs == 3
    assert (scenario.workload.streams[0].seconds, scenario.workload.streams[3].bitrate) == (0.5, "7M")
    assert scenario.inject.private_ram


def test_set_replaces_a_list_element() -> None:
    scenario = iperf3("workload.streams.1={seconds=9}")
    assert isinstance(scenario.workload, Iperf3)
    assert scenario.workload.streams[1].seconds == 9


def test_the_last_of_two_wins_and_the_file_is_not_touched() -> None:
    scenario = iperf3("device.vfs=3", "device.vfs=4")
    assert isinstance(scenario.device, VpVdpa)
    assert scenario.device.vfs == 4
    assert iperf3().device == VpVdpa(provider="vp_vdpa")


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ("device.vfs", "--set device.vfs: not of the form a.b=value"),
        ("=3", "--set =3: not of the form a.b=value"),
        ("workload.streams.9={}", "--set workload.streams.9={}: '9' is not an index of a list of 4"),
        ("workload.streams.x={}", "--set workload.streams.x={}: 'x' is not an index of a list of 4"),
        ("workload.streams.-1={}", "--set workload.streams.-1={}: '-1' is not an index of a list of 4"),
        ("workload.streams.\u00b2={}", "--set workload.streams.\u00b2={}: '\u00b2' is not an index of a list of 4"),
        ("workload.streams.9.seconds=1", "--set workload.streams.9.seconds=1: there is no '9' to set something in"),
        ("workload.streams.\u00b2.x=1", "--set workload.streams.\u00b2.x=1: there is no '\u00b2' to set something in"),
        ("summary.x=1", "--set summary.x=1: 'summary' is a plain value"),
        ("summary.x.y=1", "--set summary.x.y=1: there is no 'x' to set something in"),
    ],
)
def test_a_set_that_cannot_be_applied(item: str, problem: str) -> None:
    assert problems(item) == [problem]


def test_all_sets_that_cannot_be_applied_are_told_at_once() -> None:
    assert len(problems("device.vfs", "summary.x=1", "device.vfs=3", "workload.streams.9={}")) == 3


def test_a_set_that_cannot_be_applied_hides_no_other_problem() -> None:
    malformed, too_many = problems("device.vfs", "device.vfs=99")
    assert malformed == "--set device.vfs: not of the form a.b=value"
    assert "device.vfs: Input should be less than or equal to 7" in too_many


def test_all_sets_that_make_no_scenario_are_told_at_once() -> None:
    told = problems("device.vfs=99", "attach.mtu=1", "attach.speed=1", "workload.streams.0.protocol=sctp")
    assert len(told) == 4
    assert all("with --set device.vfs=99 attach.mtu=1" in problem for problem in told)
    assert any(problem.endswith("attach.speed: unknown key") for problem in told)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: load_scenario("net-vp_vdpa-vhost_vdpa-iperf"), f"no scenario '.*iperf'; did you mean {IPERF3}"),
        (lambda: load_suite("smok"), "no suite 'smok'; did you mean smoke?"),
        (lambda: load_site("nestd"), "no site 'nestd'; did you mean nested?"),
        (lambda: load_site("zzzz"), "no site 'zzzz'\nnext: vdpalab list sites"),
        (lambda: load_scenario("/absent/x.toml"), "/absent/x.toml: No such file"),
    ],
)
def test_a_name_that_there_is_not(call: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        call()  # type: ignore[operator]
    assert len(caught.value.problems) == 1


def test_expand_takes_names_suites_and_files_each_once(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.touch()
    quick = load_suite("quickstart").scenarios
    assert expand(["quickstart", quick[0], str(own), str(own)]) == [*quick, str(own)]
    assert sorted(expand(["all"])) == names("scenarios")
    assert expand([]) == []


def test_expand_tells_every_unknown_word_with_its_neighbours(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        expand(["smokey", IPERF3, "qqq", str(tmp_path / "absent.toml")])
    smokey, qqq, absent = caught.value.problems
    assert "'smokey'; did you mean smoke" in smokey
    assert qqq == "no scenario, suite or file 'qqq'"
    assert "absent.toml'" in absent


def test_a_suite_that_names_what_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, name in (("scenarios", "net-a"), ("scenarios", "net-b"), ("suites", "mine")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.toml").write_text('summary = "mine"\nscenarios = ["net-c", "net-a", "zz"]\n')
    monkeypatch.setattr(catalog, "CONFIGS", tmp_path)
    with pytest.raises(InputError) as caught:
        load_suite("mine")
    assert caught.value.problems == (
        "suite mine: unknown scenario 'net-c'; did you mean net-b, net-a?", "suite mine: unknown scenario 'zz'",
    )  # fmt: skip


@pytest.mark.parametrize("name", names("suites"))
def test_every_suite_can_be_read(name: str) -> None:
    assert load_suite(name).scenarios


def test_every_site_can_be_read() -> None:
    assert {type(load_site(name)) for name in names("sites")} == {NestedSite}
