"""``vdpalab doctor``: what this machine has and lacks for the lab, each with the command that fixes it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import yaml

from lab import proc
from lab.artifacts.mirror import OVERRIDE, machine_mirror
from lab.artifacts.store import cache_root
from lab.cli.exit import ExitStatus
from lab.errors import InputError, LabError

ANSIBLE = Path(__file__).parents[2] / "ansible"
SETUP = "vdpalab setup"

# An allowance, not a measurement: source, build tree and artifact of a kernel, two images, and the runs' records.
_DISK_GIB = 12
# One scenario's lab takes 2.3 GiB (`vdpalab plan`), and admission keeps some back; a machine sold with 4 GiB has that.
_RAM_GIB = 3.5
# Subordinate ids that a user gets, as many as useradd(8) gives.
SUBIDS = 65536

_GIB = 1 << 30
_PROBE_S = 10.0
_ETC = Path("/etc")


@dataclass(frozen=True)
class Need:
    """One thing that the lab uses. ``fix`` is the command to type; without a ``required`` one the lab works too."""

    name: str
    ok: bool
    seen: str
    fix: str = ""
    required: bool = True


def needed_packages() -> list[str]:
    """Debian packages that the role ``labhost`` installs."""
    defaults = yaml.safe_load((ANSIBLE / "roles/labhost/defaults/main.yml").read_text())
    return [str(name) for name in defaults["labhost_packages"]]


def missing_packages() -> list[str]:
    """Those of the needed packages that dpkg does not have installed. Raises LabError where there is no dpkg."""
    if not shutil.which("dpkg-query"):
        raise LabError("this is not a Debian system: dpkg-query is missing", hint="use Debian 12 or 13")
    wanted = needed_packages()
    # The status is 1 when dpkg has never heard of some package; that is an answer too.
    query = proc.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted], check=False)
    installed = {line.split()[0] for line in query.text.splitlines() if line.endswith(" installed")}
    return [name for name in wanted if name not in installed]


def lab_user() -> str:
    """Who runs the lab: the user who called sudo, when somebody did."""
    return (os.environ.get("SUDO_USER") if os.geteuid() == 0 else None) or getpass.getuser()


def lacks_subids(user: str, etc: Path = _ETC) -> list[str]:
    """Which of subuid(5) and subgid(5) have no range for ``user``; root needs none."""
    if user == "root":
        return []
    return [name for name in ("subuid", "subgid") if user not in [owner for owner, _, _ in _ranges(etc / name)]]


def first_free_subid(name: str, etc: Path = _ETC) -> int:
    """First id behind all ranges of the file ``name``, as the role computes it."""
    return max([100000, *(int(first) + int(count) for _, first, count in _ranges(etc / name))])


def _ranges(file: Path) -> list[list[str]]:
    """USER, FIRST and COUNT of each line of subuid(5) or subgid(5)."""
    return [line.split(":", 2) for line in file.read_text().split()] if file.exists() else []


def _python() -> Need:
    return Need("Python", ok=True, seen=platform.python_version())


def _packages() -> list[Need]:
    try:
        missing = set(missing_packages())
    except LabError as error:
        return [Need("Debian packages", ok=False, seen=error.message, fix=error.hint)]
    return [
        Need(f"package {name}", name not in missing, "missing" if name in missing else "installed", SETUP)
        for name in needed_packages()
    ]


def _subids() -> Need:
    user = lab_user()
    lacks = lacks_subids(user)
    seen = f"no range for {user} in {' and '.join(lacks)}" if lacks else f"{user} has what it needs"
    return Need("subordinate ids", not lacks, seen, SETUP)


def _namespaces() -> Need:
    """Whether mmdebstrap can do its work: as root in a mount namespace, else in a user namespace too."""
    if os.geteuid() == 0:
        argv = ["unshare", "--mount", "--propagation", "unchanged", "true"]
        fix = "run the lab where root has CAP_SYS_ADMIN: not in an unprivileged container"
    else:
        argv = ["unshare", "--user", "--map-root-user", "--mount", "true"]
        fix = "vdpalab setup; then sudo sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000"
    try:
        tried = proc.run(argv, check=False, timeout_s=_PROBE_S)
    except LabError as error:
        return Need("namespaces", ok=False, seen=error.message, fix=SETUP)
    seen = "usable" if tried.returncode == 0 else tried.stderr.decode(errors="replace").strip()
    return Need("namespaces", tried.returncode == 0, f"{argv[1]}: {seen}", fix)


def _kvm(device: Path = Path("/dev/kvm")) -> Need:
    """That the device opens proves little, so this is no requirement; the lab decides by booting a tiny payload."""
    if not device.exists():
        return Need("KVM", ok=False, seen=f"no {device}: TCG, which is slower", required=False)
    if not os.access(device, os.R_OK | os.W_OK):
        return Need("KVM", ok=False, seen=f"{device} is not ours to open", fix=_KVM_FIX, required=False)
    return Need("KVM", ok=True, seen=f"{device} opens; `--accel auto` proves it by booting", required=False)


_KVM_FIX = 'sudo usermod -aG kvm "$USER", then log in again'


def _disk() -> Need:
    cache = cache_root()
    there = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free / _GIB
    fix = "vdpalab artifacts gc, vdpalab clean, or set VDPALAB_CACHE to a larger disk"
    return Need("disk space", free >= _DISK_GIB, f"{free:.0f} GiB free for {cache}, {_DISK_GIB} needed", fix)


def _memory() -> Need:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    return Need("memory", total >= _RAM_GIB, f"{total:.1f} GiB, {_RAM_GIB} needed", "use a larger machine")


def _mirror() -> Need:
    try:
        return Need("Debian mirror", ok=True, seen=machine_mirror().archive)
    except InputError as error:
        fix = error.hint or f"a Debian source in /etc/apt, or {OVERRIDE}=URI"
        return Need("Debian mirror", ok=False, seen=error.message, fix=fix)


_PROBES: tuple[Callable[[], Need], ...] = (_python, _subids, _namespaces, _mirror, _disk, _memory, _kvm)


def examine() -> list[Need]:
    """Look at everything; changes nothing."""
    return [*_packages(), *(probe() for probe in _PROBES)]


def _write_table(needs: Sequence[Need]) -> None:
    """One line per need, what is missing last, where it is seen."""
    for need in sorted(needs, key=lambda need: not need.ok):
        word = "ok" if need.ok else "MISSING" if need.required else "absent"
        click.echo(f"{word:8}{need.name:32}{need.seen}")
        if need.fix and not need.ok:
            click.echo(f"{'':8}  fix: {need.fix}")


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table.")
def command(as_json: bool) -> ExitStatus:
    """Say what this machine lacks for the lab, and the command that fixes it.

    Exit status 0 when nothing required is missing, else 3. Nothing is changed.

    \b
    Examples:
      vdpalab doctor
      vdpalab doctor --json | jq '.needs[] | select(.ok | not)'
    """
    needs = examine()
    fit = all(need.ok for need in needs if need.required)
    if as_json:
        click.echo(json.dumps({"schema": 1, "fit": fit, "needs": [asdict(need) for need in needs]}, indent=2))
    else:
        _write_table(needs)
    return ExitStatus.OK if fit else ExitStatus.ERROR
