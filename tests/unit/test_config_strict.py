"""lab.config.strict: every problem at once, by the keys that the user wrote."""

from __future__ import annotations

from typing import Any

import pytest

from lab.config.scenario import VdpaScenario
from lab.config.strict import validate
from lab.errors import InputError

GOOD: dict[str, Any] = {
    "summary": "a scenario for a test",
    "class": "net",
    "device": {"provider": "vp_vdpa"},
    "attach": {"mode": "vhost_vdpa"},
    "workload": {"kind": "iperf3", "streams": [{}]},
}


def problems(**changed: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        validate(VdpaScenario, GOOD | changed, "x.toml")
    return [problem.removeprefix("x.toml: ").partition(": ")[0] for problem in caught.value.problems]


def test_keys_are_those_of_the_file() -> None:
    assert problems(device={"provider": "vp_vdpa", "vfs": 9, "queues": 1}) == ["device.vfs", "device.queues"]
    assert problems(workload={"kind": "fio"}) == ["workload.jobs"]
    assert problems(workload={"kind": "iperf3", "streams": [{}, {"parallel": 0}]}) == ["workload.streams.1.parallel"]


def test_what_is_no_table_or_has_no_kind() -> None:
    assert problems(device=3, attach="vhost_vdpa") == ["device", "attach"]
    assert problems(device={}, workload={"kind": "iperf"}) == ["device", "workload"]


def test_the_whole() -> None:
    assert set(problems(summary="short", klass="net")) == {"summary", "klass"}
