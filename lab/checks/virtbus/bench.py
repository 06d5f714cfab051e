"""The bench: a host with the suite's modules for one adapter, and short scripts that drive them.

The modules, their debugfs files and the lines of their logs are those of images/kernel/virtbus/README.md.
"""

from __future__ import annotations

import io
import math
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.host.base import COMMAND_S, Host
from lab.host.shell import run_script
from lab.model import Check, Level

# What every script of the suite can use. $N is the adapter, $KO where the modules lie, $TRIES how many tenths of a
# second something may take.
_PRELUDE = """
KO=$1 N=$2 TRIES=$3
shift 3
DEBUG=/sys/kernel/debug
DEV=$DEBUG/vbt_dev_$N TWIN=$DEBUG/vbt_twin_$N DRV=$DEBUG/vbt_drv_$N
load() { for module; do insmod "$KO/vbt_${module}_$N.ko"; done; }
# leave MODULE TENTHS: remove a module, if it is loaded, within so many tenths of a second of the reference machine.
# Beside this shell, for an rmmod that waits for the last reference cannot be killed; and again when it was refused
# because somebody uses it.
leave() {
    left=$(($2 * TRIES / 300))
    while [ -e "/sys/module/$1" ]; do
        kill -0 "${removing:-none}" 2>/dev/null || { rmmod "$1" </dev/null >/dev/null 2>&1 & removing=$!; }
        [ "$left" -gt 0 ] || return 1
        left=$((left - 1))
        sleep 0.1
    done
    removing=
}
# All at once: with late releases each takes some seconds in which nothing happens.
unload() {
    going=
    for module; do
        { leave "vbt_${module}_$N" 150 || { echo "vbt_${module}_$N did not go in $((TRIES / 20)) s" >&2; exit 70; }; } &
        going="$going $!"
    done
    stays=
    for pid in $going; do wait "$pid" || stays=yes; done
    [ -z "$stays" ] || exit 70
}
tries=0
again() {
    tries=$((tries + 1))
    [ "$tries" -lt "$TRIES" ] || { echo "it did not happen in $((TRIES / 10)) s" >&2; exit 70; }
    sleep 0.1
}
node() { echo /sys/bus/*/devices/"$1"; }
first() { head -n 1 "$DEV/devices"; }
count() { sed -n "s/^$2 //p" "$1/counters"; }
released() { until [ "$(count "$1" alive)" = 0 ]; do again; done; }
"""

# What is expected of a procedure that was cut off; that says nothing about what it would have seen.
ENDS = "a procedure that comes to its end"

# Tenths of a second on the reference machine that something may take which must happen: 30 s.
_TRIES = 300

_FOLDER = "vbt"
_STAGE = """
mkdir -p "$1/root/lib/modules/$(uname -r)"
tar -xf - -C "$1"
ln -f "$1"/*.ko "$1/root/lib/modules/$(uname -r)/"
# Without the kernel's own modules beside them, depmod knows nobody who has their symbols.
depmod -b "$1/root" 2>/dev/null
"""
# Twice, for those that others used.
_UNLOAD_ALL = """
loaded() { ls /sys/module | grep -E '^(vbt_(test|dev|drv|twin)_|virtbus_)' || :; }
for _ in 1 2; do
    for module in $(loaded); do leave "$module" 30 || :; done
done
loaded
"""
_EVENT = re.compile(r"(?:\bvbt: |^\d+ )(\d+) (\S+) (\S.*)$")


@dataclass(frozen=True)
class Seen:
    """What a procedure saw, whether that is as it must be, and how it must be.

    One that is not ``proven`` could not look: that is an ERROR of the lab, and says nothing about the bus.
    """

    good: bool
    seen: str
    expected: str
    proven: bool = True

    @classmethod
    def unproven(cls, seen: str, expected: str) -> Seen:
        """Nothing was seen of what was to be judged; ``seen`` says why."""
        return cls(False, seen, expected, proven=False)

    def check(self, name: str, machine: str | None = None) -> Check:
        """As a check of this name; what is not good is the bus's fault."""
        if not self.proven:
            return Check.unproven(name, self.seen, self.expected, machine=machine)
        return Check.judged(name, self.good, self.seen, self.expected, level=Level.L1_KERNEL, machine=machine)


@dataclass(frozen=True)
class Event:
    """A callback that a module noted: nanoseconds of the kernel's clock, the device, what was called."""

    ns: int
    who: str
    what: str


@dataclass
class Bench:
    """A host on which the modules in ``folder`` are tried with one adapter."""

    host: Host
    adapter: str
    folder: str = ""
    answers: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.folder or f"{self.host.scratch}/{_FOLDER}"

    def script(self, text: str, *arguments: str, timeout_s: float = 4 * COMMAND_S, check: bool = True) -> str:
        """Run a script of the suite; its output. Raises what :func:`lab.host.shell.run_script` raises."""
        everything = _PRELUDE + text
        given = (self.folder, self.adapter, _tries(self.host), *arguments)
        return run_script(self.host, everything, *given, timeout_s=timeout_s, check=check).text

    def answer(self, text: str, *arguments: str, timeout_s: float = 4 * COMMAND_S) -> dict[str, str]:
        """Run a script that prints ``key=value`` lines; lines of one key are joined by newlines."""
        found: dict[str, list[str]] = {}
        for line in self.script(text, *arguments, timeout_s=timeout_s).splitlines():
            key, equals, value = line.partition("=")
            if equals:
                found.setdefault(key, []).append(value)
        return {key: "\n".join(values) for key, values in found.items()}

    def once(self, name: str, text: str, *, timeout_s: float = 4 * COMMAND_S) -> dict[str, str]:
        """The answer of a script that several procedures judge; it is run once."""
        if name not in self.answers:
            self.answers[name] = self.answer(text, timeout_s=timeout_s)
        return self.answers[name]


def stage(host: Host, modules: Sequence[Path]) -> None:
    """Put modules where the scripts look for them, and where modprobe finds them by alias (``-d FOLDER/root``)."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for module in modules:
            tar.add(module, module.name)
    folder = f"{host.scratch}/{_FOLDER}"
    run_script(host, _STAGE, folder, input=archive.getvalue(), timeout_s=4 * COMMAND_S)


def unload_all(host: Host) -> list[str]:
    """Unload every module of the suite; names of those that would not go."""
    given = ("", "", _tries(host))
    return run_script(host, _PRELUDE + _UNLOAD_ALL, *given, check=False, timeout_s=4 * COMMAND_S).text.split()


def _tries(host: Host) -> str:
    return str(math.ceil(_TRIES * host.slowness))


def events(log: str) -> list[Event]:
    """The callbacks in a log: ``SEQ NS WHO EVENT`` of debugfs, or ``vbt: NS WHO EVENT`` of the kernel's log."""
    found = (_EVENT.search(line) for line in log.splitlines())
    return [Event(int(match[1]), match[2], match[3].strip()) for match in found if match]


def in_order(log: Sequence[Event], what: str, among: Sequence[str]) -> list[str]:
    """Who of ``among`` got the callback ``what``, the first first."""
    called = sorted(log, key=lambda event: event.ns)
    return [event.who for event in called if event.what.split()[0] == what and event.who in among]


def listed(counts: Mapping[str, str]) -> str:
    """Answers in words."""
    return ", ".join(f"{key} {value}" for key, value in counts.items())
