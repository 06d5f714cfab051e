"""Judging the machines themselves: are they alive, what did their kernels log, what did their QEMUs say."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection

from lab.checks import expectations, kernellog, qemulog
from lab.config.scenario import Migrate, VdpaScenario
from lab.errors import DeadlineExceeded
from lab.machine.device_model import NAME as DEVICE_MODEL
from lab.machine.machine import Machine, State, tail
from lab.machine.process import describe_end
from lab.model import Check, Level, Verdict
from lab.topology.collect import Logs
from lab.topology.lab import Lab
from lab.wait import Deadline, wait_until

_LEAKS = "kernel memory leaks"
_NO_LEAK = "none that kmemleak finds"
# One report of kmemleak with its hex dump and back trace.
_LEAK_LINES = 24
_LEAK_SIZE = re.compile(r"\(size \d+\)")
# A module's frame without a name, which lies elsewhere when the module is loaded again.
_LEAK_FRAME = re.compile(r"0x[0-9a-f]{8,}$", re.MULTILINE)


def judge_machines(lab: Lab, logs: Logs, *, complete: bool = True, only: Collection[str] | None = None) -> list[Check]:
    """Judge the machines of the run (``only`` some of them) while L1 is up.

    What the scenario expects is missed only in a ``complete`` run: any other may have ended before it could appear.
    """
    checks = [*_kernel_of_real_host(lab, logs), *(_device_model(lab) if only is None else [])]
    if lab.l1 and (only is None or "l0" in only):
        checks += kernellog.judge_shared(lab.l0_log.read(), lack=lab.l0_log.lack)
    for name, machine in lab.machines.items():
        if only is None or name in only:
            checks += [_alive(lab, name, machine), *_kernel(lab, name, machine, logs), *_stderr(lab, name, machine)]
    checks += [check for name, text in logs.leaks.items() for check in _leaks(name, text)]
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


def last_words(machine: Machine, status: int) -> str:
    """How a QEMU ended, and what it and its kernel said last."""
    ends = [machine.process.describe_end(status)]
    for path in (machine.process.stderr, machine.process.console):
        ends += [tail(path.read_text(errors="replace"))] if path.exists() else []
    return "\n".join(ends)


def _alive(lab: Lab, name: str, machine: Machine) -> Check:
    """QEMU runs, unless the lab or the scenario ended it."""
    status = machine.process.poll()
    ended = status is not None and not machine.end_expected
    how = "is running" if status is None else f"ended ({machine.guest_end or machine.process.describe_end(status)})"
    if ended and status is not None and _declared(lab, machine, last_words(machine, status)):
        ended, how = False, f"{how}, as the scenario expects"
    return Check.judged(
        "QEMU alive", not ended, how, "runs until the lab ends it", level=machine.end_level, machine=name
    )


def _declared(lab: Lab, machine: Machine, words: str) -> bool:
    expected = lab.plan.scenario.expect
    levels = (machine.process.level, machine.kernel_level)
    return any(expectations.excused_death(words, level, expected) for level in levels)


def death_declared(lab: Lab, machine: str, level: Level, words: str) -> bool:
    """Whether the scenario expects that the QEMU of ``machine`` ends like this; its kernel may be the cause."""
    found = lab.machines.get(machine)
    status = found.process.poll() if found else None
    if found is None or status is None:
        return expectations.excused_death(words, level, lab.plan.scenario.expect) is not None
    return _declared(lab, found, last_words(found, status))


def l1_died_as_declared(lab: Lab, within_s: float = 0.0) -> bool:
    """Whether L1's QEMU has ended by itself in a way that the scenario expects, or does so within some seconds: its
    connections are gone before its core is written.
    """
    if lab.l1 is None or not any(item.outcome == "death" for item in lab.plan.scenario.expect):
        return False
    process = lab.l1.process
    with contextlib.suppress(DeadlineExceeded):
        wait_until(lambda: process.poll() is not None, Deadline(within_s), "the end of L1's QEMU")
    status = process.poll()
    return status is not None and not lab.l1.end_expected and _declared(lab, lab.l1, last_words(lab.l1, status))


def _device_model(lab: Lab) -> list[Check]:
    """The process that emulates L1's hardware runs and says nothing, unless the scenario expects it."""
    model = lab.device_model
    if model is None:
        return []
    status = model.poll()
    how = "is running" if status is None else f"ended ({describe_end(status)})\n{model.words()}"
    expected = lab.plan.scenario.expect
    dead = status is not None and not expectations.excused_death(how, Level.LAB, expected)
    text = model.log.read_text(errors="replace") if model.log.exists() else ""
    lines = [line for line in text.splitlines() if line and not expectations.excused(line, Level.LAB, expected)]
    return [
        _of_the_lab("device model alive", dead, how, "runs until the lab ends it"),
        _of_the_lab("clean device model log", bool(lines), "\n".join(lines[:12]) or "nothing", "nothing"),
    ]


def _of_the_lab(name: str, bad: bool, seen: str, expected: str) -> Check:
    """What the lab's own part did wrong is no fault of a product: ERROR, never FAIL."""
    if bad:
        return Check.unproven(name, seen, expected, machine=DEVICE_MODEL)
    return Check(name, Verdict.PASS, seen, expected, machine=DEVICE_MODEL)


def _kernel(lab: Lab, name: str, machine: Machine, logs: Logs) -> list[Check]:
    if machine.state is State.INCOMING:
        return []  # it has no guest yet
    if machine.state is State.READY and name in logs.dmesg and logs.dmesg[name] is None and not lab.expendable:
        # Its console shows warnings and worse only.
        return [Check.unproven("kernel log", "the ring buffer could not be read", "no splat", machine=name)]
    return kernellog.judge(
        _console(machine),
        logs.dmesg.get(name),
        machine=name,
        level=machine.kernel_level,
        expected=lab.plan.scenario.expect,
        leaks=len(_reports(logs.leaks.get(name, ""))),
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
        leaks=len(_reports(logs.leaks.get("l1", ""))),
    )


def _stderr(lab: Lab, name: str, machine: Machine) -> list[Check]:
    text = machine.process.stderr.read_text(errors="replace") if machine.process.stderr.exists() else None
    scenario = lab.plan.scenario
    return qemulog.judge(
        text,
        machine=name,
        level=machine.process.level,
        expected=scenario.expect,
        migrates=isinstance(scenario, VdpaScenario) and isinstance(scenario.action, Migrate),
    )


def _leaks(name: str, text: str) -> list[Check]:
    """One FAIL for each place that memory was lost from: a known finding explains its own and hides no other."""
    level = Level.L1_KERNEL if name == "l1" else Level.L2_KERNEL
    by_place: dict[str, list[str]] = {}
    for report in _reports(text):
        by_place.setdefault(_leak_place(report), []).append(report)
    checks = []
    for reports in by_place.values():
        times = f"{len(reports)} of these; the first:\n" if len(reports) > 1 else ""
        seen = times + "\n".join(reports[0].splitlines()[:_LEAK_LINES])
        checks.append(Check.judged(_LEAKS, False, seen, _NO_LEAK, level=level, machine=name))
    return checks or [Check(_LEAKS, Verdict.PASS, "none", _NO_LEAK, machine=name)]


def _reports(leaks: str) -> list[str]:
    """What kmemleak tells of each object, the first lines of which say so (mm/kmemleak.c, print_unreferenced)."""
    return [text.strip() for text in re.split(r"^(?=unreferenced object)", leaks, flags=re.MULTILINE) if text.strip()]


def _leak_place(report: str) -> str:
    """Size and back trace of an object; one without a trace is in a place of its own."""
    _, _, trace = report.partition("backtrace")
    frames = trace.partition("\n")[2]
    return f"{_LEAK_SIZE.findall(report)} {_LEAK_FRAME.sub('', frames)}" if frames else report


def _expected(lab: Lab, logs: Logs) -> list[Check]:
    texts: dict[Level, list[str]] = {Level.L1_KERNEL: [logs.dmesg.get("l1") or ""]} if lab.log_mark else {}
    for name, machine in lab.machines.items():
        texts.setdefault(machine.kernel_level, []).extend([_console(machine), logs.dmesg.get(name) or ""])
        if machine.process.stderr.exists():
            texts.setdefault(machine.process.level, []).append(machine.process.stderr.read_text(errors="replace"))
    deaths: dict[Level, list[str]] = {}
    for machine in lab.machines.values():
        status = machine.process.poll()
        if status is not None and not machine.end_expected:
            for level in (machine.process.level, machine.kernel_level):
                deaths.setdefault(level, []).append(last_words(machine, status))
    model = lab.device_model
    if model:
        texts[Level.LAB] = [model.log.read_text(errors="replace") if model.log.exists() else ""]
        status = model.poll()
        deaths[Level.LAB] = [] if status is None else [f"{describe_end(status)}\n{model.words()}"]
    return expectations.judge(lab.plan.scenario.expect, texts, deaths)


def _console(machine: Machine) -> str:
    return machine.process.console.read_text(errors="replace") if machine.process.console.exists() else ""
