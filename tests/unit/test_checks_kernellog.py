"""lab.checks.kernellog: PASS, FAIL and ERROR of one machine's logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.checks import kernellog
from lab.config.scenario import Expected
from lab.model import Check, Level, Verdict

SAMPLES = Path(__file__).parent / "samples" / "kernellog"
CLEAN = (SAMPLES / "clean.txt").read_text()
MARK = "vdpalab: run 4711 begins"


def sample(name: str) -> str:
    return (SAMPLES / f"{name}.txt").read_text()


def judge(
    console: str, dmesg: str | None = None, expected: tuple[Expected, ...] = (), since: str | None = None
) -> list[Check]:
    return kernellog.judge(console, dmesg, machine="l1", level=Level.L1_KERNEL, expected=expected, since=since)


def test_clean() -> None:
    (check,) = judge(CLEAN, CLEAN)
    assert check.verdict is Verdict.PASS
    assert check.level is None
    assert "24 lines read" in check.seen


@pytest.mark.parametrize("name", [path.stem for path in SAMPLES.iterdir() if path.stem not in ("clean", "dmar-ahci")])
@pytest.mark.parametrize("where", ["console", "dmesg", "both"])
def test_every_splat_fails_once_wherever_it_is(name: str, where: str) -> None:
    splat = CLEAN + sample(name)
    checks = judge(splat if where != "dmesg" else CLEAN, splat if where != "console" else CLEAN)
    expected = 2 if name in ("oops", "list-corruption") else 1
    assert [check.verdict for check in checks] == [Verdict.FAIL] * expected
    assert {check.machine for check in checks} == {"l1"}
    assert {check.name for check in checks} == {"kernel log"}


def test_what_is_seen_is_the_title_and_the_lines() -> None:
    (check,) = judge(sample("hung-task"))
    first, second, *_ = check.seen.splitlines()
    assert first == "hung task: INFO: task vdpa:812 blocked for more than 120 seconds. (2 times)"
    assert second == "INFO: task vdpa:812 blocked for more than 120 seconds."
    assert "vhost_vdpa_remove" in check.seen
    assert check.level is Level.L1_KERNEL


def test_the_longer_of_two_texts_is_shown() -> None:
    whole = sample("warn")
    (check,) = judge("\n".join(whole.splitlines()[:4]), whole)
    assert "vhost_vdpa_unlocked_ioctl" in check.seen


@pytest.mark.parametrize(("name", "level"), [("segfault-qemu", Level.L1_QEMU), ("segfault-user", Level.L1_USER)])
def test_a_crashed_process_is_not_the_kernels_fault(name: str, level: Level) -> None:
    (check,) = judge(sample(name))
    assert check.level is level


def test_a_process_of_the_guest() -> None:
    (check,) = kernellog.judge(sample("segfault-qemu"), machine="l2", level=Level.L2_KERNEL)
    assert check.level is Level.L2_USER


@pytest.mark.parametrize(("console", "dmesg"), [("", None), ("", ""), ("\n\r\n", None), (CLEAN, "  \n")])
def test_reading_nothing_proves_nothing(console: str, dmesg: str | None) -> None:
    (check,) = judge(console, dmesg)
    assert (check.verdict, check.level) == (Verdict.ERROR, Level.LAB)


def test_a_splat_is_told_even_when_the_ring_buffer_is_empty() -> None:
    assert {check.verdict for check in judge(sample("oops"), "")} == {Verdict.FAIL, Verdict.ERROR}


def test_one_fault_of_the_ahci_is_benign_two_are_not() -> None:
    (check,) = judge(sample("dmar-ahci"))
    assert check.verdict is Verdict.PASS
    assert "firmware's old buffer" in check.seen
    (check,) = judge(sample("dmar-ahci") + sample("dmar-ahci").replace("12.5", "19.5"))
    assert check.verdict is Verdict.FAIL


def test_only_what_came_after_the_mark_counts_in_the_ring_buffer() -> None:
    mark = f"[   20.000000] {MARK}\n"
    (check,) = judge("", sample("warn") + mark + "[   21.000000] fine\n", since=MARK)
    assert (check.verdict, check.seen) == (Verdict.PASS, "2 lines read")
    (check,) = judge("", mark + sample("warn"), since=MARK)
    assert check.verdict is Verdict.FAIL
    (check,) = judge("", mark + sample("warn") + mark, since=MARK)
    assert check.verdict is Verdict.PASS


def test_the_console_is_the_runs_own_and_counts_whole() -> None:
    (check,) = judge(sample("warn") + f"[   20.000000] {MARK}\n", f"[   20.000000] {MARK}\n", since=MARK)
    assert check.verdict is Verdict.FAIL


def test_a_lost_mark_is_an_error() -> None:
    (check,) = judge(CLEAN, CLEAN, since=MARK)
    assert check.verdict is Verdict.ERROR
    assert MARK in check.seen


def test_an_expected_splat_is_set_aside_and_said() -> None:
    expected = Expected(level=Level.L1_KERNEL, pattern="sysrq triggered crash")
    (check,) = judge(CLEAN + sample("panic"), expected=(expected,))
    assert check.verdict is Verdict.PASS
    assert "expected by the scenario: Kernel panic" in check.seen


def test_an_expectation_of_another_level_or_text_excuses_nothing() -> None:
    for item in (
        Expected(level=Level.L2_KERNEL, pattern="sysrq triggered crash"),
        Expected(level=Level.L1_KERNEL, pattern="something else"),
    ):
        (check,) = judge(sample("panic"), expected=(item,))
        assert check.verdict is Verdict.FAIL


def test_a_crash_of_qemu_is_expected_at_qemus_level() -> None:
    item = Expected(level=Level.L1_QEMU, pattern="segfault at 18")
    (check,) = judge(sample("segfault-qemu"), expected=(item,))
    assert check.verdict is Verdict.PASS


def test_a_splat_of_l0_is_the_fault_of_its_kernel() -> None:
    log = "[ 1753.300000] WARNING: CPU: 0 PID: 77 at arch/x86/kvm/mmu.c:1 f+0x1/0x2\n[ 1753.300001] Call Trace:\n"
    [check] = kernellog.judge_shared(log)
    assert (check.verdict, check.level, check.machine) == (Verdict.FAIL, Level.L0_KERNEL, "l0")
    assert "WARNING" in check.seen


def test_a_process_of_l0_that_crashes_is_no_business_of_the_lab() -> None:
    [check] = kernellog.judge_shared("[ 1866.553452] ls[1181]: segfault at 0 ip 0 sp 0 error 14 likely on CPU 0\n")
    assert (check.verdict, check.seen) == (Verdict.PASS, "1 lines read")


def test_a_log_of_l0_that_cannot_be_read_is_named_and_proves_nothing() -> None:
    [check] = kernellog.judge_shared("", lack="/dev/kmsg: Permission denied")
    assert (check.verdict, check.level) == (Verdict.SKIP, None)
    assert "Permission denied" in check.seen
