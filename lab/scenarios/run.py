"""The one sequence that runs a scenario (design.md sections 4 and 6)::

    plan -> artifacts -> machines -> devices -> attach -> exercise -> judge -> (keep) -> undo -> verdict

A fault in the middle loses no evidence: judging and collecting happen whatever came before, then everything is undone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.artifacts.busbuild import BuildRequest, bus_build
from lab.artifacts.conformance import OWN, ModulesRequest, mutant_patch, suite_modules
from lab.artifacts.kernel import kernel
from lab.artifacts.provide import Artifacts, kernel_request, provide
from lab.artifacts.qemu import Qemu
from lab.artifacts.store import Store, cache_root
from lab.config.finding import Finding, load_findings
from lab.config.mutant import Mutant, load_mutant
from lab.config.request import RunRequest
from lab.config.scenario import VirtbusScenario
from lab.errors import (
    CompileError,
    DeviceModelDied,
    Interrupted,
    LabError,
    MachineDied,
    QmpError,
    SiteLacks,
    Unreachable,
)
from lab.evidence.record import Record
from lab.model import Check, Level, RunResult, Verdict
from lab.report import result as report
from lab.scenarios import findings, mutants
from lab.scenarios.conformance import build_checks, build_tools, conformance, not_run, reads_sources, unread
from lab.scenarios.exercise import Findings, exercise
from lab.scenarios.keep import wait_while_kept
from lab.scenarios.verdict import judge
from lab.topology.collect import Logs, collect, read_log
from lab.topology.devices import attach, make_devices
from lab.topology.judge import death_declared, judge_ends, judge_machines, l1_died_as_declared
from lab.topology.lab import Lab
from lab.topology.plan import Plan, make_plan
from lab.topology.preflight import check_memory
from lab.topology.undo import Undo

# Seconds that an L1 whose connections are gone has to end, when the scenario declares that it may.
_ENDING_S = 20.0


class _StopHere(Exception):
    """The user asked to stop at this step."""


@dataclasses.dataclass
class _Run:
    """What is known while a run goes on."""

    request: RunRequest
    record: Record
    begin: float
    plan: Plan | None = None
    artifacts: Artifacts | None = None
    lab: Lab | None = None
    findings: Sequence[Finding] = ()
    found: Findings = dataclasses.field(default_factory=Findings)
    logs: Logs = dataclasses.field(default_factory=Logs)
    error: BaseException | None = None
    stopped: bool = False
    # From then on a person may have had a hand in what is seen.
    kept: bool = False

    @property
    def complete(self) -> bool:
        """Whether everything was done that there was to do."""
        return self.error is None and not self.stopped


def execute(request: RunRequest, run_dir: Path) -> RunResult:
    """Run one scenario into ``run_dir`` and return (and write) its result. Never raises."""
    run = _Run(request, Record(run_dir), time.monotonic())
    undo = Undo(run.record)
    try:
        _guard(run, lambda: _sequence(run, undo))
        _guard(run, lambda: _judge(run))
        _guard(run, lambda: _stay(run))
    finally:
        _ignore_signals()
        failed = _undo(run, undo)
        result = _conclude(run, failed)
        _write(run.record, result)
        run.record.event("verdict", verdict=result.verdict, level=result.level, reason=result.reason)
        run.record.close()
    return result


def _stay(run: _Run) -> None:
    """Keep the lab up when that was asked for, with its verdict written: a teardown that is killed leaves none."""
    result = _conclude(run, ())
    if _keep(run.request, result) and not isinstance(run.error, Interrupted):
        _write(run.record, result)
        run.kept = True
        wait_while_kept(run.record, run.lab, result)


def _ignore_signals() -> None:
    """A teardown that has begun is finished. Not SIG_IGN, which the commands of the teardown would inherit."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: None)


def _write(record: Record, result: RunResult) -> None:
    record.write(report.RESULT, report.dumps(report.to_dict(result)))


def _sequence(run: _Run, undo: Undo) -> None:
    record, request = run.record, run.request
    with record.step("plan"):
        run.plan = plan = make_plan(request)
        record.write("plan.json", json.dumps(plan.to_json(), indent=1))
        run.findings = load_findings()
        if plan.lacks:
            raise SiteLacks(", ".join(plan.lacks))
        check_memory(plan)
    _stop_at(request, "plan")
    if isinstance(plan.scenario, VirtbusScenario) and not plan.needs_host:
        _build_only(run, plan, plan.scenario)
        return
    with record.step("artifacts"):
        store = Store(cache_root() / "artifacts", lambda text: record.event("progress", text=text))
        run.artifacts = provide(store, plan.request.artifacts)
        record.write("plan.json", json.dumps(plan.to_json() | {"artifacts": run.artifacts.describe()}, indent=1))
        record.event("versions", **run.artifacts.versions())
        modules = _suite_modules(store, run.artifacts, plan)
        if isinstance(plan.scenario, VirtbusScenario) and reads_sources(plan.scenario):
            _read_bus(run, plan, plan.scenario, _compile_bus(store, plan, plan.scenario))
    _stop_at(request, "artifacts")
    run.lab = lab = Lab(plan, run.artifacts, record, undo)
    with record.step("machines"):
        lab.start_host()
        undo.callback("judging the undo", lambda: _judge_undo(run, lab))
        if plan.guests and not plan.cold:
            lab.start_guest("l2")
    _stop_at(request, "machines")
    if modules is not None:
        with record.step("exercise"):
            conformance(lab, modules, run.found.checks)
        return
    with record.step("devices"):
        devices = make_devices(lab)
    _stop_at(request, "devices")
    with record.step("attach"):
        path, given = attach(lab, devices)
    _stop_at(request, "attach")
    with record.step("exercise"):
        exercise(lab, devices, path, given, run.found)


def _build_only(run: _Run, plan: Plan, scenario: VirtbusScenario) -> None:
    """A scenario of checks that need compilers and no machine."""
    record, options = run.record, plan.request.artifacts
    with record.step("artifacts"):
        store = Store(cache_root() / "artifacts", lambda text: record.event("progress", text=text))
        mutant = mutant_patch(scenario.mutant) if scenario.mutant else None
        if mutant and _refused_by_the_compiler(run, store, plan, mutant):
            return
        folder = _compile_bus(store, plan, scenario)
    _stop_at(run.request, "artifacts")
    with record.step("exercise"):
        _read_bus(run, plan, scenario, folder)
    if folder is None:
        raise SiteLacks(unread(scenario, options.virtbus))


def _compile_bus(store: Store, plan: Plan, scenario: VirtbusScenario) -> Path | None:
    """Put the bus before compilers and checkers; None when there are no sources of it."""
    options = plan.request.artifacts
    if unread(scenario, options.virtbus):
        return None
    mutant = mutant_patch(scenario.mutant) if scenario.mutant else None
    tools = build_tools(scenario)
    request = BuildRequest(kernel_request(options), options.virtbus, mutant, options.virtbus_adapter, tools)
    return bus_build(store, request).path


def _read_bus(run: _Run, plan: Plan, scenario: VirtbusScenario, folder: Path | None) -> None:
    run.found.checks += build_checks(scenario, folder, plan.request.artifacts.virtbus)
    for file in folder.glob("*.txt") if folder else ():
        run.record.write(f"collect/{file.name}", file.read_text(errors="replace"))


def _refused_by_the_compiler(run: _Run, store: Store, plan: Plan, mutant: Path) -> bool:
    """Whether a mutant that is to be caught when it is built does not even become modules; then that is its check."""
    known = load_mutant(mutant.stem)
    if "build" not in known.expect:
        return False
    built = kernel(store, kernel_request(plan.request.artifacts))
    suite_modules(store, built, ModulesRequest((OWN,)))  # what does not compile without the mutant does not catch it
    try:
        suite_modules(store, built, ModulesRequest((OWN,), mutant=mutant))
    except CompileError as error:
        run.found.checks.append(
            Check.judged(f"{known.check}/modules", False, error.message, "modules", level=Level.L1_KERNEL)
        )
        return True
    return False


def _suite_modules(store: Store, artifacts: Artifacts, plan: Plan) -> list[Path] | None:
    """The modules of a conformance scenario, built now if need be; None for any other."""
    scenario = plan.scenario
    if not isinstance(scenario, VirtbusScenario):
        return None
    request = ModulesRequest(
        adapters=tuple(scenario.adapters),
        header=plan.request.artifacts.virtbus_adapter,
        mutant=mutant_patch(scenario.mutant) if scenario.mutant else None,
    )
    return suite_modules(store, artifacts.kernel, request)


def _stop_at(request: RunRequest, step: str) -> None:
    if request.stop_at == step:
        raise _StopHere


def _guard(run: _Run, step: Callable[[], None]) -> None:
    """Run a part of the sequence and keep what ended it; the first error counts, and an interrupt more than any."""
    try:
        step()
    except _StopHere:
        run.stopped = True
    except (Interrupted, KeyboardInterrupt) as error:
        run.error = Interrupted(*error.args)
        run.record.event("error", error=str(error) or "interrupted", type="Interrupted")
    except MachineDied as error:
        if run.lab and death_declared(run.lab, error.machine, error.level, str(error)):
            run.record.event("expected-death", machine=error.machine, error=str(error))
            return
        run.error = run.error or error
        run.record.event("error", error=str(error), type=type(error).__name__)
    except LabError as error:
        run.error = run.error or error
        run.record.event("error", error=str(error), type=type(error).__name__)
    except Exception as error:
        run.error = run.error or error
        with contextlib.suppress(OSError):
            run.record.write("traceback.txt", traceback.format_exc())
        run.record.event("error", error=repr(error), type=type(error).__name__, traceback="traceback.txt")


def _judge(run: _Run) -> None:
    if run.lab is None:
        return
    _look_at_device_model(run, run.lab)
    _excuse_declared_death(run, run.lab)
    with run.record.step("judge"):
        # Who interrupts a run waits for its end, and kills it in the end.
        run.logs = collect(run.lab, hurry=isinstance(run.error, Interrupted))
        run.found.checks += judge_machines(run.lab, run.logs, complete=run.complete)


def _excuse_declared_death(run: _Run, lab: Lab) -> None:
    """An L1 that ends as the scenario declares takes every connection with it, and nothing in it can be undone."""
    gone = isinstance(run.error, Unreachable | QmpError) or run.error is None
    if gone and l1_died_as_declared(lab, _ENDING_S if run.error else 0.0):
        run.record.event("expected-death", machine="l1", error=str(run.error))
        run.error, lab.expendable = None, True


def _look_at_device_model(run: _Run, lab: Lab) -> None:
    """Hardware that is gone is the cause of whatever else ended the run; from now on it ends nothing more."""
    lab.stop_watching()
    try:
        if lab.device_model:
            lab.device_model.check_alive()
    except DeviceModelDied as error:
        run.error = run.error if isinstance(run.error, Interrupted) else error
        run.record.event("error", error=str(error), type=type(error).__name__)


def _judge_undo(run: _Run, lab: Lab) -> None:
    """Look at the hosts again when devices and guests are gone: deleting one is where many a kernel fault shows."""
    if run.kept:
        return
    # What kmemleak has reported, the kernel's log has only counted since.
    logs = Logs({"l1": read_log(lab.host)}, run.logs.leaks)
    run.found.checks += _new_faults(run, judge_machines(lab, logs, complete=False, only={"l0", "l1"}))


def _new_faults(run: _Run, again: Sequence[Check]) -> list[Check]:
    """What a second look finds that the first had not."""
    known = {(check.name, check.machine, check.seen) for check in run.found.checks}
    return [c for c in again if c.verdict is Verdict.FAIL and (c.name, c.machine, c.seen) not in known]


def _undo(run: _Run, undo: Undo) -> list[str]:
    with run.record.step("undo"):
        if run.lab:
            run.lab.abandon_if_expendable()
        failed = undo.unwind(lambda: _pointless(run))
    if run.lab and not run.kept:
        run.found.checks += _new_faults(run, judge_ends(run.lab))
    return failed


def _pointless(run: _Run) -> str:
    if run.lab and run.lab.l1 and run.lab.l1.process.poll() is not None:
        return "l1 is gone"
    return ""


def _conclude(run: _Run, undo_failed: list[str] | tuple[str, ...]) -> RunResult:
    checks, known = _known(run)
    checks = [*checks, *_not_run(run)]
    error = run.error
    if mutant := _mutant(run):
        checks = mutants.judge(checks, mutant, complete=run.error is None)
        # What killed the machine was the mutant, when its check has caught it.
        error = error if checks[0].verdict is not Verdict.PASS or isinstance(error, Interrupted) else None
    outcome = judge(checks, error, undo_failed, stopped_at=run.request.stop_at or "" if run.stopped else "")
    lab = run.lab
    return RunResult(
        scenario=run.plan.name if run.plan else run.request.scenario,
        verdict=outcome.verdict,
        level=outcome.level,
        machine=outcome.machine,
        reason=outcome.reason,
        duration_s=time.monotonic() - run.begin,
        run_dir=str(run.record.path),
        known=known,
        accel_l1=lab.accel["l1"].accel if lab and "l1" in lab.accel else None,
        accel_l2=lab.accel["l2"].accel if lab and "l2" in lab.accel else None,
        checks=tuple(checks),
        metrics=(*run.found.metrics, *(lab.metrics() if lab else ())),
    )


def _not_run(run: _Run) -> list[Check]:
    """What a run of the virtbus suite that ended early owes; of a mutant it is asked for one check only."""
    scenario = run.plan.scenario if run.plan else None
    if run.error is None or isinstance(run.error, SiteLacks) or not isinstance(scenario, VirtbusScenario):
        return []
    return [] if scenario.mutant else not_run(scenario, run.found.checks)


def _mutant(run: _Run) -> Mutant | None:
    """The mutant of a run that has come to its checks."""
    scenario = run.plan.scenario if run.plan else None
    if run.stopped or not run.found.checks or not isinstance(scenario, VirtbusScenario) or not scenario.mutant:
        return None
    return load_mutant(scenario.mutant)


def _known(run: _Run) -> tuple[list[Check], tuple[str, ...]]:
    if run.plan is None or run.artifacts is None:
        return run.found.checks, ()
    return findings.apply(
        run.found.checks,
        run.findings,
        scenario=run.plan.name,
        kernel=run.artifacts.kernel.release,
        qemu_l0=_dotted(run.artifacts.qemu_l0),
        qemu_l1=_dotted(run.artifacts.qemu_l1),
        complete=run.complete,
    )


def _dotted(qemu: Qemu) -> str:
    return ".".join(map(str, qemu.version))


def _keep(request: RunRequest, result: RunResult) -> bool:
    return request.keep == "always" or (request.keep == "on-fail" and result.verdict is not Verdict.PASS)
