"""The emulated Intel IFC VFs: every scenario on them, and the ways of setting one up."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.config.catalog import load_suite
from tests.e2e.document import assert_evidence
from tests.e2e.driver import Cli

IN_L1 = "net-ifcvf-virtio_vdpa-iperf3"
IN_L2 = "net-ifcvf-vhost_vdpa-iperf3"
MOVES = "net-ifcvf-vhost_vdpa-migrate"

BIG_GUEST = """
kind = "nested"
summary = "a guest of 512 MiB"
l1 = { memory_mb = 2560, cpus = 2 }
l2 = { memory_mb = 512, cpus = 1 }
"""


def passes(cli: Cli, *words: str) -> None:
    ended = cli.run(*words)
    assert ended.status == 0, ended.said
    for result in ended.document.results:
        assert (result.verdict, result.level) == ("PASS", None), result.reason
        assert [check.name for check in result.checks if check.proof and check.verdict == "PASS"]
        # Who may not read this machine's own kernel log is told so.
        assert {check.verdict for check in result.checks if check.machine != "l0"} == {"PASS"}
        assert_evidence(result)


@pytest.mark.push
def test_a_vf_carries_a_guest_s_traffic(cli: Cli) -> None:
    passes(cli, IN_L2)


@pytest.mark.nightly
@pytest.mark.parametrize("scenario", sorted({*load_suite("ifcvf").scenarios} - {IN_L2}))
def test_scenario(scenario: str, cli: Cli) -> None:
    passes(cli, scenario)


@pytest.mark.nightly
@pytest.mark.parametrize("words", [
    [IN_L1, "--set", "device.iommu=translated"],
    [IN_L2, "--set", "device.iommu=translated"],
    [IN_L1, "--set", "device.card=c5000x"],
    [IN_L2, "--set", "device.card=c5000x"],
    [IN_L1, "--cold"],
    [IN_L2, "--cold"],
], ids=" ".join)  # fmt: skip
def test_ways_of_setting_one_up(words: list[str], cli: Cli) -> None:
    passes(cli, *words)


@pytest.mark.nightly
@pytest.mark.timeout(1200, func_only=True)
def test_a_guest_of_512_mib_starts_every_time(cli: Cli, tmp_path: Path) -> None:
    site = tmp_path / "big.toml"
    site.write_text(BIG_GUEST)
    passes(cli, IN_L2, "--site", str(site), "--repeat", "5")
