"""Collecting the state of every level that still answers, after the exercise and before anything is undone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lab import proc
from lab.errors import LabError
from lab.host.base import Host
from lab.host.kmemleak import FIND_LEAKS
from lab.host.shell import run_script
from lab.machine.machine import Machine
from lab.topology.lab import Lab

# What is asked of each host; the output goes to collect/<host>-<name>.txt.
_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "dmesg": ("dmesg",),
    "interrupts": ("cat", "/proc/interrupts"),
    "modules": ("cat", "/proc/modules"),
    "links": ("ip", "-d", "address"),
    "version": ("cat", "/proc/version"),
}
_L1_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "vdpa": ("vdpa", "-j", "-p", "dev", "show"),
    "mgmtdev": ("vdpa", "-j", "-p", "mgmtdev", "show"),
    "pci": ("lspci", "-nnk"),
    "processes": ("ps", "axo", "pid,stat,wchan:32,rss,args"),
}
_SCAN_S = 60.0
# A monitor that hangs with its device does not answer at all.
_MONITOR_S = 20.0
_QMP = ("query-status", "query-blockstats")

# Where images/host/init lets them be written. What a core takes on the disk is less than its size: it has holes.
_CORES = 'cd /var/crash && for core in core.*; do [ ! -f "$core" ] || stat -c "%b %n" "$core"; done'
_BLOCK = 512
_CORE_BYTES = 512 << 20
_CORE_S = 120.0


@dataclass
class Logs:
    """Kernel logs by machine: what the ring buffer holds, None when the machine did not answer any more."""

    dmesg: dict[str, str | None] = field(default_factory=dict)
    # What kmemleak found by machine, empty when it found nothing; only kernels that have it.
    leaks: dict[str, str] = field(default_factory=dict)


def collect(lab: Lab, *, hurry: bool = False) -> Logs:
    """Ask everything that answers; what does not is noted and never fails the run by itself.

    In a ``hurry`` nobody looks for leaked memory or cores: either can take as long as a whole teardown may take. So it
    is where something in the lab hangs for good.
    """
    logs = Logs()
    hurry = hurry or lab.expendable
    hosts: dict[str, Host | None] = {name: guest.host for name, guest in lab.guests.items()}
    hosts["l1"] = lab.host if lab.connected else None
    for name, host in hosts.items():
        if host:
            logs.dmesg[name] = _ask_host(lab, name, host)
            if not hurry:
                _scan(lab, name, host, logs)
    for name, machine in lab.machines.items():
        _ask_qemu(lab, name, machine)
    lab.record.write("collect/l0-dmesg.txt", lab.l0_log.read())
    # A machine that was up before may hold the cores of others.
    if lab.l1 and lab.connected and not hurry:
        _fetch_cores(lab)
    return logs


def read_log(host: Host) -> str | None:
    """The ring buffer of a host, None when it does not answer."""
    try:
        return host.run(_QUESTIONS["dmesg"], check=False, timeout_s=20).text
    except LabError:
        return None


def _ask_host(lab: Lab, name: str, host: Host) -> str | None:
    questions = {**_QUESTIONS, **(_L1_QUESTIONS if name == "l1" else {})}
    answers: dict[str, str] = {}
    try:
        for question, argv in questions.items():
            answers[question] = host.run(argv, check=False, timeout_s=20).text
            lab.record.write(f"collect/{name}-{question}.txt", answers[question] + "\n")
    except LabError as error:
        lab.record.event("collect-failed", host=name, error=str(error))
    return answers.get("dmesg")


def _scan(lab: Lab, name: str, host: Host, logs: Logs) -> None:
    """Let kmemleak look for memory that nobody refers to."""
    try:
        done = run_script(host, f"{FIND_LEAKS}find_leaks", check=False, timeout_s=_SCAN_S)
    except LabError as error:
        lab.record.event("collect-failed", host=f"{name} kmemleak", error=str(error))
        return
    if done.returncode == 0:
        logs.leaks[name] = done.text
        lab.record.write(f"collect/{name}-kmemleak.txt", done.text + "\n")


def _fetch_cores(lab: Lab) -> None:
    """Bring the cores of L1's processes here, a nested QEMU's above all; its overlay goes with the run."""
    try:
        for line in lab.host.run(["sh", "-c", _CORES], timeout_s=20).text.splitlines():
            blocks, name = line.split(maxsplit=1)
            _fetch_core(lab, name, int(blocks) * _BLOCK)
    except LabError as error:
        lab.record.event("collect-failed", host="l1 cores", error=str(error))


def _fetch_core(lab: Lab, name: str, size: int) -> None:
    if size > _CORE_BYTES:
        raise LabError(f"/var/crash/{name} has {size >> 20} MiB, which is too much to copy")
    # A thread's name is part of it, with blanks.
    target = lab.record.folder("collect") / f"l1-{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.gz"
    with target.open("wb") as sink, lab.host.spawn(["gzip", "-1", "-c", f"/var/crash/{name}"]) as stream:
        copying = proc.pump(stream.recv, sink.write, "copy-core")
        copying.join(_CORE_S * lab.host.slowness)
        if copying.is_alive():
            raise LabError(f"/var/crash/{name} took too long to copy: {target.name} is cut off")


def _ask_qemu(lab: Lab, name: str, machine: Machine) -> None:
    try:
        answers = {command: machine.query(command, timeout_s=_MONITOR_S) for command in _QMP}
        lab.record.write(f"collect/{name}-qmp.json", json.dumps(answers, indent=1))
    except LabError as error:
        lab.record.event("collect-failed", host=f"{name} QMP", error=str(error))
