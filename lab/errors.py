"""Every exception the lab raises on purpose.

::

    LabError                    the lab could not do or prove something  -> verdict ERROR, exit 3
    ├── InputError              what the user wrote is wrong; all problems at once -> exit 2
    ├── BuildError              an artifact could not be made
    │   └── CompileError        because a compiler refused its source
    ├── HostError               a host did not do what it was told
    │   ├── CommandError        a command ended with an unexpected status
    │   └── Unreachable         the transport to the host is gone or never came up
    ├── MachineError            a QEMU did not do what it was told
    │   ├── MachineDied         QEMU ended although nobody asked it to
    │   └── QmpError            a QMP command got no answer
    │       └── QmpRefused      QEMU refused a QMP command
    ├── DeviceModelDied         the process that emulates L1's hardware ended although nobody asked it to
    ├── StateError              a call that the machine's state does not allow
    ├── DeadlineExceeded        something did not happen in time
    ├── SiteLacks               the site cannot run this, with the name of what is missing -> SKIP
    └── ProductFailure          the kernel, QEMU or device under test is at fault -> FAIL
    Interrupted                 Ctrl-C or SIGTERM; not a LabError, so that nothing swallows it -> 130

A message says what and where; ``hint`` is the next command to type, ``log`` the file that tells more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab.model import Completed, Level


class LabError(Exception):
    """The lab failed, or could not prove what it set out to prove."""

    def __init__(self, message: str, *, hint: str = "", log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log

    def __str__(self) -> str:
        lines = [self.message]
        if self.log:
            lines.append(f"log: {self.log}")
        if self.hint:
            lines.append(f"next: {self.hint}")
        return "\n".join(lines)


class InputError(LabError):
    """What the user gave is wrong; nothing was touched."""

    def __init__(self, problems: Sequence[str], *, hint: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems), hint=hint)


def problems_of(look: Callable[[], object], prefix: str = "") -> list[str]:
    """The problems of the InputError that ``look`` raises, each behind ``prefix``; none when it raises none."""
    try:
        look()
    except InputError as error:
        return [f"{prefix}{problem}" for problem in error.problems]
    return []


class BuildError(LabError):
    """An artifact could not be built; ``status`` is that of the program that failed, if one did."""

    def __init__(self, message: str, *, hint: str = "", log: Path | None = None, status: int | None = None) -> None:
        super().__init__(message, hint=hint, log=log)
        self.status = status


class CompileError(BuildError):
    """An artifact could not be built because a compiler refused its source."""


class HostError(LabError):
    """A host did not do what it was told."""


class CommandError(HostError):
    """A command ended with a status that the caller did not expect."""

    def __init__(self, host: str, completed: Completed, *, log: Path | None = None) -> None:
        self.completed = completed
        tail = completed.stderr.decode(errors="replace").strip() or completed.stdout.decode(errors="replace").strip()
        detail = "\n".join(tail.splitlines()[-12:])
        super().__init__(f"{host}: {completed.command!r} ended with {completed.returncode}\n{detail}".rstrip(), log=log)


class Unreachable(HostError):
    """The transport to a host is gone or never came up."""


class MachineError(LabError):
    """A QEMU did not do what it was told."""


class MachineDied(MachineError):
    """QEMU ended although nobody asked it to. ``returncode`` is negative for a signal.

    ``guest_end`` is how its guest ended the machine, in QEMU's words ("guest-reset"); empty when it did not.
    """

    def __init__(
        self,
        machine: str,
        returncode: int,
        stderr: str,
        *,
        level: Level,
        guest_end: str = "",
        log: Path | None = None,
    ) -> None:
        self.machine = machine
        self.returncode = returncode
        self.level = level
        how = f"killed by signal {-returncode}" if returncode < 0 else f"exit status {returncode}"
        how = f"its guest ended it: {guest_end}" if guest_end else how
        super().__init__(f"{machine}: QEMU ended ({how})\n{stderr}".rstrip(), log=log)


class QmpError(MachineError):
    """A QMP command was refused, or the monitor did not answer."""


class QmpRefused(QmpError):
    """QEMU took a QMP command and refused it."""


class DeviceModelDied(LabError):
    """The process that emulates hardware for L1 ended by itself; what a kernel or QEMU did after that proves nothing.

    ``how`` is how it ended, ``machine`` what the lab calls it.
    """

    def __init__(self, how: str, stderr: str, *, machine: str, log: Path | None = None) -> None:
        self.how = how
        self.machine = machine
        super().__init__(f"the device model of the IFC VFs ended ({how})\n{stderr}".rstrip(), log=log)


class StateError(LabError):
    """A machine was asked for something that its state does not allow."""


class DeadlineExceeded(LabError):
    """``what`` did not happen within ``seconds``."""

    def __init__(self, what: str, seconds: float, *, hint: str = "", log: Path | None = None) -> None:
        self.what = what
        self.seconds = seconds
        super().__init__(f"waited {seconds:.0f} s for {what}", hint=hint, log=log)


class SiteLacks(LabError):
    """The site cannot run this scenario: ``what`` is missing."""


class ProductFailure(LabError):
    """The thing under test is at fault, at ``level`` of ``machine``.

    A ``symptom`` is something that did not happen; what a kernel or QEMU said about it itself tells more.
    """

    def __init__(
        self, message: str, *, level: Level, machine: str, log: Path | None = None, symptom: bool = False
    ) -> None:
        super().__init__(message, log=log)
        self.level = level
        self.machine = machine
        self.symptom = symptom


@contextlib.contextmanager
def product(level: Level, machine: str) -> Iterator[None]:
    """What is refused in this block, or does not happen in time, is the product's fault and not the lab's.

    A host that is gone, a QEMU that hung up, what the site lacks and what the lab itself refuses stay what they are.
    Raises ProductFailure.
    """
    try:
        yield
    except Unreachable:
        raise
    except (HostError, QmpRefused, DeadlineExceeded) as error:
        raise ProductFailure(error.message, level=level, machine=machine, log=error.log, symptom=True) from error


class Interrupted(BaseException):
    """The user or the job engine asked the lab to stop."""
