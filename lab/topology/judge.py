"""Judging the machines themselves: are they alive, what did their kernels log, what did their QEMUs say."""

from __future__ import annotations

from collections.abc import Collection

from lab.checks import expectations, kernellog, qemulog
from lab.config.scenario import Migrate
from lab.machine.machine import Machine, State
from lab.model import Check, Level
from lab.topology.collect import Logs
from lab.topology.lab import Lab


def judge_machines(lab: Lab, logs: Logs, *, complete: bool = True, only: Collection[str] | None = None) -> list[Check]:
    """Judge the machines of the run (``only`` some of them) while L1 is up.

    What the scenario expects is missed only in a ``complete`` run: any other may have ended before it could appear.
    """
    checks = _kernel_of_real_host(lab, logs)
    if lab.l1 and (only is None or "l0" in only):
        checks += kernellog.judge_shared(lab.l0_log.read(), lack=lab.l0_log.lack)
    for name, machine in lab.machines.items():
        if only is None or name in only:
            checks += [_alive(name, machine), *_kernel(lab, name, machine, logs), *_stderr(lab, name, machine)]
    checks += [_leaks(name, text) for name, text in logs.leaks.items()]
    return checks + (_expected(lab, logs) if complete else [])


def judge_ends(lab: Lab) -> list[Check]:
    """Judge how each QEMU ended that was asked to, and what it said until then.

    One that a signal ended on the way has crashed; one that did not end has hung.
    """
    checks = [
        Check.judged(
            "QEMU ends when asked",
            False,
            machine.bad_end,
            "exit status 0",
            level=machine.process.level,
            machine=name,
        )
        for name, machine in lab.machines.items()
        if machine.bad_end
    ]
    return checks + [check for name, machine in lab.machines.items() for check in _stderr(lab, name, machine)]


def _alive(name: str, machine: Machine) -> Check:
    """QEMU runs, unless the lab or the scenario ended it."""
    status = machine.process.poll()
    ended = status is not None and not machine.end_expected
    how = "is running" if status is None else f"ended ({machine.process.describe_end(status)})"
    return Check.judged(
        "QEMU alive", not ended, how, "runs until the lab ends it", level=machine.process.level, machine=name
    )


def _kernel(lab: Lab, name: str, machine: Machine, logs: Logs) -> list[Check]:
    if machine.state is State.INCOMING:
        return []  # it has no guest yet
    if machine.state is State.READY and name in logs.dmesg and logs.dmesg[name] is None:
        # Its console shows warnings and worse only.
        return [Check.unproven("kernel log", "the ring buffer could not be read", "no splat", machine=name)]
    return kernellog.judge(
        _console(machine),
        logs.dmesg.get(name),
        machine=name,
        level=machine.kernel_level,
        expected=lab.plan.scenario.expect,
    )


def _kernel_of_real_host(lab: Lab, logs: Logs) -> list[Check]:
    """Of an L1 that is no machine of the lab there is no console, and its ring buffer tells of others too."""
    if lab.log_mark is None:
        return []
    return kernellog.judge(
        "",
        logs.dmesg.get("l1"),
        machine="l1",
        level=Level.L1_KERNEL,
        expected=lab.plan.scenario.expect,
        since=lab.log_mark,
    )


def _stderr(lab: Lab, name: str, machine: Machine) -> list[Check]:
    text = machine.process.stderr.read_text(errors="replace") if machine.process.stderr.exists() else None
    scenario = lab.plan.scenario
    return qemulog.judge(
        text,
        machine=name,
        level=machine.process.level,
        expected=scenario.expect,
        migrates=isinstance(scenario.action, Migrate),
    )


def _leaks(name: str, text: str) -> Check:
    level = Level.L1_KERNEL if name == "l1" else Level.L2_KERNEL
    seen = "\n".join(text.splitlines()[:12]) or "none"
    return Check.judged("kernel memory leaks", not text, seen, "none that kmemleak finds", level=level, machine=name)


def _expected(lab: Lab, logs: Logs) -> list[Check]:
    texts: dict[Level, list[str]] = {Level.L1_KERNEL: [logs.dmesg.get("l1") or ""]} if lab.log_mark else {}
    for name, machine in lab.machines.items():
        texts.setdefault(machine.kernel_level, []).extend([_console(machine), logs.dmesg.get(name) or ""])
        if machine.process.stderr.exists():
            texts.setdefault(machine.process.level, []).append(machine.process.stderr.read_text(errors="replace"))
    return expectations.judge(lab.plan.scenario.expect, texts)


def _console(machine: Machine) -> str:
    return machine.process.console.read_text(errors="replace") if machine.process.console.exists() else ""
