"""lab.checks.qemulog: lines as QEMU 10.0 and 11.1 print them."""

from __future__ import annotations

import pytest

from lab.checks import qemulog
from lab.config.scenario import Expected
from lab.model import Check, Level, Verdict

Q = "qemu-system-x86_64: "
DEAD = {
    "vring": f"{Q}vhost_set_vring_num failed: Invalid argument (22)\n"
    f"{Q}unable to start vhost net: 22: falling back on userspace virtio\n",
    "iotlb": f"{Q}failed to write, fd=14, errno=14 (Bad address)\n"
    f"{Q}vhost-vdpa: DMA mapping failed, unable to continue\n",
    "memlock": f"{Q}failed to write, fd=14, errno=12 (Cannot allocate memory)\n{Q}vhost vdpa map fail!\n",
}
HARMLESS = (
    f"{Q}terminating on signal 15 from pid 812 (/usr/bin/python3)\n",
    f"{Q}terminating on signal 2\n",
    f"{Q}warning: TCG doesn't support requested feature: CPUID[eax=01h].ECX.x2apic [bit 21]\n",
    f"{Q}virtio-net: wrong value for queue_enable 0\n",
    f"{Q}wrong value for queue_enable 0\r\n",
    f"{Q}vtd_iommu_translate: detected translation failure (dev=00:1f:02, iova=0x7ff3e000)\n",
    f"{Q}vtd_iova_to_sspte: detected sspte permission error (iova=0x7ff3e000, level=0x3, sspte=0x0)\n"
    f"{Q}vtd_iommu_translate: detected translation failure (dev=00:1f:02, iova=0x7ff3e000)\n",
    "char device redirected to /dev/pts/3 (label serial0)\n",
    f"{Q}vhost VQ 0 ring restore failed: -1: Operation not permitted (1)\n",
    f"{Q}warning: hub 1 is not connected to host network\n",
    f"{Q}warning: vfio vfio-user:../ifcvf/vf1.sock: Could not enable error recovery for the device\n",
    f'{Q}-device {{"driver": "vfio-user-pci", "bus": "spare0"}}: warning: vfio vfio-user:../ifcvf/vf1.sock: '
    "Could not enable error recovery for the device\n",
)


def judge_all(text: str | None, expected: tuple[Expected, ...] = ()) -> list[Check]:
    checks = qemulog.judge(text, machine="l2", level=Level.L1_QEMU, expected=expected)
    assert {check.name for check in checks} == {"clean QEMU stderr"}
    return checks


def judge(text: str | None, expected: tuple[Expected, ...] = ()) -> Check:
    """The first check, which gives a run its reason."""
    return judge_all(text, expected)[0]


def test_silence() -> None:
    check = judge("")
    assert (check.verdict, check.seen) == (Verdict.PASS, "nothing")


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_lines_are_named_with_their_reason(text: str) -> None:
    check = judge(text)
    assert check.verdict is Verdict.PASS, check.seen
    assert check.seen.startswith("1 x ")


def test_every_entry_of_the_table_is_met_by_a_line() -> None:
    meanings = {phrase.meaning for phrase in qemulog.HARMLESS}
    seen = judge("".join(HARMLESS)).seen
    assert len(qemulog.HARMLESS) == len(meanings)
    assert all(meaning in seen for meaning in meanings)


def test_all_harmless_lines_together() -> None:
    assert judge("".join(HARMLESS)).verdict is Verdict.PASS


@pytest.mark.parametrize("text", DEAD.values(), ids=DEAD)
def test_each_way_of_a_dead_data_path(text: str) -> None:
    checks = judge_all("".join(HARMLESS) + f"{Q}something new\n" + text)
    assert {(check.verdict, check.level, check.machine) for check in checks} == {(Verdict.FAIL, Level.L1_QEMU, "l2")}
    assert [check.seen.startswith("dead data path: ") for check in checks] == [True, True, False]
    assert not [check for check in checks if "terminating" in check.seen]


@pytest.mark.parametrize(
    "line",
    [
        f"{Q}something new\n",
        f"{Q}vtd_iommu_translate: detected translation failure (dev=01:00:01, iova=0x1f2a000)\n",
        f"{Q}vtd_iova_to_sspte: detected sspte permission error (iova=0x0, level=0x3, sspte=0x0, write=0, pasid=0x0)\n",
        f"{Q}wrong value for queue_enable 2\n",
        "Bail out! ERROR:../hw/core/qdev.c:1: assertion failed\n",
    ],
)
def test_a_line_that_nobody_has_looked_at_fails(line: str) -> None:
    check = judge(line)
    assert check.verdict is Verdict.FAIL
    assert "dead" not in check.seen


def test_iommu_faults_are_told_as_what_they_are() -> None:
    faults = (
        f"{Q}vtd_iova_to_sspte: detected sspte permission error (iova=0x31a3002, level=0x2, sspte=0x0)\n"
        f"{Q}vtd_iommu_translate: detected translation failure (dev=01:00:01, iova=0x31a3002)\n"
        f"{Q}New fault is not recorded due to compression of faults\n"
    )
    seen = [check.seen for check in judge_all(f"{faults}{Q}something else\n")]
    assert [text.startswith("IOMMU fault: ") for text in seen] == [True, True, True, False]


def test_each_line_is_a_check_of_its_own_and_told_once() -> None:
    text = f"{Q}first (iova=0x1f)\n{Q}second 1\n{Q}first (iova=0x2a)\n{Q}second 2\n"
    assert [check.seen for check in judge_all(text)] == ["first (iova=0x1f)", "second 1"]


def test_a_flood_is_cut() -> None:
    words = [f"{first}{second}" for first in "abcdefghij" for second in "abcdefghij"]
    seen = [check.seen for check in judge_all("\n".join(words))]
    assert (len(seen), seen[-1]) == (13, "… and 88 more different lines")


def test_what_the_scenario_expects_is_no_failure() -> None:
    patterns = ("vhost_set_vring_num failed", "falling back on userspace virtio")
    expected = tuple(Expected(level=Level.L1_QEMU, pattern=pattern) for pattern in patterns)
    check = judge(DEAD["vring"], expected)
    assert (check.verdict, check.seen) == (Verdict.PASS, "2 lines that the scenario expects")
    assert judge(DEAD["vring"], expected[:1]).verdict is Verdict.FAIL


def test_stderr_that_could_not_be_read() -> None:
    check = judge(None)
    assert (check.verdict, check.level) == (Verdict.ERROR, Level.LAB)


def test_a_queue_whose_state_is_lost_is_harmless_but_in_a_migration() -> None:
    text = "qemu-system-x86_64: vhost VQ 0 ring restore failed: -1: Operation not permitted (1)\n"
    for migrates, verdict in ((False, Verdict.PASS), (True, Verdict.FAIL)):
        [check] = qemulog.judge(text, machine="l2", level=Level.L1_QEMU, migrates=migrates)
        assert check.verdict is verdict
