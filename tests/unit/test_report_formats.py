"""JUnit XML, TAP, terminal tables, comparison and the command that repeats a run."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from rich.console import Console

from lab.config.request import ArtifactOptions, RunRequest
from lab.model import Metric, RunResult, Verdict
from lab.report import junit, tap
from lab.report.compare import compare, to_dict, worst_verdict
from lab.report.repeat import repeat_command
from lab.report.table import plain, plain_results, rich_results, row
from tests.sample_job import BEGAN, FAILED, PASSED, SKIPPED

ERROR = replace(FAILED, verdict=Verdict.ERROR, reason="the lab broke\nwith \x1b[31mcolour\x00 and <tags>")
ALL = [PASSED, FAILED, SKIPPED, ERROR]


def cases(results: list[RunResult]) -> list[ET.Element]:
    return list(ET.fromstring(junit.render(results, name="job", began=BEGAN)).iter("testcase"))


def test_junit_counts_and_kinds() -> None:
    root = ET.fromstring(junit.render(ALL, name="job", began=BEGAN))
    suite = root.find("testsuite")
    assert suite is not None
    counts = [suite.get(key) for key in ("tests", "failures", "errors", "skipped", "timestamp")]
    assert counts == ["4", "1", "1", "1", "2026-09-21T14:13:20+00:00"]
    kinds = [[child.tag for child in case if child.tag not in ("properties", "system-out")] for case in cases(ALL)]
    assert kinds == [[], ["failure"], ["skipped"], ["error"]]


def test_junit_failure_says_level_and_checks() -> None:
    failure = cases([FAILED])[0].find("failure")
    assert failure is not None
    assert failure.get("type") == "l1-kernel"
    assert "expected no WARN" in (failure.text or "")


def test_junit_survives_what_consoles_contain() -> None:
    error = cases([ERROR])[0].find("error")
    assert error is not None
    assert error.get("message") == "the lab broke"
    assert "with \ufffd[31mcolour\ufffd and <tags>" in (error.text or "")


def test_junit_properties() -> None:
    properties = {p.get("name"): p.get("value") for p in cases([PASSED])[0].iter("property")}
    assert properties["metric.tcp throughput"] == "14.8123 Mbit/s"
    assert properties["known"] == "F3"
    assert "level" not in properties


def test_junit_without_a_begin_has_no_timestamp() -> None:
    assert "timestamp" not in junit.render([], name="job", began=None)


def test_tap_points() -> None:
    lines = tap.render(ALL).splitlines()
    assert lines[:2] == ["TAP version 14", "1..4"]
    assert [line for line in lines if not line.startswith("  ")][2:] == [
        "ok 1 - net-vp_vdpa-vhost_vdpa-iperf3",
        "not ok 2 - net-vp_vdpa-vhost_vdpa-unplug",
        "ok 3 - net-ifcvf-vhost_vdpa-iperf3 # SKIP the site lacks PCI functions \\# for \\\\ vp_vdpa",
        "not ok 4 - net-vp_vdpa-vhost_vdpa-unplug",
    ]


def test_tap_diagnostics_are_yaml() -> None:
    block = tap.render([ERROR]).partition("  ---\n")[2].partition("  ...")[0]
    data = yaml.safe_load(block)
    assert (data["verdict"], data["reason"]) == ("ERROR", ERROR.reason)
    assert data["failed_checks"][0]["name"] == "kernel log of l1"


def test_tap_without_runs() -> None:
    assert tap.render([]) == "TAP version 14\n1..0 # SKIP no run was started\n"


def test_a_row_shows_where_and_what_is_known() -> None:
    assert row(FAILED)[1:4] == ("FAIL", "l1-kernel (l1)", "48.3")
    assert row(PASSED)[4].endswith("[known: F3]")
    assert row(ERROR)[4] == "the lab broke"


def test_plain_table_is_aligned() -> None:
    text = plain(("name", "n"), [("a", "1"), ("long", "100")], right=frozenset({1}))
    assert text == "name    n\na       1\nlong  100"
    assert plain_results([]).split() == ["scenario", "verdict", "level", "seconds", "reason"]


def test_rich_table_does_not_read_markup_from_reasons() -> None:
    console = Console(file=io.StringIO(), width=300)
    console.print(rich_results([replace(FAILED, reason="[red]oops[/nothing]")]))
    assert isinstance(console.file, io.StringIO)
    assert "[red]oops[/nothing]" in console.file.getvalue()


def test_compare_verdicts_and_metrics() -> None:
    slower = replace(PASSED, metrics=(Metric("tcp throughput", 7.40615, "Mbit/s"), Metric("new", 1, "ms")))
    comparison = compare([PASSED, FAILED], [slower, replace(FAILED, verdict=Verdict.PASS), SKIPPED])
    assert [(c.scenario, c.old, c.new) for c in comparison.verdicts] == [
        (FAILED.scenario, Verdict.FAIL, Verdict.PASS),
        (SKIPPED.scenario, None, Verdict.SKIP),
    ]
    ratios = {(m.scenario, m.metric): m.ratio for m in comparison.metrics}
    assert ratios[PASSED.scenario, "tcp throughput"] == pytest.approx(0.5)
    assert (PASSED.scenario, "new") not in ratios
    assert to_dict(comparison)["verdicts"][0]["new"] == "PASS"


def test_compare_takes_the_worst_verdict_and_the_median_of_repetitions() -> None:
    old = [replace(PASSED, duration_s=s) for s in (1, 2, 30)]
    new = [PASSED, FAILED, replace(PASSED, scenario=FAILED.scenario)]
    comparison = compare([*old, replace(PASSED, scenario=FAILED.scenario)], new)
    assert [(c.scenario, c.new) for c in comparison.verdicts] == [(FAILED.scenario, Verdict.FAIL)]
    duration = next(m for m in comparison.metrics if (m.scenario, m.metric) == (PASSED.scenario, "duration"))
    assert (duration.old, duration.new) == (2, 48.3)


def test_a_ratio_to_zero_is_none() -> None:
    zero = replace(PASSED, metrics=(Metric("loss", 0, "%"),))
    loss = next(m for m in compare([zero], [zero]).metrics if m.metric == "loss")
    assert loss.ratio is None


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [("PASS SKIP", "SKIP"), ("PASS FAIL SKIP", "FAIL"), ("FAIL ERROR PASS", "ERROR"), ("PASS PASS", "PASS")],
)
def test_worst_verdict(verdicts: str, worst: str) -> None:
    assert worst_verdict([replace(PASSED, verdict=Verdict(v)) for v in verdicts.split()]) == worst


def test_repeat_command_leaves_defaults_out() -> None:
    assert repeat_command(RunRequest(scenario="net-a")) == "vdpalab run net-a"


def test_repeat_command_says_everything_that_was_asked() -> None:
    request = RunRequest(
        scenario="my dir/x.toml",
        site="lab",
        overrides=("a.b=1 2",),
        artifacts=ArtifactOptions(
            kernel="debug",
            kernel_tree=Path("/src/linux"),
            kernel_ref="v6.12",
            kernel_modules=Path("/m"),
            patches=(Path("/p1"), Path("/p2")),
            virtbus="none",
            qemu_l0=Path("/q0"),
            qemu_l1=Path("/q1"),
        ),
        accel="tcg",
        cold=True,
        pcap=True,
        stop_at="attach",
    )
    assert repeat_command(request) == (
        "vdpalab run 'my dir/x.toml' --site lab --set 'a.b=1 2' --kernel debug --kernel-tree /src/linux "
        "--kernel-ref v6.12 --kernel-modules /m --virtbus none --qemu-l0 /q0 --qemu-l1 /q1 --patch /p1 --patch /p2 "
        "--accel tcg --cold --pcap --stop-at attach"
    )
