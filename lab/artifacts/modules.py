"""Single modules for a kernel that is built already: compiled in seconds, without touching the kernel's key."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab.artifacts import kernelbuild
from lab.artifacts.digest import tree_digest
from lab.artifacts.kernel import Kernel
from lab.artifacts.store import Artifact, Progress, Recipe, Store
from lab.errors import BuildError, CompileError, InputError

# What a build leaves beside its sources: never copied.
BUILT = ("*.o", "*.ko", "*.mod*", ".*")


def check(folder: Path, *, finished: bool) -> None:
    """Raise InputError when modules of ``folder`` cannot be built, which can be seen before there is a kernel."""
    problems = []
    if not any((folder / name).is_file() for name in ("Makefile", "Kbuild")):
        problems.append(f"{folder}: has neither Makefile nor Kbuild")
    if finished:
        problems.append("modules for a finished kernel cannot be built here")
    if problems:
        raise InputError(problems)


def build_modules(store: Store, kernel: Kernel, folder: Path) -> Artifact:
    """Compile the modules of a source directory for ``kernel``; the artifact holds their ``.ko`` files.

    ``folder`` is a directory of a kernel tree (``drivers/vdpa/vdpa_sim``) or any with a Kbuild file; it is only read.
    Raises InputError when it is neither or the kernel is a prebuilt one, BuildError with the compiler's lines.
    """
    devel = _devel(kernel)
    check(folder, finished=not devel.is_file())
    inputs = {"kernel": f"{kernel.release} {kernel.key}", "source": tree_digest(folder), **kernelbuild.toolchain()}

    def build(into: Path, progress: Progress) -> None:
        progress.step(f"compiling the modules in {folder.name}")
        source = progress.scratch / "source"
        shutil.copytree(folder, source, ignore=shutil.ignore_patterns(*BUILT))
        compile_modules(devel, source, into, progress)
        if not any(into.iterdir()):
            raise BuildError(f"{folder.name} has no module that this kernel's configuration selects")

    return store.get(Recipe(f"modules-{folder.resolve().name}", inputs, build))


def headers_of(kernel: Kernel) -> Path:
    """The archive of what modules for a kernel are compiled against. Raises InputError for a finished kernel."""
    devel = _devel(kernel)
    if not devel.is_file():
        raise InputError([f"{kernel.release} is a finished kernel: modules for it cannot be built here"])
    return devel


def _devel(kernel: Kernel) -> Path:
    return kernel.artifact.path / "devel.tar.zst"


def compile_modules(devel: Path, source: Path, into: Path, progress: Progress) -> None:
    """Compile the modules in ``source``, which may be written to, and put them into ``into``.

    Raises CompileError with the compiler's lines, BuildError when it does not come to that.
    """
    headers = progress.scratch / "linux"
    if not headers.exists():
        headers.mkdir()
        progress.run(["tar", "-xf", str(devel), "-C", str(headers)], what="unpacking what modules need")
    jobs = len(os.sched_getaffinity(0))
    try:
        kernelbuild.make(headers, [f"-j{jobs}", f"M={source}", "modules"], progress, what=f"compiling {source.name}")
    except BuildError as error:
        raise CompileError(error.message) from error
    for module in sorted(source.rglob("*.ko")):
        kernelbuild.strip_debug(module, into / module.name, progress)
