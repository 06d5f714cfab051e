"""What a QEMU said on stderr. A clean stderr is necessary, never sufficient (facts: nested.md sections 3, 5b, 6)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lab.checks.expectations import excused
from lab.config.scenario import Expected
from lab.model import Check, Level, Verdict

_NAME = "clean QEMU stderr"
_EXPECTED = "nothing but lines known to be harmless"
_SHOWN = 12


@dataclass(frozen=True)
class Phrase:
    """Text that QEMU prints (a regular expression that may span lines) and what it means."""

    pattern: str
    meaning: str
    in_migration: bool = True


# QEMU goes on running after each of these, the guest has its device with link up, and no byte passes.
DEAD_DATA_PATH = (
    Phrase(r"falling back on userspace virtio", "vhost could not be started"),
    Phrase(r"unable to start vhost net", "vhost could not be started"),
    Phrase(r"vhost_set_vring_\w+ failed", "the kernel refused a virtqueue parameter"),
    Phrase(r"failed to write, fd=\d+, errno=\d+", "the kernel refused an IOTLB message (max_iotlb_entries, memlock)"),
    Phrase(r"vhost vdpa map fail", "guest memory is not mapped"),
    Phrase(r"DMA mapping failed, unable to continue", "guest memory is not mapped"),
)

# What an emulated IOMMU says of a device whose memory somebody failed to map: never the cause itself.
_IOMMU_FAULT = re.compile(r"vtd_\w+: detected |New fault is not recorded")

HARMLESS = (
    Phrase(r"terminating on signal \d+(?: from pid \d+ .*)?", "the lab ended it"),
    Phrase(r"warning: TCG doesn't support requested feature: .*", "TCG lacks a CPU feature that the model names"),
    Phrase(
        r"(?:virtio-net: )?wrong value for queue_enable 0\b.*",
        "vp_vdpa takes a queue down by writing 0; the device recovers at the next reset (vdpa.md 2.1)",
    ),
    Phrase(
        r"vtd_iova_to_\w+: detected .*\n.*vtd_iommu_translate: .*dev=00:1f:02.*",
        "q35's AHCI uses the firmware's old buffer after a restore (nested.md 7)",
    ),
    Phrase(r"vtd_iommu_translate: .*dev=00:1f:02.*", "the same, without the first line"),
    Phrase(
        r"vhost VQ \d+ ring restore failed: -1: .*",
        "the parent cannot tell a queue's state (vp_vdpa, ifcvf), which matters to a migration only (vdpa.md 2.1)",
        in_migration=False,
    ),
    Phrase(r"warning: hub \d+ is not connected to host network", "the hub joins PF and VFs with each other only"),
    Phrase(
        r"(?:-device \{.*\}: )?warning: vfio vfio-user:\S+: Could not enable error recovery for the device",
        "the device model has no interrupt for PCI errors (ifc-vf.md 4)",
    ),
    Phrase(r"char device redirected to .*", "where a console is"),
)

# Every message starts with the program's name; the rest of its line is matched above.
_PREFIX = re.compile(r"^(?:\S*qemu\S*|kvm): ", re.MULTILINE)
# What differs between two lines that say the same.
_VARIES = re.compile(r"0x[0-9a-f]+|\d+")
_DEAD = "dead data path: "


def judge(
    text: str | None, *, machine: str, level: Level, expected: Sequence[Expected] = (), migrates: bool = False
) -> list[Check]:
    """Judge the whole stderr of the QEMU that runs ``machine``; None when it could not be read. ``level`` is QEMU's.

    A line that is not in the table of harmless ones fails: it is looked at once, and then fixed or added with a reason.
    One FAIL per distinct line, so that a known finding explains its own and hides no other; else one PASS.
    """
    if text is None:
        return [Check.unproven(_NAME, "stderr could not be read", _EXPECTED, machine=machine)]
    rest, harmless = _without_harmless(_PREFIX.sub("", text.replace("\r", "")), migrates)
    lines = [line for line in rest.splitlines() if line.strip()]
    bad = [line for line in lines if not excused(line, level, expected)]
    if not bad:
        seen = _clean_sentence(harmless, len(lines))
        return [Check(_NAME, Verdict.PASS, seen, _EXPECTED, machine=machine)]
    told = _distinct(bad)
    return [
        Check.judged(_NAME, False, seen, _EXPECTED, level=level, machine=machine)
        for seen in [*told[:_SHOWN], *_more(len(told))]
    ]


def _distinct(bad: Sequence[str]) -> list[str]:
    """Lines that say different things, with what they mean; what is known to end a data path comes first."""
    first: dict[str, str] = {}
    for line in bad:
        first.setdefault(_VARIES.sub("#", line), line)
    return sorted(map(_told, first.values()), key=lambda told: not told.startswith(_DEAD))


def _told(line: str) -> str:
    """A line, with what it means before it where that is known."""
    if _IOMMU_FAULT.match(line):
        return f"IOMMU fault: a device used memory that is not mapped\n{line}"
    meaning = next((phrase.meaning for phrase in DEAD_DATA_PATH if re.search(phrase.pattern, line)), "")
    return f"{_DEAD}{meaning}\n{line}" if meaning else line


def _without_harmless(text: str, migrates: bool) -> tuple[str, list[str]]:
    """The text without harmless lines, and why each kind of them is harmless."""
    reasons = []
    for phrase in (phrase for phrase in HARMLESS if phrase.in_migration or not migrates):
        text, count = re.subn(f"^{phrase.pattern}$", "", text, flags=re.MULTILINE)
        if count:
            reasons.append(f"{count} x {phrase.meaning}")
    return text, reasons


def _clean_sentence(harmless: Sequence[str], expected: int) -> str:
    parts = [*harmless, *([f"{expected} lines that the scenario expects"] if expected else [])]
    return "; ".join(parts) or "nothing"


def _more(count: int) -> list[str]:
    return [f"… and {count - _SHOWN} more different lines"] if count > _SHOWN else []
