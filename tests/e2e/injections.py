"""Ways to break something on purpose, all from outside: a command on a machine of the lab, a signal, a changed file."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import proc
from lab.artifacts import bundle
from lab.artifacts.hostimage import QEMU_DATA
from lab.artifacts.qemu import PROGRAM
from lab.artifacts.store import cache_root
from lab.machine.keys import make_key
from lab.report.events import read_events
from lab.wait import Deadline, wait_until
from tests.e2e.document import Result
from tests.e2e.driver import Cli, Ended, Running, reported_pid

IN_L1 = "net-vdpa_sim-virtio_vdpa-iperf3"
IN_L2 = "net-vdpa_sim-vhost_vdpa-loopback"
VF_IN_L2 = "net-vp_vdpa-vhost_vdpa-iperf3"
IFC_IN_L1 = "net-ifcvf-virtio_vdpa-iperf3"
DISK_IN_L1 = "blk-vp_vdpa-virtio_vdpa-fio"

# A workload that goes on while somebody logs in and does harm.
LONG = ("--set", "workload.streams.0.seconds=20")

# L2 has no debugfs of its own accord.
SPLAT = """
[ -d /sys/kernel/debug/provoke-crash ] || mount -t debugfs debugfs /sys/kernel/debug
echo WARNING >/sys/kernel/debug/provoke-crash/DIRECT
"""
PANIC = "echo c >/proc/sysrq-trigger"
# The console says nothing of it, as with a triple fault.
RESET = "echo b >/proc/sysrq-trigger"
KILL_L2_QEMU = 'kill -9 "$(cat /run/vdpalab/l2/qemu.pid)"'
CRASH_L2_QEMU = 'kill -SEGV "$(cat /run/vdpalab/l2/qemu.pid)"'

_MIB = 1 << 20


@dataclass(frozen=True)
class Stage:
    """What an injection has to work with."""

    cli: Cli
    artifacts: dict[str, Any]
    folder: Path


Provoke = Callable[[Stage], Ended]
Act = Callable[[Stage, Running, Path], None]


def during(step: str, act: Act, *words: str) -> Provoke:
    """Start a run, and act as soon as it has begun a step."""

    def provoke(stage: Stage) -> Ended:
        with stage.cli.running(*words) as running:
            act(stage, running, running.wait_step(step))
            return running.end()

    return provoke


def plainly(*words: str) -> Provoke:
    """A run that carries its fault in its own configuration."""
    return lambda stage: stage.cli.run(*words)


def on(machine: str, script: str) -> Act:
    """Run a script on a machine; one that ends the machine cannot say how it ended."""

    def act(stage: Stage, _running: Running, run_dir: Path) -> None:
        done = stage.cli.inside(run_dir, machine, script)
        assert done.returncode == 0 or script in (PANIC, RESET), done.stderr.decode()

    return act


def kill(pid_file: str, number: signal.Signals, key: str | None = None) -> Act:
    """Send a signal to the process that a file of the run directory names."""
    return lambda _stage, _running, run_dir: os.kill(reported_pid(run_dir / pid_file, key), number)


def interrupt(_stage: Stage, running: Running, _run_dir: Path) -> None:
    """Ctrl-C."""
    running.interrupt()


def corrupt_disk(_stage: Stage, running: Running, run_dir: Path) -> None:
    """Overwrite a sector of every block of the disk under test, behind everybody's back, until the run is judged."""

    def overwrite() -> bool:
        for offset in range(0, 16 * _MIB, 4096):
            os.pwrite(disk.fileno(), b"not what fio wrote", offset + 2048)
        return running.process.poll() is not None or "judge" in (run_dir / "events.jsonl").read_text()

    with (run_dir / "machines/l1/vpblk0.raw").open("r+b") as disk:
        wait_until(overwrite, Deadline(300), "the end of the exercise")


def freeze_l1(_stage: Stage, running: Running, run_dir: Path) -> None:
    """Let L1 get nowhere while it boots."""
    running.wait_event(lambda event: event.get("state") == "running", "the boot of l1")
    os.kill(reported_pid(run_dir / "machines/l1/qemu.pid"), signal.SIGSTOP)


# The simulator as the lab loads it, and a device with the name that the lab is going to take.
_TAKE_NAME = """
modprobe vdpa_sim use_va=1 batch_mapping=1 max_iotlb_entries=262144
modprobe vdpa_sim_net
vdpa dev add name {name} mgmtdev vdpasim_net
"""


def take_its_name(stage: Stage, running: Running, run_dir: Path) -> None:
    """Make a vDPA device with the name of the device under test while L2 boots."""
    running.wait_event(lambda event: event["event"] == "machine-login", "L1")
    name = json.loads((run_dir / "plan.json").read_text())["vdpa"]["main"]
    on("l1", _TAKE_NAME.format(name=name))(stage, running, run_dir)


def swap_identity(stage: Stage, running: Running, run_dir: Path) -> None:
    """Put another private key in the place of the lab's own, after L1 was told which one to let in."""
    other = make_key(stage.folder / "other")
    running.wait_event(lambda event: event.get("state") == "launched", "the launch of l1")
    (run_dir / "secrets" / "identity").write_bytes(other.private.read_bytes())


def lacking_module(stage: Stage) -> Ended:
    """Bring a kernel whose modules lack one that the scenario needs."""
    kernel = cache_root() / "artifacts/entries/kernel-default" / stage.artifacts["kernel"]["key"] / "files"
    shutil.copy(kernel / "bzImage", stage.folder)
    tree = stage.folder / "lib"
    proc.run(["unsquashfs", "-q", "-n", "-d", str(stage.folder / "disk"), str(kernel / "kernel.squashfs"), "lib"])
    (stage.folder / "disk" / "lib").rename(tree)
    shutil.rmtree(next(tree.glob("modules/*/kernel/drivers/vdpa/vdpa_sim")))
    proc.run(["depmod", "-b", str(stage.folder), stage.artifacts["kernel"]["release"]])
    with own_store(stage, but="kernel-prebuilt") as cli:
        return cli.run(IN_L1, "--kernel-image", str(stage.folder / "bzImage"))


def flipped_byte(stage: Stage) -> Ended:
    """Flip one byte of the guest image, without a trace in its size or time."""
    with own_store(stage, but="guest-image") as cli:
        key = stage.artifacts["guest_image"]
        entry = cli.cache / "artifacts/entries/guest-image" / key
        shutil.copytree(cache_root() / "artifacts/entries/guest-image" / key, entry)
        damage(entry / "files" / "guest.cpio")
        ended = cli.run(IN_L1)
        assert f"guest-image: building, because the entry guest-image@{key} is corrupt (guest.cpio" in ended.said
        assert "corrupt" not in cli.run(IN_L1, "--stop-at", "artifacts").said
        return ended


def damage(file: Path) -> None:
    before = file.stat()
    with file.open("r+b") as content:
        content.seek(before.st_size // 2)
        byte = content.read(1)[0]
        content.seek(before.st_size // 2)
        content.write(bytes([byte ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


# $1 where artifacts are, $2 those that are there already, $3 where to tell what is there at the end; then the command.
_SMALL_DISK = """
set -e
at=$1 have=$2 told=$3
shift 3
mount -t tmpfs -o size=8m none "$at"
mkdir "$at/entries"
for name in $have; do
    cp -P "$at.links/$name" "$at/entries/"
done
status=0
"$@" || status=$?
find "$at" -mindepth 1 >"$told"
exit $status
"""


def full_disk(stage: Stage) -> Ended:
    """Let the artifacts lie on a disk that has no room for the guest image; only this run sees that disk."""
    with own_store(stage, but="guest-image") as cli:
        at, told = cli.cache / "artifacts", cli.folder / "told"
        (at / "entries").rename(links := cli.cache / "artifacts.links")
        names = " ".join(path.name for path in links.iterdir())
        space = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        cli.prefix = (*space, "sh", "-c", _SMALL_DISK, "small-disk", str(at), names, str(told))
        ended = cli.run(IN_L1)
        there = [Path(line).relative_to(at) for line in told.read_text().splitlines()]
        assert not [path for path in there if path.match("entries/guest-image/*") or path.match("tmp/*")]
        return ended


def interrupted_build(stage: Stage) -> Ended:
    """Ctrl-C while an artifact is being built."""
    with own_store(stage, but="guest-image") as cli:
        with cli.running(IN_L1) as running:
            running.wait_event(lambda event: "taking programs out" in event.get("text", ""), "the build")
            running.interrupt()
            ended = running.end()
        assert not list((cli.cache / "artifacts/entries").glob("guest-image/*"))
        assert not list((cli.cache / "artifacts/tmp").iterdir())
        return ended


@contextmanager
def own_store(stage: Stage, *, but: str) -> Iterator[Cli]:
    """A lab with a store of its own: links to the shared artifacts, except to those of one name."""
    shared = cache_root().resolve()
    names = [path.name for path in (shared / "artifacts/entries").iterdir() if path.name != but]
    cli = Cli(stage.folder / "own", shared, links=["apt", "ccache", *(f"artifacts/entries/{name}" for name in names)])
    yield cli
    assert not cli.left_behind()


def interrupted_in(step: str, *words: str) -> Provoke:
    """Ctrl-C in a step; it may take effect in the next one, never in an earlier one."""

    def provoke(stage: Stage) -> Ended:
        ended = during(step, interrupt, *words)(stage)
        steps = ["machines", "devices", "attach", "exercise", "judge", "undo"]
        events, _ = read_events(ended.document.results[0].folder)
        hit = [event["step"] for event in events if "Interrupted" in str(event.get("error", "")) and "step" in event]
        assert all(steps.index(name) >= steps.index(step) for name in hit if name in steps), hit
        return ended

    return provoke


# A QEMU in a process that stays when QEMU has ended; what asks for its version does end.
_STAYS = """#!/bin/sh
{qemu} "$@"
case "$*" in *-qmp*) exec sleep 1000 ;; esac
"""


def qemu_that_stays(stage: Stage) -> Ended:
    """Bring a QEMU for L1 that does not end when it is asked to."""
    image = cache_root() / "artifacts/entries/host-image" / stage.artifacts["host_image"] / "files/qemu"
    data = [word for folder in QEMU_DATA for word in ("-L", str(image / folder))]
    qemu = stage.folder / PROGRAM
    qemu.write_text(_STAYS.format(qemu=shlex.join([*bundle.argv(image, PROGRAM), *data])))
    qemu.chmod(0o755)
    # Proving an accelerator is also done with it, and waits for its end.
    return stage.cli.run(IN_L1, "--accel", "tcg", "--qemu-l0", str(qemu))


def by_hand(script: str, *words: str) -> Provoke:
    """Keep a lab that has passed, run a script on its L1 as a person would, and end it."""

    def provoke(stage: Stage) -> Ended:
        with stage.cli.running(*words, "--keep") as running:
            run_dir = running.wait_event(lambda event: event["event"] == "kept", "the kept lab")
            on("l1", script)(stage, running, run_dir)
            running.interrupt()
            return running.end()

    return provoke


def left_its_registers(result: Result) -> None:
    """Where a machine's processors stood when its guest ended it, which no console tells."""
    assert re.search(
        r"^RIP=[0-9a-f]{16} ", (result.folder / f"machines/{result.machine}/registers.txt").read_text(), re.MULTILINE
    )


def left_its_core(result: Result) -> None:
    """Where this machine's core_pattern (core(5)) lets a core be left at all."""
    if not Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "/")):
        assert list((result.folder / "machines/l1").glob("*core*"))


def left_its_core_in_l1(result: Result) -> None:
    """Whole, and with the program's name in its notes (core(5))."""
    [core] = (result.folder / "collect").glob("l1-core.*.gz")
    with gzip.open(core) as content:
        head = content.read(1 << 16)
        assert head[:4] == b"\x7fELF"
        assert b"qemu-system" in head
        while content.read(1 << 20):
            pass


def gave_nothing_to_the_guest(result: Result) -> None:
    monitor = (result.folder / "machines/l2/qmp.jsonl").read_text()
    assert "qmp_capabilities" in monitor or "info usernet" in monitor
    assert "netdev_add" not in monitor
    assert "device_add" not in monitor
    l1 = [json.loads(path.read_text())["argv"] for path in result.folder.glob("hosts/l1/*.json")]
    assert not [argv for argv in l1 if "vhost_vdpa" in argv]
