"""Which accelerator really works. /dev/kvm can exist, open, create VMs and still not run a guest (nested.md 2).

``auto`` therefore boots the kernel that the lab is going to boot, without a root file system: it must come as far as
looking for one. A boot sector is not enough: there are hosts on which firmware and real mode run under KVM and the
first VEX-encoded instruction of a stock kernel ends in "KVM internal error, emulation failure".
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lab.errors import DeadlineExceeded, SiteLacks
from lab.host.base import Host
from lab.model import Accel, Completed

# What the kernel says when it has run through its whole initialisation and found no root file system.
_PROOF = b"Kernel panic - not syncing: VFS: Unable to mount root fs"
# KVM boots this in about a second; on a broken one QEMU stops the machine and would wait for ever.
_PROBE_S = 10


@dataclass(frozen=True)
class Acceleration:
    """The accelerator of one level, and how the lab knows."""

    accel: Accel
    reason: str


def decide(want: Literal["auto", "kvm", "tcg"], probed: Completed | str) -> Acceleration:
    """Choose by what the user wants and what the probe gave (a string: why there was none to run).

    Raises SiteLacks when KVM is demanded and not proven.
    """
    if want == "tcg":
        return Acceleration(Accel.TCG, "asked for")
    if isinstance(probed, Completed) and proved(probed):
        return Acceleration(Accel.KVM, f"the kernel booted under KVM in {probed.duration_s:.1f} s")
    reason = probed if isinstance(probed, str) else _failure(probed)
    if want == "kvm":
        raise SiteLacks(f"usable KVM: {reason}")
    return Acceleration(Accel.TCG, f"KVM is not usable: {reason}")


def proved(probed: Completed | str) -> bool:
    """Whether the kernel came to its end."""
    return isinstance(probed, Completed) and _PROOF in probed.stdout


def choose(
    want: Literal["auto", "kvm", "tcg"],
    host: Host,
    qemu: Sequence[str],
    kernel: str,
    cache: Path | None = None,
    *,
    machine: str = "",
) -> Acceleration:
    """Prove KVM on ``host`` with this QEMU and kernel, or say why TCG is used. ``cache`` keeps the proof when given.

    ``machine`` tells hosts apart that have the same QEMU and kernel: what emulates an L1, and how.
    """
    if want == "tcg":
        return decide(want, "")
    key = json.dumps([machine, list(qemu), host.run(["uname", "-rv"]).text])
    known = _remembered(cache) if cache else {}
    if key in known and want == "auto":
        return Acceleration(Accel(known[key]["accel"]), known[key]["reason"])
    lack = _no_kvm(host)
    decision = decide(want, lack or probe(host, qemu, kernel))
    # A lack is seen for nothing, and may be mended before the next run. A kernel that boots nowhere says nothing about
    # KVM, and must not be remembered as if it did.
    if cache and not lack and (decision.accel is Accel.KVM or proved(probe(host, qemu, kernel, Accel.TCG))):
        _remember(cache, {**known, key: asdict(decision)})
    return decision


def _remembered(cache: Path) -> dict[str, dict[str, str]]:
    """What was proven before; a file that is missing or broken only costs the proof."""
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(cache: Path, known: Mapping[str, Mapping[str, str]]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache = cache.resolve()  # not a link of that name
    # Parallel runs probe at the same time.
    partial = cache.with_name(f"{cache.name}.{secrets.token_hex(4)}")
    partial.write_text(json.dumps(known))
    partial.replace(cache)


def probe(host: Host, qemu: Sequence[str], kernel: str, accel: Accel = Accel.KVM) -> Completed | str:
    """Boot the kernel; the text says that it hung. With TCG it must work everywhere."""
    try:
        # A slow host is no host without KVM.
        limit = math.ceil(_PROBE_S * host.slowness)
        argv = ["timeout", "-s", "KILL", str(limit), *probe_argv(qemu, kernel, accel)]
        return host.run(argv, check=False, timeout_s=2 * _PROBE_S)
    except DeadlineExceeded as error:
        return f"the kernel hung for {error.seconds:.0f} s"


def _no_kvm(host: Host) -> str:
    if not host.ok(["test", "-c", "/dev/kvm"]):
        return "there is no /dev/kvm"
    if not host.ok(["test", "-r", "/dev/kvm", "-a", "-w", "/dev/kvm"]):
        return "no permission on /dev/kvm"
    return ""


def probe_argv(qemu: Sequence[str], kernel: str, accel: Accel) -> list[str]:
    """Command line that boots ``kernel`` until it panics for want of a root, which ends QEMU."""
    return [
        *qemu,
        *["-M", "q35,kernel-irqchip=split", "-accel", accel, "-cpu", "max", "-m", "256", "-smp", "2"],
        *["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"],
        *["-kernel", kernel, "-append", "console=ttyS0 panic=-1 loglevel=1"],
    ]


def _failure(probed: Completed) -> str:
    words = (probed.stderr.decode(errors="replace").strip().splitlines() or ["no word from QEMU"])[:2]
    if probed.returncode in (137, -9):
        return f"the kernel hung for {probed.duration_s:.0f} s: {' | '.join(words)}"
    return f"QEMU ended with {probed.returncode} before the kernel was up: {' | '.join(words)}"
