"""A real machine as L1 differs in the site only: a VM of the lab that another run keeps up is one, reached by ssh.

It was up before and stays up afterwards, so what a run leaves on it and what it blames it for show here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.document import Result
from tests.e2e.driver import Cli
from tests.e2e.injections import IN_L1, IN_L2, LONG, SPLAT

pytestmark = pytest.mark.nightly

# What a run may leave is what it found: devices, namespaces, interfaces, files, processes (modules stay by design).
LOOK = """
vdpa -j dev show
cat /sys/bus/vdpa/drivers_autoprobe
find /sys/bus/vdpa/devices /sys/class/net /run/netns /run/vdpalab -mindepth 1 2>/dev/null | sort
ps axo comm | grep -E 'qemu|iperf3|fio|socat|tail' || echo no process
"""


@dataclass(frozen=True)
class Machine:
    """The machine that is up, as its owner sees it, and the file that describes it to the lab."""

    cli: Cli
    keeper: Path
    site: str

    def look(self) -> str:
        """What there is on it of which a run could leave something."""
        self.sh("modprobe vdpa")
        return self.sh(LOOK)

    def sh(self, script: str) -> str:
        done = self.cli.inside(self.keeper, "l1", script)
        assert done.returncode == 0, done.stderr.decode()
        return done.text

    def run(self, *words: str) -> Result:
        [result] = self.cli.run(*words, "--site", self.site).document.results
        return result


@pytest.fixture
def machine(cli: Cli, tmp_path: Path) -> Iterator[Machine]:
    with cli.running("net-vdpa_sim-virtio_vdpa-iperf3", "--stop-at", "machines", "--keep") as keeping:
        keeper = keeping.wait_event(lambda event: event["event"] == "kept", "the machine that is kept up")
        way = json.loads((keeper / "machines/l1/ssh.json").read_text())
        site = {"kind": "ssh", "summary": "a machine that is up", "address": way["host"], "user": way["user"]}
        site |= {"port": way["port"], "identity": way["identity"], "host_key": way["host_key"]}
        file = tmp_path / "machine.toml"
        file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in site.items()))
        yield Machine(cli, keeper, str(file))
        keeping.interrupt()
        keeping.end()


def test_the_same_scenario_passes_and_leaves_the_machine_as_it_was(machine: Machine) -> None:
    # A fault that another has caused before is no fault of this run.
    machine.sh(SPLAT)
    before = machine.look()
    for _ in range(2):
        result = machine.run(IN_L1)
        assert (result.verdict, result.level) == ("PASS", None), result.reason
        assert [check for check in result.checks if check.proof]
        assert result.accel.l1 is None
        assert machine.look() == before
    assert {check.machine for check in result.checks if check.name == "kernel log"} == {"l1"}


def test_a_splat_during_the_run_is_blamed_on_its_kernel(machine: Machine) -> None:
    cli = machine.cli
    with cli.running(IN_L1, "--site", machine.site, *LONG) as running:
        run_dir = running.wait_step("exercise")
        machine.sh(SPLAT)
        [result] = running.end().document.results
    assert (result.verdict, result.level, result.machine) == ("FAIL", "l1-kernel", "l1"), result.reason
    assert re.search("kernel log: .*WARNING.*lkdtm", result.reason, re.DOTALL)
    assert (run_dir / "collect/l1-dmesg.txt").exists()


def test_guests_run_on_it_too(machine: Machine) -> None:
    before = machine.look()
    result = machine.run(IN_L2)
    assert (result.verdict, result.level) == ("PASS", None), result.reason
    assert machine.look() == before


def test_what_it_does_not_have_is_skipped_and_named(machine: Machine) -> None:
    result = machine.run("net-vp_vdpa-virtio_vdpa-iperf3")
    assert (result.verdict, result.level) == ("SKIP", "lab"), result.reason
    assert "PCI functions given to the lab for vp_vdpa" in result.reason
    machine.sh("mv /usr/bin/iperf3 /usr/bin/iperf3.off")
    before = machine.look()
    result = machine.run(IN_L1)
    assert (result.verdict, result.level) == ("SKIP", "lab"), result.reason
    assert "the site lacks iperf3 on" in result.reason
    assert machine.look() == before
