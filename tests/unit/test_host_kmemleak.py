"""lab.host.kmemleak: a leak of this moment is old enough to be found."""

from __future__ import annotations

from pathlib import Path

from lab import proc
from lab.host.kmemleak import FIND_LEAKS

# A second passes with each call of sleep; what a scan finds is what was 5 s old when it began, as in the kernel.
_KERNEL = """
DIR=$1
born=$(uptime_s)
sleep() { echo "$(($(uptime_s) + 1)).27 99.0" >"$DIR/uptime"; }
cat() { [ "$(($(uptime_s) - born))" -le 5 ] || echo "unreferenced object"; }
"""


def test_a_fresh_leak_is_found_by_the_second_scan(tmp_path: Path) -> None:
    (tmp_path / "uptime").write_text("41.99 70.11\n")
    (tmp_path / "kmemleak").touch()
    script = FIND_LEAKS.replace("/proc", "$DIR").replace("/sys/kernel/debug", "$DIR")
    done = proc.run(["sh", "-ec", f"DIR=$1\n{script}{_KERNEL}find_leaks", "sh", str(tmp_path)])
    assert done.text == "unreferenced object"
    assert (tmp_path / "kmemleak").read_text() == "scan\n"


def test_a_kernel_without_it_is_told_apart(tmp_path: Path) -> None:
    script = FIND_LEAKS.replace("/sys/kernel/debug", str(tmp_path))
    assert proc.run(["sh", "-ec", f"{script}find_leaks"], check=False).returncode == 1


def test_one_that_has_given_up_is_told_apart_also_by_if(tmp_path: Path) -> None:
    """It refuses each scan with EPERM."""
    (tmp_path / "uptime").write_text("41.99 70.11\n")
    (tmp_path / "kmemleak").touch()
    script = FIND_LEAKS.replace("/proc", "$DIR").replace("/sys/kernel/debug", "$DIR")
    refuses = 'echo() { [ "$1" != scan ] && command echo "$@"; }\n'
    asked = "if find_leaks; then printf scanned; else printf refused; fi"
    done = proc.run(["sh", "-ec", f"DIR=$1\n{script}{_KERNEL}{refuses}{asked}", "sh", str(tmp_path)])
    assert done.text == "refused"
