"""Which accelerator really works. /dev/kvm can exist, open, create VMs and still not run a guest (nested.md 2).

``auto`` therefore boots a payload of one sector: firmware loads it and it tells QEMU's exit device a number. Nothing
but a CPU that executed real-mode firmware and the sector produces that exit status.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lab.errors import DeadlineExceeded, SiteLacks
from lab.host.base import Host
from lab.model import Accel, Completed

# mov dx, 0xf4; mov al, 0x2a; out dx, al; hlt; jmp $-1  -- isa-debug-exit ends QEMU with (value << 1) | 1.
_CODE = bytes.fromhex("baf400b02aeef4ebfd")
BOOT_SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"
PROVEN_STATUS = 0x2A << 1 | 1
_PROBE_S = 15


@dataclass(frozen=True)
class Acceleration:
    """The accelerator of one level, and how the lab knows."""

    accel: Accel
    reason: str


def decide(want: Literal["auto", "kvm", "tcg"], probe: Completed | str) -> Acceleration:
    """Choose by what the user wants and what the probe gave (a string: why there was none to run).

    Raises SiteLacks when KVM is demanded and not proven.
    """
    if want == "tcg":
        return Acceleration(Accel.TCG, "asked for")
    if isinstance(probe, Completed) and probe.returncode == PROVEN_STATUS:
        return Acceleration(Accel.KVM, f"a test payload ran under KVM in {probe.duration_s:.1f} s")
    reason = probe if isinstance(probe, str) else _failure(probe)
    if want == "kvm":
        raise SiteLacks(f"usable KVM: {reason}")
    return Acceleration(Accel.TCG, f"KVM is not usable: {reason}")


def choose(
    want: Literal["auto", "kvm", "tcg"], host: Host, qemu: Sequence[str], cache: Path | None = None
) -> Acceleration:
    """Prove KVM on ``host`` with this QEMU, or say why TCG is used. ``cache`` keeps the proof when given."""
    if want == "tcg":
        return decide(want, "")
    key = json.dumps([list(qemu), host.run(["uname", "-rv"]).text])
    known = json.loads(cache.read_text()) if cache and cache.exists() else {}
    if key in known and want == "auto":
        return Acceleration(Accel(known[key]["accel"]), known[key]["reason"])
    decision = decide(want, probe(host, qemu))
    if cache:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_name(f"{cache.name}.{id(decision)}")
        partial.write_text(json.dumps({**known, key: asdict(decision)}))
        partial.replace(cache)
    return decision


def probe(host: Host, qemu: Sequence[str], accel: Accel = Accel.KVM) -> Completed | str:
    """Run the payload; the text says why it could not be tried. With TCG it must work everywhere."""
    if accel is Accel.KVM and (lack := _no_kvm(host)):
        return lack
    sector = host.run(["mktemp", "-t", "vdpalab-probe.XXXXXX"]).text
    try:
        host.put(BOOT_SECTOR, sector)
        host.run(["truncate", "-s", "1M", sector])  # firmware takes no disk of one sector for bootable
        return host.run(["timeout", "-s", "KILL", str(_PROBE_S), *probe_argv(qemu, sector, accel)], check=False)
    except DeadlineExceeded:
        return f"the test payload hung for {_PROBE_S} s"
    finally:
        host.run(["rm", "-f", sector], check=False)


def _no_kvm(host: Host) -> str:
    if not host.ok(["test", "-c", "/dev/kvm"]):
        return "there is no /dev/kvm"
    if not host.ok(["test", "-r", "/dev/kvm", "-a", "-w", "/dev/kvm"]):
        return "no permission on /dev/kvm"
    return ""


def probe_argv(qemu: Sequence[str], sector: str, accel: Accel) -> list[str]:
    """Command line that boots the payload in ``sector``."""
    return [
        *qemu,
        *["-M", "q35,kernel-irqchip=split", "-accel", accel, "-cpu", "max", "-m", "64", "-smp", "2"],
        *["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
        *["-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
        *["-blockdev", json.dumps({"driver": "raw", "node-name": "d", "file": {"driver": "file", "filename": sector}})],
        *["-device", "virtio-blk-pci,drive=d,bootindex=0"],
    ]


def _failure(probe: Completed) -> str:
    if probe.returncode in (137, -9):
        return f"the test payload hung for {_PROBE_S} s"
    words = probe.stderr.decode(errors="replace").strip().splitlines()
    return f"QEMU ended with {probe.returncode} instead of running the test payload: {' | '.join(words[-2:])}"
