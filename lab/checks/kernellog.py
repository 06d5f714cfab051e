"""Judging what a kernel said while the run went on: no splat of any kind, unless the scenario provokes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lab.checks import splats
from lab.checks.expectations import excused
from lab.checks.splats import Splat
from lab.config.scenario import Expected
from lab.model import Check, Level, Verdict

_NAME = "kernel log"
_EXPECTED = "no splat"
_SHOWN = 60


@dataclass(frozen=True)
class Benign:
    """A splat that means nothing here: ``pattern`` is searched in its text, ``at_most`` is how often it may appear."""

    pattern: str
    reason: str
    at_most: int


BENIGN = (
    Benign(
        r"^DMAR: \[DMA Write[^\]]*\] Request device \[00:1f\.2\]",
        "q35's AHCI writes to the firmware's old buffer once after a restore (facts: nested.md section 7)",
        at_most=1,
    ),
)

# What differs between two appearances of one splat.
_VARIES = re.compile(
    r"0x[0-9a-f]+|\b[0-9a-f]{16}\b|(?<=CPU: )\d+|(?<=UID: )\d+|(?<=PID: )\d+|(?<=CPU#)\d+|(?<=cpu )\d+|"
    r"\d+(?=s! )|\d+(?= seconds)|\d+(?= ms$)|(?<=[\w)]):\d+(?=\]$)|(?<=:)\d+(?= blocked)|\[\d+\](?=:)"
)
_QEMU_THREAD = re.compile(r"^(?:traps: )?(?:qemu|CPU \d+/|IO |mig|worker|call_rcu)")
_OF_USER = {Level.L0_KERNEL: Level.LAB, Level.L1_KERNEL: Level.L1_USER, Level.L2_KERNEL: Level.L2_USER}
_OF_QEMU = {Level.L0_KERNEL: Level.L0_QEMU, Level.L1_KERNEL: Level.L1_QEMU}


@dataclass
class _Seen:
    """Equal splats of one log: the first, and how many."""

    first: Splat
    count: int = 0


@dataclass
class _Notes:
    """What a passed check says besides the number of lines."""

    benign: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def sentence(self, lines: int) -> str:
        """One line."""
        return "; ".join([f"{lines} lines read", *self.benign, *self.expected])


def judge(
    console: str,
    dmesg: str | None = None,
    *,
    machine: str,
    level: Level,
    expected: Sequence[Expected] = (),
    since: str | None = None,
    leaks: int = 0,
) -> list[Check]:
    """Judge a kernel's console and ring buffer; ``level`` is the kernel's. One FAIL per distinct splat, else one PASS.

    ``console`` is all that was captured since this run started or restored the machine (empty: none is captured).
    ``dmesg`` is the ring buffer, None when the machine did not answer any more. ``since`` is the text of a line that
    the run wrote to /dev/kmsg on a machine that was up before; what the ring buffer holds before it is not judged.
    A log without a line, or a ring buffer without the mark, proves nothing: ERROR. ``leaks`` is how many kmemleak
    reports itself, which are judged elsewhere: the log only counts them, and is a FAIL when it counts more.
    """
    checks = []
    ring = dmesg or ""
    if since is not None and dmesg is not None:
        ring, mark_found = _after(ring, since)
        if not mark_found:
            seen = f"the line {since!r} is not in the ring buffer: it overflowed, or was not written"
            checks.append(Check.unproven(_NAME, seen, "the mark of this run", machine=machine))
    logs = [splats.read(console), splats.read(ring)]
    if dmesg is not None and not dmesg.strip():
        checks.append(Check.unproven(_NAME, "the ring buffer is empty", "a log to read", machine=machine))
    elif not any(logs):
        checks.append(Check.unproven(_NAME, "no line of a log", "a log to read", machine=machine))
    notes = _Notes()
    found = _merge(_count(splats.find(lines)) for lines in logs)
    if _leaks_counted(found) <= leaks:
        found = [seen for seen in found if seen.first.kind.name != splats.LEAKS]
    bad = [seen for seen in found if not _set_aside(seen, _blame(seen.first, level), expected, notes)]
    checks += [_failed(seen, level, machine) for seen in bad]
    return checks or [Check(_NAME, Verdict.PASS, notes.sentence(sum(map(len, logs))), _EXPECTED, machine=machine)]


def judge_shared(log: str, *, lack: str = "") -> list[Check]:
    """Judge what L0's kernel logged while a run went on; ``lack`` says why it could not be read: SKIP, by name.

    The machine is shared, and its processes are no business of the lab: only what the kernel itself did wrong counts.
    """
    if lack:
        return [Check(_NAME, Verdict.SKIP, f"cannot be read here: {lack}", _EXPECTED, machine="l0")]
    lines = splats.read(log)
    found = _count(splat for splat in splats.find(lines) if splat.kind.name != splats.USER_CRASH)
    checks = [_failed(seen, Level.L0_KERNEL, "l0") for seen in found.values()]
    return checks or [Check(_NAME, Verdict.PASS, _Notes().sentence(len(lines)), _EXPECTED, machine="l0")]


def _after(ring: str, mark: str) -> tuple[str, bool]:
    lines = ring.splitlines(keepends=True)
    for index in range(len(lines) - 1, -1, -1):
        if mark in lines[index]:
            return "".join(lines[index:]), True
    return "", False


def _count(found: Iterable[Splat]) -> dict[str, _Seen]:
    counted: dict[str, _Seen] = {}
    for splat in found:
        counted.setdefault(_VARIES.sub("#", splat.title), _Seen(splat)).count += 1
    return counted


def _merge(logs: Iterable[dict[str, _Seen]]) -> list[_Seen]:
    """The same splat in both logs is one; the longer text is kept, since either may have lost lines."""
    merged: dict[str, _Seen] = {}
    for log in logs:
        for key, seen in log.items():
            known = merged.setdefault(key, seen)
            known.count = max(known.count, seen.count)
            known.first = max(known.first, seen.first, key=lambda splat: len(splat.lines))
    return list(merged.values())


def _leaks_counted(found: Iterable[_Seen]) -> int:
    """How many leaks the log counts: each scan tells how many are new."""
    titles = [(seen.first.title, seen.count) for seen in found if seen.first.kind.name == splats.LEAKS]
    return sum(count * int(re.findall(r"\d+", title)[0]) for title, count in titles)


def _set_aside(seen: _Seen, level: Level, expected: Sequence[Expected], notes: _Notes) -> bool:
    title, text = seen.first.title, seen.first.text
    item = excused(text, level, expected)
    if item:
        notes.expected.append(f"expected by the scenario: {title}")
        return True
    for benign in BENIGN:
        if re.search(benign.pattern, text, re.MULTILINE) and seen.count <= benign.at_most:
            notes.benign.append(f"{benign.reason}: {title}")
            return True
    return False


def _blame(splat: Splat, level: Level) -> Level:
    """A process that died of a signal is not the kernel's fault."""
    if splat.kind.name != splats.USER_CRASH:
        return level
    if _QEMU_THREAD.search(splat.title) and level in _OF_QEMU:
        return _OF_QEMU[level]
    return _OF_USER.get(level, level)


def _failed(seen: _Seen, level: Level, machine: str) -> Check:
    splat = seen.first
    times = f" ({seen.count} times)" if seen.count > 1 else ""
    text = "\n".join([f"{splat.kind.name}: {splat.title}{times}", *splat.text.splitlines()[:_SHOWN]])
    return Check.judged(_NAME, False, text, _EXPECTED, level=_blame(splat, level), machine=machine)
