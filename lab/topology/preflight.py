"""What a site has to have for a run, looked at before anything depends on it. Only reads.

What lacks makes the run a SKIP that names it, where some later step would end it as an error of the lab.
"""

from __future__ import annotations

from pathlib import Path

from lab.config.site import SshSite
from lab.errors import SiteLacks
from lab.host.base import Host
from lab.host.shell import run_script
from lab.model import AttachMode, DeviceClass
from lab.topology.plan import Plan

_MISSING = 'for name; do command -v "$name" >/dev/null || echo "$name"; done'


def check_memory(plan: Plan, meminfo: Path = Path("/proc/meminfo")) -> None:
    """Raise SiteLacks when this machine cannot give the run its RAM now."""
    available = available_mb(meminfo.read_text())
    if plan.ram_mb > available:
        raise SiteLacks(f"{plan.ram_mb} MiB of RAM: {available} MiB are available")


def available_mb(meminfo: str) -> int:
    """MiB that can be used without swapping: MemAvailable of /proc/meminfo (proc(5))."""
    line = next(line for line in meminfo.splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) >> 10


def check_programs(plan: Plan, site: SshSite, host: Host) -> None:
    """Raise SiteLacks naming every program that the run calls on a real L1 and that is not there."""
    missing = run_script(host, _MISSING, *_programs(plan, site)).text.split()
    if missing:
        raise SiteLacks(f"{', '.join(missing)} on {site.address}")


def _programs(plan: Plan, site: SshSite) -> list[str]:
    """The programs that a machine may be without: not those of coreutils and util-linux."""
    scenario = plan.vdpa_scenario
    network = ["ip"] if scenario.device_class is DeviceClass.NET else []
    in_guest = scenario.attach.mode is AttachMode.VHOST_VDPA
    return ["modprobe", "vdpa", *network, *([site.qemu, "socat"] if in_guest else [scenario.workload.kind])]
