"""lab.scenarios.verdict: the rules of design.md section 4, one row each."""

from __future__ import annotations

import pytest

from lab.errors import (
    BuildError,
    CommandError,
    DeadlineExceeded,
    InputError,
    Interrupted,
    MachineDied,
    MachineError,
    ProductFailure,
    SiteLacks,
    Unreachable,
)
from lab.model import Check, Completed, Level, Verdict
from lab.scenarios.verdict import judge

PROOF = Check("data path: irqs", Verdict.PASS, "grew by 9", "grew", proof=True)
GOOD = Check("QEMU alive", Verdict.PASS, "is running", "runs")
LOST = Check.unproven("iperf3", "the server said nothing", "a report", machine="l2")
BLIND = Check.unproven("data path: irqs", "not known: after", "grew", machine="l2", proof=True)


def failed(name: str, level: Level, machine: str, seen: str = "bad", *, proof: bool = False) -> Check:
    return Check.judged(name, False, seen, "good", level=level, machine=machine, proof=proof)


SLOW = failed("iperf3 tcp", Level.L2_KERNEL, "l2")
DEAD_PATH = failed("data path: tx bytes", Level.L1_QEMU, "l2", "grew by 0", proof=True)
SPLAT = failed("kernel log", Level.L1_KERNEL, "l1", "WARNING: vdpa_dev_remove")
IOMMU = failed("kernel log", Level.L1_KERNEL, "l1", "IOMMU fault: DMAR: DRHD")
L0_IOMMU = failed("clean QEMU stderr", Level.L0_QEMU, "l1", "IOMMU fault: a device used memory that is not mapped")
STDERR = failed("clean QEMU stderr", Level.L1_QEMU, "l2", "vhost map failed")
TOLD = failed("clean QEMU stderr", Level.L0_QEMU, "l1", "IOMMU fault: vtd_iova_to_slpte")
GONE = failed("QEMU alive", Level.L0_QEMU, "l1", "ended (SIGKILL)")

DIED = MachineDied("l1", -9, "", level=Level.L0_QEMU)
PANIC = ProductFailure("l2: the kernel panicked", level=Level.L2_KERNEL, machine="l2")
NO_NIC = ProductFailure("l2: no interface", level=Level.L2_KERNEL, machine="l2", symptom=True)
LATE = DeadlineExceeded("l2: the end of iperf3", 30)
LOST_SSH = Unreachable("l1: the SSH connection is gone")
LACK = SiteLacks("usable KVM: there is no /dev/kvm")
REFUSED = MachineError("l1: QEMU refused to start")

PASS = (Verdict.PASS, None, None)
SKIP = (Verdict.SKIP, Level.LAB, None)
ERROR = (Verdict.ERROR, Level.LAB, None)
OF_L1 = (Verdict.FAIL, Level.L1_KERNEL, "l1")
OF_L2 = (Verdict.FAIL, Level.L2_KERNEL, "l2")

RULES: dict[str, tuple[list[Check], BaseException | None, list[str], tuple[Verdict, Level | None, str | None], str]] = {
    "every check passed and a proof": ([GOOD, PROOF], None, [], PASS, "with proof"),
    "no proof": ([GOOD], None, [], ERROR, "nothing proves that what"),
    "nothing at all": ([], None, [], ERROR, "nothing proves that what"),
    "a check could not look": ([LOST, PROOF], None, [], (*ERROR[:2], "l2"), "expected a report, saw the server"),
    "a proof could not look": ([BLIND, PROOF], None, [], (*ERROR[:2], "l2"), "data path: irqs"),
    "an expectation unmet": ([SLOW, PROOF], None, [], OF_L2, "iperf3 tcp: expected good, saw bad"),
    "a failed proof": ([DEAD_PATH, PROOF], None, [], (Verdict.FAIL, Level.L1_QEMU, "l2"), "grew by 0"),
    "failed before unproven": ([LOST, SLOW], None, [], OF_L2, "iperf3 tcp"),
    "QEMU killed by a signal": ([], DIED, [], (Verdict.FAIL, Level.L0_QEMU, "l1"), "killed by signal 9"),
    "a panic": ([], PANIC, [], OF_L2, "l2: the kernel panicked"),
    "a panic before what came of it": ([SLOW, GONE], PANIC, [], OF_L2, "panicked"),
    "a splat of the kernel before the death it caused": ([SPLAT], DIED, [], OF_L1, "WARNING: vdpa_dev_remove"),
    "a death before the IOMMU faults it caused": ([IOMMU], DIED, [], (Verdict.FAIL, Level.L0_QEMU, "l1"), "signal 9"),
    "a device that does not appear": ([GOOD, SLOW], NO_NIC, [], OF_L2, "no interface"),
    "words of QEMU before the device that does not appear": (
        [STDERR], NO_NIC, [], (Verdict.FAIL, Level.L1_QEMU, "l2"), "vhost map failed",
    ),
    "a dead QEMU before the device that does not appear": (
        [GONE], NO_NIC, [], (Verdict.FAIL, Level.L0_QEMU, "l1"), "SIGKILL",
    ),
    "a splat before a lost connection": ([SPLAT], LOST_SSH, [], OF_L1, "WARNING"),
    "a dead QEMU before a lost connection": ([GONE], LOST_SSH, [], (Verdict.FAIL, Level.L0_QEMU, "l1"), "SIGKILL"),
    "a splat before a missing part of the site": ([SPLAT], LACK, [], OF_L1, "WARNING"),
    "nearest to the cause: splat": ([SLOW, DEAD_PATH, STDERR, IOMMU, SPLAT], None, [], OF_L1, "WARNING"),
    "nearest to the cause: QEMU's words": (
        [SLOW, DEAD_PATH, IOMMU, STDERR], None, [], (Verdict.FAIL, Level.L1_QEMU, "l2"), "vhost map failed",
    ),
    "nearest to the cause: words of the QEMU that did not map it": (
        [L0_IOMMU, IOMMU, STDERR], None, [], (Verdict.FAIL, Level.L1_QEMU, "l2"), "vhost map failed",
    ),
    "nearest to the cause: who did not map": (
        [TOLD, IOMMU, STDERR], None, [], (Verdict.FAIL, Level.L1_QEMU, "l2"), "vhost map failed",
    ),
    "nearest to the cause: IOMMU fault": ([SLOW, DEAD_PATH, IOMMU], None, [], OF_L1, "IOMMU fault"),
    "nearest to the cause: proof": ([SLOW, DEAD_PATH], None, [], (Verdict.FAIL, Level.L1_QEMU, "l2"), "grew by 0"),
    "the site lacks something": ([], LACK, [], SKIP, "the site lacks usable KVM: there is no /dev/kvm"),
    "the site lacks something, nothing could look": ([LOST], LACK, [], SKIP, "the site lacks"),
    "the lab was late": ([GOOD, PROOF], LATE, [], ERROR, "waited 30 s for l2: the end of iperf3"),
    "the lab lost a host": ([LOST], LOST_SSH, [], ERROR, "the SSH connection is gone"),
    "QEMU took no such command line": ([], REFUSED, [], ERROR, "refused to start"),
    "an artifact cannot be built": ([], BuildError("kernel: no space"), [], ERROR, "kernel: no space"),
    "a command failed": (
        [], CommandError("l1", Completed(("modprobe", "vdpa"), 1, b"", b"not found", 0.1)), [], ERROR, "modprobe vdpa",
    ),
    "bad input, all of it": ([], InputError(["no site 'x'", "no such file"]), [], ERROR, "no site 'x'; no such file"),
    "a defect of the lab": ([PROOF], KeyError("irqs"), [], ERROR, "internal error: KeyError"),
    "interrupted": ([GOOD, PROOF], Interrupted(), [], ERROR, "interrupted"),
    "interrupted after a failure": ([SPLAT], Interrupted(), [], ERROR, "interrupted"),
    "could not be undone": ([GOOD, PROOF], None, ["v1a: busy", "x"], ERROR, "could not be undone: v1a: busy"),
    "failed before could not be undone": ([SLOW], None, ["x: busy"], OF_L2, "iperf3"),
    "an error before could not be undone": ([], LATE, ["x: busy"], ERROR, "waited 30 s"),
    "unproven before could not be undone": ([LOST], None, ["x: busy"], (*ERROR[:2], "l2"), "iperf3"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    checks, error, undo_failed, (verdict, level, machine), words = RULES[rule]
    outcome = judge(checks, error, undo_failed)
    assert (outcome.verdict, outcome.level, outcome.machine) == (verdict, level, machine)
    assert words in outcome.reason


@pytest.mark.parametrize(
    ("checks", "error", "undo_failed", "verdict", "words"),
    [
        ([], None, [], Verdict.SKIP, "stopped at attach as asked"),
        ([GOOD, PROOF], None, [], Verdict.SKIP, "stopped at attach as asked"),
        ([SPLAT], None, [], Verdict.FAIL, "WARNING: vdpa_dev_remove"),
        ([LOST], None, [], Verdict.ERROR, "iperf3"),
        ([], None, ["x: busy"], Verdict.ERROR, "could not be undone: x: busy"),
        ([], Interrupted(), [], Verdict.ERROR, "interrupted"),
        ([], PANIC, [], Verdict.FAIL, "panicked"),
    ],
)
def test_stopped_as_asked(
    checks: list[Check], error: BaseException | None, undo_failed: list[str], verdict: Verdict, words: str
) -> None:
    outcome = judge(checks, error, undo_failed, stopped_at="attach")
    assert outcome.verdict is verdict
    assert words in outcome.reason


def test_the_order_of_checks_decides_among_equals() -> None:
    other = failed("topology C01", Level.L1_KERNEL, "l1")
    assert judge([SLOW, other], None).reason.startswith("iperf3")
    assert judge([other, SLOW], None).reason.startswith("topology")


@pytest.mark.parametrize("rule", RULES)
def test_a_level_is_named_unless_it_passed(rule: str) -> None:
    checks, error, undo_failed, _, _ = RULES[rule]
    outcome = judge(checks, error, undo_failed)
    assert (outcome.level is None) == (outcome.verdict is Verdict.PASS)
