"""Taking a vDPA device from its user in the host, by ways that all end in the vDPA bus.

With a guest on it each of them waits in vhost_vdpa_remove() (drivers/vhost/vdpa.c), uninterruptibly, until the last
close of the vhostdev node; `vdpa dev del` and the ways through the parent hold vdpa_dev_lock all the time, so that no
other `vdpa` command answers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from lab.config.scenario import Remove
from lab.errors import DeadlineExceeded, ProductFailure
from lab.host import detached
from lab.host.base import Host
from lab.host.detached import Detached
from lab.host.shell import run_script
from lab.host.vdpa import VdpaDevice
from lab.machine.machine import Machine, PendingUnplug
from lab.model import Level, Metric, QemuDevice
from lab.wait import Deadline

_UNBIND = 'echo "$0" >"/sys/bus/pci/devices/$0/driver/unbind"'
_REMOVE = 'echo 1 >"/sys/bus/pci/devices/$0/remove"'
# The states of the tasks that wait in vhost_vdpa_remove(): of a hot-unplug it is one of the kernel's own (proc(5)).
# Stacks that nobody may read would look like nobody who waits.
_WAITING = """
cat /proc/self/stack >/dev/null
for stack in /proc/[0-9]*/stack; do
    ! grep -qs vhost_vdpa_remove "$stack" || sed 's/.*) \\(.\\) .*/\\1/' "${stack%stack}stat" || :
done
"""
# Seconds on the reference machine that a look has at least: the last one comes when the time is up.
_LOOK_S = 5.0
_STATES = '[ -e "$0/rc" ] || ps -o stat= -s "$(cat "$0/pid")"'


@dataclass(frozen=True)
class Removed:
    """``seconds`` from the moment that the guest had let go to the removal's end."""

    seconds: float

    def metrics(self) -> tuple[Metric, ...]:
        """As metrics of the run."""
        return (Metric("removal_after_release", self.seconds, "s"),)


@dataclass(frozen=True)
class Removal:
    """A removal that was started."""

    host: Host
    job: Detached

    def waits(self, deadline: Deadline) -> str:
        """The states of its processes (ps(1): D is an uninterruptible wait), "" when it has ended.

        Raises DeadlineExceeded or HostError when nobody could look.
        """
        look = self.host.run(
            ["sh", "-c", _STATES, self.job.folder], check=False, timeout_s=_look_s(self.host, deadline)
        )
        return " ".join(look.text.split())

    def finish(self, config: Remove, since: float) -> Removed:
        """Wait for its end, now that nobody uses the device; ``since`` is when the guest let go (time.monotonic()).

        Raises ProductFailure when it does not come, or fails.
        """
        try:
            done = self.job.finish(self.host, config.max_wait_s)
        except DeadlineExceeded as error:
            raise self._failure(f"{config.kind} has not ended {error.seconds:.0f} s after its user let go") from error
        if done.returncode != 0:
            raise self._failure(f"{config.kind} failed: {done.stderr.decode(errors='replace').strip()}")
        return Removed(time.monotonic() - since)

    def _failure(self, words: str) -> ProductFailure:
        return ProductFailure(words, level=Level.L1_KERNEL, machine=self.host.name)


@dataclass(frozen=True)
class ParentUnplug:
    """An unplug of the parent from the machine ``host``, which has been asked for."""

    host: Host
    pending: PendingUnplug

    def waits(self, deadline: Deadline) -> str:
        """The states of the kernel's tasks that wait for the guest, ``-`` without one, "" when the parent has gone.

        Raises DeadlineExceeded or HostError when nobody could look.
        """
        look_s = _look_s(self.host, deadline)
        if not self.pending.machine.has(self.pending.device, timeout_s=look_s * self.host.slowness):
            return ""
        return " ".join(run_script(self.host, _WAITING, timeout_s=look_s).text.split()) or "-"

    def finish(self, config: Remove, since: float) -> Removed:
        """Like :meth:`Removal.finish`; when the guest refuses, too. Raises MachineDied too."""
        self.pending.finish(Deadline(config.max_wait_s * self.host.slowness))
        return Removed(time.monotonic() - since)


def start(host: Host, device: VdpaDevice, config: Remove) -> Removal:
    """Begin to remove ``device``, whose parent is a PCI function."""
    function = device.mgmtdev.removeprefix("pci/")
    argv = {
        "delete": ["vdpa", "dev", "del", device.name],
        "unbind": ["sh", "-c", _UNBIND, function],
        "rescan": ["sh", "-c", _REMOVE, function],
    }[config.kind]
    return Removal(host, detached.start(host, argv))


def unplug(host: Host, machine: Machine, function: QemuDevice) -> ParentUnplug:
    """Begin to unplug the parent ``function`` from ``machine``, which is ``host``. Raises ProductFailure."""
    return ParentUnplug(host, machine.begin_unplug(function))


def _look_s(host: Host, deadline: Deadline) -> float:
    """Seconds on the reference machine that a look at ``host`` may take."""
    return max(_LOOK_S, deadline.left() / host.slowness)
