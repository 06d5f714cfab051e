"""lab.topology.preflight: what lacks is named before anything depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.config.catalog import load_scenario
from lab.config.request import RunRequest
from lab.config.site import NestedSite, SshSite
from lab.errors import SiteLacks
from lab.host.fake import FakeHost
from lab.machine.keys import make_key
from lab.topology.plan import Plan, plan
from lab.topology.preflight import available_mb, check_memory, check_programs
from tests.unit.conftest import TreeHost

NESTED = NestedSite(kind="nested", summary="here")
MEMINFO = "MemTotal:  8000000 kB\nMemAvailable: {} kB\nBuffers: 1 kB\n"


def planned(name: str, site: NestedSite | SshSite = NESTED) -> Plan:
    return plan(name, load_scenario(name)[1], site, RunRequest(scenario=name), "1a2b3c4d")


@pytest.fixture
def site(tmp_path: Path) -> SshSite:
    key = make_key(tmp_path / "key")
    return SshSite(
        kind="ssh", summary="there", address="192.0.2.1", identity=key.private, host_key=key.public, qemu="/opt/qemu"
    )


def test_available_memory() -> None:
    assert available_mb(MEMINFO.format(4096000)) == 4000


def test_memory(tmp_path: Path, site: SshSite) -> None:
    made, meminfo = planned("net-vdpa_sim-virtio_vdpa-iperf3"), tmp_path / "meminfo"
    meminfo.write_text(MEMINFO.format(made.ram_mb << 10))
    check_memory(made, meminfo)
    meminfo.write_text(MEMINFO.format((made.ram_mb - 1) << 10))
    with pytest.raises(SiteLacks, match=f"{made.ram_mb} MiB of RAM: {made.ram_mb - 1} MiB are available"):
        check_memory(made, meminfo)
    check_memory(planned(made.name, site), meminfo)


@pytest.mark.parametrize(
    ("name", "programs"),
    [
        ("net-vdpa_sim-virtio_vdpa-iperf3", "modprobe vdpa ip iperf3"),
        ("blk-vdpa_sim-virtio_vdpa-fio", "modprobe vdpa fio"),
        ("net-vdpa_sim-vhost_vdpa-migrate", "modprobe vdpa ip /opt/qemu socat"),
        ("blk-vdpa_sim-vhost_vdpa-fio", "modprobe vdpa /opt/qemu socat"),
    ],
)
def test_programs_of_a_real_machine(name: str, programs: str, site: SshSite, tmp_path: Path) -> None:
    host = FakeHost({"sh *": ""}, tmp_path)
    check_programs(planned(name, site), site, host)
    assert host.commands[0].endswith(f" vdpalab {programs}")


def test_what_lacks_is_all_named(tree: TreeHost, site: SshSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/bin-of-nobody")
    for name in ("sh", "modprobe", "ip"):
        tree.program(name, 'exec /bin/sh "$@"')
    made = planned("net-vdpa_sim-virtio_vdpa-iperf3", site)
    with pytest.raises(SiteLacks, match=r"^vdpa, iperf3 on 192\.0\.2\.1$"):
        check_programs(made, site, tree)
    for name in ("vdpa", "iperf3"):
        tree.program(name)
    check_programs(made, site, tree)
