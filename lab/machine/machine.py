"""A machine: a QEMU with a guest in it, and the states it goes through.

::

    DEFINED -> LAUNCHED -> RUNNING <-> PAUSED        launch(): QMP answers
                  |          |  ^
                  v          v  |
              INCOMING     READY (guest answers)     an incoming machine becomes RUNNING when its migration completes
                  any -> EXITED
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lab.errors import DeadlineExceeded, LabError, MachineDied, MachineError, ProductFailure, StateError, product
from lab.evidence.record import Record
from lab.host.ssh import SshAddress, SshHost, connect
from lab.machine.argv import READY_LINE
from lab.machine.process import QemuProcess
from lab.machine.qmp import Events, Qmp
from lab.model import Level, QemuDevice
from lab.wait import Deadline, wait_until

_START_S = 60.0
_QUIT_S = 10.0
_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b")
_PANIC = "Kernel panic - not syncing"


class State(StrEnum):
    """What a machine is doing."""

    DEFINED = "defined"
    LAUNCHED = "launched"
    INCOMING = "incoming"
    RUNNING = "running"
    PAUSED = "paused"
    READY = "ready"
    EXITED = "exited"


_LIVE = (State.LAUNCHED, State.INCOMING, State.RUNNING, State.PAUSED, State.READY)


class Machine:
    """One QEMU and its guest. ``kernel_level`` is whose fault a panic of the guest is."""

    def __init__(self, name: str, process: QemuProcess, record: Record, kernel_level: Level) -> None:
        self.name = name
        self.process = process
        self.kernel_level = kernel_level
        self.state = State.DEFINED
        self.ready_s = 0.0
        self._record = record
        self._launched_at = 0.0
        self._qmp = Qmp(name, process.folder / "qmp.jsonl", self.check_alive)
        # Set while the lab itself ends this QEMU, or a scenario does it on purpose.
        self.end_expected = False
        self._closed = False
        # How it ended if it did not end by itself as asked: the signal that it died of on the way, or by force.
        self.bad_end = ""
        # Stretches the time that QEMU has to end.
        self.slowness = 1.0

    @property
    def guest_end(self) -> str:
        """How the guest ended its machine, in QEMU's words ("guest-reset"); empty when it did not."""
        return self._qmp.guest_end

    @property
    def end_level(self) -> Level:
        """Whose fault it is that QEMU ended by itself."""
        return self.kernel_level if self.guest_end else self.process.level

    @property
    def qmp(self) -> Qmp:
        """The monitor of a live machine."""
        self._require(*_LIVE)
        return self._qmp

    def launch(self, *, incoming: bool = False, slowness: float = 1.0) -> None:
        """Start QEMU and its monitor. Raises MachineDied with QEMU's own words when it refuses the command line."""
        self._require(State.DEFINED)
        self.slowness = slowness
        self._launched_at = time.monotonic()
        try:
            sock = self.process.start()
            self._enter(State.LAUNCHED)
            self._qmp.connect(sock, Deadline(_START_S * slowness))
        except LabError as error:
            if refusal := self._refusal():
                raise refusal from error
            raise
        self._enter(State.INCOMING if incoming else State.RUNNING)

    def _refusal(self) -> MachineError | None:
        """Why QEMU ended before it ran anything, unless a signal ended it: a command line it does not take."""
        status = self.process.poll()
        if status is None or status < 0:
            return None
        self.end_expected = True
        words = tail(self.process.stderr.read_text(errors="replace"))
        return MachineError(f"{self.name}: QEMU refused to start\n{words}", log=self.process.stderr)

    def wait_ready(self, deadline: Deadline) -> None:
        """Wait until the guest says on its console that sshd listens; nothing connects before (nested.md 1).

        Raises ProductFailure when it panics or does not get there.
        """
        self._require(State.RUNNING)
        with product(self.kernel_level, self.name):
            wait_until(self._console_ready, deadline, f"{self.name}: {READY_LINE!r} on its console")
        self.ready_s = time.monotonic() - self._launched_at
        self._record.event("machine-ready", machine=self.name, seconds=round(self.ready_s, 3))

    def log_in(self, address: SshAddress, deadline: Deadline, *, jump: SshHost | None = None) -> SshHost:
        """Open the SSH connection of a guest that said it is ready."""
        self._require(State.RUNNING)
        host = connect(self.name, self._record, address, deadline, jump=jump)
        self._enter(State.READY)
        self._record.event("machine-login", machine=self.name, seconds=round(time.monotonic() - self._launched_at, 3))
        return host

    def forwarded_port(self) -> int:
        """The port that the kernel of QEMU's machine chose for the guest's sshd."""
        usernet = self.qmp.human("info usernet")
        match = _FORWARD.search(usernet)
        if not match:
            raise LabError(f"{self.name}: QEMU forwards no port to the guest's sshd:\n{usernet}")
        return int(match[1])

    def plug(self, device: QemuDevice) -> None:
        """Hot-plug a device with its back end. Raises ProductFailure when QEMU refuses it."""
        with product(self.process.level, self.name):
            if device.netdev:
                self.qmp.execute("netdev_add", device.netdev)
            self.qmp.execute("device_add", device.device)

    def unplug(self, device: QemuDevice, deadline: Deadline) -> float:
        """Hot-unplug a device, wait for DEVICE_DELETED, remove its back end; return the seconds until the event.

        Raises ProductFailure when QEMU or the guest refuses, or the guest does not answer.
        """
        return self.begin_unplug(device).finish(deadline)

    def begin_unplug(self, device: QemuDevice) -> PendingUnplug:
        """Ask for a device's hot-unplug; what comes of it is heard from now on. Raises ProductFailure when refused."""
        listening = contextlib.ExitStack()
        events = listening.enter_context(self.qmp.listen("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"))
        begin = time.monotonic()
        with contextlib.ExitStack() as refused:
            refused.callback(listening.close)
            with product(self.process.level, self.name):
                self.qmp.execute("device_del", {"id": device.id})
            refused.pop_all()
        return PendingUnplug(self, device, events, listening, begin)

    def finish_unplug(self, device: QemuDevice, deadline: Deadline) -> float:
        """Wait until a device that did not go in time is gone after all, remove its back end; return the seconds.

        Raises DeadlineExceeded, also when the monitor hangs with the device.
        """
        begin = time.monotonic()
        wait_until(
            lambda: not self.has(device, timeout_s=max(1.0, deadline.left())),
            deadline,
            f"{self.name}: the end of {device.id}",
        )
        if device.netdev:
            self.qmp.execute("netdev_del", {"id": device.netdev["id"]})
        return time.monotonic() - begin

    def has(self, device: QemuDevice, *, timeout_s: float = 60.0) -> bool:
        """Whether a device that was plugged is still there. Raises DeadlineExceeded when the monitor hangs."""
        there = self.qmp.execute("qom-list", {"path": "/machine/peripheral"}, timeout_s=timeout_s)
        return device.id in {entry["name"] for entry in there}

    @contextlib.contextmanager
    def events(self, *names: str) -> Iterator[Events]:
        """Listen to QMP events."""
        with self.qmp.listen(*names) as events:
            yield events

    def query(self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float = 60.0) -> Any:
        """Run a QMP command."""
        return self.qmp.execute(command, arguments, timeout_s=timeout_s)

    def migrated(self) -> None:
        """The guest has left: this QEMU holds a stopped copy that must never run again."""
        self._require(State.RUNNING, State.READY)
        self._enter(State.PAUSED)

    def resumed(self) -> None:
        """An incoming machine runs: its migration has completed."""
        self._require(State.INCOMING)
        self._enter(State.RUNNING)

    def check_alive(self) -> bool:
        """Whether QEMU runs. Raises MachineDied, with the end of its stderr, when it has ended by itself."""
        status = self.process.poll()
        if status is None or self.end_expected:
            return status is None
        self.state = State.EXITED
        self._record.event("machine-exit", machine=self.name, status=status)
        raise MachineDied(
            self.name, status, tail(self.process.stderr.read_text(errors="replace")), level=self.end_level,
            guest_end=self.guest_end, log=self.process.stderr,
        )  # fmt: skip

    def wait_end(self, deadline: Deadline) -> int:
        """Wait until QEMU ends because its guest powers off or reboots; return its exit status.

        Raises DeadlineExceeded; the machine is then as it was.
        """
        self._require(State.READY)
        self.end_expected = True
        try:
            wait_until(lambda: self.process.poll() is not None, deadline, f"{self.name}: the end of QEMU")
        except DeadlineExceeded:
            self.end_expected = False
            raise
        self._enter(State.EXITED)
        return self.process.poll() or 0

    def quit(self) -> None:
        """End QEMU: `quit` over QMP, then by force; needing force is recorded. Repeating it is fine."""
        if self._closed:
            return
        self._closed = True
        hangs = self.state in _LIVE and self._ask_to_end()
        self._qmp.close()
        status = self.process.poll() if self.state is not State.DEFINED else 0
        if status is None:
            self._record.event("machine-killed", machine=self.name)
        elif status < 0 and self.end_expected:
            self.bad_end = self.process.describe_end(status)
            self._record.event("machine-exit", machine=self.name, status=status)
        if self.process.stop() and hangs:
            self.bad_end = "had to be killed"
        if self.state is not State.DEFINED:
            self._enter(State.EXITED)

    def _ask_to_end(self) -> bool:
        """`quit` over QMP; whether time went by and nothing happened."""
        self.end_expected = True
        self._record.event("machine-quit", machine=self.name)
        limit_s = _QUIT_S * self.slowness
        try:
            self._qmp.execute("quit", timeout_s=limit_s)
            wait_until(lambda: self.process.poll() is not None, Deadline(limit_s), f"{self.name}: the end of QEMU")
        except DeadlineExceeded:
            return True
        except LabError:
            pass  # a monitor that is gone cannot be asked
        return False

    def _console_ready(self) -> bool:
        console = self.process.console.read_text(errors="replace") if self.process.console.exists() else ""
        if READY_LINE in console:
            return True
        if _PANIC in console:
            raise ProductFailure(
                f"{self.name}: the kernel panicked while booting:\n{tail(console)}",
                level=self.kernel_level,
                machine=self.name,
                log=self.process.console,
            )
        self.check_alive()
        return False

    def _require(self, *states: State) -> None:
        if self.state not in states:
            allowed = ", ".join(states)
            raise StateError(f"{self.name} is {self.state}; this needs it {allowed}")

    def _enter(self, state: State) -> None:
        self.state = state
        self._record.event("machine-state", machine=self.name, state=state)


@dataclass(frozen=True)
class PendingUnplug:
    """A hot-unplug that ``machine`` was asked for at ``begin`` (time.monotonic())."""

    machine: Machine
    device: QemuDevice
    events: Events
    listening: contextlib.ExitStack
    begin: float

    def finish(self, deadline: Deadline) -> float:
        """Wait for DEVICE_DELETED, remove the device's back end; return the seconds from the beginning to the event.

        Raises ProductFailure when the guest refuses or the time is up.
        """
        with self.listening:
            event = self._answer(deadline)
            seconds = time.monotonic() - self.begin
        if event["event"] != "DEVICE_DELETED":
            raise self._failure(f"the guest refused to release {self.device.id}: {event}")
        if self.device.netdev:
            self.machine.qmp.execute("netdev_del", {"id": self.device.netdev["id"]})
        return seconds

    def _answer(self, deadline: Deadline) -> dict[str, Any]:
        try:
            return self.events.wait(deadline, lambda event: event["data"].get("device") == self.device.id)
        except DeadlineExceeded as error:
            words = f"the guest has not released {self.device.id} after {error.seconds:.0f} s"
            raise self._failure(words) from error

    def _failure(self, words: str) -> ProductFailure:
        machine = self.machine
        return ProductFailure(f"{machine.name}: {words}", level=machine.kernel_level, machine=machine.name)


def tail(text: str, lines: int = 15) -> str:
    """The last lines of a log, for a message."""
    return "\n".join(text.strip().splitlines()[-lines:])
