"""lab.scenarios.run: whatever happens at whatever step, everything is undone and a result is written."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.artifacts.conformance import ModulesRequest
from lab.config.finding import Finding
from lab.config.mutant import Kind
from lab.config.request import RunRequest
from lab.config.scenario import Expected
from lab.config.strict import validate
from lab.errors import (
    BuildError,
    CompileError,
    DeviceModelDied,
    InputError,
    Interrupted,
    LabError,
    MachineDied,
    ProductFailure,
    SiteLacks,
)
from lab.evidence.record import Record, owner_alive
from lab.machine.accel import Acceleration
from lab.model import Accel, Check, Level, Metric, RunResult, Verdict
from lab.report.requirements import by_requirement
from lab.report.result import read
from lab.scenarios import run as module
from lab.scenarios.run import execute
from lab.topology import plan
from lab.topology.collect import Logs
from tests.unit.test_scenarios_mutants import MUTANT

NAME = "net-vp_vdpa-vhost_vdpa-iperf3"
LEAKS = {"l1": "unreferenced object"}
STEPS = ["plan", "artifacts", "host", "guest", "devices", "attach", "exercise", "collect"]
PROOF = Check("data path: irqs", Verdict.PASS, "grew by 9", "grew", proof=True)
SPLAT = Check.judged("kernel log", False, "WARNING: vp_vdpa_reset", "no splat", level=Level.L1_KERNEL, machine="l1")
HUNG = Check.judged("QEMU ends when asked", False, "SIGSEGV", "exit", level=Level.L0_QEMU, machine="l1")
KNOWN = Finding(
    id="F001", summary="it warns", level=Level.L1_KERNEL, pattern="WARNING", scenarios=[NAME], reproducer="run it"
)
DIED = MachineDied("l1", -9, "", level=Level.L0_QEMU)
PANIC = ProductFailure("l2: the kernel panicked", level=Level.L2_KERNEL, machine="l2")


class World:
    """What each step does: ``fail`` names what it raises, ``undo`` what its undo raises."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.undone: list[str] = []
        self.fail: dict[str, BaseException] = {}
        self.undo: dict[str, Exception] = {}
        self.exercised: list[Check] = [PROOF]
        self.judged: list[Check] = []
        self.complete: bool | None = None
        self.findings: list[Finding] = []
        self.kept: list[Verdict] = []
        self.l1_status: int | None = None
        self.ended: list[Check] = []
        self.judged_after: list[Check] = []
        self.device_model: Any = None
        self.abandoned = False
        self.expect: list[Expected] = []
        self.hurry: bool | None = None

    def step(self, name: str, stack: Any = None) -> None:
        if stack:
            stack.callback(name, lambda: self._undo(name))
        self.did.append(name)
        if name in self.fail:
            raise self.fail[name]

    def _undo(self, name: str) -> None:
        self.undone.append(name)
        if name in self.undo:
            raise self.undo[name]


class FakeLab:
    def __init__(self, world: World, stack: Any) -> None:
        self.world, self.stack = world, stack
        self.accel: dict[str, Acceleration] = {}
        self.l1: Any = None
        self.host = SimpleNamespace(name="l1")
        self.machines: dict[str, Any] = {}
        self.device_model = world.device_model
        self.plan = SimpleNamespace(scenario=SimpleNamespace(expect=world.expect))

    def stop_watching(self) -> None:
        pass

    def abandon_if_expendable(self) -> None:
        self.world.abandoned = True

    def start_host(self) -> None:
        self.accel["l1"] = Acceleration(Accel.TCG, "asked for")
        self.l1 = SimpleNamespace(process=SimpleNamespace(poll=lambda: self.world.l1_status))
        self.world.step("host", self.stack)

    def start_guest(self, name: str) -> None:
        self.accel["l2"] = Acceleration(Accel.KVM, "it boots")
        self.world.step("guest", self.stack)

    def metrics(self) -> list[Metric]:
        return [Metric("l1_ready", 1.5, "s")]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A run that ends ignores signals, which must not outlive the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world, real_plan = World(), plan.make_plan
    artifacts = SimpleNamespace(
        kernel=SimpleNamespace(release="6.12.9"),
        qemu_l0=SimpleNamespace(version=(11, 1, 3)),
        qemu_l1=SimpleNamespace(version=(11, 1, 3)),
        describe=lambda: {"kernel": "6.12.9"},
        versions=lambda: {"kernel": "6.12.9"},
    )

    def make_plan(request: RunRequest) -> Any:
        world.step("plan")
        return real_plan(request)

    def provide(*_arguments: Any) -> Any:
        world.step("artifacts")
        return artifacts

    def attach(lab: FakeLab, _devices: Any) -> Any:
        world.step("attach", lab.stack)
        return None, None

    def exercise(_lab: Any, _devices: Any, _path: Any, _given: Any, found: Any) -> None:
        found.checks += world.exercised
        found.metrics.append(Metric("tcp", 9.0, "Mbit/s"))
        world.step("exercise")

    def collect(_lab: Any, *, hurry: bool) -> Any:
        world.hurry = hurry
        world.step("collect")
        return Logs({"l1": "a log"}, LEAKS)

    def judge_machines(_lab: Any, logs: Any, *, complete: bool, only: Any = None) -> list[Check]:
        if only:
            assert only == {"l0", "l1"}
            # The scan came after the first look at the log, so its count is in the second.
            assert logs.leaks == (LEAKS if "collect" in world.did else {})
            return [*world.judged, *world.judged_after]
        world.complete = complete
        return world.judged

    seams: dict[str, Callable[..., Any]] = {
        "make_plan": make_plan,
        "provide": provide,
        "Lab": lambda _plan, _artifacts, _record, undo: FakeLab(world, undo),
        "make_devices": lambda lab: world.step("devices", lab.stack),
        "attach": attach,
        "exercise": exercise,
        "read_log": lambda _host: "a log",
        "collect": collect,
        "judge_machines": judge_machines,
        "judge_ends": lambda _lab: world.ended,
        "load_findings": lambda: world.findings,
        "wait_while_kept": lambda _record, _lab, result: world.kept.append(result.verdict),
    }
    for name, seam in seams.items():
        monkeypatch.setattr(module, name, seam)
    return world


@pytest.fixture
def run(world: World, tmp_path: Path) -> Callable[..., RunResult]:
    """Execute, and hold what holds for every run."""

    def run(**options: Any) -> RunResult:
        run_dir = tmp_path / "job" / "001-net"
        result = execute(RunRequest(**{"scenario": NAME, **options}), run_dir)
        assert json.loads((run_dir / "result.json").read_text())["verdict"] == result.verdict
        assert read(run_dir / "result.json").reason == result.reason
        assert not owner_alive(run_dir)
        with_undo = [step for step in world.did if step in ("host", "guest", "devices", "attach")]
        assert world.undone == with_undo[::-1]
        return result

    return run


def events(result: RunResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(result.run_dir) / "events.jsonl").read_text().splitlines()]


def steps(result: RunResult) -> list[str]:
    return [event["step"] for event in events(result) if event["event"] == "step-begin"]


def test_a_machine_without_the_ram_builds_and_starts_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.topology.preflight.available_mb", lambda _meminfo: 100)
    result = execute(RunRequest(scenario=NAME), tmp_path / "run")
    assert (result.verdict, world.did) == (Verdict.SKIP, ["plan"])
    assert "MiB of RAM: 100 MiB are available" in result.reason


def test_pass(run: Callable[..., RunResult], world: World) -> None:
    result = run()
    assert (result.verdict, result.level, result.scenario) == (Verdict.PASS, None, NAME)
    assert world.did == STEPS
    assert steps(result) == ["plan", "artifacts", "machines", "devices", "attach", "exercise", "judge", "undo"]
    assert (result.accel_l1, result.accel_l2) == (Accel.TCG, Accel.KVM)
    assert [metric.name for metric in result.metrics] == ["tcp", "l1_ready"]
    assert result.duration_s > 0
    assert world.complete is True
    written = json.loads((Path(result.run_dir) / "plan.json").read_text())
    assert (written["scenario"], written["artifacts"]) == (NAME, {"kernel": "6.12.9"})
    assert [event["event"] for event in events(result)][-2:] == ["verdict", "end"]


def test_no_proof_is_no_pass(run: Callable[..., RunResult], world: World) -> None:
    world.exercised = []
    assert run().verdict is Verdict.ERROR


@pytest.mark.parametrize("where", ["exercised", "judged"])
def test_a_failed_check_fails_the_run(run: Callable[..., RunResult], world: World, where: str) -> None:
    setattr(world, where, [PROOF, SPLAT])
    result = run()
    assert (result.verdict, result.level, result.machine) == (Verdict.FAIL, Level.L1_KERNEL, "l1")
    assert result.checks[-1] == SPLAT


@pytest.mark.parametrize("at", STEPS)
@pytest.mark.parametrize(
    ("error", "verdict", "level"),
    [
        (LabError("the lab did not manage"), Verdict.ERROR, Level.LAB),
        (SiteLacks("something"), Verdict.SKIP, Level.LAB),
        (DIED, Verdict.FAIL, Level.L0_QEMU),
        (PANIC, Verdict.FAIL, Level.L2_KERNEL),
        (ZeroDivisionError("a defect"), Verdict.ERROR, Level.LAB),
        (OSError(28, "No space left on device"), Verdict.ERROR, Level.LAB),
        (Interrupted("SIGTERM"), Verdict.ERROR, Level.LAB),
        (KeyboardInterrupt(), Verdict.ERROR, Level.LAB),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_ends_a_step_ends_the_run_in_order(
    run: Callable[..., RunResult], world: World, at: str, error: BaseException, verdict: Verdict, level: Level
) -> None:
    world.fail[at] = error
    result = run()
    assert (result.verdict, result.level) == (verdict, level)
    collected = ["collect"] if STEPS.index("host") <= STEPS.index(at) < STEPS.index("collect") else []
    assert world.did == STEPS[: STEPS.index(at) + 1] + collected
    assert (Path(result.run_dir) / "traceback.txt").exists() == (type(error) in (ZeroDivisionError, OSError))
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        assert result.reason == "interrupted"
        assert world.hurry is not False or at == "collect"
    if at in ("host", "guest", "devices", "attach", "exercise"):
        assert world.complete is False


EXPECTED_DEATH = Expected(level=Level.L0_QEMU, pattern="SIGKILL|signal 9", outcome="death")


@pytest.mark.parametrize(
    ("expect", "verdict"),
    [([], Verdict.FAIL), ([EXPECTED_DEATH], Verdict.PASS), (
        [EXPECTED_DEATH.model_copy(update={"level": Level.L1_QEMU})], Verdict.FAIL)],
)  # fmt: skip
def test_a_death_that_is_expected_ends_nothing(
    run: Callable[..., RunResult], world: World, expect: list[Expected], verdict: Verdict
) -> None:
    world.fail["exercise"], world.expect = DIED, expect
    result = run()
    assert result.verdict is verdict
    assert world.complete is (verdict is Verdict.PASS), "then what else is expected has to be there too"
    assert ("expected-death" in [event["event"] for event in events(result)]) is (verdict is Verdict.PASS)


@pytest.mark.parametrize("error", [LabError("iperf3 got no answer"), PANIC, None])
def test_a_dead_device_model_is_the_cause_of_everything(
    run: Callable[..., RunResult], world: World, error: Exception | None
) -> None:
    def dead() -> None:
        raise DeviceModelDied("SIGSEGV", "it hurts", machine="ifcvf")

    world.device_model = SimpleNamespace(check_alive=dead)
    if error:
        world.fail["exercise"] = error
    result = run()
    assert (result.verdict, result.level, result.machine) == (Verdict.ERROR, Level.LAB, "ifcvf")
    assert "SIGSEGV" in result.reason
    assert world.abandoned, "nothing in L1 can be undone any more"


def test_an_interrupt_counts_more_than_a_dead_device_model(run: Callable[..., RunResult], world: World) -> None:
    def dead() -> None:
        raise DeviceModelDied("SIGTERM", "", machine="ifcvf")

    world.device_model = SimpleNamespace(check_alive=dead)
    world.fail["exercise"] = Interrupted("SIGTERM")
    assert run().reason == "interrupted"


def test_the_first_error_counts(run: Callable[..., RunResult], world: World) -> None:
    world.fail = {"attach": LabError("the first"), "collect": LabError("what came of it")}
    assert run().reason == "the first"


@pytest.mark.parametrize("error", [Interrupted("SIGINT"), KeyboardInterrupt()])
def test_an_interrupt_counts_also_after_an_error(
    run: Callable[..., RunResult], world: World, error: BaseException
) -> None:
    world.fail = {"attach": LabError("the first"), "collect": error}
    result = run(keep="always")
    assert result.reason == "interrupted"
    assert world.kept == []


def test_a_splat_is_the_reason_of_an_error_that_came_of_it(run: Callable[..., RunResult], world: World) -> None:
    world.fail["attach"] = LabError("l1 does not answer")
    world.judged = [SPLAT]
    result = run()
    assert (result.verdict, result.level) == (Verdict.FAIL, Level.L1_KERNEL)


def test_bad_input_tells_all(tmp_path: Path, world: World) -> None:
    result = execute(RunRequest(scenario="net-vp_vdpa", site="mars"), tmp_path)
    assert result.verdict is Verdict.ERROR
    assert "no scenario 'net-vp_vdpa'" in result.reason
    assert "; no site 'mars'" in result.reason
    assert result.scenario == "net-vp_vdpa"


def test_broken_findings_are_bad_input(
    run: Callable[..., RunResult], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[Finding]:
        raise InputError(["F001.toml: pattern: not a regular expression"])

    monkeypatch.setattr(module, "load_findings", broken)
    result = run()
    assert (result.verdict, world.did) == (Verdict.ERROR, ["plan"])
    assert "F001.toml" in result.reason


def test_what_the_site_lacks_is_known_before_anything_is_touched(
    run: Callable[..., RunResult], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.topology.plan._lacks", lambda *_arguments: ("PCI functions", "a card"))
    result = run()
    assert (result.verdict, result.reason) == (Verdict.SKIP, "the site lacks PCI functions, a card")
    assert world.did == ["plan"]


@pytest.mark.parametrize(
    ("stop_at", "last"),
    [("plan", "plan"), ("artifacts", "artifacts"), ("machines", "guest"), ("devices", "devices"), ("attach", "attach")],
)
def test_stop_at(run: Callable[..., RunResult], world: World, stop_at: str, last: str) -> None:
    result = run(stop_at=stop_at)
    assert (result.verdict, result.reason) == (Verdict.SKIP, f"stopped at {stop_at} as asked")
    assert [step for step in world.did if step != "collect"] == STEPS[: STEPS.index(last) + 1]
    assert world.complete in (None, False)


def test_stop_at_the_exercise_is_the_whole_run(run: Callable[..., RunResult]) -> None:
    assert run(stop_at="exercise").verdict is Verdict.PASS


def test_stop_at_hides_no_failure(run: Callable[..., RunResult], world: World) -> None:
    world.judged = [SPLAT]
    assert run(stop_at="machines").verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("scenario", "options", "guests"),
    [
        (NAME, {}, True),
        (NAME, {"cold": True}, False),
        ("net-vp_vdpa-virtio_vdpa-iperf3", {}, False),
        ("net-vdpa_sim-vhost_vdpa-migrate", {}, True),
    ],
)
def test_a_guest_is_up_before_the_devices_unless_it_boots_with_its_own(
    run: Callable[..., RunResult], world: World, scenario: str, options: dict[str, Any], guests: bool
) -> None:
    assert run(scenario=scenario, **options).verdict is Verdict.PASS
    assert ("guest" in world.did) is guests


@pytest.mark.parametrize(
    ("keep", "judged", "kept"),
    [
        ("never", [], []),
        ("never", [SPLAT], []),
        ("on-fail", [], []),
        ("on-fail", [SPLAT], [Verdict.FAIL]),
        ("always", [], [Verdict.PASS]),
        ("always", [SPLAT], [Verdict.FAIL]),
    ],
)
def test_keep(run: Callable[..., RunResult], world: World, keep: str, judged: list[Check], kept: list[Verdict]) -> None:
    world.judged = judged
    run(keep=keep)
    assert world.kept == kept


def test_a_lab_is_kept_with_its_result_written_and_nothing_undone(
    run: Callable[..., RunResult], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def look(record: Any, _lab: Any, result: RunResult) -> None:
        seen.extend([read(record.path / "result.json").verdict, list(world.undone)])

    monkeypatch.setattr(module, "wait_while_kept", look)
    run(keep="always")
    assert seen == [Verdict.PASS, []]


@pytest.mark.parametrize("error", [Interrupted("SIGINT"), ZeroDivisionError()])
def test_what_goes_wrong_while_kept_is_undone_too(
    run: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_arguments: Any) -> None:
        raise error

    monkeypatch.setattr(module, "wait_while_kept", fail)
    assert run(keep="always").verdict is Verdict.ERROR


@pytest.mark.parametrize("error", [LabError("vdpa1: busy"), OSError(5, "I/O error"), KeyError("a defect")])
def test_a_failing_undo_is_an_error_of_a_run_that_passed(
    run: Callable[..., RunResult], world: World, error: Exception
) -> None:
    world.undo["devices"] = error
    result = run()
    assert (result.verdict, result.level) == (Verdict.ERROR, Level.LAB)
    assert result.reason.startswith("could not be undone: devices: ")


def test_a_failing_undo_does_not_replace_what_came_first(run: Callable[..., RunResult], world: World) -> None:
    world.undo["devices"] = LabError("busy")
    world.judged = [SPLAT]
    assert run().verdict is Verdict.FAIL


def test_a_failing_undo_is_no_news_when_l1_is_gone(run: Callable[..., RunResult], world: World) -> None:
    world.l1_status = -9
    world.undo["devices"] = LabError("unreachable")
    result = run()
    assert result.verdict is Verdict.PASS
    [event] = [event for event in events(result) if event["event"] == "undo-failed"]
    assert event["pointless"] == "l1 is gone"


def test_a_signal_during_the_teardown_does_not_cut_it_short(
    run: Callable[..., RunResult], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    undo = world._undo

    def interrupted(name: str) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        undo(name)

    monkeypatch.setattr(world, "_undo", interrupted)
    assert run().verdict is Verdict.PASS


def test_a_run_in_a_thread_leaves_signals_alone(run: Callable[..., RunResult]) -> None:
    before, results = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: results.append(run()))
    thread.start()
    thread.join()
    assert [result.verdict for result in results] == [Verdict.PASS]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_known_finding_passes_and_is_shown(run: Callable[..., RunResult], world: World) -> None:
    world.findings, world.judged = [KNOWN], [SPLAT]
    result = run()
    assert (result.verdict, result.known) == (Verdict.PASS, ("F001",))


@pytest.mark.parametrize(
    ("change", "verdict"),
    [({}, Verdict.PASS), ({"kernel": "6.13.*"}, Verdict.FAIL), ({"qemu": r"10\..*"}, Verdict.FAIL)],
)
def test_a_finding_is_of_the_versions_that_ran(
    run: Callable[..., RunResult], world: World, change: dict[str, str], verdict: Verdict
) -> None:
    data = KNOWN.model_dump(mode="json") | change
    world.findings, world.judged = [validate(Finding, data, "F001")], [SPLAT]
    assert run().verdict is verdict


@pytest.mark.parametrize(("fail", "gone"), [({}, True), ({"attach": LabError("x")}, False)])
def test_only_a_run_to_the_end_says_that_a_finding_is_gone(
    run: Callable[..., RunResult], world: World, fail: dict[str, BaseException], gone: bool
) -> None:
    world.findings, world.fail = [KNOWN], fail
    assert ("finding F001" in [check.name for check in run().checks]) is gone


def test_a_full_disk_does_not_keep_the_lab_up(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    real = Record.write

    def write(record: Any, name: str, text: str) -> Path:
        if name == "result.json":
            return real(record, name, text)
        raise OSError(28, "No space left on device")

    def attach(lab: FakeLab, _devices: Any) -> Any:
        monkeypatch.setattr(Record, "write", write)
        world.step("attach", lab.stack)

    world.fail["attach"] = OSError(28, "No space left on device")
    monkeypatch.setattr(module, "attach", attach)
    result = execute(RunRequest(scenario=NAME), tmp_path)
    assert result.verdict is Verdict.ERROR
    assert "No space left" in result.reason
    assert world.undone == ["attach", "devices", "guest", "host"]


def test_a_splat_of_the_undo_fails_the_run(run: Callable[..., RunResult], world: World) -> None:
    world.judged_after = [SPLAT]
    result = run()
    assert (result.verdict, result.level) == (Verdict.FAIL, Level.L1_KERNEL)
    assert [check.name for check in result.checks].count("kernel log") == 1


def test_a_splat_is_told_once_although_it_is_looked_for_twice(run: Callable[..., RunResult], world: World) -> None:
    world.judged = [SPLAT]
    assert [check.name for check in run().checks].count("kernel log") == 1


def test_a_qemu_that_does_not_end_as_asked_fails_the_run(run: Callable[..., RunResult], world: World) -> None:
    world.ended = [HUNG]
    result = run()
    assert (result.verdict, result.level, result.machine) == (Verdict.FAIL, Level.L0_QEMU, "l1")


def test_words_of_a_qemu_are_told_once_although_they_are_looked_for_twice(
    run: Callable[..., RunResult], world: World
) -> None:
    world.judged = [SPLAT]
    world.ended = [SPLAT, dataclasses.replace(SPLAT, machine="l2"), PROOF]
    assert [check.machine for check in run().checks if check.name == SPLAT.name] == ["l1", "l2"]


@pytest.mark.parametrize(("keep", "verdict"), [("always", Verdict.PASS), ("on-fail", Verdict.FAIL)])
def test_what_is_done_by_hand_in_a_kept_lab_is_not_judged(
    run: Callable[..., RunResult], world: World, keep: str, verdict: Verdict
) -> None:
    world.ended, world.judged_after = [HUNG], [SPLAT]
    result = run(keep=keep)
    assert result.verdict is verdict
    assert [check in result.checks for check in (HUNG, SPLAT)] == [verdict is Verdict.FAIL] * 2


def test_no_verdict_is_written_before_the_undo(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(world, "_undo", lambda _name: seen.append((tmp_path / "result.json").exists()))
    execute(RunRequest(scenario=NAME), tmp_path)
    assert seen
    assert not any(seen)


@pytest.mark.parametrize(
    ("expect", "error", "refused"),
    [
        ("build", CompileError("x.c:3: error: no"), True),
        ("build", BuildError("the hunk 1 does not apply"), None),
        ("build", None, False),
        ("static", CompileError("x.c:3: error: no"), False),
    ],
)
def test_only_a_compiler_refuses_a_mutant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect: Kind, error: Exception | None, refused: bool | None
) -> None:
    def suite_modules(_store: Any, _kernel: Any, request: ModulesRequest) -> list[Path]:
        if request.mutant and error:
            raise error
        return []

    found = run_with_modules(tmp_path, monkeypatch, expect, suite_modules)
    if refused is None:
        with pytest.raises(BuildError, match="hunk"):
            found()
    else:
        assert found() == ((refused, ["R08/modules"]) if refused else (False, []))


def test_what_does_not_compile_without_the_mutant_does_not_catch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def suite_modules(_store: Any, _kernel: Any, request: ModulesRequest) -> list[Path]:
        raise CompileError("x.c:3: error: no")

    with pytest.raises(CompileError):
        run_with_modules(tmp_path, monkeypatch, "build", suite_modules)()


def run_with_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect: Kind, suite_modules: Callable[..., list[Path]]
) -> Callable[[], tuple[bool, list[str]]]:
    monkeypatch.setattr(module, "load_mutant", lambda _name: MUTANT.model_copy(update={"expect": (expect,)}))
    monkeypatch.setattr(module, "kernel", lambda *_: None)
    monkeypatch.setattr(module, "kernel_request", lambda _options: None)
    monkeypatch.setattr(module, "suite_modules", suite_modules)
    planned: Any = SimpleNamespace(request=SimpleNamespace(artifacts=None))

    def refused() -> tuple[bool, list[str]]:
        run: Any = SimpleNamespace(found=SimpleNamespace(checks=[]))
        found = module._refused_by_the_compiler(run, Any, planned, tmp_path / "R08-deletes.patch")  # type: ignore[arg-type]
        return found, [check.name for check in run.found.checks]

    return refused


def test_a_scenario_may_ask_a_machine_and_the_sources(
    run: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sparse.txt").write_text("status 0\n")
    shape = dataclasses.replace(PROOF, name="R14/shape")
    monkeypatch.setattr(module, "_suite_modules", lambda *_: [])
    monkeypatch.setattr(module, "conformance", lambda _lab, _files, checks: checks.append(PROOF))
    monkeypatch.setattr(module, "bus_build", lambda *_: SimpleNamespace(path=tmp_path))
    monkeypatch.setattr(module, "build_checks", lambda *_: [shape])
    result = run(scenario="virtbus-api", overrides=('topics=["api","build"]',))
    assert result.checks == (shape, PROOF)
    assert (Path(result.run_dir) / "collect/sparse.txt").exists()
    assert run(scenario="virtbus-api").checks == (PROOF,)


def test_a_bus_without_sources_is_skipped_by_name(run: Callable[..., RunResult], tmp_path: Path) -> None:
    header = tmp_path / "adapter-mine.h"
    header.touch()
    result = run(scenario="virtbus-build", artifacts={"virtbus": "none", "virtbus_adapter": header})
    assert (result.verdict, result.level) == (Verdict.SKIP, Level.LAB)
    assert result.reason.startswith("the site lacks sources of the bus mine")
    assert "U11/pm" in {check.name for check in result.checks}


def test_checks_that_a_run_has_not_come_to_are_not_forgotten(
    run: Callable[..., RunResult], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conformance(_lab: Any, _files: Any, checks: list[Check]) -> None:
        checks += [PROOF, dataclasses.replace(PROOF, name="R09 a number", proof=False)]
        raise LabError("it ended")

    monkeypatch.setattr(module, "_suite_modules", lambda *_: [])
    monkeypatch.setattr(module, "conformance", conformance)
    result = run(scenario="virtbus-naming", overrides=('only=["R09","R16/twin"]',))
    assert (result.verdict, result.reason) == (Verdict.ERROR, "it ended")
    assert [check.name for check in result.checks if check.verdict is Verdict.ERROR] == ["R09/hold", "R16/twin"]
    assert [item.requirement.id for item in by_requirement([result])] == ["R09", "R16"]


def test_a_run_that_ended_before_its_machine_is_told_by_requirement(
    run: Callable[..., RunResult], world: World
) -> None:
    world.fail["artifacts"] = BuildError("no compiler")
    result = run(scenario="virtbus-naming", overrides=('adapters=["auxiliary"]',))
    assert {item.verdict for item in by_requirement([result])} == {Verdict.ERROR}
    world.fail["artifacts"] = SiteLacks("nested virtualisation")
    assert by_requirement([run(scenario="virtbus-naming")]) == []
