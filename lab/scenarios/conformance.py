"""Holding a bus against its requirements, in L1: the kernel's own tests, then the procedures of user space.

What the kernel says is read from a mark of our own on, so that each splat is found in the check during which it came.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.artifacts.buildid import build_id
from lab.artifacts.conformance import OWN
from lab.checks import ktap, splats
from lab.checks.splats import Line
from lab.checks.virtbus import build, modules, pm
from lab.checks.virtbus.bench import ENDS, Bench, Seen, stage, unload_all
from lab.checks.virtbus.procedures import PROCEDURES
from lab.config.mutant import load_mutant
from lab.config.requirement import TEST, Probe, select
from lab.config.scenario import VirtbusScenario
from lab.errors import CommandError, DeadlineExceeded, HostError, LabError, Unreachable
from lab.model import Check, Level, Verdict
from lab.report.requirements import log_file
from lab.scenarios.mutants import catches
from lab.topology.lab import Lab
from lab.wait import Deadline

# These end the machine, so they come last and all at once.
REBOOT = ("R18/reboot", "U01/reboot")
_REBOOT_S = 60.0
# Exit statuses of sh for a program that cannot be started: then the lab lacks it.
_NOT_STARTED = (126, 127)
# Of all tests of an adapter, and of each: the kernel tells which one does not end before the lab gives up.
_TESTS_S = 240.0
_TEST_S = 90.0
Bus = Path | Literal["none"] | None


class _LogLostError(LabError):
    """What the kernel said meanwhile cannot be known."""


@dataclass
class Conformance:
    """One run of the suite on an L1 that is up. ``files`` are the built modules, ``checks`` is filled as it goes."""

    lab: Lab
    scenario: VirtbusScenario
    files: Sequence[Path]
    options: frozenset[str] | None
    checks: list[Check]
    marks: int = 0

    def run(self) -> None:
        """Every check of the scenario for each of its adapters, and the reboot at the end."""
        stage(self.lab.host, self.files)
        reboot: list[tuple[Bench, Probe]] = []
        for adapter in self.scenario.adapters:
            bench = Bench(self.lab.host, adapter)
            probes = self._applicable(adapter)
            if not probes and adapter != self.scenario.adapters[0]:
                continue
            self._bus(bench)
            self._tests(bench, [probe for probe in probes if probe.run == TEST])
            for probe in probes:
                if probe.name in REBOOT:
                    reboot.append((bench, probe))
                elif probe.run != TEST and not self._caught():
                    self._procedure(bench, probe)
        if self._caught():
            # What a flaw has left in L1 nobody can undo, and what kmemleak finds there tells nothing new.
            self.lab.expendable = True
        elif reboot:
            self._reboot(reboot)

    def _caught(self) -> bool:
        """Whether a mutant that is run with its one check has been caught by it: what follows tells nothing more."""
        if not self.scenario.mutant or not self.scenario.only:
            return False
        mutant = load_mutant(self.scenario.mutant)
        return any(catches(check, mutant) for check in self.checks)

    def _applicable(self, adapter: str) -> list[Probe]:
        """The checks that make sense for this bus on this kernel; for the others it is said why not.

        A control shows that a check accepts a bus that is right. With KASAN, with which everything takes ten times as
        long, it does so for those that other kernels cannot run.
        """
        found = []
        brief = adapter != self.scenario.adapters[0] and self._has("KASAN")
        for _, probe in select(self.scenario):
            if probe.topic == "build" or not _applies(probe, adapter):
                continue
            missing = [f"CONFIG_{option}" for option in probe.needs if not self._has(option)]
            if missing:
                self._skip(probe, adapter, f"this kernel lacks {' '.join(missing)}", "a kernel that has it")
            elif brief and not probe.needs:
                self._skip(probe, adapter, "this kernel has CONFIG_KASAN", "a kernel without it")
            else:
                found.append(probe)
        return found

    def _skip(self, probe: Probe, adapter: str, seen: str, expected: str) -> None:
        self.checks.append(Check(self._name(probe, adapter), Verdict.SKIP, seen, expected))

    def _has(self, option: str) -> bool:
        return self.options is not None and f"CONFIG_{option}=y" in self.options

    def _name(self, probe: Probe, adapter: str) -> str:
        return f"{self._prefix(adapter)}{probe.name}"

    def _prefix(self, adapter: str) -> str:
        """Checks of the first adapter, which is what is under test, are called by the requirement alone."""
        return "" if adapter == self.scenario.adapters[0] else f"{adapter}: "

    def _bus(self, bench: Bench) -> None:
        """Load what the adapter's modules need: the bus, unless it is built in. The proof is which bytes are loaded."""
        for loaded in modules.load_bus(bench):
            self._prove(loaded, bench)

    def _prove(self, loaded: modules.Loaded, bench: Bench) -> None:
        ours = next((path for path in self.files if path.stem == loaded.module), None)
        file = ours.read_bytes() if ours else self.lab.host.get(loaded.file)
        name = f"{self._prefix(bench.adapter)}{loaded.module} is the one that was built"
        self.checks.append(modules.judge(name, loaded, build_id(file)))

    def _tests(self, bench: Bench, probes: Sequence[Probe]) -> None:
        if not probes:
            return
        wanted = [probe.id for probe in probes]
        module, prefix = f"vbt_test_{bench.adapter}", self._prefix(bench.adapter)
        with self.lab.record.step(f"tests {bench.adapter}"):
            console = self._console()
            mark = self._mark(module)
            loaded: modules.Loaded | None = None
            ended: LabError | None = None
            try:
                loaded = modules.run_tests(bench, wanted, test_s=_TEST_S, timeout_s=_TESTS_S)
            except (HostError, DeadlineExceeded) as error:
                ended = error
            try:
                lines = self._log(mark)
            except (HostError, DeadlineExceeded, _LogLostError) as error:
                ended, lines = ended or error, self._since(console)
        self.lab.record.write(f"collect/{module}.log", "".join(f"{line.text}\n" for line in lines))
        if loaded:
            self._prove(loaded, bench)
        report = ktap.parse(lines, "vbt_test")
        found = ktap.judge(report, wanted, module=module, machine="l1", expected=self.scenario.expect, prefix=prefix)
        logs = {f"{prefix}{point.name}": point.log for point in report.points}
        for check in found:
            self._add(check, logs.get(check.name, report.rest))
        if ended:
            raise ended

    def _add(self, check: Check, lines: Sequence[Line] = ()) -> Check:
        """Add a check; what the kernel said during a failed one is kept in a file of its own."""
        self.checks.append(check)
        if check.verdict is Verdict.FAIL:
            self.lab.record.write(log_file(check.name), "".join(f"{line.text}\n" for line in lines))
        return check

    def _procedure(self, bench: Bench, probe: Probe) -> None:
        name = self._name(probe, bench.adapter)
        with self.lab.record.step(name):
            if self._try(name, bench, probe).verdict is not Verdict.PASS:
                self._unload()

    def _try(self, name: str, bench: Bench, probe: Probe) -> Check:
        """Run a procedure and add its check. What ends the connection to L1 is raised, with the check added before."""
        console = self._console()
        mark = self._mark(name)
        try:
            seen = PROCEDURES[probe.name](bench)
            lines = self._log(mark)
        except (CommandError, DeadlineExceeded) as error:
            if isinstance(error, CommandError) and error.completed.returncode in _NOT_STARTED:
                return self._add(Check.unproven(name, error.message, "a procedure that can run", machine="l1"))
            seen = Seen(False, error.message, ENDS)
            try:
                lines = self._log(mark)
            except (HostError, DeadlineExceeded, _LogLostError) as second:
                lines = self._since(console)
                check = self._add(self._judge(name, seen, lines), lines)
                if isinstance(second, _LogLostError):
                    return check
                raise
        except _LogLostError as error:
            return self._add(Check.unproven(name, error.message, "a log to read", machine="l1"))
        except Unreachable:
            if splat := ktap.splat_in(self._since(console), self.scenario.expect):
                self._add(_failed(name, f"L1 died: {splat.title}", "L1 lives", splat.lines), splat.lines)
            raise
        return self._add(self._judge(name, seen, lines), lines)

    def _unload(self) -> None:
        """Unload what a check has left: the next one loads it itself."""
        self.lab.record.event("left", modules=unload_all(self.lab.host))

    def _judge(self, name: str, seen: Seen, lines: Sequence[Line]) -> Check:
        if splat := ktap.splat_in(lines, self.scenario.expect):
            return _failed(name, f"the kernel: {splat.title}\n{seen.seen}", "no splat meanwhile", lines)
        if seen.proven and not seen.good:
            return _failed(name, seen.seen, seen.expected, lines)
        return seen.check(name, "l1")

    def _reboot(self, wanted: Sequence[tuple[Bench, Probe]]) -> None:
        """Reboot with devices of every adapter in place; QEMU ends instead, with all that was said on the console."""
        machine, host = self.lab.l1, self.lab.host
        assert machine is not None
        with self.lab.record.step("reboot"):
            benches = {bench.adapter: bench for bench, _ in wanted}
            self._unload()
            prepared = {adapter: bench.answer(pm.PREPARE) for adapter, bench in benches.items()}
            self.lab.record.write("collect/l1-dmesg.txt", host.run(["dmesg"]).text + "\n")
            host.run(["dmesg", "-n", "8"])
            before = len(self._console())
            with contextlib.suppress(Unreachable, DeadlineExceeded):
                host.run(["busybox", "reboot", "-f"], check=False)
            ended = ""
            try:
                status = machine.wait_end(Deadline(_REBOOT_S * self.lab.slowness["l1"]))
            except DeadlineExceeded as error:
                ended = error.message
            else:
                ended = f"QEMU ended with status {status}"
                self.lab.host_left()
        said = self._console()[before:]
        for bench, probe in wanted:
            seen = _after_reboot(probe, said, prepared[bench.adapter], ended)
            lines = splats.read(said)
            self._add(self._judge(self._name(probe, bench.adapter), seen, lines), lines)

    def _mark(self, what: str) -> str:
        """Write a line into the kernel's log and return it."""
        self.marks += 1
        mark = f"vdpalab: {self.lab.plan.run_id} {self.marks}: {what}"
        self.lab.host.put(f"{mark}\n".encode(), "/dev/kmsg")
        return mark

    def _log(self, mark: str) -> list[Line]:
        """What the kernel's log has after the mark; a log that has lost it is an error of the lab."""
        lines = splats.read(self.lab.host.run(["dmesg"]).text)
        at = next((n for n in range(len(lines) - 1, -1, -1) if mark in lines[n].text), None)
        if at is None:
            raise _LogLostError(f"the kernel's log no longer has the mark {mark!r}: it has overflowed")
        return lines[at + 1 :]

    def _console(self) -> str:
        path = self.lab.l1.process.console if self.lab.l1 else None
        return path.read_text(errors="replace") if path and path.exists() else ""

    def _since(self, console: str) -> list[Line]:
        """What the kernel has said on its console since that had this text."""
        return splats.read(self._console()[len(console) :])


def _failed(name: str, seen: str, expected: str, lines: Sequence[Line]) -> Check:
    return Check.judged(name, False, ktap.excerpt([seen], lines), expected, level=Level.L1_KERNEL, machine="l1")


def _after_reboot(probe: Probe, console: str, prepared: Mapping[str, str], ended: str) -> Seen:
    if probe.name == "R18/reboot":
        return pm.shutdown_order(console, dict(prepared))
    return Seen(ended.endswith("status 0"), ended, "QEMU ends with status 0, because its guest has rebooted")


def reads_sources(scenario: VirtbusScenario) -> bool:
    """Whether a scenario has checks that compile and read the bus's sources."""
    return any(probe.topic == "build" for _, probe in select(scenario))


def unread(scenario: VirtbusScenario, bus: Bus) -> str:
    """Why the sources of the bus under test cannot be read; empty when they can. The lab has its own, or a series."""
    if bus == "none":
        return f"sources of the bus {scenario.adapters[0]}, which the kernel has without a series (--virtbus none)"
    if bus is None and OWN not in scenario.adapters:
        return f"sources of the bus {scenario.adapters[0]}: they are read in the series that --virtbus names"
    return ""


def build_checks(scenario: VirtbusScenario, folder: Path | None, bus: Bus = None) -> list[Check]:
    """The static and build checks of a scenario, on what lab.artifacts.busbuild has put into ``folder``.

    That there is a bus, and that it was compiled where that was asked for, is the proof. Without a folder each is a
    SKIP that says why there is none (:func:`unread`).
    """
    probes = [probe for _, probe in select(scenario) if probe.topic == "build"]
    if folder is None:
        words = f"there are no {unread(scenario, bus)}"
        return [Check(probe.name, Verdict.SKIP, words, "sources of the bus under test") for probe in probes]
    seen = build.present(folder)
    name = "the bus is there"
    checks = [
        Check(name, Verdict.PASS, seen.seen, seen.expected, proof=True)
        if seen.good
        else Check.unproven(name, seen.seen, seen.expected, proof=True)
    ]
    for probe in probes:
        foreign = bus is not None and probe.name in build.OF_THE_LAB
        found = "it is about the lab's own bus" if foreign else build.BUILDS[probe.name](folder)
        checks.append(_of_build(probe.name, found))
    return checks


def not_run(scenario: VirtbusScenario, checks: Sequence[Check]) -> list[Check]:
    """The checks of the bus under test that a run which ended early has not come to, so that they are not forgotten."""
    have = {check.name.partition(" ")[0].partition(".")[0] for check in checks}
    return [
        Check.unproven(probe.name, "the run ended before", "a result")
        for _, probe in select(scenario)
        if probe.name not in have and (probe.topic == "build" or _applies(probe, scenario.adapters[0]))
    ]


def _applies(probe: Probe, adapter: str) -> bool:
    return not probe.adapters or adapter in probe.adapters


def build_tools(scenario: VirtbusScenario) -> frozenset[str]:
    """The tools that the checks of a scenario look at."""
    return frozenset(build.TOOLS[probe.name] for _, probe in select(scenario) if probe.name in build.TOOLS)


def _of_build(name: str, seen: Seen | str) -> Check:
    if isinstance(seen, str):
        return Check(name, Verdict.SKIP, seen, "something to look at")
    return seen.check(name)


def conformance(lab: Lab, files: Sequence[Path], checks: list[Check]) -> None:
    """Run the scenario of a lab whose L1 is up, with the modules in ``files``; ``checks`` is filled as it goes."""
    scenario = lab.plan.scenario
    assert isinstance(scenario, VirtbusScenario)
    config = lab.artifacts.kernel.artifact.path / "config"
    options = frozenset(config.read_text().splitlines()) if config.exists() else None
    Conformance(lab, scenario, files, options, checks).run()
