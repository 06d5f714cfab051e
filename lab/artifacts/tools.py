"""Programs of this machine that make images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence

from lab.errors import BuildError

# mke2fs and debugfs lie where an ordinary user's PATH does not look.
ENV = {"PATH": f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}


def require(packages: Mapping[str, str], what: str) -> None:
    """Raise BuildError naming every Debian package whose program is missing; ``packages`` has them by program."""
    missing = sorted({package for program, package in packages.items() if not shutil.which(program, path=ENV["PATH"])})
    if missing:
        raise BuildError(f"{what} needs the packages {' '.join(missing)}", hint="vdpalab setup")


def owned_by_root(argv: Sequence[str]) -> list[str]:
    """The command line, run so that the user's own files are root's: what reads or writes an image keeps owners."""
    return [*([] if os.geteuid() == 0 else ["unshare", "--map-root-user"]), *argv]
