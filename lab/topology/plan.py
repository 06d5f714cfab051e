"""scenario + site + what the user asked -> a frozen plan. Pure: nothing is touched, everything is decided.

The plan names every device, address and machine of the run. All names carry the run id, so that two runs on one
machine never collide and `vdpalab clean` knows what belongs to whom.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from lab.artifacts.provide import problems as artifact_problems
from lab.config.catalog import load_scenario, load_site
from lab.config.request import RunRequest
from lab.config.scenario import Fio, Iperf3, Migrate, Scenario, Unplug, VdpaSim, VpVdpa
from lab.config.site import MachineSize, NestedSite, SshSite
from lab.errors import InputError
from lab.model import AttachMode, DeviceClass

# Bytes of the backing file behind an emulated virtio-blk function; vdpa_sim_blk has as much.
BLOCK_BYTES = 128 << 20

# What QEMU needs beside the guest's RAM, in MiB; measured as RSS minus touched RAM.
_QEMU_MB = 300

# Seconds that scenarios take on the reference machine with everything cached, for "longest first".
_BASE_S = {AttachMode.VHOST_VDPA: 45.0, AttachMode.VIRTIO_VDPA: 15.0}


@dataclass(frozen=True)
class VdpaNames:
    """Names of the vDPA devices: under test, migration destination, witness or peer."""

    main: str
    second: str


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before anything is touched. Sizes in MiB, times in seconds."""

    run_id: str
    name: str
    scenario: Scenario
    site_name: str
    site: NestedSite | SshSite
    request: RunRequest
    guests: tuple[str, ...]
    cold: bool
    macs: dict[str, str]
    addresses: dict[str, str]
    vdpa: VdpaNames
    lacks: tuple[str, ...]

    @property
    def l2(self) -> MachineSize:
        """Size of each guest."""
        return self.site.l2

    @property
    def ram_mb(self) -> int:
        """RAM that the run takes on this machine, in MiB."""
        return self.site.l1.memory_mb + _QEMU_MB if isinstance(self.site, NestedSite) else 64

    @property
    def cores(self) -> int:
        """Processors of this machine that the run keeps busy."""
        return self.site.l1.cpus if isinstance(self.site, NestedSite) else 1

    @property
    def estimate_s(self) -> float:
        """How long it will roughly take, to start the longest first."""
        action = 25.0 if self.scenario.action else 0.0
        return _BASE_S[self.scenario.attach.mode] + action

    def _boot(self) -> str:
        if not self.guests:
            return "L1 alone, which uses the device itself"
        return "cold: L2 boots with its device" if self.cold else "L2 boots without devices; they are hot-plugged"

    def to_json(self) -> dict[str, Any]:
        """What `plan` prints and plan.json keeps."""
        return {
            "run_id": self.run_id,
            "scenario": self.name,
            "site": self.site_name,
            "summary": self.scenario.summary,
            "machines": {"l1": _size(self.site), **{guest: self.l2.model_dump() for guest in self.guests}},
            "boot": self._boot(),
            "vdpa": {"main": self.vdpa.main, "second": self.vdpa.second},
            "macs": self.macs,
            "addresses": self.addresses,
            "ram_mb": self.ram_mb,
            "cores": self.cores,
            "estimate_s": self.estimate_s,
            "lacks": list(self.lacks),
            "config": self.scenario.model_dump(mode="json", by_alias=True),
            "site_config": self.site.model_dump(mode="json"),
            "request": self.request.model_dump(mode="json"),
        }


def make_plan(request: RunRequest) -> Plan:
    """Read the scenario and the site that a request names and plan it. Raises InputError with all problems."""
    problems: list[str] = []
    name, scenario, site = request.scenario, None, None
    try:
        name, scenario = load_scenario(request.scenario, request.overrides)
    except InputError as error:
        problems += error.problems
    try:
        site = load_site(request.site)
    except InputError as error:
        problems += error.problems
    problems += artifact_problems(request.artifacts)
    if isinstance(site, SshSite) and not site.identity.exists():
        problems.append(f"site {request.site}: identity: {site.identity} does not exist")
    if scenario:
        problems += [f"{name}: {problem}" for problem in contradictions(scenario, request)]
    if problems or scenario is None or site is None:
        raise InputError(problems)
    return plan(name, scenario, site, request, secrets.token_hex(4))


def plan(name: str, scenario: Scenario, site: NestedSite | SshSite, request: RunRequest, run_id: str) -> Plan:
    """Decide everything. ``run_id`` is eight hexadecimal digits."""
    net = 0x10 + int(run_id[:1], 16)
    return Plan(
        run_id=run_id,
        name=name,
        scenario=scenario,
        site_name=request.site,
        site=site,
        request=request,
        guests=guests(scenario),
        cold=request.cold or scenario.cold,
        macs=_macs(scenario, run_id),
        addresses={"server": f"10.{net}.0.2", "client": f"10.{net}.0.1", "prefix": "24"},
        vdpa=VdpaNames(main=f"v{run_id}a", second=f"v{run_id}b"),
        lacks=_lacks(scenario, site),
    )


def guests(scenario: Scenario) -> tuple[str, ...]:
    """Names of the L2 guests that a scenario needs."""
    if isinstance(scenario.action, Migrate):
        return ("l2", "l2dst")
    return ("l2",) if scenario.attach.mode is AttachMode.VHOST_VDPA else ()


def contradictions(scenario: Scenario, request: RunRequest) -> list[str]:
    """What cannot go together, each as one sentence; configs/matrix.toml tells why."""
    found: list[str] = []
    workload, action, vhost = scenario.workload, scenario.action, scenario.attach.mode is AttachMode.VHOST_VDPA
    if isinstance(workload, Fio) and scenario.device_class is DeviceClass.NET:
        found.append("fio needs a block device, this one is a network device")
    if isinstance(workload, Iperf3) and scenario.device_class is DeviceClass.BLK:
        found.append("iperf3 needs a network device, this one is a block device")
    if action and not vhost:
        found.append(f"{action.kind} acts on a guest's device, and virtio_vdpa uses it in L1: attach by vhost_vdpa")
    if isinstance(action, Migrate) and not (
        isinstance(scenario.device, VdpaSim) and scenario.device_class is DeviceClass.NET
    ):
        found.append("migrate needs a vdpa_sim network device: others have no suspend, and generic ones no state")
    if isinstance(action, Unplug) and scenario.device_class is not DeviceClass.NET:
        found.append("unplug is written for network devices")
    if isinstance(action, Migrate) and (scenario.cold or request.cold):
        found.append("migrate hot-plugs its device; it has no cold form")
    return found


def _lacks(scenario: Scenario, site: NestedSite | SshSite) -> tuple[str, ...]:
    if isinstance(site, SshSite) and isinstance(scenario.device, VpVdpa):
        return ("PCI functions given to the lab for vp_vdpa",)
    return ()


def _macs(scenario: Scenario, run_id: str) -> dict[str, str]:
    """Every MAC of the run: locally administered, the whole run id, a number.

    QEMU's own default would be the same in L1 and L2 (nested.md 5).
    """
    vfs = scenario.device.vfs if isinstance(scenario.device, VpVdpa) else 2
    numbers = {"l1": 0x01, "l2": 0x02, "pf": 0x10, **{f"vf{n}": 0x10 + n for n in range(1, vfs + 1)}, "sim": 0x20}
    run = ":".join(run_id[at : at + 2] for at in range(0, 8, 2))
    return {name: f"52:{run}:{number:02x}" for name, number in numbers.items()}


def _size(site: NestedSite | SshSite) -> dict[str, Any]:
    return site.l1.model_dump() if isinstance(site, NestedSite) else {"address": site.address}
