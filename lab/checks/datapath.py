"""Proof that the data went through the device under test: the one table of class x provider x attachment.

A guest can boot, have a NIC with link up, and no byte passes; or bytes pass another way (facts: nested.md sections 3,
5b, 6). So each combination names device-side counters that must have moved with the payload, as the workload counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lab.model import AttachMode, Check, DeviceClass, Level

End = Literal["server", "client"]
Key = tuple[DeviceClass, str, AttachMode]


@dataclass(frozen=True)
class Grew:
    """A counter that must grow, by at least the payload of the directions named (none: by anything).

    Directions are ``to_device``/``from_device`` for net and ``written``/``read`` for blk.
    """

    counter: str
    source: str
    payload: tuple[str, ...] = ()


@dataclass(frozen=True)
class SameDigest:
    """What was written through the attachment must be what another attachment of the device reads."""

    source: str


Rule = Grew | SameDigest

_BOTH = ("to_device", "from_device")
# Every frame is sent by the device and comes back to it, so both queues see both directions.
_SIM_NET: tuple[Rule, ...] = (
    Grew("tx bytes", "vdpa dev vstats, qidx 1", _BOTH),
    Grew("rx bytes", "vdpa dev vstats, qidx 0", _BOTH),
    Grew("tx packets", "vdpa dev vstats, qidx 1"),
    Grew("rx packets", "vdpa dev vstats, qidx 0"),
)
# vdpa_sim_blk counts nothing; its disk is memory that only its virtqueue reaches.
_SIM_BLK: tuple[Rule, ...] = (SameDigest("another vDPA device on the shared RAM disk, in L1"),)
_IRQS = Grew("irqs", "/proc/interrupts of L1, vp-vdpa[BDF]-N")
_VP_NET: tuple[Rule, ...] = (
    _IRQS,
    Grew("backend_to", "capture at the VF's back end in L0", ("to_device",)),
    Grew("backend_from", "capture at the VF's back end in L0", ("from_device",)),
)
_VP_BLK: tuple[Rule, ...] = (
    _IRQS,
    Grew("wr_bytes", "query-blockstats of L0's QEMU", ("written",)),
    Grew("rd_bytes", "query-blockstats of L0's QEMU", ("read",)),
)
_MODEL = "the device model's own count, over its control socket"
# Transmit and receive are the driver's.
_IFC_NET: tuple[Rule, ...] = (
    Grew("rx_bytes", _MODEL, ("to_device",)),
    Grew("tx_bytes", _MODEL, ("from_device",)),
    Grew("kicks", _MODEL),
    Grew("interrupts", _MODEL),
)
_IFC_BLK: tuple[Rule, ...] = (
    Grew("written_bytes", _MODEL, ("written",)),
    Grew("read_bytes", _MODEL, ("read",)),
    Grew("kicks", _MODEL),
    Grew("interrupts", _MODEL),
)

TABLE: Mapping[Key, tuple[Rule, ...]] = {
    (device_class, provider, attach): rules
    for device_class, provider, rules in (
        (DeviceClass.NET, "vdpa_sim", _SIM_NET),
        (DeviceClass.BLK, "vdpa_sim", _SIM_BLK),
        (DeviceClass.NET, "vp_vdpa", _VP_NET),
        (DeviceClass.BLK, "vp_vdpa", _VP_BLK),
        (DeviceClass.NET, "ifcvf", _IFC_NET),
        (DeviceClass.BLK, "ifcvf", _IFC_BLK),
    )
    # Who uses the device changes nothing of what the device itself shows.
    for attach in AttachMode
}


@dataclass(frozen=True)
class Digests:
    """Digests of what was ``written`` through the attachment and ``read`` elsewhere; None when it could not be had."""

    written: str | None
    read: str | None


def counters(key: Key) -> frozenset[str]:
    """Names of the counters to sample before and after the workload."""
    return frozenset(rule.counter for rule in TABLE.get(key, ()) if isinstance(rule, Grew))


def judge(
    key: Key,
    before: Mapping[str, int],
    after: Mapping[str, int],
    moved: Mapping[str, int],
    *,
    machine: str,
    device_end: End = "server",
    digests: Digests | None = None,
) -> list[Check]:
    """Hold the device's counters against what the workload moved; every check is marked as proof.

    ``before`` and ``after`` carry the counters that :func:`counters` names; one that is missing is ERROR, one that
    did not move with the payload is FAIL. ``moved`` is :attr:`lab.model.WorkloadResult.moved`; ``device_end`` tells
    which end of a net workload is the device under test. A combination without a row is ERROR.
    """
    rules = TABLE.get(key, ())
    if not rules:
        name = "data path"
        return [Check.unproven(name, f"no proof is known for {'-'.join(key)}", "a proof", machine=machine, proof=True)]
    samples = _Samples(before, after, _by_device(moved, device_end), machine, _level(key[2]))
    return [
        samples.grew(rule) if isinstance(rule, Grew) else _same(rule, digests or Digests(None, None), samples)
        for rule in rules
    ]


def _level(attach: AttachMode) -> Level:
    """Whose fault a dead path is: of the device's user, unless a log tells more."""
    return Level.L1_QEMU if attach is AttachMode.VHOST_VDPA else Level.L1_KERNEL


def _by_device(moved: Mapping[str, int], device_end: End) -> dict[str, int]:
    """The workload's directions as the device sees them."""
    into, out = ("to_server", "from_server") if device_end == "server" else ("from_server", "to_server")
    names = {into: "to_device", out: "from_device"}
    return {names.get(key, key): value for key, value in moved.items()}


@dataclass(frozen=True)
class _Samples:
    """What was sampled around one workload."""

    before: Mapping[str, int]
    after: Mapping[str, int]
    moved: Mapping[str, int]
    machine: str
    level: Level

    def grew(self, rule: Grew) -> Check:
        name = f"data path: {rule.counter}"
        missing = self._missing(rule)
        if missing:
            expected = f"grew with the payload ({rule.source})"
            return Check.unproven(name, f"not known: {missing}", expected, machine=self.machine, proof=True)
        payload = sum(self.moved[direction] for direction in rule.payload)
        nothing = bool(rule.payload) and not any(self.moved.values())
        grown = self.after[rule.counter] - self.before[rule.counter]
        seen = f"grew by {grown}" + ("; the workload moved no byte" if nothing else "")
        expected = f"grew by >= {max(1, payload)} ({rule.source})"
        good = grown >= max(1, payload) and not nothing
        return Check.judged(name, good, seen, expected, level=self.level, machine=self.machine, proof=True)

    def _missing(self, rule: Grew) -> str:
        lacks = [
            when for when, sample in (("before", self.before), ("after", self.after)) if rule.counter not in sample
        ]
        lacks += [f"payload {direction}" for direction in rule.payload if direction not in self.moved]
        return ", ".join(lacks)


def _same(rule: SameDigest, digests: Digests, samples: _Samples) -> Check:
    name, expected = "data path: read back", f"the same digest ({rule.source})"
    if not digests.written or not digests.read:
        seen = f"digest written: {digests.written}, read: {digests.read}"
        return Check.unproven(name, seen, expected, machine=samples.machine, proof=True)
    good = digests.written == digests.read
    seen = f"{'same' if good else 'different'}: {digests.written[:16]}… written, {digests.read[:16]}… read"
    return Check.judged(name, good, seen, expected, level=samples.level, machine=samples.machine, proof=True)
