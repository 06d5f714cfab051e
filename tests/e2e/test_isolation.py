"""Labs beside each other, and labs that were killed whole: no run sees another, nothing stays for ever."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest

from lab.report.events import read_events
from lab.wait import Deadline, wait_until
from tests.e2e.document import Result, assert_evidence
from tests.e2e.driver import Cli, reported_pid

IN_L1 = "net-vdpa_sim-virtio_vdpa-iperf3"
VF_IN_L2 = "net-vp_vdpa-vhost_vdpa-iperf3"


def begin_and_end(result: Result) -> tuple[float, float]:
    """On the monotonic clock, which all processes share."""
    events, _ = read_events(result.folder)
    return float(events[0]["t"]), float(events[-1]["t"])


def assert_both_passed_at_once(results: Sequence[Result]) -> None:
    assert [result.verdict for result in results] == ["PASS", "PASS"], [result.reason for result in results]
    (begin, end), (other_begin, other_end) = map(begin_and_end, results)
    assert max(begin, other_begin) < min(end, other_end), "they did not run at the same time"
    for result in results:
        assert_evidence(result)


@pytest.mark.push
def test_two_at_once_in_one_job(cli: Cli) -> None:
    ended = cli.run("net-vp_vdpa-virtio_vdpa-iperf3", "--repeat", "2", "-j", "2")
    assert ended.status == 0
    assert_both_passed_at_once(ended.document.results)


@pytest.mark.nightly
def test_two_at_once_as_two_processes(cli: Cli) -> None:
    with cli.running(VF_IN_L2) as one, cli.running(VF_IN_L2) as other:
        ended = [one.end(), other.end()]
    assert [each.status for each in ended] == [0, 0]
    assert_both_passed_at_once([result for each in ended for result in each.document.results])


@pytest.mark.parametrize(
    "by", [pytest.param("clean", marks=pytest.mark.push), pytest.param("run", marks=pytest.mark.nightly)]
)
def test_what_a_lab_leaves_that_was_killed_whole_is_cleaned(by: str, cli: Cli) -> None:
    with cli.running(IN_L1, "--set", "workload.streams.0.seconds=20") as running:
        run_dir = running.wait_step("exercise")
        qemu = reported_pid(run_dir / "machines/l1/qemu.pid")
        for pid in cli.processes().keys() - {qemu}:
            os.kill(pid, signal.SIGKILL)
        running.process.wait(Deadline(30))
    wait_until(lambda: list(cli.processes()) == [qemu], Deadline(30), "the end of all but QEMU")
    told = cli.call("clean", "--dry-run").text
    assert f"would go: process {qemu} (qemu-system-x86_64)" in told
    assert (run_dir / "machines/l1/root.qcow2").exists()
    if by == "clean":
        done = cli.call("clean")
        said = done.text
        assert done.returncode == 0
    else:
        said = cli.run(IN_L1, "--stop-at", "plan").said
    assert f"ended: process {qemu} (qemu-system-x86_64)" in said
    assert "root.qcow2" in said
    assert cli.call("clean").text == "nothing to clean"
    # What tells the story stays.
    assert (run_dir / "machines/l1/console.log").stat().st_size
    assert read_events(run_dir)[0]
