"""lab.scenarios.findings and lab.config.finding: what is known passes and is shown; what is gone is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lab.checks import qemulog
from lab.config import finding as config
from lab.config.finding import Finding, load_findings
from lab.config.strict import validate
from lab.errors import InputError
from lab.model import Check, Level, Verdict
from lab.scenarios.findings import apply

DATA: dict[str, Any] = {
    "id": "F001",
    "summary": "vp_vdpa warns on reset",
    "level": "l1-kernel",
    "pattern": r"WARNING: .* vp_vdpa_reset",
    "kernel": r"6\.12\..*",
    "qemu": r"1[01]\..*",
    "scenarios": ["net-x"],
    "reproducer": "vdpalab run net-x",
}
KNOWN = validate(Finding, DATA, "F001")
SPLAT = Check.judged("kernel log", False, "WARNING: CPU: 0 vp_vdpa_reset+0x1", "no splat", level=Level.L1_KERNEL)
GOOD = Check("kernel log", Verdict.PASS, "9 lines", "no splat")


def applied(
    check: Check, *, scenario: str = "net-x", kernel: str = "6.12.9-lab", qemu: str = "11.1.3", complete: bool = True
) -> tuple[list[Check], tuple[str, ...]]:
    return apply([check], [KNOWN], scenario=scenario, kernel=kernel, qemu_l0=qemu, qemu_l1="0.0.0", complete=complete)


def test_a_known_finding_passes_and_is_shown() -> None:
    [check], known = applied(SPLAT)
    assert known == ("F001",)
    # A level says whose fault a check is that did not pass.
    assert (check.verdict, check.level) == (Verdict.PASS, None)
    assert check.seen.startswith("known F001 (vp_vdpa warns on reset): WARNING: CPU: 0")


def test_it_is_known_in_a_scenario_that_does_not_promise_it() -> None:
    assert applied(SPLAT, scenario="blk-y")[1] == ("F001",)


@pytest.mark.parametrize(
    ("check", "versions"),
    [
        (SPLAT, {"kernel": "6.13.1"}),
        (SPLAT, {"kernel": "16.12.1"}),
        (SPLAT, {"qemu": "9.2.0"}),
        (Check.judged("kernel log", False, SPLAT.seen, "no splat", level=Level.L2_KERNEL), {}),
        (Check.judged("kernel log", False, "WARNING: vp_vdpa_probe", "no splat", level=Level.L1_KERNEL), {}),
        (Check.unproven("kernel log", SPLAT.seen, "no splat"), {}),
    ],
    ids=["other kernel", "no prefix match", "other QEMU", "other level", "other words", "unproven"],
)
def test_what_is_not_the_finding_stays(check: Check, versions: dict[str, str]) -> None:
    checks, known = applied(check, scenario="blk-y", **versions)  # type: ignore[arg-type]
    assert (checks, known) == ([check], ())


def test_a_finding_that_should_have_appeared_is_said_to_be_gone() -> None:
    checks, known = applied(GOOD)
    assert known == ()
    assert checks[0] == GOOD
    assert (checks[1].name, checks[1].verdict) == ("finding F001", Verdict.PASS)
    assert checks[1].seen == "no longer there: vp_vdpa warns on reset"
    assert not checks[1].proof


@pytest.mark.parametrize("other", [{"scenario": "blk-y"}, {"kernel": "6.13.1"}, {"qemu": "9.2"}, {"complete": False}])
def test_nothing_is_gone_that_could_not_have_appeared(other: dict[str, Any]) -> None:
    assert applied(GOOD, **other) == ([GOOD], ())


def test_nothing_is_gone_that_does_not_appear_each_time() -> None:
    versions: Any = {"kernel": "6.12.9", "qemu_l0": "11.1.3", "qemu_l1": "0.0.0"}
    sporadic = KNOWN.model_copy(update={"sporadic": True})
    assert apply([GOOD], [sporadic], scenario="net-x", **versions) == ([GOOD], ())
    assert apply([SPLAT], [sporadic], scenario="net-x", **versions)[1] == ("F001",)


LOST = Check.judged("buffers", False, "a buffer is lost", "none", level=Level.L1_KERNEL)
STALL = Check.judged("traffic", False, "it stands still, held", "it grows", level=Level.L1_KERNEL)
ELSEWHERE = dataclasses.replace(STALL, level=Level.L1_QEMU)
OTHERWISE = dataclasses.replace(STALL, seen="it stands still")


@pytest.mark.parametrize(
    ("checks", "unexplained"),
    [
        ([LOST, STALL], []),
        ([STALL, LOST], []),
        ([STALL], [STALL]),
        ([LOST, ELSEWHERE], [ELSEWHERE]),
        ([LOST, OTHERWISE], [OTHERWISE]),
    ],
    ids=["after", "before", "without the finding itself", "other level", "other words"],
)
def test_a_consequence_is_explained_where_the_finding_shows(checks: list[Check], unexplained: list[Check]) -> None:
    finding = validate(Finding, {**DATA, "pattern": "lost$", "consequence": "held$", "sporadic": True}, "F001")
    found, known = apply(checks, [finding], scenario="net-x", kernel="6.12.9", qemu_l0="11.1.3", qemu_l1="0.0.0")
    assert [check for check in found if check.verdict is Verdict.FAIL] == unexplained
    assert known == (("F001",) if LOST in checks else ())


def test_one_that_is_known_is_named_once() -> None:
    assert apply([SPLAT, SPLAT], [KNOWN], scenario="net-x", kernel="6.12.9", qemu_l0="11.1.3", qemu_l1="0.0.0")[1] == (
        "F001",
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": "1"}, "id: String should match pattern"),
        ({"pattern": "("}, "pattern: not a regular expression: missing \\)"),
        ({"kernel": "6.12.*["}, "kernel: not a regular expression"),
        ({"level": "l3-kernel"}, "level: Input should be 'l0-kernel'"),
        ({"scenario": ["net-x"]}, "scenario: unknown key"),
    ],
)
def test_a_broken_finding_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        validate(Finding, DATA | change, "F001.toml")


def test_findings_are_read_from_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    assert load_findings() == []
    folder = tmp_path / "findings"
    folder.mkdir()
    monkeypatch.setattr(config, "names", lambda _kind: ["net-x"])
    text = "\n".join(f"{key} = {value if isinstance(value, list) else repr(value)}" for key, value in DATA.items())
    text = text.replace("\\\\", "\\")  # a TOML string in single quotes has no escapes
    (folder / "F001.toml").write_text(text)
    assert load_findings() == [KNOWN]
    (folder / "F002.toml").write_text("id = 1")
    with pytest.raises(InputError, match=r"F002\.toml: id"):
        load_findings()
    (folder / "F002.toml").write_text(text.replace("net-x", "net-z"))
    with pytest.raises(InputError) as caught:
        load_findings()
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        "id: it says F001", "scenarios: there is no 'net-z'",
    ]  # fmt: skip


def test_the_findings_of_the_project_are_sound() -> None:
    assert [finding.id for finding in load_findings()] == sorted({finding.id for finding in load_findings()})


def test_a_known_line_of_a_qemu_hides_no_other() -> None:
    stderr = "qemu-system-x86_64: a known nuisance\nqemu-system-x86_64: something new\n"
    finding = validate(Finding, {**DATA, "level": "l1-qemu", "pattern": "nuisance", "scenarios": []}, "F001")
    checks = qemulog.judge(stderr, machine="l2", level=Level.L1_QEMU)
    found, known = apply(checks, [finding], scenario="net-x", kernel="6.12.9-lab", qemu_l0="0.0.0", qemu_l1="11.1.3")
    assert known == ("F001",)
    assert [check.verdict for check in found] == [Verdict.PASS, Verdict.FAIL]
    assert found[1].seen == "something new"


def test_a_known_fault_proves_nothing() -> None:
    [check], known = applied(dataclasses.replace(SPLAT, proof=True))
    assert (check.verdict, check.proof, known) == (Verdict.PASS, False, ("F001",))


@pytest.mark.parametrize(("in_l1", "known"), [("10.0.2", ("F001",)), ("11.1.3", ())])
def test_a_finding_of_the_guests_qemu_is_held_against_that_version(in_l1: str, known: tuple[str, ...]) -> None:
    finding = validate(Finding, {**DATA, "level": "l1-qemu", "qemu": r"10\..*", "scenarios": []}, "F001")
    check = dataclasses.replace(SPLAT, level=Level.L1_QEMU)
    found = apply([check], [finding], scenario="net-x", kernel="6.12.9-lab", qemu_l0="11.1.3", qemu_l1=in_l1)
    assert found[1] == known


@pytest.mark.parametrize(("scenario", "known"), [("net-x", ("F001",)), ("net-y", ())])
def test_a_finding_of_its_scenarios_alone_explains_nothing_elsewhere(scenario: str, known: tuple[str, ...]) -> None:
    alone = KNOWN.model_copy(update={"elsewhere": False})
    [check], found = apply([SPLAT], [alone], scenario=scenario, kernel="6.12.9-lab", qemu_l0="11.1.3", qemu_l1="0.0.0")
    assert (found, check.verdict is Verdict.FAIL) == (known, not known)
