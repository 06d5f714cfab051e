"""A lab that one process keeps up, entered from others; and what is left of it when that process is killed."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import proc
from lab.artifacts.store import cache_root
from lab.cli.measure import descendants
from lab.evidence.marks import marked
from lab.evidence.orphans import find_orphans
from lab.evidence.record import owner_alive
from lab.wait import Deadline, wait_until

pytestmark = pytest.mark.push

CLI = [sys.executable, "-P", "-m", "lab.cli"]
UP_S = 300.0

MODULE = """
#include <linux/module.h>
static int answer = {answer};
module_param(answer, int, 0444);
MODULE_DESCRIPTION("A module under work");
MODULE_LICENSE("GPL");
"""


@pytest.fixture
def kept(artifacts: object, tmp_path: Path) -> Iterator[tuple[proc.Process, Path]]:
    """The process that keeps a lab with L1 and L2 up, and its run directory."""
    assert artifacts  # built before, which may take longer than any test
    said = tmp_path / "said"
    argv = [*CLI, "run", "net-vp_vdpa-vhost_vdpa-iperf3", "--stop-at", "machines", "--keep"]
    with said.open("wb") as sink, proc.spawn(argv, stdout=sink, stderr=sink, grace_s=120) as keeper:

        def up() -> Path | None:
            assert keeper.poll() is None, said.read_text()
            match = re.search(r"vdpalab shell --run (\S+) l2", said.read_text())
            return Path(match[1]) if match else None

        yield keeper, wait_until(up, Deadline(UP_S), "the kept lab", every_s=0.5)


def vdpalab(verb: str, run_dir: Path, *words: str, data: bytes = b"") -> tuple[int, bytes]:
    done = proc.run([*CLI, verb, "--run", str(run_dir), *words], input=data, check=False, timeout_s=120)
    return done.returncode, done.stdout


def typed(run_dir: Path, machine: str, line: str) -> tuple[int, str]:
    """Status and screen of `shell` after a line was typed at its prompt."""
    user, terminal = pty.openpty()
    argv = [*CLI, "shell", "--run", str(run_dir), machine]
    with proc.spawn(argv, stdin=terminal, stdout=terminal, stderr=terminal) as shell:
        os.close(terminal)
        screen = b""
        # Not at the end: busybox's shell asks the terminal where its cursor is, after the prompt.
        prompt = Deadline(60)
        while b"#" not in screen:
            assert select.select([user], [], [], prompt.left())[0], f"no prompt in {screen!r}"
            screen += os.read(user, 4096)
        os.write(user, line.encode() + b"\n")
        status = shell.wait(Deadline(60))
    os.set_blocking(user, False)
    with contextlib.suppress(OSError):
        # One read gives what was written at once, not all that is there.
        while more := os.read(user, 65536):
            screen += more
    os.close(user)
    return status, screen.decode(errors="replace")


def test_a_kept_lab_is_entered_and_what_a_kill_leaves_is_cleaned(
    kept: tuple[proc.Process, Path], tmp_path: Path
) -> None:
    keeper, run_dir = kept
    data = os.urandom(1 << 18)
    for machine in ("l1", "l2"):
        assert vdpalab("exec", run_dir, machine, "--", "sh", "-c", "cat; exit 7", data=data) == (7, data)
        assert (
            vdpalab("exec", run_dir, machine, "--", "cat", "/proc/sys/kernel/hostname")[1].strip() == machine.encode()
        )
        status, screen = typed(run_dir, machine, "tty; exit 3")
        assert status == 3
        assert "/dev/pts/" in screen
        assert b"sshd ready" in vdpalab("logs", run_dir, machine)[1]
    gdb = ["exec", "l1", "--", "socat", "-t", "5", "-", "UNIX:/run/vdpalab/l2/gdb.sock"]
    assert b"PacketSize" in vdpalab(gdb[0], run_dir, *gdb[1:], data=b"$qSupported#37")[1]
    _load_a_module_under_work(run_dir, tmp_path / "module")
    _kill_and_clean(keeper, run_dir)


def _load_a_module_under_work(run_dir: Path, folder: Path) -> None:
    """A changed module takes the place of the one before it in the kernel that runs."""
    folder.mkdir()
    (folder / "Kbuild").write_text("obj-m := under_work.o\n")
    for answer in ("42", "43"):
        (folder / "under_work.c").write_text(MODULE.format(answer=answer))
        done = proc.run([*CLI, "kernel", "module", str(folder), "--load", "--run", str(run_dir)], check=False)
        assert done.returncode == 0, done.stderr.decode()
        seen = vdpalab("exec", run_dir, "l1", "--", "cat", "/sys/module/under_work/parameters/answer")
        assert seen == (0, f"{answer}\n".encode())


def _kill_and_clean(keeper: proc.Process, run_dir: Path) -> None:
    root = cache_root() / "jobs"
    [qemu] = marked(root, proc.RUN_MARK)[run_dir]
    for pid in descendants(keeper.pid) - {qemu}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not owner_alive(run_dir), Deadline(20), "the end of the lab")
    # A run of another test may come first and do it; the outcome is the same.
    proc.run([*CLI, "clean"])
    assert run_dir not in marked(root, proc.RUN_MARK)
    assert run_dir not in [found.run_dir for found in find_orphans(root)]
    assert not (run_dir / "secrets").exists()
    assert not list(run_dir.glob("machines/l1/*.qcow2"))
    assert (run_dir / "machines/l1/console.log").stat().st_size
