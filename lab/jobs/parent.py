"""A process that ends cleanly when the one that started it is gone, even by SIGKILL."""

from __future__ import annotations

import os
import select
import signal
import threading

# Process id of the starter. Handed down because the parent may be dead, and be somebody else, before we look.
PARENT = "VDPALAB_PARENT"


def follow_parent() -> None:
    """Send SIGTERM to this process as soon as its parent has ended."""
    parent = int(os.environ.pop(PARENT, "") or os.getppid())
    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    threading.Thread(target=_follow, args=(descriptor,), name="follow parent", daemon=True).start()


def _follow(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)
