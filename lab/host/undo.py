"""Undoing what was done on a host, whatever happened in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from lab.errors import LabError
from lab.host.base import Host


@contextlib.contextmanager
def undoing(host: Host, what: str, undo: Callable[[], object]) -> Iterator[None]:
    """Call ``undo`` when the block is left.

    When the block failed, a failing undo is recorded as the event ``undo-failed`` and the block's own error goes on;
    when the block succeeded, the undo's error is raised.
    """
    try:
        yield
    except BaseException:
        try:
            undo()
        except LabError as error:
            host.record.event("undo-failed", host=host.name, what=what, error=str(error))
        raise
    undo()
