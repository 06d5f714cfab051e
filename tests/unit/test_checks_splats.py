"""lab.checks.splats: every kind of splat, whole and cut off, on its own and amid other lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.checks.splats import find, read

SAMPLES = Path(__file__).parent / "samples" / "kernellog"

# File, kinds and titles (a part of each) in their order.
KNOWN = [
    ("warn.txt", [("WARNING", "vp_vdpa.c:221 vp_vdpa_set_status+0x1b2/0x210")]),
    ("warn-618.txt", [("WARNING", "drivers/vhost/vdpa.c:1432 at vhost_vdpa_open+0x15c/0x2a0")]),
    ("warn-no-end.txt", [("WARNING", "kernel/kthread.c:76 to_kthread+0x12/0x20")]),
    ("refcount.txt", [("WARNING", "refcount_t: underflow; use-after-free. | WARNING: CPU: 0 PID: 7")]),
    (
        "oops.txt",
        [("BUG", "kernel NULL pointer dereference"), ("panic", "Kernel panic - not syncing: Fatal exception")],
    ),
    ("gpf.txt", [("oops", "general protection fault, probably for non-canonical address")]),
    ("kasan.txt", [("BUG", "KASAN: slab-use-after-free in vdpa_match_remove")]),
    ("ubsan.txt", [("UBSAN", "array-index-out-of-bounds in drivers/vdpa/vdpa_sim/vdpa_sim.c:214:19")]),
    ("lockdep.txt", [("WARNING", "possible circular locking dependency detected")]),
    ("hung-task.txt", [("hung task", "more than 120 seconds"), ("hung task", "more than 241 seconds")]),
    ("rcu-stall.txt", [("RCU stall", "rcu_preempt detected stalls on CPUs/tasks")]),
    ("soft-lockup.txt", [("lockup", "CPU#0 stuck for 26s"), ("lockup", "CPU#0 stuck for 52s")]),
    ("panic.txt", [("panic", "sysrq triggered crash")]),
    ("atomic.txt", [("BUG", "scheduling while atomic: vduse/900")]),
    (
        "list-corruption.txt",
        [("list corruption", "list_del corruption. prev->next"), ("BUG", "kernel BUG at lib/list_debug.c:62!")],
    ),
    ("kmemleak.txt", [("kmemleak", "3 new suspected memory leaks")]),
    ("dmar.txt", [("IOMMU fault", "[01:00.1] fault addr 0x1f2a000"), ("IOMMU fault", "0x1f2b000")]),
    ("dmar-ahci.txt", [("IOMMU fault", "Request device [00:1f.2]")]),
    ("backtrace.txt", [("back trace", "sysfs: cannot create duplicate filename '/bus/vdpa/devices/v1'")]),
    ("segfault-qemu.txt", [("process crash", "CPU 0/TCG[777]: segfault")]),
    ("segfault-user.txt", [("process crash", "iperf3[812] general protection fault")]),
    ("oom.txt", [("out of memory", "qemu-system-x86 invoked oom-killer")]),
    ("watchdog-net.txt", [("network watchdog", "transmit queue 0 timed out")]),
    ("clean.txt", []),
]


def _found(text: str) -> list[tuple[str, str]]:
    return [(splat.kind.name, splat.title) for splat in find(read(text))]


def _same(found: list[tuple[str, str]], wanted: list[tuple[str, str]]) -> bool:
    return [kind for kind, _ in found] == [kind for kind, _ in wanted] and all(
        part in title for (_, title), (_, part) in zip(found, wanted, strict=True)
    )


def test_every_sample_is_in_the_list() -> None:
    assert {path.name for path in SAMPLES.iterdir()} == {name for name, _ in KNOWN}


@pytest.mark.parametrize(("name", "wanted"), KNOWN)
def test_alone(name: str, wanted: list[tuple[str, str]]) -> None:
    found = _found((SAMPLES / name).read_text())
    assert _same(found, wanted), found


@pytest.mark.parametrize(("name", "wanted"), KNOWN)
def test_amid_a_clean_log_on_a_serial_console(name: str, wanted: list[tuple[str, str]]) -> None:
    clean = (SAMPLES / "clean.txt").read_text()
    text = f"{clean}~ # echo half a line{(SAMPLES / name).read_text()}{clean}".replace("\n", "\r\n")
    assert _same(_found(text), wanted)


@pytest.mark.parametrize(("name", "wanted"), [item for item in KNOWN if item[1]])
def test_cut_off_after_the_headline(name: str, wanted: list[tuple[str, str]]) -> None:
    """A machine that dies may say no more than that."""
    lines = (SAMPLES / name).read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if wanted[0][1].split(" | ")[-1][:20] in line)
    trace = next((i for i, line in enumerate(lines) if "Call Trace" in line), head)
    shown = lines[: (trace if wanted[0][0] == "back trace" else head) + 1]
    found = _found("\n".join(shown))
    assert [kind for kind, _ in found] == [wanted[0][0]]


def test_without_time_stamps() -> None:
    assert _found("BUG: kernel NULL pointer dereference, address: 0000000000000018\nRIP: 0010:x\n")


def test_a_line_without_stamp_is_not_the_kernels_when_the_kernel_stamps() -> None:
    assert not _found("[    1.000000] hello\nWARNING: printed by a script\nBUG: too\n")


def test_two_that_follow_closely_are_two() -> None:
    text = (SAMPLES / "warn-no-end.txt").read_text() + (SAMPLES / "warn-no-end.txt").read_text().replace(
        "kthread", "other"
    )
    assert len(_found(text)) == 2


def test_nothing_but_a_cut_line() -> None:
    assert _found("[   12.346001] ------------[ cut here ]------------\n") == [("splat", "the log ends here")]


def test_a_single_line_amid_a_splat_does_not_end_it() -> None:
    lines = (SAMPLES / "warn.txt").read_text().splitlines()
    fault = (SAMPLES / "dmar.txt").read_text().splitlines()[1].replace("12.500010", "12.346111")
    found = _found("\n".join([*lines[:5], fault, *lines[5:]]))
    assert [kind for kind, _ in found] == ["IOMMU fault", "WARNING"]


def test_the_text_stops_where_other_lines_begin() -> None:
    (splat,) = find(read((SAMPLES / "kasan.txt").read_text()))
    assert "Freed by task 688" in splat.text
    assert "renamed" not in splat.text
    (splat,) = find(read((SAMPLES / "warn.txt").read_text()))
    assert splat.text.endswith("---[ end trace 0000000000000000 ]---")
