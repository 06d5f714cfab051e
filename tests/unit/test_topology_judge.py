"""lab.topology.judge: who is judged by what, and whose fault it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.config.scenario import Expected
from lab.evidence.record import Record
from lab.host.kmsg import KernelLog
from lab.machine.machine import State
from lab.model import Check, Level, Verdict
from lab.topology.collect import Logs
from lab.topology.judge import judge_ends, judge_machines, l1_died_as_declared
from tests.fake_machine import FakeProcess, make_machine

QUIET = "[    0.100000] Linux version 6.12\n"
SPLAT = """[    1.000000] ------------[ cut here ]------------
[    1.000001] WARNING: CPU: 0 PID: 1 at drivers/vdpa/vdpa.c:1 vdpa_reset+0x1/0x2
[    1.000002] ---[ end trace 0000000000000000 ]---
"""


class Machines:
    """An L1 and an L2 that run and said nothing unusual."""

    def __init__(self, folder: Path, expect: list[Expected]) -> None:
        self.record = Record(folder)
        self.l1, self.of_l1 = make_machine(self.record, "l1")
        self.l2, self.of_l2 = make_machine(self.record, "l2")
        self.logs = Logs({"l1": QUIET, "l2": QUIET})
        self.expect = expect
        self.machines = {"l1": self.l1, "l2": self.l2}
        self.mark: str | None = None
        self.device_model: Any = None
        self.expendable = False
        # None: l1 is no machine of the lab's own.
        self.l0_log: Any = None
        for machine, process in ((self.l1, self.of_l1), (self.l2, self.of_l2)):
            machine.state = State.READY
            process.says(QUIET)

    @property
    def lab(self) -> Any:
        scenario = SimpleNamespace(expect=self.expect, action=None)
        return SimpleNamespace(
            machines=self.machines,
            plan=SimpleNamespace(scenario=scenario),
            record=self.record,
            log_mark=self.mark,
            device_model=self.device_model,
            expendable=self.expendable,
            l1=self.l1 if self.l0_log else None,
            l0_log=self.l0_log,
        )

    def judge(self, **options: Any) -> list[Check]:
        return judge_machines(self.lab, self.logs, **options)

    def bad(self, **options: Any) -> list[tuple[str, Verdict, Level | None, str | None]]:
        checks = [check for check in self.judge(**options) if check.verdict is not Verdict.PASS]
        return [(check.name, check.verdict, check.level, check.machine) for check in checks]

    def close(self) -> None:
        for machine in (self.l1, self.l2):
            machine.state = State.DEFINED
            machine.quit()
        self.record.close()


@pytest.fixture
def machines(tmp_path: Path) -> Any:
    machines = Machines(tmp_path, [])
    yield machines
    machines.close()


def test_machines_that_run_and_say_nothing_unusual(machines: Machines) -> None:
    assert machines.bad() == []
    assert {(check.name, check.machine) for check in machines.judge()} == {
        (name, machine) for name in ("QEMU alive", "kernel log", "clean QEMU stderr") for machine in ("l1", "l2")
    }


@pytest.mark.parametrize(("victim", "level"), [("l1", Level.L0_QEMU), ("l2", Level.L1_QEMU)])
@pytest.mark.parametrize("status", [-9, 0, 1])
def test_a_qemu_that_ended_by_itself(machines: Machines, victim: str, level: Level, status: int) -> None:
    process: FakeProcess = getattr(machines, f"of_{victim}")
    process.status = status
    assert ("QEMU alive", Verdict.FAIL, level, victim) in machines.bad()


@pytest.mark.parametrize(("victim", "level"), [("l1", Level.L1_KERNEL), ("l2", Level.L2_KERNEL)])
def test_a_machine_that_its_guest_ended_is_the_guests_fault(machines: Machines, victim: str, level: Level) -> None:
    """A triple fault leaves no word on the console: QEMU's event is all there is."""
    getattr(machines, victim).qmp.guest_end = "guest-reset"
    getattr(machines, f"of_{victim}").status = 0
    [alive] = [check for check in machines.judge() if check.verdict is Verdict.FAIL]
    assert (alive.name, alive.level, alive.machine) == ("QEMU alive", level, victim)
    assert alive.seen == "ended (guest-reset)"


def test_a_qemu_that_the_scenario_ended(machines: Machines) -> None:
    machines.of_l2.status, machines.l2.end_expected = -9, True
    assert machines.bad() == []


@pytest.mark.parametrize(("victim", "level"), [("l1", Level.L1_KERNEL), ("l2", Level.L2_KERNEL)])
@pytest.mark.parametrize("where", ["console", "dmesg"])
def test_a_splat_is_of_the_kernel_that_said_it(machines: Machines, victim: str, level: Level, where: str) -> None:
    if where == "console":
        getattr(machines, f"of_{victim}").says(SPLAT)
    else:
        machines.logs.dmesg[victim] = QUIET + SPLAT
    assert machines.bad() == [("kernel log", Verdict.FAIL, level, victim)]


def test_of_a_machine_that_was_up_before_only_this_run_is_judged(machines: Machines) -> None:
    del machines.machines["l1"]
    machines.mark = "vdpalab: run 1a2b3c4d begins"
    before = f"{SPLAT}[    9.000000] {machines.mark}\n"
    machines.logs.dmesg["l1"] = before
    assert machines.bad() == []
    machines.logs.dmesg["l1"] = before + SPLAT.replace("[    1.", "[   11.")
    assert machines.bad() == [("kernel log", Verdict.FAIL, Level.L1_KERNEL, "l1")]
    machines.logs.dmesg["l1"] = QUIET
    assert set(machines.bad()) == {("kernel log", Verdict.ERROR, Level.LAB, "l1")}, "the mark is gone"
    machines.logs.dmesg["l1"] = None
    assert set(machines.bad()) == {("kernel log", Verdict.ERROR, Level.LAB, "l1")}


@pytest.mark.parametrize(
    ("victim", "level", "pattern", "excused"),
    [
        ("l1", Level.L0_QEMU, "SIGABRT", True),
        ("l1", Level.L0_QEMU, "Assertion .subregion", True),
        ("l1", Level.L0_QEMU, "SIGSEGV", False),
        ("l1", Level.L1_QEMU, "SIGABRT", False),
        ("l2", Level.L1_QEMU, "SIGABRT", True),
    ],
)
def test_a_death_that_the_scenario_expects(
    machines: Machines, victim: str, level: Level, pattern: str, excused: bool
) -> None:
    process: FakeProcess = getattr(machines, f"of_{victim}")
    process.status = -6
    getattr(machines, victim).state = State.EXITED
    process.stderr.write_text("qemu: memory.c:2617: Assertion `subregion->container == mr' failed.\n")
    machines.expect = [
        Expected(level=level, pattern=pattern, outcome="death"),
        Expected(level=process.level, pattern="Assertion"),
    ]
    assert (machines.bad() == []) is excused


def test_an_l1_whose_connections_have_gone_before_it(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    machines.l0_log = KernelLog(Path("/absent"))
    machines.expect = [Expected(level=Level.L0_QEMU, pattern="Assertion", outcome="death", required=False)]
    machines.of_l1.stderr.write_text("util/error.c:62: error_setv: Assertion `*errp == NULL' failed.\n")
    looks = iter([None, None, -6])
    monkeypatch.setattr(machines.of_l1, "poll", lambda: next(looks, -6))
    assert l1_died_as_declared(machines.lab, 20.0)


@pytest.mark.parametrize(("pattern", "declared"), [("Assertion", True), ("SIGSEGV", False)])
def test_an_l1_that_died_as_declared(machines: Machines, pattern: str, declared: bool) -> None:
    machines.l0_log = KernelLog(Path("/absent"))
    machines.expect = [Expected(level=Level.L0_QEMU, pattern=pattern, outcome="death", required=False)]
    assert not l1_died_as_declared(machines.lab), "it runs"
    machines.of_l1.status = -6
    machines.of_l1.stderr.write_text("util/error.c:62: error_setv: Assertion `*errp == NULL' failed.\n")
    assert l1_died_as_declared(machines.lab) is declared
    machines.l1.end_expected = True
    assert not l1_died_as_declared(machines.lab), "the lab ended it"


def test_a_kernel_whose_panic_is_expected_may_end_its_machine(machines: Machines) -> None:
    machines.of_l2.says("[    2.000000] Kernel panic - not syncing: as wanted\n")
    machines.of_l2.status, machines.l2.state = 0, State.EXITED
    panic = Expected(level=Level.L2_KERNEL, pattern="Kernel panic")
    machines.expect = [panic]
    assert ("QEMU alive", Verdict.FAIL, Level.L1_QEMU, "l2") in machines.bad()
    machines.expect = [panic, Expected(level=Level.L2_KERNEL, pattern="Kernel panic", outcome="death")]
    assert machines.bad() == []


def test_a_death_that_is_expected_and_does_not_come(machines: Machines) -> None:
    machines.expect = [Expected(level=Level.L0_QEMU, pattern="SIGABRT", outcome="death")]
    assert machines.bad() == [("expected death", Verdict.FAIL, Level.L0_QEMU, None)]


class Model:
    """A device model that runs and says nothing."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "server.log"
        self.status: int | None = None

    def poll(self) -> int | None:
        return self.status

    def words(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def test_a_device_model_that_dies_or_complains_is_the_labs_fault(machines: Machines, tmp_path: Path) -> None:
    model = machines.device_model = Model(tmp_path)
    assert machines.bad() == []
    assert ("device model alive", "ifcvf") in {(check.name, check.machine) for check in machines.judge()}
    model.log.write_text("vf1: bad header\n")
    assert machines.bad() == [("clean device model log", Verdict.ERROR, Level.LAB, "ifcvf")]
    machines.expect = [Expected(level=Level.LAB, pattern="bad header")]
    assert machines.bad() == []
    model.status = -9
    assert machines.bad() == [("device model alive", Verdict.ERROR, Level.LAB, "ifcvf")]
    machines.expect += [Expected(level=Level.LAB, pattern="SIGKILL", outcome="death")]
    assert machines.bad() == []


def test_words_of_qemu_are_of_the_level_it_runs_at(machines: Machines) -> None:
    machines.of_l2.stderr.write_text("qemu-system-x86_64: vhost vdpa map fail!\n")
    assert machines.bad() == [("clean QEMU stderr", Verdict.FAIL, Level.L1_QEMU, "l2")]


def test_a_kernel_that_answers_and_whose_ring_buffer_could_not_be_read_is_unproven(machines: Machines) -> None:
    machines.l2.state = State.READY
    machines.logs.dmesg["l2"] = None
    assert machines.bad() == [("kernel log", Verdict.ERROR, Level.LAB, "l2")]
    machines.expendable = True
    assert machines.bad() == [], "it hangs with its device, as was to be expected; there is its console"


def test_a_kernel_that_answers_no_more_is_judged_by_its_console(machines: Machines) -> None:
    machines.l2.state = State.EXITED
    machines.logs.dmesg["l2"] = None
    machines.of_l2.says(SPLAT)
    assert [name for name, *_ in machines.bad()] == ["kernel log"]


def test_a_machine_that_waits_for_its_guest_has_no_kernel(machines: Machines) -> None:
    machines.l2.state = State.INCOMING
    machines.of_l2.console.unlink()
    del machines.logs.dmesg["l2"]
    assert machines.bad() == []


def test_without_any_log_nothing_is_proven(machines: Machines) -> None:
    machines.of_l2.console.unlink()
    del machines.logs.dmesg["l2"]
    assert machines.bad() == [("kernel log", Verdict.ERROR, Level.LAB, "l2")]


def test_what_is_expected_is_no_failure_and_missed_when_it_does_not_appear(machines: Machines) -> None:
    machines.expect = [Expected(level=Level.L1_KERNEL, pattern="vdpa_reset")]
    assert machines.bad() == [("expected outcome", Verdict.FAIL, Level.L1_KERNEL, None)]
    machines.of_l1.says(SPLAT)
    assert machines.bad() == []


def test_a_run_that_ended_early_misses_nothing(machines: Machines) -> None:
    machines.expect = [Expected(level=Level.L1_KERNEL, pattern="vdpa_reset")]
    assert machines.bad(complete=False) == []


def test_what_is_expected_of_a_qemu_is_looked_for_in_its_words(machines: Machines) -> None:
    machines.expect = [Expected(level=Level.L1_QEMU, pattern="map fail")]
    machines.of_l2.stderr.write_text("qemu-system-x86_64: vhost vdpa map fail!\n")
    assert machines.bad() == []


def test_leaks_that_kmemleak_finds(machines: Machines) -> None:
    machines.logs.leaks["l1"] = ""
    assert machines.bad() == []
    machines.logs.leaks["l1"] = "unreferenced object 0xffff888003a5c000 (size 64):"
    assert machines.bad() == [("kernel memory leaks", Verdict.FAIL, Level.L1_KERNEL, "l1")]


def test_each_place_that_memory_was_lost_from_is_a_failure_of_its_own(machines: Machines) -> None:
    """A known finding explains its own leak, and hides none beside it."""
    one = (Path(__file__).parent / "samples/findings/F019.seen").read_text()
    same = one.replace("insmod", "sh").replace("76 69 72", "77 69 72").replace("00db0ca", "00e10ca")
    elsewhere = one.replace("driver_probe_device", "vbt_probe")
    larger = one.replace("size 64", "size 128")
    without = "unreferenced object 0xffff88800ac0b640 (size 8):\n"
    machines.logs.leaks["l1"] = one + elsewhere + same + larger + without + without.replace("b640", "b660")
    seen = [check.seen for check in machines.judge() if check.name == "kernel memory leaks"]
    assert len({one, same, elsewhere, larger}) == 4
    assert [text.splitlines()[0].partition(" (")[0] for text in seen] == [
        "2 of these; the first:",
        "unreferenced object 0xffff88800ac0b600",
        "unreferenced object 0xffff88800ac0b600",
        "unreferenced object 0xffff88800ac0b640",
        "unreferenced object 0xffff88800ac0b660",
    ]


@pytest.mark.parametrize(("counted", "reported", "fails"), [(1, 1, 0), (2, 2, 0), (3, 1, 1), (1, 0, 1)])
def test_leaks_that_the_kernel_counts_are_those_of_the_report_or_fail(
    machines: Machines, counted: int, reported: int, fails: int
) -> None:
    report = "unreferenced object 0xffff88800ac0b6{:02x} (size 64):\n"
    machines.logs.leaks["l1"] = "".join(report.format(64 * number) for number in range(reported))
    machines.of_l1.says(
        f"[  610.100001] kmemleak: {counted} new suspected memory leaks (see /sys/kernel/debug/kmemleak)\n"
    )
    names = [name for name, *_ in machines.bad()]
    assert (names.count("kernel log"), names.count("kernel memory leaks")) == (fails, reported)


def test_a_qemu_that_does_not_end_as_asked_fails(machines: Machines) -> None:
    assert {check.verdict for check in judge_ends(machines.lab)} == {Verdict.PASS}
    machines.l2.bad_end = "had to be killed"
    [check] = [check for check in judge_ends(machines.lab) if check.verdict is Verdict.FAIL]
    assert (check.name, check.seen, check.level, check.machine) == (
        "QEMU ends when asked", "had to be killed", Level.L1_QEMU, "l2",
    )  # fmt: skip


def test_the_last_words_of_a_qemu_are_judged_too(machines: Machines) -> None:
    machines.of_l2.stderr.write_text("qemu-system-x86_64: vhost vdpa map fail!\n")
    bad = [check for check in judge_ends(machines.lab) if check.verdict is not Verdict.PASS]
    assert [(check.name, check.level) for check in bad] == [("clean QEMU stderr", Level.L1_QEMU)]


def test_this_machine_s_own_kernel_is_judged_where_it_runs_l1(machines: Machines) -> None:
    machines.l0_log = SimpleNamespace(read=lambda: SPLAT, lack="")
    assert machines.bad() == [("kernel log", Verdict.FAIL, Level.L0_KERNEL, "l0")]
    machines.l0_log = SimpleNamespace(read=lambda: "", lack="/dev/kmsg: Permission denied")
    assert machines.bad() == [("kernel log", Verdict.SKIP, None, "l0")]
    assert machines.bad(only={"l1"}) == []
