"""A program with everything it needs in one directory, so that it runs anywhere without root, chroot or installation.

::

    TOP/lib64/ld-linux-x86-64.so.2         the dynamic loader, which is what is started
        usr/lib/x86_64-linux-gnu/*.so.*    the libraries, by the names that are asked for
        usr/bin/PROGRAM
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from lab.errors import BuildError
from lab.proc import run

LOADER = "lib64/ld-linux-x86-64.so.2"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
PROGRAMS = "usr/bin"

_LINE = re.compile(r"^\s*(?P<name>[^\s/]+) => (?P<path>/\S+|not found)")


def make(top: Path, programs: Iterable[Path], *, root: Path = Path("/")) -> None:
    """Put ``programs``, which lie in the tree ``root``, and their libraries below ``top``. Raises BuildError."""
    for folder in (LOADER, LIBRARIES + "/x", PROGRAMS + "/x"):
        (top / folder).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / LOADER, top / LOADER)
    for program in programs:
        shutil.copy(program, top / PROGRAMS / program.name)
        for name, library in libraries(program, root=root).items():
            shutil.copy(library, top / LIBRARIES / name)


def argv(top: Path, program: str) -> tuple[str, ...]:
    """How to start a program of the bundle at ``top``."""
    search = ("--library-path", str(top / LIBRARIES), "--argv0", program)
    return (str(top / LOADER), *search, str(top / PROGRAMS / program))


def libraries(program: Path, *, root: Path = Path("/")) -> dict[str, Path]:
    """Every shared library that ld.so would load for ``program``, but itself: its file by the name asked for.

    ``root`` is the tree whose loader and libraries count; for ``/`` the machine's own search rules hold.
    Raises BuildError naming each library that is missing.
    """
    search = [] if root == Path("/") else ["--library-path", str(root / LIBRARIES)]
    done = run([str(root / LOADER), *search, "--list", str(program)], check=False)
    text = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    if "statically linked" in text or "not a dynamic executable" in text:
        return {}
    found, missing = parse_list(done.text)
    if missing or done.returncode != 0:
        raise BuildError(f"{program}: {', '.join(missing) + ' not found' if missing else text.strip()}")
    return found


def parse_list(text: str) -> tuple[dict[str, Path], list[str]]:
    """``ld.so --list`` as the file of each library by name, and the names of those not found.

    The kernel's vDSO has no ``=>``, the loader a name with a directory; both are left out.
    """
    matches = [match for line in text.splitlines() if (match := _LINE.match(line))]
    found = {match["name"]: Path(match["path"]) for match in matches if match["path"] != "not found"}
    return found, [match["name"] for match in matches if match["path"] == "not found"]
