"""lab.topology.plan: everything is decided, all contradictions are told at once, and two plans never meet."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.config.catalog import CONFIGS, load_scenario, names
from lab.config.request import ArtifactOptions, RunRequest
from lab.config.scenario import VdpaScenario
from lab.config.site import MachineSize, NestedSite, SshSite
from lab.config.strict import validate
from lab.errors import InputError, LabError
from lab.topology.plan import Plan, contradictions, make_plan, plan

IPERF3, FIO = {"kind": "iperf3", "streams": [{}]}, {"kind": "fio", "jobs": [{}]}
SIM, VP, IFC = {"provider": "vdpa_sim"}, {"provider": "vp_vdpa"}, {"provider": "ifcvf"}
FAULT = {"kind": "fault", "name": "slow", "traffic": "flows", "afterwards": "flows"}
GUEST, HOST = {"mode": "vhost_vdpa"}, {"mode": "virtio_vdpa"}
NET = {"summary": "an example of it", "class": "net", "device": VP, "attach": GUEST, "workload": IPERF3}
BLK = {**NET, "class": "blk", "workload": FIO}
MIGRATE = {**NET, "device": SIM, "action": {"kind": "migrate"}}

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFuB5RaTj0VDHjoMfFGbwDpBWFAxEDkHtVzKiTcxvHKf"
REAL = SshSite(kind="ssh", summary="a server", address="192.0.2.1", identity=Path("/absent"), host_key=KEY)


def scenario(data: dict[str, Any]) -> VdpaScenario:
    return validate(VdpaScenario, data, "example")


def planned(
    data: dict[str, Any], run_id: str = "1a2b3c4d", site: NestedSite | SshSite | None = None, **more: Any
) -> Plan:
    nested = NestedSite(kind="nested", summary="here")
    return plan("example", scenario(data), site or nested, RunRequest(scenario="example", **more), run_id)


@pytest.mark.parametrize("name", names("scenarios"))
def test_every_scenario_can_be_planned(name: str) -> None:
    made = make_plan(RunRequest(scenario=name))
    assert made.name == name
    text = json.loads(json.dumps(made.to_json()))
    assert (text["run_id"], text["scenario"], text["lacks"]) == (made.run_id, name, [])


@pytest.mark.parametrize(
    ("data", "problems"),
    [
        (NET, []),
        (BLK, []),
        (MIGRATE, []),
        ({**NET, "action": {"kind": "unplug"}}, []),
        ({**NET, "workload": FIO}, ["fio needs a block device"]),
        ({**BLK, "workload": {"kind": "fio", "jobs": [{"offset": "120M", "size": "8192k"}]}}, []),
        (
            {**BLK, "workload": {"kind": "fio", "jobs": [{}, {"offset": "512", "size": "128m"}]}},
            ["fio: jobs[1] ends at byte 134218240, every disk of the lab at byte 134217728"],
        ),
        ({**BLK, "workload": IPERF3}, ["iperf3 needs a network device"]),
        ({**NET, "attach": HOST, "action": {"kind": "unplug"}}, ["unplug acts on a guest's device"]),
        ({**MIGRATE, "attach": HOST}, ["migrate acts on a guest's device"]),
        ({**MIGRATE, "device": VP}, ["migrate needs a vdpa_sim or ifcvf network device"]),
        ({**BLK, "device": SIM, "action": {"kind": "migrate"}}, ["migrate needs a vdpa_sim or ifcvf network device"]),
        ({**BLK, "action": {"kind": "unplug"}}, ["unplug is written for network devices"]),
        ({**MIGRATE, "cold": True}, ["migrate hot-plugs its device"]),
        ({**NET, "device": SIM, "action": FAULT}, ["fault is written for ifcvf"]),
        ({**NET, "action": {"kind": "rescan"}}, ["rescan is written for ifcvf"]),
        (
            {**NET, "device": IFC, "action": {**FAULT, "parameters": {"ms": 0, "colour": 3}}},
            ["fault: slow has no parameter 'colour'", "fault: ms of slow must be a whole number"],
        ),
        ({**NET, "device": IFC, "action": {"kind": "neighbours"}}, ["neighbours needs four VFs"]),
        ({**MIGRATE, "device": IFC}, ["migrate needs three VFs"]),
        ({**MIGRATE, "action": {"kind": "migrate", "shadow_vq": True}}, ["shadow_vq is for ifcvf"]),
        ({**MIGRATE, "action": {"kind": "migrate", "offloads": False}}, ["offloads is for ifcvf"]),
        ({**MIGRATE, "action": {"kind": "migrate", "destination": "vdpa_sim"}}, ["destination is for ifcvf"]),
        ({**NET, "device": IFC, "attach": HOST, "action": FAULT}, ["fault acts on a guest's device"]),
        ({**BLK, "device": IFC, "action": FAULT}, []),
        ({**BLK, "device": IFC, "action": {**FAULT, "traffic": "corrupts"}}, ["fault: only a disk's fault `corrupt`"]),
        ({**NET, "device": IFC, "action": {**FAULT, "traffic": "corrupts"}}, ["fault: only a disk's fault `corrupt`"]),
        ({**BLK, "device": IFC, "action": {**FAULT, "name": "death"}}, ["fault: of those that a disk can have"]),
        (
            {**BLK, "device": IFC, "action": {**FAULT, "release": "done"}},
            ["fault: a disk's begins under traffic, without a release"],
        ),
        (
            {**NET, "attach": HOST, "workload": FIO, "action": {"kind": "migrate"}, "cold": True},
            ["fio needs a block", "migrate acts on a guest's", "migrate needs a vdpa_sim", "migrate hot-plugs"],
        ),
    ],
)
def test_contradictions(data: dict[str, Any], problems: list[str]) -> None:
    found = contradictions(scenario(data), RunRequest(scenario="example"))
    assert len(found) == len(problems)
    for said, expected in zip(found, problems, strict=True):
        assert said.startswith(expected)


def test_cold_as_an_option_contradicts_like_cold_in_the_scenario() -> None:
    assert contradictions(scenario(MIGRATE), RunRequest(scenario="example", cold=True))


def test_all_problems_at_once(tmp_path: Path) -> None:
    options = ArtifactOptions(
        kernel_tree=tmp_path / "tree", kernel_image=tmp_path / "bzImage", patches=(tmp_path / "a.patch",),
        qemu_l0=tmp_path / "q0", qemu_l1=tmp_path / "q1",
    )  # fmt: skip
    request = RunRequest(scenario="net-vp_vdpa-vhost_vdpa-iperf3", overrides=("workload.kind=fio", "workload.jobs=[{}]",
                         "device.vfs=9", "attach.speed=1"), site="nestd", artifacts=options)  # fmt: skip
    with pytest.raises(InputError) as caught:
        make_plan(request)
    told = "\n".join(caught.value.problems)
    for words in (
        "device.vfs: Input should be less than or equal to 7", "attach.speed: unknown key",
        "workload.streams: unknown key", "no site 'nestd'; did you mean nested?",
        "--kernel-tree ", "--kernel-image ", "--patch ", "--qemu-l0: ", "--qemu-l1: ", "--kernel-image is finished",
    ):  # fmt: skip
        assert words in told


def test_a_kernel_that_is_not_there_or_wrongly_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs/kernels/bad.toml").write_text('summary = "x"\nsuite = "trixie"\npackage = "p"\nfragment = []')
    monkeypatch.setattr("lab.config.catalog.CONFIGS", tmp_path / "configs")
    for kernel, told in (("nope", "no kernel is called 'nope'; there are 6.1, "), ("bad", "fragment: unknown key")):
        with pytest.raises(InputError, match=told):
            make_plan(RunRequest(scenario=names("scenarios")[0], artifacts=ArtifactOptions(kernel=kernel)))


def test_contradictions_carry_the_name_of_the_scenario() -> None:
    with pytest.raises(InputError, match="net-vdpa_sim-vhost_vdpa-migrate: migrate hot-plugs its device"):
        make_plan(RunRequest(scenario="net-vdpa_sim-vhost_vdpa-migrate", cold=True))


def test_a_site_whose_key_is_not_there(tmp_path: Path) -> None:
    site = tmp_path / "server.toml"
    site.write_text(
        f'kind = "ssh"\nsummary = "a server"\naddress = "192.0.2.1"\nidentity = "/absent/key"\nhost_key = "{KEY}"\n'
    )
    with pytest.raises(InputError, match="identity: /absent/key does not exist"):
        make_plan(RunRequest(scenario="net-vdpa_sim-virtio_vdpa-iperf3", site=str(site)))


run_ids = st.text("0123456789abcdef", min_size=8, max_size=8)


@given(run_ids, st.integers(0, 7), st.sampled_from("0123456789abcdef"))
def test_two_plans_share_no_name_and_no_mac(one: str, place: int, digit: str) -> None:
    two = one[:place] + digit + one[place + 1 :]
    first, second = planned(NET, one), planned(NET, two)
    shared = {*first.macs.values(), first.vdpa.main, first.vdpa.second} & {
        *second.macs.values(), second.vdpa.main, second.vdpa.second,
    }  # fmt: skip
    assert bool(shared) == (one == two)


@given(run_ids, st.integers(2, 7))
def test_names_of_one_plan(run_id: str, vfs: int) -> None:
    made = planned({**NET, "device": {**VP, "vfs": vfs}}, run_id)
    assert run_id in made.vdpa.main
    assert made.vdpa.main != made.vdpa.second
    # IFNAMSIZ: interfaces of vDPA devices may be called after them.
    assert len(made.vdpa.main) < 16
    assert sum(name.startswith("vf") for name in made.macs) == vfs
    assert len(set(made.macs.values())) == len(made.macs)
    for mac in made.macs.values():
        first, *rest = (int(byte, 16) for byte in mac.split(":"))
        assert (first & 3, len(rest)) == (2, 5)  # locally administered, unicast


def test_every_plan_has_an_id_of_its_own() -> None:
    made = [make_plan(RunRequest(scenario=names("scenarios")[0])) for _ in range(5)]
    assert len({one.run_id for one in made}) == 5


@pytest.mark.parametrize(
    ("data", "guests"),
    [(NET, ("l2",)), ({**NET, "attach": HOST}, ()), (MIGRATE, ("l2", "l2dst")), (BLK, ("l2",))],
)
def test_guests(data: dict[str, Any], guests: tuple[str, ...]) -> None:
    made = planned(data)
    assert made.guests == guests
    assert list(made.to_json()["machines"]) == ["l1", *guests]


@pytest.mark.parametrize(("wanted", "asked", "cold"), [(False, False, False), (True, False, True), (False, True, True)])
def test_cold(wanted: bool, asked: bool, cold: bool) -> None:
    made = planned({**NET, "cold": wanted}, cold=asked)
    assert made.cold is cold
    assert made.to_json()["boot"].startswith("cold") is cold
    alone = planned({**NET, "cold": wanted, "attach": HOST}, cold=asked)
    assert alone.to_json()["boot"].startswith("L1 alone")


def test_resources_are_those_of_the_site() -> None:
    small = NestedSite(kind="nested", summary="small", l1=MachineSize(memory_mb=1024, cpus=4))
    made = planned(NET, site=small)
    assert (made.ram_mb > 1024, made.cores) == (True, 4)
    real = planned(NET, site=REAL)
    assert (real.ram_mb < 1024, real.cores) == (True, 1)


def test_a_real_site_without_functions_to_give_lacks_them() -> None:
    assert planned(NET, site=REAL).lacks
    assert not planned({**NET, "device": SIM}, site=REAL).lacks
    assert not planned(NET).lacks


def test_the_longest_are_those_with_an_action() -> None:
    longest_first = [MIGRATE, NET, {**NET, "attach": HOST}]
    assert all(planned(a).estimate_s > planned(b).estimate_s for a, b in pairwise(longest_first))


def test_the_scenario_of_a_file_is_called_like_it(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text('summary = "an example of it"\nclass = "net"\ndevice.provider = "vdpa_sim"\n'
                   'attach.mode = "virtio_vdpa"\nworkload = { kind = "iperf3", streams = [{}] }\n')  # fmt: skip
    assert make_plan(RunRequest(scenario=str(own))).name == "mine"
    assert load_scenario(str(own))[0] == "mine"


def test_the_device_model_is_asked_for_the_vfs_of_the_plan() -> None:
    made = planned({**NET, "device": {**IFC, "vfs": 3, "card": "c5000x"}})
    vfs = made.device_model()
    assert [(vf["name"], vf["model"], vf["mac"]) for vf in vfs] == [
        (f"vf{n}", "c5000x-net", made.macs[f"vf{n}"]) for n in (1, 2, 3)
    ]
    assert len({vf["backend"]["name"] for vf in vfs}) == 1, "on one switch"
    assert (made.functions, made.function_of(made.vdpa.main), made.function_of(made.vdpa.second)) == (3, "vf1", "vf3")
    assert all("/" not in vf["socket"] for vf in vfs), "the path of a socket ends at 108 bytes"


def test_a_disk_of_the_device_model() -> None:
    made = planned({**BLK, "device": IFC})
    [vf] = made.device_model()
    assert (vf["model"], vf["backend"], made.functions) == (
        "c5000x-blk", {"kind": "memory", "size": 128 << 20}, 1,
    )  # fmt: skip
    assert "mac" not in vf


def test_a_fault_from_the_first_moment_is_the_first_vfs() -> None:
    action = {**FAULT, "name": "fewer-vectors", "parameters": {"vectors": 1}, "when": "start"}
    first, second = planned({**NET, "device": IFC, "action": action}).device_model()
    assert (first["faults"], "faults" in second) == ({"fewer-vectors": {"vectors": 1}}, False)
    assert "faults" not in planned({**NET, "device": IFC, "action": FAULT}).device_model()[0]


@pytest.mark.parametrize(("device", "huge"), [("ifcvf", True), ("vp_vdpa", False), ("vdpa_sim", False)])
def test_huge_pages_are_for_guests_whose_every_page_is_a_message(device: str, huge: bool) -> None:
    assert planned({**NET, "device": {"provider": device}}).huge_pages is huge
    assert bool(planned({**NET, "device": {"provider": device}}).functions) is huge


def test_huge_pages_are_shared() -> None:
    assert not planned({**NET, "device": IFC, "inject": {"private_ram": True}}).huge_pages


def test_which_vf_is_under_which_device() -> None:
    moves = planned({**MIGRATE, "device": {**IFC, "vfs": 3}})
    names = moves.vdpa
    assert [moves.function_of(name) for name in (names.main, names.second, names.third)] == ["vf1", "vf2", "vf3"]
    macs = [vf["mac"] for vf in moves.device_model()]
    assert (macs[0] == macs[1], macs[0] == macs[2]) == (True, False), "the guest's NIC keeps its address"
    several = planned({**NET, "device": {**IFC, "vfs": 4}, "action": {"kind": "neighbours"}})
    names = several.vdpa
    assert [several.function_of(name) for name in (names.main, names.third, names.fourth, names.second)] == [
        "vf1", "vf2", "vf3", "vf4",
    ]  # fmt: skip


def test_a_guest_that_leaves_its_card_for_the_simulator() -> None:
    made = planned({**MIGRATE, "device": IFC, "action": {"kind": "migrate", "destination": "vdpa_sim"}})
    names = made.vdpa
    assert (made.functions, made.guests) == (2, ("l2", "l2dst"))
    assert [made.function_of(name) for name in (names.main, names.third)] == ["vf1", "vf2"]
    assert [made.provider_of(name) for name in (names.main, names.second, names.third)] == [
        "ifcvf",
        "vdpa_sim",
        "ifcvf",
    ]
    with pytest.raises(LabError, match=f"{names.second} is not on a VF"):
        made.function_of(names.second)
    first, second = made.device_model()
    assert first["mac"] != second["mac"], "the second is the peer"


@pytest.mark.parametrize("msix", ["qemu", "device"])
def test_who_has_the_table_of_interrupts(msix: str) -> None:
    vfs = planned({**NET, "device": {**IFC, "msix": msix}}).device_model()
    assert [vf.get("msix", "qemu") for vf in vfs] == [msix, msix]
