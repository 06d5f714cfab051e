"""How long machines take from power-on to the result of the first command over SSH, and what logging in costs.

The times come from the events that every run records, so a bench measures what a run does and nothing else.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab import proc
from lab.artifacts.provide import Artifacts
from lab.artifacts.store import cache_root
from lab.config.request import RunRequest
from lab.errors import LabError, SiteLacks
from lab.evidence.record import Record
from lab.host.base import Host
from lab.host.local import LocalHost
from lab.host.ssh import connect
from lab.machine import accel
from lab.model import Accel, Metric
from lab.report.events import Event, read_events
from lab.topology.attachable import entrance
from lab.topology.lab import Lab
from lab.topology.plan import make_plan
from lab.topology.undo import Undo
from lab.wait import Deadline

# Its lab has both machines and the emulated card.
_SCENARIO = "net-vp_vdpa-vhost_vdpa-iperf3"

_LOGIN_S = 60.0
_VNG_S = 120

_INIT = re.compile(r"^\[\s*(\d+\.\d+)\] Run \S+ as init process", re.MULTILINE)


def boot_l1(artifacts: Artifacts, run_dir: Path) -> list[Metric]:
    """Boot an L1 into ``run_dir`` and end it; rows ``l1-ready`` and what it is made of, in seconds."""
    with bench_lab(artifacts, run_dir) as lab:
        lab.start_host()
        return _measured(lab, "l1", lab.host)


def boot_l2(artifacts: Artifacts, run_dir: Path) -> list[Metric]:
    """The same for an L2 inside an L1: rows ``l2-ready`` and so on."""
    with bench_lab(artifacts, run_dir) as lab:
        lab.start_host()
        guest = lab.start_guest("l2").shell
        guest.run(["true"])
        return _measured(lab, "l2", guest)


def boot_vng(artifacts: Artifacts, run_dir: Path) -> list[Metric]:
    """virtme-ng on the same kernel: row ``vng``, seconds from its start to the first command.

    Raises SiteLacks when it is not installed, LabError when it did not get to the command.
    """
    program = shutil.which("vng")
    if not program:
        raise SiteLacks("vng (virtme-ng)")
    kernel = str(artifacts.kernel.bzimage)
    # The record is open all the time: who has no owner is taken for what a dead lab left.
    with contextlib.closing(Record(run_dir)) as record:
        here = LocalHost("l0", record)
        chosen = accel.choose("auto", here, artifacts.qemu_l0.argv, kernel, cache_root() / "accel.json")
        slow = ["--disable-kvm"] if chosen.accel is Accel.TCG else []
        # A file shows when the command ran; what it prints gets out only where the guest has udev.
        mark, log = run_dir / "reached", run_dir / "vng.log"
        shared = ["--cpus", "2", "--memory", "2G", f"--rwdir={run_dir}"]
        argv = [
            "timeout",
            str(_VNG_S),
            program,
            "--run",
            kernel,
            *slow,
            *shared,
            "--",
            shlex.join(["touch", str(mark)]),
        ]
        begin = time.time()
        proc.run_logged(argv, log, env={proc.RUN_MARK: str(run_dir)})
    if not mark.exists():
        raise LabError("vng did not get to the command", log=log)
    return [Metric("vng", mark.stat().st_mtime - begin, "s")]


def since_power_on(events: Sequence[Event], machine: str) -> dict[str, float]:
    """Seconds from a machine's power-on to ``sshd`` (it says so on its console) and ``ready`` (the first command).

    What did not happen is missing.
    """
    found: dict[str, float] = {}
    power_on = 0.0
    for event in events:
        if event["event"] == "machine-ready" and event.get("machine") == machine:
            found["sshd"] = float(event["seconds"])
            power_on = float(event["t"]) - found["sshd"]
        if found and event["event"] == "command" and event.get("host") == machine:
            found["ready"] = float(event["t"]) - power_on
            break
    return found


def kernel_to_init(dmesg: str) -> float | None:
    """Seconds of the kernel's own clock until it started process 1."""
    match = _INIT.search(dmesg)
    return float(match[1]) if match else None


@contextlib.contextmanager
def bench_lab(artifacts: Artifacts, run_dir: Path, scenario: str = _SCENARIO, *overrides: str) -> Iterator[Lab]:
    """The lab of a scenario, undone at the end of the block."""
    record = Record(run_dir)
    undo = Undo(record)
    try:
        yield Lab(make_plan(RunRequest(scenario=scenario, overrides=overrides)), artifacts, record, undo)
    finally:
        failed = undo.unwind()
        record.close()
    if failed:
        raise LabError(f"could not be undone: {'; '.join(failed)}")


def _measured(lab: Lab, machine: str, host: Host) -> list[Metric]:
    times = since_power_on(read_events(lab.record.path)[0], machine)
    times |= _ssh_costs(lab, machine)
    init = kernel_to_init(host.run(["dmesg"]).text)
    if init is not None:
        times["init"] = init
    order = ("ready", "init", "sshd", "login", "command")
    return [Metric(f"{machine}-{name}", times[name], "s") for name in order if name in times]


def _ssh_costs(lab: Lab, machine: str) -> dict[str, float]:
    """Seconds of one more login, and of a command over it."""
    way = entrance(lab.record.path, machine)
    begin = time.monotonic()
    host = connect(machine, lab.record, way.address, Deadline(_LOGIN_S), jump=lab.host if way.jump else None)
    with contextlib.closing(host):
        logged_in = time.monotonic()
        host.run(["true"])
        return {"login": logged_in - begin, "command": time.monotonic() - logged_in}
