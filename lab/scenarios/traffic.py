"""Traffic under an action."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lab.errors import LabError
from lab.workloads.base import Job

# It outlives the action by far, and is stopped when the action is over.
UNDER_ACTION_S = 300.0


@contextlib.contextmanager
def stopped_on_error(job: Job) -> Iterator[None]:
    """What goes on in a namespace must not outlive a run that fails: the undo takes the namespace away."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(LabError):
            job.stop()
        raise
