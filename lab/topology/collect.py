"""Collecting the state of every level that still answers, after the exercise and before anything is undone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.errors import LabError
from lab.host.base import Host
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
# Twice: memory that is on its way somewhere during the first scan is found by the second.
_KMEMLEAK = "cd /sys/kernel/debug && [ -w kmemleak ] && echo scan >kmemleak && echo scan >kmemleak && cat kmemleak"
_SCAN_S = 60.0
_QMP = ("query-status", "query-blockstats")


@dataclass
class Logs:
    """Kernel logs by machine: what the ring buffer holds, None when the machine did not answer any more."""

    dmesg: dict[str, str | None] = field(default_factory=dict)
    # What kmemleak found by machine, empty when it found nothing; only kernels that have it.
    leaks: dict[str, str] = field(default_factory=dict)


def collect(lab: Lab, *, scan: bool = True) -> Logs:
    """Ask everything that answers; what does not is noted and never fails the run by itself.

    ``scan``: also look for leaked memory, which takes a debug kernel as long as a whole teardown may take.
    """
    logs = Logs()
    hosts: dict[str, Host | None] = {name: guest.host for name, guest in lab.guests.items()}
    hosts["l1"] = lab.host if lab.connected else None
    for name, host in hosts.items():
        if host:
            logs.dmesg[name] = _ask_host(lab, name, host)
            if scan:
                _scan(lab, name, host, logs)
    for name, machine in lab.machines.items():
        _ask_qemu(lab, name, machine)
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
    """Let kmemleak look for memory that nobody refers to (kernel: Documentation/dev-tools/kmemleak.rst)."""
    try:
        done = host.run(["sh", "-c", _KMEMLEAK], check=False, timeout_s=_SCAN_S)
    except LabError as error:
        lab.record.event("collect-failed", host=f"{name} kmemleak", error=str(error))
        return
    if done.returncode == 0:
        logs.leaks[name] = done.text
        lab.record.write(f"collect/{name}-kmemleak.txt", done.text + "\n")


def _ask_qemu(lab: Lab, name: str, machine: Machine) -> None:
    try:
        answers = {command: machine.query(command) for command in _QMP}
        lab.record.write(f"collect/{name}-qmp.json", json.dumps(answers, indent=1))
    except LabError as error:
        lab.record.event("collect-failed", host=f"{name} QMP", error=str(error))
