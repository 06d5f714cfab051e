"""lab.scenarios.conformance: what belongs to which check, on an L1 that answers from a script."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lab.checks.virtbus.bench import Bench, Seen
from lab.config.scenario import VirtbusScenario
from lab.errors import CommandError, DeadlineExceeded, Unreachable
from lab.evidence.record import Record
from lab.host.fake import FakeHost
from lab.model import Check, Completed, Level, Verdict
from lab.scenarios import conformance
from lab.scenarios.conformance import Conformance
from lab.topology.lab import Lab
from lab.wait import Deadline
from tests.unit.test_buildid import ID, NOTE
from tests.unit.test_scenarios_mutants import MUTANT

KTAP = """\
KTAP version 1
1..2
# vbt_test: adapter virtbus
ok 1 R09 a number is free after the last put
not ok 2 R16 names of two modules do not collide
# vbt_test: 1 failed, 1 passed, 0 skipped
"""
SPLAT = "BUG: kernel NULL pointer dereference, address: 0000000000000010\n"
LOST = Unreachable("l1: the SSH connection is gone")


class FakeL1(FakeHost):
    """Its kernel log has what is written to /dev/kmsg and what ``says`` holds for a word of a command."""

    def __init__(self, folder: Path, says: dict[str, str]) -> None:
        super().__init__({}, folder, "l1")
        self.says = says
        self.log: list[str] = []
        self.gone: Exception | None = None

    def _execute(self, argv: Sequence[str], data: bytes, deadline: Deadline) -> Completed:
        command = shlex.join(argv)
        self.commands.append(command)
        if self.gone:
            raise self.gone
        for word, text in self.says.items():
            if word in command:
                self.log += text.splitlines()
        if command.endswith("/dev/kmsg"):
            self.log += data.decode().splitlines()
        return Completed(tuple(argv), 0, self._answer(argv, command).encode(), b"", 0.0)

    def _answer(self, argv: Sequence[str], command: str) -> str:
        if list(argv) == ["dmesg"]:
            return "".join(f"[{number:5}.000000] {line}\n" for number, line in enumerate(self.log))
        if "modprobe" in command and "depends" in command:
            return f"virtual_bus={NOTE.hex()} /lib/modules/x/virtual_bus.ko\n"
        return f"notes={NOTE.hex()}\n" if "only=" in command else ""


class Stage:
    """A run of the topic ``naming`` with its parts replaced; what it came to is in ``checks``."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **says: str) -> None:
        self.record = Record(folder / "run")
        self.host = FakeL1(folder / "host", {"only=": KTAP, **says})
        self.checks: list[Check] = []
        self.console = folder / "console.log"
        self.console.write_text("booted\n")
        self.options: frozenset[str] | None = frozenset()
        monkeypatch.setattr(conformance, "build_id", lambda _data: ID.hex())
        self.procedures: dict[str, Any] = {"R09/hold": lambda _b: good(), "R16/twin": lambda _b: good()}
        monkeypatch.setattr(conformance, "PROCEDURES", self.procedures)
        self.lab: Any = SimpleNamespace(
            host=self.host,
            record=self.record,
            plan=SimpleNamespace(run_id="1a2b3c4d"),
            l1=SimpleNamespace(process=SimpleNamespace(console=self.console)),
            slowness={"l1": 1.0},
            expendable=False,
        )

    def run(self, **keys: Any) -> dict[str, Check]:
        scenario = VirtbusScenario(kind="virtbus", summary="an example of it", **{"topics": ["naming"], **keys})
        only = scenario.only or ["R09", "R16"]
        scenario = scenario.model_copy(update={"only": only})
        Conformance(cast(Lab, self.lab), scenario, [], self.options, self.checks).run()
        return {check.name: check for check in self.checks}


def good() -> Seen:
    return Seen(True, "as it must be", "as it must be")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


def test_tests_and_procedures_of_both_buses(stage: Stage) -> None:
    checks = stage.run(adapters=["virtbus", "auxiliary"])
    failed = {"R16 names of two modules do not collide", "auxiliary: R16 names of two modules do not collide"}
    assert {name for name, check in checks.items() if check.verdict is Verdict.FAIL} == failed
    assert {name for name, check in checks.items() if check.proof} == {
        "virtual_bus is the one that was built",
        "vbt_test_virtbus is the one that was built",
        "KTAP plan",
        "auxiliary: virtual_bus is the one that was built",
        "auxiliary: vbt_test_auxiliary is the one that was built",
        "auxiliary: KTAP plan",
    }
    assert checks["R16/twin"].verdict is checks["auxiliary: R09/hold"].verdict is Verdict.PASS
    assert "not ok 2 R16" in (stage.record.path / "collect/R16.log").read_text()
    assert (stage.record.path / "collect/auxiliary-R16.log").exists()
    assert (stage.record.path / "collect/vbt_test_auxiliary.log").read_text().startswith("KTAP version 1")


def test_a_splat_during_a_procedure_is_its_failure(stage: Stage) -> None:
    def twin(_bench: Bench) -> Seen:
        stage.host.log += ["something before", SPLAT.strip()]
        return good()

    stage.procedures["R16/twin"] = twin
    checks = stage.run()
    assert checks["R09/hold"].verdict is Verdict.PASS
    assert (checks["R16/twin"].verdict, checks["R16/twin"].level) == (Verdict.FAIL, Level.L1_KERNEL)
    assert checks["R16/twin"].seen.startswith("the kernel: BUG: kernel NULL pointer")
    assert (stage.record.path / "collect/R16-twin.log").read_text() == f"something before\n{SPLAT}"


@pytest.mark.parametrize(("wanted", "asked"), [("R16", False), ("R16/twin", True)])
def test_a_mutant_that_is_caught_is_not_asked_more(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, wanted: str, asked: bool
) -> None:
    mutant = MUTANT.model_copy(update={"check": wanted, "expect": ("not ok",)})
    monkeypatch.setattr(conformance, "load_mutant", lambda _name: mutant)
    assert ("R16/twin" in stage.run(mutant="R16-same", only=["R16"])) is asked
    assert stage.lab.expendable is not asked


def test_what_does_not_hold_fails_and_what_is_left_is_unloaded(stage: Stage) -> None:
    stage.procedures["R16/twin"] = lambda _bench: Seen(False, "a and a", "a and b")
    assert stage.run()["R16/twin"].seen.splitlines()[0] == "a and a"
    assert any("rmmod" in command for command in stage.host.commands[-1:])


def test_what_could_not_be_looked_at_is_an_error_unless_the_kernel_has_complained(stage: Stage) -> None:
    def hold(_bench: Bench) -> Seen:
        stage.host.log.append(SPLAT.strip())
        return Seen.unproven("nothing", "something")

    stage.procedures |= {"R16/twin": lambda _bench: Seen.unproven("nothing", "something"), "R09/hold": hold}
    checks = stage.run()
    assert (checks["R16/twin"].verdict, checks["R16/twin"].level) == (Verdict.ERROR, Level.LAB)
    assert checks["R16/twin"].seen == "nothing"
    assert checks["R09/hold"].verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("error", "verdict", "level"),
    [
        (CommandError("l1", Completed(("sh",), 70, b"", b"it did not happen", 0)), Verdict.FAIL, Level.L1_KERNEL),
        (CommandError("l1", Completed(("sh",), 127, b"", b"perl: not found", 0)), Verdict.ERROR, Level.LAB),
        (DeadlineExceeded("l1: the end of it", 30), Verdict.FAIL, Level.L1_KERNEL),
    ],
)
def test_a_procedure_that_does_not_end(stage: Stage, error: Exception, verdict: Verdict, level: Level) -> None:
    def twin(_bench: Bench) -> Seen:
        raise error

    stage.procedures["R16/twin"] = twin
    check = stage.run()["R16/twin"]
    assert (check.verdict, check.level) == (verdict, level)
    assert "rmmod" in stage.host.commands[-1]


def test_a_kernel_that_dies_fails_the_check_that_it_dies_in(stage: Stage) -> None:
    def twin(_bench: Bench) -> Seen:
        with stage.console.open("a") as console:
            console.write(f"[   99.000000] {SPLAT}")
        raise LOST

    stage.procedures["R16/twin"] = twin
    with pytest.raises(Unreachable):
        stage.run()
    assert [check.name for check in stage.checks if check.verdict is Verdict.FAIL][-1] == "R16/twin"
    assert stage.checks[-1].seen.startswith("L1 died: BUG: kernel NULL pointer")


def test_a_connection_that_is_lost_without_a_splat_is_no_failure(stage: Stage) -> None:
    def twin(_bench: Bench) -> Seen:
        raise LOST

    stage.procedures["R16/twin"] = twin
    with pytest.raises(Unreachable):
        stage.run()
    assert "R16/twin" not in {check.name for check in stage.checks}


@pytest.mark.parametrize("gone", [LOST, DeadlineExceeded("l1: the end of dmesg", 30)])
@pytest.mark.parametrize(("console", "seen"), [("", "waited 30 s"), (SPLAT, "the kernel: BUG: kernel NULL")])
def test_a_machine_that_answers_no_more_fails_the_check(stage: Stage, gone: Exception, console: str, seen: str) -> None:
    def twin(_bench: Bench) -> Seen:
        stage.host.gone = gone
        stage.console.write_text(f"booted\n{console}")
        raise DeadlineExceeded("l1: the end of sh", 30)

    stage.procedures["R16/twin"] = twin
    with pytest.raises(type(gone)):
        stage.run()
    check = stage.checks[-1]
    assert (check.name, check.verdict, check.level) == ("R16/twin", Verdict.FAIL, Level.L1_KERNEL)
    assert check.seen.startswith(seen)


def test_a_procedure_that_does_not_end_and_fills_the_log(stage: Stage) -> None:
    def hold(_bench: Bench) -> Seen:
        stage.host.log.clear()
        raise DeadlineExceeded("l1: the end of sh", 30)

    stage.procedures["R09/hold"] = hold
    checks = stage.run()
    assert (checks["R09/hold"].verdict, checks["R16/twin"].verdict) == (Verdict.FAIL, Verdict.PASS)


@pytest.mark.parametrize(
    "error", [LOST, DeadlineExceeded("l1: the end of sh", 240), CommandError("l1", Completed(("sh",), 1, b"", b"", 0))]
)
def test_tests_that_do_not_end_are_read_all_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def run_tests(*_arguments: object, **_keys: object) -> None:
        stage.host.log += KTAP.splitlines()[:4]
        raise error

    monkeypatch.setattr("lab.checks.virtbus.modules.run_tests", run_tests)
    with pytest.raises(type(error)):
        stage.run()
    checks = {check.name: check.verdict for check in stage.checks}
    assert checks["R09 a number is free after the last put"] is Verdict.PASS
    assert checks["R16"] is checks["KTAP plan"] is Verdict.ERROR


def test_tests_that_the_machine_dies_in_are_read_on_the_console(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_tests(*_arguments: object, **_keys: object) -> None:
        stage.console.write_text(f"booted\n[   99.000000] {SPLAT}")
        stage.host.gone = LOST
        raise LOST

    monkeypatch.setattr("lab.checks.virtbus.modules.run_tests", run_tests)
    with pytest.raises(Unreachable):
        stage.run()
    checks = {check.name: check for check in stage.checks}
    assert checks["R09"].verdict is Verdict.FAIL
    assert checks["R09"].seen.startswith("the kernel: BUG: kernel NULL")


def test_the_kernel_gives_a_test_up_before_the_lab_does() -> None:
    assert conformance._TEST_S * 2 < conformance._TESTS_S


def test_a_lost_mark_is_an_error_of_the_lab(stage: Stage) -> None:
    def twin(_bench: Bench) -> Seen:
        stage.host.log.clear()
        return good()

    stage.procedures["R16/twin"] = twin
    assert stage.run()["R16/twin"].verdict is Verdict.ERROR
    assert "rmmod" in stage.host.commands[-1]


@pytest.mark.parametrize("options", [frozenset(["CONFIG_DEBUG_KMEMLEAK=y"]), frozenset(), None])
def test_a_check_needs_its_kernel(stage: Stage, options: frozenset[str] | None) -> None:
    stage.options = options
    stage.procedures["R10/kmemleak"] = lambda _bench: good()
    check = stage.run(topics=["lifetime"], only=["R10/kmemleak"])["R10/kmemleak"]
    assert check.verdict is (Verdict.PASS if options else Verdict.SKIP)
    assert options or check.seen == "this kernel lacks CONFIG_DEBUG_KMEMLEAK"


@pytest.mark.parametrize("options", [frozenset(["CONFIG_KASAN=y", "CONFIG_DEBUG_KMEMLEAK=y"]), frozenset()])
def test_with_kasan_a_control_shows_only_what_other_kernels_cannot(stage: Stage, options: frozenset[str]) -> None:
    stage.options = options
    for name in ("R10/kmemleak", "U03/release"):
        stage.procedures[name] = lambda _bench: good()
    wanted = ["R10/kmemleak", "U03/release"]
    checks = stage.run(topics=["lifetime"], only=wanted, adapters=["virtbus", "auxiliary"])
    assert "U03/release" in checks
    brief = checks["auxiliary: U03/release"]
    assert brief.verdict is (Verdict.SKIP if options else Verdict.PASS)
    assert not options or brief.seen == "this kernel has CONFIG_KASAN"
    assert (checks["auxiliary: R10/kmemleak"].verdict is Verdict.PASS) == bool(options)


def test_a_reboot_comes_last_and_is_read_on_the_console(stage: Stage) -> None:
    prepared = "bound=a.0\nparent=p\n"
    told = "[   99.000000] vbt: 8 a.0 shutdown\n[   99.100000] vbt: 9 p shutdown\n"
    did: list[str] = []

    def wait_end(_deadline: Deadline) -> int:
        stage.console.write_text("booted\n" + told)
        did.append("ended")
        return 0

    stage.lab.l1.wait_end = wait_end
    stage.lab.host_left = lambda: did.append("left")
    original = stage.host._answer

    def answer(argv: Sequence[str], command: str) -> str:
        return prepared if "parent=" in command else original(argv, command)

    stage.host._answer = answer  # type: ignore[method-assign]
    checks = stage.run(topics=["pm"], only=["R18/reboot", "U01/reboot"])
    assert did == ["ended", "left"]
    assert checks["R18/reboot"].verdict is checks["U01/reboot"].verdict is Verdict.PASS
    assert checks["R18/reboot"].seen == "shut down a.0 → p"
    [prepare] = [number for number, command in enumerate(stage.host.commands) if "parent=" in command]
    assert "^(vbt_" in stage.host.commands[prepare - 1]


def test_a_machine_that_does_not_come_through_its_reboot(stage: Stage) -> None:
    def wait_end(_deadline: Deadline) -> int:
        with stage.console.open("a") as console:
            console.write(f"[   99.000000] {SPLAT}")
        raise DeadlineExceeded("l1: the end of QEMU", 60)

    stage.lab.l1.wait_end = wait_end
    checks = stage.run(topics=["pm"], only=["U01/reboot"])
    assert checks["U01/reboot"].verdict is Verdict.FAIL
    assert "waited" in checks["U01/reboot"].seen
