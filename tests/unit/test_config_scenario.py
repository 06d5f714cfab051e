"""lab.config.scenario: every limit refuses what is beyond it, with the key's name."""

from __future__ import annotations

import copy
from typing import Any, get_args

import pytest

from lab.config.scenario import FaultName, Fio, Unplug, VdpaScenario, VdpaSim, VpVdpa
from lab.config.strict import validate
from lab.errors import InputError
from lab.ifcvf.faults import FAULTS
from lab.model import AttachMode, DeviceClass

NET: dict[str, Any] = {
    "summary": "an example of it",
    "class": "net",
    "device": {"provider": "vp_vdpa"},
    "attach": {"mode": "vhost_vdpa"},
    "workload": {"kind": "iperf3", "streams": [{}]},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(NET)
    node: Any = data
    *folders, last = path.split(".")
    for folder in folders:
        node = node[int(folder)] if folder.isdecimal() else node.setdefault(folder, {})
    node[last] = value
    return data


def test_defaults() -> None:
    scenario = validate(VdpaScenario, NET, "x")
    assert scenario.device_class is DeviceClass.NET
    assert scenario.device == VpVdpa(provider="vp_vdpa", vfs=2, access_platform=True)
    assert (scenario.attach.mode, scenario.attach.mtu) == (AttachMode.VHOST_VDPA, 1500)
    assert (scenario.action, scenario.cold, scenario.expect) == (None, False, [])
    assert scenario.inject.model_dump() == {"iotlb_entries": None, "private_ram": False, "rx_queue_size": None}


def test_the_kind_decides_what_a_part_is() -> None:
    data = changed("device", {"provider": "vdpa_sim", "use_va": False})
    data |= {"class": "blk", "workload": {"kind": "fio", "jobs": [{"rw": "write"}]}, "action": {"kind": "unplug"}}
    scenario = validate(VdpaScenario, data, "x")
    assert [type(part) for part in (scenario.device, scenario.workload, scenario.action)] == [VdpaSim, Fio, Unplug]


def test_the_written_form_is_read_back() -> None:
    scenario = validate(VdpaScenario, NET, "x")
    assert validate(VdpaScenario, scenario.model_dump(mode="json", by_alias=True), "x") == scenario


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("summary", "short"),
        ("class", "gpu"),
        ("device.provider", "vp_vpda"),
        ("device.vfs", 1),
        ("device.vfs", 8),
        ("device.use_va", True),
        ("attach.mode", "vhost"),
        ("attach.mtu", 575),
        ("attach.mtu", 9001),
        ("workload.kind", "netperf"),
        ("workload.streams", []),
        ("workload.streams.0.protocol", "sctp"),
        ("workload.streams.0.parallel", 0),
        ("workload.streams.0.seconds", 0),
        ("workload.streams.0.seconds", 3601),
        ("workload.streams.0.bitrate", "fast"),
        ("workload.min_mbit_s", -1),
        ("workload.max_udp_loss_percent", 101),
        ("workload", {"kind": "fio", "jobs": []}),
        ("workload", {"kind": "fio", "jobs": [{"rw": "read"}]}),
        ("workload", {"kind": "fio", "jobs": [{"size": "8"}]}),
        ("workload", {"kind": "fio", "jobs": [{"iodepth": 0}]}),
        ("action", {"kind": "reboot"}),
        ("action", {"kind": "migrate", "downtime_limit_ms": 0}),
        ("action", {"kind": "migrate", "max_bandwidth": "1"}),
        ("action", {"kind": "unplug", "max_delete_s": 0}),
        ("expect", [{"level": "l1", "pattern": "x"}]),
        ("expect", [{"level": "l1-kernel", "pattern": "("}]),
        ("inject.iotlb_entries", 0),
        ("inject.rx_queue_size", 128),
        ("colour", "red"),
    ],
)
def test_what_is_refused(path: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        validate(VdpaScenario, changed(path, value), "x.toml")
    assert all(problem.startswith(f"x.toml: {path.split('.')[0]}") for problem in caught.value.problems)


def test_every_fault_is_one_that_the_device_model_has() -> None:
    assert set(get_args(FaultName)) == set(FAULTS)
