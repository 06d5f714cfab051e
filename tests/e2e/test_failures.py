"""Failure injections: what is broken on purpose, and the verdict and level that must come of it, in one table.

Each must leave its evidence and nothing else (the fixture ``cli``).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.document import Result, assert_evidence
from tests.e2e.driver import INTERRUPTED, SCENARIOS, Cli
from tests.e2e.injections import (
    CRASH_L2_QEMU,
    DISK_IN_L1,
    IFC_IN_L1,
    IN_L1,
    IN_L2,
    KILL_L2_QEMU,
    LONG,
    PANIC,
    RESET,
    SPLAT,
    VF_IN_L2,
    Provoke,
    Stage,
    by_hand,
    corrupt_disk,
    during,
    flipped_byte,
    freeze_l1,
    full_disk,
    gave_nothing_to_the_guest,
    interrupted_build,
    interrupted_in,
    kill,
    lacking_module,
    left_its_core,
    left_its_core_in_l1,
    left_its_registers,
    on,
    plainly,
    qemu_that_stays,
    swap_identity,
    take_its_name,
)


@dataclass(frozen=True)
class Case:
    """One injection and what must come of it; ``reason`` is a regular expression."""

    provoke: Provoke
    verdict: str
    level: str | None
    machine: str | None
    reason: str
    tier: str = "nightly"
    status: int | None = None
    also: Callable[[Result], None] = lambda _result: None


PASSED = "every check passed, with proof"

TABLE: dict[str, Case] = {
    # What the product does wrong
    "splat in L1": Case(
        during("exercise", on("l1", SPLAT), IN_L1, *LONG),
        "FAIL", "l1-kernel", "l1", "kernel log: .*WARNING.*lkdtm", "push",
    ),
    "splat in L2": Case(
        during("exercise", on("l2", SPLAT), IN_L2, *LONG), "FAIL", "l2-kernel", "l2", "kernel log: .*WARNING.*lkdtm",
    ),
    "panic of L1": Case(
        during("exercise", on("l1", PANIC), IN_L1, *LONG), "FAIL", "l1-kernel", "l1", "sysrq triggered crash", "push",
    ),
    "panic of L2": Case(
        during("exercise", on("l2", PANIC), IN_L2, *LONG), "FAIL", "l2-kernel", "l2", "sysrq triggered crash",
    ),
    "L1 resets itself": Case(
        during("exercise", on("l1", RESET), IN_L1, *LONG),
        "FAIL", "l1-kernel", "l1", "QEMU alive: .*guest-reset", also=left_its_registers,
    ),
    "L2 resets itself": Case(
        during("exercise", on("l2", RESET), IN_L2, *LONG),
        "FAIL", "l2-kernel", "l2", "QEMU alive: .*guest-reset", also=left_its_registers,
    ),
    "QEMU killed at L0": Case(
        during("exercise", kill("machines/l1/qemu.pid", signal.SIGKILL), IN_L1, *LONG),
        "FAIL", "l0-qemu", "l1", r"SIGKILL|killed by signal 9\b", "push",
    ),
    "QEMU killed in L1": Case(
        during("exercise", on("l1", KILL_L2_QEMU), IN_L2, *LONG),
        "FAIL", "l1-qemu", "l2", r"SIGKILL|killed by signal 9\b", "push",
    ),
    "QEMU crashed at L0": Case(
        during("exercise", kill("machines/l1/qemu.pid", signal.SIGSEGV), IN_L1, *LONG),
        "FAIL", "l0-qemu", "l1", r"SIGSEGV|killed by signal 11\b", also=left_its_core,
    ),
    "QEMU crashed in L1": Case(
        during("exercise", on("l1", CRASH_L2_QEMU), IN_L2, *LONG),
        "FAIL", "l1-qemu", "l2", r"SIGSEGV|killed by signal 11\b", also=left_its_core_in_l1,
    ),
    "QEMU does not end": Case(qemu_that_stays, "FAIL", "l0-qemu", "l1", "QEMU ends when asked: .*had to be killed"),
    "data corrupted": Case(
        during("exercise", corrupt_disk, DISK_IN_L1), "FAIL", "l1-kernel", "l1", "integrity: .*verify", "push",
    ),
    "L1 hangs while it boots": Case(
        during("machines", freeze_l1, IN_L1), "FAIL", "l1-kernel", "l1", "waited .* 'vdpalab: sshd ready'",
    ),
    "vdpa dev add refused": Case(
        during("machines", take_its_name, IN_L2), "FAIL", "l1-kernel", "l1", "vdpa.* File exists",
    ),
    "device_add refused": Case(
        plainly(IN_L2, "--set", "inject.rx_queue_size=300"), "FAIL", "l1-qemu", "l2", "device_add: .*rx_queue_size",
    ),
    # A guest that boots, has its device with link up, and no byte passes (facts: nested.md sections 3 and 5b)
    "dead data path: too few IOTLB entries": Case(
        plainly(str(SCENARIOS / "dead-iotlb_entries.toml")), "FAIL", "l1-qemu", "l2", "IOTLB message",
    ),
    "dead data path: queue too long": Case(
        plainly(str(SCENARIOS / "dead-rx_queue_size.toml")),
        "FAIL", "l1-qemu", "l2", "refused a virtqueue parameter", "push",
    ),
    # No log says a word: that the device's own counters stand still is all there is to see.
    "dead data path: private RAM": Case(
        plainly(str(SCENARIOS / "dead-private_ram.toml")), "FAIL", "l1-qemu", "l2", "data path: tx bytes: .*grew by 0",
    ),
    # Hardware of the lab that dies explains whatever else went wrong.
    "device model killed": Case(
        during("exercise", kill("machines/ifcvf/server.pid", signal.SIGKILL), IFC_IN_L1, *LONG),
        "ERROR", "lab", "ifcvf", r"device model of the IFC VFs ended \(SIGKILL\)",
    ),
    "dead data path: before a migration": Case(
        plainly("net-vdpa_sim-vhost_vdpa-migrate", "--set", "device.use_va=true", "--set", "inject.private_ram=true"),
        "FAIL", "l1-qemu", "l2", "data path: tx bytes: .*grew by 0",
    ),
    # What the site or the lab lacks
    "module missing": Case(lacking_module, "SKIP", "lab", None, r"the site lacks module vdpa_sim \(kernel .* of l1\)"),
    "no ACCESS_PLATFORM": Case(
        plainly(VF_IN_L2, "--set", "device.access_platform=false"),
        "ERROR", "lab", None, "does not offer VIRTIO_F_ACCESS_PLATFORM", also=gave_nothing_to_the_guest,
    ),
    "SSH key wrong": Case(
        during("machines", swap_identity, IN_L1),
        "ERROR", "lab", None, "l1: SSH login as root .* failed: .*Auth", "push",
    ),
    "disk full in the cache": Case(
        full_disk, "ERROR", "lab", None, r"guest-image: no space left in the cache .* \(\d+ MiB free\)", "push",
    ),
    "splat by hand in a kept lab": Case(by_hand(SPLAT, IN_L1), "PASS", None, None, PASSED),
    "artifact corrupted": Case(flipped_byte, "PASS", None, None, PASSED),
    # What happens to the lab itself
    "runner killed": Case(
        during("exercise", kill("runner.json", signal.SIGKILL, "pid"), IN_L1, *LONG),
        "ERROR", "lab", None, "the runner was killed by signal 9 during exercise", "push",
    ),
    "Ctrl-C in artifacts": Case(interrupted_build, "ERROR", "lab", None, "interrupted", status=INTERRUPTED),
    "Ctrl-C in machines": Case(
        interrupted_in("machines", IN_L1), "ERROR", "lab", None, "interrupted", status=INTERRUPTED
    ),
    "Ctrl-C in devices": Case(
        interrupted_in("devices", VF_IN_L2), "ERROR", "lab", None, "interrupted", status=INTERRUPTED
    ),
    "Ctrl-C in attach": Case(
        interrupted_in("attach", VF_IN_L2), "ERROR", "lab", None, "interrupted", status=INTERRUPTED
    ),
    "Ctrl-C in exercise": Case(
        interrupted_in("exercise", IN_L1, *LONG), "ERROR", "lab", None, "interrupted", "push", status=INTERRUPTED
    ),
    "Ctrl-C in judge": Case(
        interrupted_in("judge", IN_L1), "ERROR", "lab", None, "interrupted", status=INTERRUPTED
    ),
    "Ctrl-C in undo": Case(interrupted_in("undo", IN_L1), "PASS", None, None, PASSED, status=INTERRUPTED),
}  # fmt: skip


@pytest.fixture
def stage(cli: Cli, artifacts: dict[str, Any], tmp_path: Path) -> Stage:
    return Stage(cli, artifacts, tmp_path)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=getattr(pytest.mark, case.tier)) for name, case in TABLE.items()]
)
def test_verdict_and_level(name: str, stage: Stage) -> None:
    case = TABLE[name]
    ended = case.provoke(stage)
    [result] = ended.document.results
    assert (result.verdict, result.level, result.machine) == (case.verdict, case.level, case.machine), result.reason
    assert re.search(case.reason, result.reason, re.DOTALL), result.reason
    assert ended.status == (case.status or {"FAIL": 1, "ERROR": 3, "SKIP": 77, "PASS": 0}[case.verdict]), ended.said
    assert_evidence(result)
    case.also(result)
