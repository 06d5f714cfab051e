"""lab.checks.datapath: for every row of the table, what passes, what fails and what proves nothing."""

from __future__ import annotations

import itertools

import pytest

from lab.checks import datapath
from lab.checks.datapath import TABLE, Digests, Grew, Key, SameDigest
from lab.model import AttachMode, Check, DeviceClass, Level, Verdict

NET = {"to_server": 1_000_000, "from_server": 2_000_000}
BLK = {"written": 8_388_608, "read": 8_388_608}
DIGESTS = Digests("a" * 64, "a" * 64)
SIM_NET: Key = (DeviceClass.NET, "vdpa_sim", AttachMode.VHOST_VDPA)
SIM_BLK: Key = (DeviceClass.BLK, "vdpa_sim", AttachMode.VIRTIO_VDPA)
VP_NET: Key = (DeviceClass.NET, "vp_vdpa", AttachMode.VHOST_VDPA)


def moved(key: Key) -> dict[str, int]:
    return NET if key[0] is DeviceClass.NET else BLK


def live(key: Key) -> dict[str, int]:
    """Counters of a device that carried the payload."""
    return dict.fromkeys(datapath.counters(key), 10 + 10000000)


def still(key: Key) -> dict[str, int]:
    return dict.fromkeys(datapath.counters(key), 10)


def judge(key: Key, before: dict[str, int], after: dict[str, int], **more: object) -> list[Check]:
    arguments = {"moved": moved(key), "machine": "l1", "digests": DIGESTS, **more}
    return datapath.judge(key, before, after, **arguments)  # type: ignore[arg-type]


def verdicts(checks: list[Check]) -> set[Verdict]:
    assert all(check.proof for check in checks)
    return {check.verdict for check in checks}


def test_every_combination_has_a_row() -> None:
    wanted = itertools.product(DeviceClass, ("vdpa_sim", "vp_vdpa", "ifcvf"), AttachMode)
    assert set(TABLE) == set(wanted)
    assert all(TABLE.values())


@pytest.mark.parametrize("key", TABLE, ids="-".join)
def test_a_live_path(key: Key) -> None:
    checks = judge(key, still(key), live(key))
    assert verdicts(checks) == {Verdict.PASS}
    assert len(checks) == len(TABLE[key])


@pytest.mark.parametrize("key", TABLE, ids="-".join)
def test_a_dead_path(key: Key) -> None:
    checks = judge(key, still(key), still(key), digests=Digests("a" * 64, "b" * 64))
    assert verdicts(checks) == {Verdict.FAIL}
    level = Level.L1_QEMU if key[2] is AttachMode.VHOST_VDPA else Level.L1_KERNEL
    assert {check.level for check in checks} == {level}


@pytest.mark.parametrize("key", TABLE, ids="-".join)
@pytest.mark.parametrize("lost", ["before", "after", "moved"])
def test_what_could_not_be_sampled_is_not_proved(key: Key, lost: str) -> None:
    before, after = still(key), live(key)
    digests = Digests(None, "a" * 64) if lost == "before" else Digests("a" * 64, None)
    arguments = {"digests": digests, **({"moved": {}} if lost == "moved" else {})}
    checks = judge(key, {} if lost == "before" else before, {} if lost == "after" else after, **arguments)
    by_payload = [
        check
        for check, rule in zip(checks, TABLE[key], strict=True)
        if isinstance(rule, SameDigest) or lost != "moved" or rule.payload
    ]
    assert verdicts(by_payload) == {Verdict.ERROR}
    assert {check.level for check in by_payload} == {Level.LAB}


@pytest.mark.parametrize("key", [key for key in TABLE if key != SIM_BLK and key[:2] != SIM_BLK[:2]], ids="-".join)
def test_less_than_the_payload_is_not_the_payload(key: Key) -> None:
    rules = [rule for rule in TABLE[key] if isinstance(rule, Grew) and rule.payload]
    for rule in rules:
        after = live(key) | {rule.counter: 10 + 999_999}
        failed = [check.name for check in judge(key, still(key), after) if check.verdict is Verdict.FAIL]
        assert failed == [f"data path: {rule.counter}"]


@pytest.mark.parametrize("key", [VP_NET, SIM_NET], ids="-".join)
def test_a_workload_that_moved_nothing_proves_nothing(key: Key) -> None:
    checks = judge(key, still(key), live(key), moved={"to_server": 0, "from_server": 0})
    by_payload = {check.verdict for check, rule in zip(checks, TABLE[key], strict=True) if rule.payload}  # type: ignore[union-attr]
    assert by_payload == {Verdict.FAIL}


def test_one_direction_only() -> None:
    after = {"irqs": 20, "backend_to": 2_000_010, "backend_from": 15}
    one_way = {"to_server": 2_000_000, "from_server": 0}
    assert verdicts(judge(VP_NET, still(VP_NET), after, moved=one_way)) == {Verdict.PASS}
    assert Verdict.FAIL in verdicts(judge(VP_NET, still(VP_NET), after, moved=one_way, device_end="client"))


def test_a_loop_counts_both_directions_at_both_queues() -> None:
    after = live(SIM_NET) | {"tx bytes": 10 + 2_999_999}
    assert Verdict.FAIL in verdicts(judge(SIM_NET, still(SIM_NET), after))


def test_a_combination_nobody_knows() -> None:
    key = (DeviceClass.NET, "vduse", AttachMode.VHOST_VDPA)
    assert verdicts(judge(key, {}, {})) == {Verdict.ERROR}
    assert datapath.counters(key) == frozenset()


def test_the_names_of_the_counters() -> None:
    assert datapath.counters(SIM_NET) == {"tx bytes", "rx bytes", "tx packets", "rx packets"}
    assert datapath.counters(SIM_BLK) == frozenset()
    assert datapath.counters(VP_NET) == {"irqs", "backend_to", "backend_from"}
