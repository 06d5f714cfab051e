"""Plain data that two or more layers share. No input or output happens here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """Outcome of a check or of a run; the order of ``worst`` is ERROR, FAIL, SKIP, PASS."""

    PASS = "PASS"
    FAIL = "FAIL"
    ERROR = "ERROR"
    SKIP = "SKIP"


class Level(StrEnum):
    """Where a fault lies: which of the nested levels, and whose code."""

    L0_KERNEL = "l0-kernel"
    L0_QEMU = "l0-qemu"
    L1_KERNEL = "l1-kernel"
    L1_USER = "l1-user"
    L1_QEMU = "l1-qemu"
    L2_KERNEL = "l2-kernel"
    L2_USER = "l2-user"
    LAB = "lab"


class DeviceClass(StrEnum):
    """Class of a virtio device that a vDPA device can have here."""

    NET = "net"
    BLK = "blk"


class AttachMode(StrEnum):
    """The vDPA bus driver that takes the device."""

    VHOST_VDPA = "vhost_vdpa"
    VIRTIO_VDPA = "virtio_vdpa"


class Accel(StrEnum):
    """QEMU accelerator."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True)
class Completed:
    """A command that ended. ``returncode`` is negative when a signal ended it; durations are seconds."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    duration_s: float

    @property
    def command(self) -> str:
        """The command as one would type it."""
        return shlex.join(self.argv)

    @property
    def text(self) -> str:
        """Standard output as text, without the final newline."""
        return self.stdout.decode(errors="replace").rstrip("\n")


@dataclass(frozen=True)
class Check:
    """One judged statement: what was expected, what was seen. ``level`` is None when it passed.

    ``proof`` marks a statement that shows the intended path was exercised; a run without a passed one is no PASS.
    """

    name: str
    verdict: Verdict
    seen: str
    expected: str
    level: Level | None = None
    machine: str | None = None
    proof: bool = False

    @classmethod
    def judged(
        cls,
        name: str,
        good: bool,
        seen: str,
        expected: str,
        *,
        level: Level,
        machine: str | None = None,
        proof: bool = False,
    ) -> Check:
        """PASS when ``good``, else FAIL at ``level``."""
        verdict = Verdict.PASS if good else Verdict.FAIL
        return cls(name, verdict, seen, expected, None if good else level, machine, proof)

    @classmethod
    def unproven(cls, name: str, seen: str, expected: str, *, machine: str | None = None, proof: bool = False) -> Check:
        """ERROR of the lab: it could not look; ``seen`` says why."""
        return cls(name, Verdict.ERROR, seen, expected, Level.LAB, machine, proof)


@dataclass(frozen=True)
class Metric:
    """One measured value, with the unit that the field uses (``Mbit/s``, ``ms``, ``IOPS``, ``count``)."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True)
class QemuDevice:
    """What an attachment asks QEMU to add: a back end (``netdev_add`` arguments) and a front end (``device_add``)."""

    device: Mapping[str, object]
    netdev: Mapping[str, object] | None = None

    @property
    def id(self) -> str:
        """The front end's id."""
        return str(self.device["id"])


@dataclass(frozen=True)
class WorkloadResult:
    """What a workload measured and judged about itself.

    ``moved`` is the number of payload bytes by direction as the workload counted them, to be held against the
    device's own counters: ``to_server``/``from_server`` for iperf3, ``written``/``read`` for fio.
    """

    metrics: tuple[Metric, ...] = ()
    checks: tuple[Check, ...] = ()
    moved: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """What a run came to; the JSON form is one element of ``results`` in design.md section 4."""

    scenario: str
    verdict: Verdict
    level: Level | None
    machine: str | None
    reason: str
    duration_s: float
    run_dir: str
    known: tuple[str, ...] = ()
    warm: bool = False
    accel_l1: Accel | None = None
    accel_l2: Accel | None = None
    checks: tuple[Check, ...] = ()
    metrics: tuple[Metric, ...] = field(default=())
