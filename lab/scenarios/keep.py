"""Keeping a lab up after its verdict: how to enter each level, and waiting until the user has seen enough."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from typing import Any

from lab.errors import Interrupted
from lab.evidence.record import Record
from lab.machine.argv import CONSOLE, GDB, MONITOR
from lab.model import RunResult
from lab.topology.lab import Lab

KEPT = "kept.json"


def describe(lab: Lab) -> dict[str, Any]:
    """How to enter each level of a lab that is up: commands to paste, by machine."""
    # The L1 of an ssh site is no QEMU of the lab: one can log in, and that is all.
    real = {"l1": {"shell": _shell(lab, "l1")}} if "l1" not in lab.machines and lab.connected else {}
    return real | {name: _entrances(lab, name) for name in lab.machines}


def _shell(lab: Lab, name: str) -> str:
    return f"vdpalab shell --run {shlex.quote(str(lab.record.path))} {name}"


def _entrances(lab: Lab, name: str) -> dict[str, str]:
    folder = lab.machines[name].process.folder
    job = shlex.quote(str(lab.record.path))
    vmlinux = shlex.quote(str(_symbols(lab.artifacts.kernel.vmlinux)))
    if name == "l1":
        here = shlex.quote(str(folder))
        return {
            "shell": _shell(lab, name),
            "console": f"cd {here} && socat -,raw,echo=0,escape=0x1d UNIX:{CONSOLE}",
            "monitor": f"cd {here} && socat -,echo=0,icanon=0 UNIX:{MONITOR}",
            "gdb": f"cd {here} && gdb {vmlinux} -ex 'target remote {GDB}'",
        }
    remote = f"{lab.host.scratch}/{folder.name}"
    bridge = f"vdpalab exec --run {job} l1 -- socat - UNIX:{remote}"
    return {
        "shell": _shell(lab, name),
        "console": f"{bridge}/{CONSOLE}",
        "monitor": f"{bridge}/{MONITOR}",
        "gdb": f"gdb {vmlinux} -ex {shlex.quote(f'target remote | {bridge}/{GDB}')}",
    }


def _symbols(vmlinux: Path) -> Path:
    """What gdb reads: the kernel with its debug information where it has any."""
    debug = vmlinux.with_name("vmlinux.debug")
    return debug if debug.exists() else vmlinux


def wait_while_kept(record: Record, lab: Lab | None, result: RunResult) -> None:
    """Write kept.json, say so, and wait for Ctrl-C or SIGTERM, which end the lab cleanly and keep the verdict."""
    if lab is None:
        return
    text = json.dumps({"verdict": result.verdict, "machines": describe(lab)}, indent=1)
    path: Path = record.write(KEPT, text)
    try:
        record.event("kept", file=path.name)
        while True:
            signal.pause()
    except (Interrupted, KeyboardInterrupt):
        record.event("kept-end")
    finally:
        path.unlink(missing_ok=True)
