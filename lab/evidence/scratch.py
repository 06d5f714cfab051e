"""A job's temporary files: in one directory of their own, so that those of a job that was killed can be told apart.

avocado puts its status socket there, and the path of a socket ends at 108 bytes (unix(7)): so it is not in the job's
directory, and not below a long TMPDIR either.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.evidence.record import OWNER_LOCK, disowned

# What is appended: `/vdpalab-xxxxxxxx-xxxxxxxx` here, `/avocado_xxxxxxxx/.status_server.sock` by avocado.
_LONGEST = 107 - 26 - 40


@contextlib.contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A directory for the temporary files of a job below ``root``, there as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix=_prefix(root), dir=_place()) as name:
        folder = Path(name)
        with (folder / f"{OWNER_LOCK}.part").open("w") as lock:
            # Locked before it has the name by which it is looked for.
            fcntl.flock(lock, fcntl.LOCK_EX)
            Path(lock.name).rename(folder / OWNER_LOCK)
            yield folder


def dead_scratch(root: Path) -> Iterator[Path]:
    """Those of killed jobs below ``root``; each is nobody's until the next is asked for."""
    for folder in sorted(_place().glob(f"{_prefix(root)}*")):
        with contextlib.suppress(OSError), disowned(folder) as dead:
            # Without a lock it is just being made, or somebody else's.
            if (folder / OWNER_LOCK).exists() and dead:
                yield folder


def _place() -> Path:
    usual = tempfile.gettempdir()
    return Path(usual if len(usual.encode()) <= _LONGEST else "/tmp")


def _prefix(root: Path) -> str:
    return f"vdpalab-{hashlib.sha256(bytes(root.resolve())).hexdigest()[:8]}-"
