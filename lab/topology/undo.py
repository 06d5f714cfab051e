"""The stack of what must be undone: the order of ExitStack, without its two faults.

ExitStack lets a failing undo replace the error that came first, and a reader cannot see which undo failed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from lab.errors import LabError
from lab.evidence.record import Record

T = TypeVar("T")


class Undo:
    """Enter context managers; :meth:`unwind` leaves them in reverse order and records each that fails."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._stack: list[tuple[str, Callable[[], object]]] = []

    def enter(self, what: str, manager: AbstractContextManager[T]) -> T:
        """Enter ``manager`` now, leave it on unwinding."""
        value = manager.__enter__()
        self._stack.append((what, lambda: manager.__exit__(None, None, None)))
        return value

    def callback(self, what: str, function: Callable[[], object]) -> None:
        """Call ``function`` on unwinding."""
        self._stack.append((what, function))

    def unwind(self, pointless: Callable[[], str] = lambda: "") -> list[str]:
        """Undo everything; return what failed, as sentences.

        ``pointless`` is asked before each undo: a reason means that a failure is no news (its machine is gone).
        """
        failed: list[str] = []
        while self._stack:
            what, function = self._stack.pop()
            try:
                function()
            # Also a defect of the lab: what is below on the stack has to be undone all the same.
            except Exception as error:
                words = str(error) if isinstance(error, (LabError, OSError)) else repr(error)
                reason = pointless()
                self._record.event("undo-failed", what=what, error=words, pointless=reason)
                if not reason:
                    failed.append(f"{what}: {words}")
        return failed
