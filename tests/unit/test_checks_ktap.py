"""lab.checks.ktap: whole and broken reports, results between other lines of the kernel, and splats that are blamed."""

from __future__ import annotations

import pytest

from lab.checks import ktap, splats
from lab.checks.ktap import Report, parse
from lab.config.scenario import Expected
from lab.model import Check, Level, Verdict

WHOLE = """\
[   10.000001] vbt_test_virtbus: loading out-of-tree module taints kernel.
[   10.100000] KTAP version 1
[   10.100001] 1..4
[   10.100002] # vbt_test: adapter virtbus
[   10.200000] ok 1 R01 a device lies below its parent
[   10.300000] # R08: vbt_test.c:123: device_add gave 0, expected -17
[   10.300001] virtio_net virtio1 eth0: renamed from eth1
[   10.300002] not ok 2 R08 a failed add leaves nothing
[   10.400000] ok 3 R14.release a device without release function is refused # SKIP the core looks, not the bus
[   10.500000] not ok 4 U07 long names # CANNOT names end after 20 characters
[   10.600000] # vbt_test: 2 failed, 1 passed, 1 skipped
"""
WARNING = """\
[   10.250000] ------------[ cut here ]------------
[   10.250001] WARNING: CPU: 0 PID: 99 at drivers/bus/virtual_bus.c:30 virtbus_probe+0x1/0x2
[   10.250002] Call Trace:
[   10.250003]  <TASK>
[   10.250004]  probe+0x1/0x2
[   10.250005]  </TASK>
[   10.250006] ---[ end trace 0000000000000000 ]---
"""


def read(text: str) -> Report:
    return parse(splats.read(text), "vbt_test")


def judged(text: str, *wanted: str, expected: tuple[Expected, ...] = ()) -> dict[str, Check]:
    found = ktap.judge(read(text), wanted, module="vbt_test_virtbus", machine="l1", expected=expected)
    assert len({check.name for check in found}) == len(found)
    return {check.name: check for check in found}


def without(line: str) -> str:
    kept = [text for text in WHOLE.splitlines() if line not in text]
    assert len(kept) < len(WHOLE.splitlines())
    return "\n".join(kept)


def test_a_whole_report() -> None:
    report = read(WHOLE)
    assert (report.plan, report.problems) == (4, [])
    assert [(point.number, point.ok, point.id, point.directive) for point in report.points] == [
        (1, True, "R01", ""),
        (2, False, "R08", ""),
        (3, True, "R14.release", "SKIP"),
        (4, False, "U07", "CANNOT"),
    ]
    assert report.points[1].said == ("vbt_test.c:123: device_add gave 0, expected -17",)
    assert [line.text for line in report.points[1].log][1] == "virtio_net virtio1 eth0: renamed from eth1"


def test_each_result_is_a_check() -> None:
    checks = judged(WHOLE, "R01", "R08", "R14", "U07")
    assert {name: check.verdict for name, check in checks.items()} == {
        "R01 a device lies below its parent": Verdict.PASS,
        "R08 a failed add leaves nothing": Verdict.FAIL,
        "R14.release a device without release function is refused": Verdict.SKIP,
        "U07 long names": Verdict.FAIL,
        "KTAP plan": Verdict.PASS,
    }
    failed = checks["R08 a failed add leaves nothing"]
    assert failed.level is Level.L1_KERNEL
    assert failed.seen.startswith("vbt_test.c:123: device_add gave 0, expected -17\n  # R08")
    assert "renamed from eth1" in failed.seen
    assert checks["U07 long names"].seen.startswith("cannot: names end after 20 characters")
    assert checks["R14.release a device without release function is refused"].seen == "the core looks, not the bus"
    assert [check.name for check in checks.values() if check.proof] == ["KTAP plan"]


def test_what_failed_comes_before_remarks() -> None:
    line = "[   10.300000] # R08: vbt_test.c:123"
    text = WHOLE.replace(line, f"[   10.300000] # R08: 2000 at once\n{line}")
    assert text != WHOLE
    seen = judged(text, "R08")["R08 a failed add leaves nothing"].seen
    assert seen.splitlines()[:2] == ["vbt_test.c:123: device_add gave 0, expected -17", "2000 at once"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no KTAP at all"),
        ("[    1.000000] vbt_test_virtbus: module verification failed", "no KTAP at all"),
        (without("1..4"), "no plan"),
        (without("ok 1 R01"), "the plan has 4 results, and there are 3; the results are numbered 2, 3, 4"),
        (without("not ok 4 U07"), "the plan has 4 results, and there are 3"),
        (without("1 passed"), "the closing line '# vbt_test: …' is missing"),
        (WHOLE + "[   10.700000] 1..2\n", "a second plan: 1..2"),
        (WHOLE.replace("ok 3 ", "ok 2 "), "the results are numbered 1, 2, 2, 4"),
        (WHOLE.replace("1..4", "1..3"), "the plan has 3 results, and there are 4"),
        (
            WHOLE.replace("ok 1 R01 a device lies below its parent", "ok 1 U07 long names"),
            "more than one result for U07 long names",
        ),
    ],
)
def test_what_is_not_complete_proves_nothing(text: str, problem: str) -> None:
    assert problem in "; ".join(read(text).problems)
    plan = judged(text)["KTAP plan"] if "more than" not in problem else None
    assert plan is None or (plan.verdict, plan.level, plan.proof) == (Verdict.ERROR, Level.LAB, True)


def test_a_result_that_was_wanted_and_is_not_there_is_an_error() -> None:
    checks = judged(without("ok 1 R01"), "R01", "R08")
    assert (checks["R01"].verdict, checks["R01"].level) == (Verdict.ERROR, Level.LAB)
    assert "R08" not in checks


def test_the_parts_of_a_requirement_count_as_it() -> None:
    assert "R14" not in judged(WHOLE, "R14")
    assert judged(WHOLE, "R1")["R1"].verdict is Verdict.ERROR


def test_a_splat_fails_the_test_during_which_it_came() -> None:
    text = WHOLE.replace("[   10.200000] ok 1", WARNING + "[   10.260000] ok 1")
    check = judged(text)["R01 a device lies below its parent"]
    assert check.verdict is Verdict.FAIL
    assert check.seen.startswith("the kernel: WARNING: CPU: 0 PID: 99 at drivers/bus/virtual_bus.c:30")
    skipped = WHOLE.replace("[   10.400000] ok 3", WARNING + "[   10.400000] ok 3")
    assert judged(skipped)["R14.release a device without release function is refused"].verdict is Verdict.FAIL


def test_a_splat_that_is_expected_does_not() -> None:
    text = WHOLE.replace("[   10.200000] ok 1", WARNING + "[   10.260000] ok 1")
    expected = (Expected(level=Level.L1_KERNEL, pattern="virtual_bus.c:30", required=False),)
    assert judged(text, expected=expected)["R01 a device lies below its parent"].verdict is Verdict.PASS


def test_the_test_that_killed_the_kernel_has_failed() -> None:
    cut = WHOLE[: WHOLE.index("[   10.300002]")] + WARNING.replace("10.25", "10.35")
    checks = judged(cut, "R01", "R08", "U07")
    assert checks["R08"].verdict is Verdict.FAIL
    assert "WARNING" in checks["R08"].seen
    assert checks["U07"].verdict is Verdict.ERROR
    assert checks["KTAP plan"].verdict is Verdict.ERROR


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("not ok 1 R01 words # TODO not yet", Verdict.SKIP),
        ("ok 1 R01 words # TODO not yet", Verdict.PASS),
        ("ok 1 - R01 words", Verdict.PASS),
        ("ok 1 R01", Verdict.PASS),
        ("ok 1 R01 # SKIP", Verdict.SKIP),
        ("not ok 1 R01 # SKIP", Verdict.SKIP),
        ("not ok 1 R01 words with a # in them", Verdict.FAIL),
    ],
)
def test_forms_of_a_result(line: str, verdict: Verdict) -> None:
    text = f"[    1.000000] KTAP version 1\n[    1.000001] 1..1\n[    1.000002] {line}\n[    1.000003] # vbt_test: done"
    assert judged(text)[next(name for name in judged(text) if name != "KTAP plan")].verdict is verdict


def test_a_long_log_is_cut() -> None:
    noise = "".join(f"[   10.29{n:04}] noise {n}\n" for n in range(99))
    text = WHOLE.replace("[   10.300002] not ok", noise + "[   10.300002] not ok")
    assert judged(text)["R08 a failed add leaves nothing"].seen.endswith("  … 62 more lines")


@pytest.mark.parametrize("results", ["1..0\n", "1..2\nok 1 R01 a # SKIP why\nnot ok 2 R02 b # TODO why\n"])
def test_results_that_say_nothing_are_no_proof(results: str) -> None:
    report = parse(splats.read(f"KTAP version 1\n{results}"))
    plan = ktap.judge(report, [], module="vbt_test_virtbus", machine="l1")[-1]
    assert (plan.name, plan.verdict, plan.proof) == ("KTAP plan", Verdict.SKIP, False)
