"""What the options of `run` change, seen in what the run did."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from lab.artifacts.store import cache_root
from lab.report.events import read_events
from tests.e2e.document import Result, assert_evidence
from tests.e2e.driver import Cli

IN_L1 = "net-vdpa_sim-virtio_vdpa-iperf3"
VF_IN_L1 = "net-vp_vdpa-virtio_vdpa-iperf3"
VF_IN_L2 = "net-vp_vdpa-vhost_vdpa-iperf3"

# A kernel with other options is built first, by two slow cores.
_BUILDS = pytest.mark.timeout(7200, func_only=True)


def passed(cli: Cli, *words: str) -> Result:
    with cli.running(*words) as running:
        ended = running.end(7000)
    [result] = ended.document.results
    assert (ended.status, result.verdict) == (0, "PASS"), ended.said
    assert_evidence(result)
    return result


def version(result: Result) -> str:
    return (result.folder / "collect/l1-version.txt").read_text()


def lengths(pcap: bytes) -> list[int]:
    """Bytes that a capture holds of each packet (pcap-savefile(5), little endian)."""
    found, at = [], 24
    while at + 16 <= len(pcap):
        found.append(int.from_bytes(pcap[at + 8 : at + 12], "little"))
        at += 16 + found[-1]
    return found


def event(result: Result, kind: str, **wanted: str) -> dict[str, Any]:
    events, _ = read_events(result.folder)
    return next(dict(e) for e in events if e["event"] == kind and wanted.items() <= e.items())


@pytest.mark.push
def test_kvm_is_used_when_it_is_proved_and_never_on_its_word(cli: Cli) -> None:
    """/dev/kvm may be there, open, create VMs, and still not run a kernel: then who demands it gets a SKIP, at once."""
    ended = cli.run(IN_L1, "--accel", "kvm", "--stop-at", "machines")
    [result] = ended.document.results
    assert (ended.status, result.verdict) == (77, "SKIP"), ended.said
    if result.accel.l1 == "kvm":
        assert "booted under KVM" in event(result, "accel", level="l1")["reason"]
    else:
        assert result.reason.startswith("the site lacks usable KVM: "), result.reason
        assert not (result.folder / "machines/l1/console.log").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("scenario", [VF_IN_L2, "net-vp_vdpa-vhost_vdpa-unplug", "blk-vdpa_sim-vhost_vdpa-fio"])
def test_cold(scenario: str, cli: Cli) -> None:
    result = passed(cli, scenario, "--cold")
    assert "vhostdev" in (result.folder / "machines/l2/argv.txt").read_text()


@pytest.mark.nightly
@_BUILDS
@pytest.mark.parametrize(
    ("kernel", "shown", "scenario"),
    [
        ("debug", "Linux version 6.12", VF_IN_L1),
        # No VF of virtio-net: F017.
        ("6.1", "Linux version 6.1.", "blk-vp_vdpa-virtio_vdpa-fio"),
        ("backports", "Linux version ", VF_IN_L1),
    ],
)
def test_kernels(kernel: str, shown: str, scenario: str, cli: Cli) -> None:
    result = passed(cli, scenario, "--kernel", kernel)
    assert shown in version(result)
    assert ("kernel memory leaks" in {check.name for check in result.checks}) == (kernel == "debug")


@pytest.mark.nightly
@_BUILDS
def test_a_parameter_that_a_kernel_does_not_have_is_named(cli: Cli) -> None:
    with cli.running(IN_L1, "--kernel", "6.1") as running:
        ended = running.end(7000)
    [result] = ended.document.results
    assert (ended.status, result.verdict) == (77, "SKIP"), ended.said
    assert "lacks parameter use_va of module vdpa_sim (kernel 6.1." in result.reason


@pytest.mark.nightly
@_BUILDS
def test_a_patched_tree_is_what_runs_and_is_not_written_to(cli: Cli, tmp_path: Path) -> None:
    [source] = (cache_root() / "artifacts/entries/linux-source-6.12").glob("*/files")
    tree = tmp_path / "linux"
    shutil.copytree(source, tree, symlinks=True)
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    makefile = (tree / "Makefile").read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(makefile) if line.startswith("EXTRAVERSION"))
    (tmp_path / "mine.patch").write_text(
        f"--- a/Makefile\n+++ b/Makefile\n@@ -{at},3 +{at},3 @@\n {makefile[at - 1]}-{makefile[at]}"
        f"+EXTRAVERSION = -mine\n {makefile[at + 1]}"
    )
    result = passed(cli, IN_L1, "--kernel-tree", str(tree), "--patch", str(tmp_path / "mine.patch"))
    assert "-mine" in version(result)
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before


@pytest.mark.nightly
def test_another_qemu(cli: Cli, artifacts: dict[str, Any], tmp_path: Path) -> None:
    """The store's own under another name: what counts is that the one that was named is the one that runs."""
    files = cache_root() / "artifacts/entries/host-image" / artifacts["host_image"] / "files/qemu"
    assert files.is_dir()
    plain = passed(cli, IN_L1)
    own = tmp_path / "mine" / "qemu-system-x86_64"
    own.parent.mkdir()
    words = (plain.folder / "machines/l1/argv.txt").read_text().partition(" -name ")[0]
    own.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    own.chmod(0o755)
    result = passed(cli, IN_L1, "--qemu-l0", str(own))
    assert (result.folder / "machines/l1/argv.txt").read_text().startswith(str(own))


@pytest.mark.nightly
def test_whole_packets(cli: Cli) -> None:
    """The heads are dropped with the run; whole packets are what the user asked for and stay."""
    heads, whole = passed(cli, VF_IN_L1), passed(cli, VF_IN_L1, "--pcap")
    assert not list(heads.folder.rglob("*.pcap"))
    capture = (whole.folder / "machines/l1/vf1.pcap").read_bytes()
    # Of a segment of 1448 bytes, a head of 64 holds no payload; iperf3's is longer than any head.
    assert max(lengths(capture)) > 1000
