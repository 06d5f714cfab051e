"""What compilers and checkers say about a bus, alone and without a kernel around it, for the suite's build checks.

The artifact keeps the sources that were laid over the kernel, and the output of every tool with its exit status::

    sources/PATH      each file of the bus as it lies in the kernel's tree; Kconfig: the entry of CONFIG_VIRTUAL_BUS
    compile-M-P.txt   W=1, for M of module, builtin and P of pm, nopm        sparse.txt      when there is sparse
    checkpatch.txt    --strict                                               kernel-doc.txt
    unterminated.txt  modpost on a driver whose table of ids has no end     callers/        who in the lab uses the bus
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab import proc
from lab.artifacts import kernelbuild
from lab.artifacts.apt import Apt
from lab.artifacts.conformance import VIRTBUS, copy_with
from lab.artifacts.digest import file_digest, tree_digest
from lab.artifacts.kernel import KernelRequest, kernel_source
from lab.artifacts.store import Artifact, Progress, Recipe, Store
from lab.artifacts.virtbus import Overlay, overlay
from lab.errors import BuildError

OPTION = "VIRTUAL_BUS"
Result = tuple[int, str]

# The smallest kernel that can have the bus; what it would otherwise select is off, and so its headers are tried.
_BASE = ("CONFIG_64BIT=y", "CONFIG_MODULES=y", "CONFIG_SYSFS=y")
_POWER = {"pm": ("CONFIG_SUSPEND=y", "CONFIG_PM=y"), "nopm": ("# CONFIG_SUSPEND is not set", "# CONFIG_PM is not set")}
TOOLS = frozenset(["checkpatch", "kernel-doc", "compile", "sparse", "unterminated"])
_CALLERS = ("tests", "users")
_MODES = {"module": "m", "builtin": "y"}
_NEW_FILE = re.compile(rb"^--- /dev/null\n\+\+\+ b/(\S+)", re.MULTILINE)
# Exit statuses of sh and env for a program that cannot be started.
_NOT_STARTED = (126, 127)
_ENTRY = re.compile(rf"^config {OPTION}\n(?:[ \t].*\n|\n)*", re.MULTILINE)
_UNTERMINATED = """
#include <linux/module.h>
#include <linux/virtual_bus.h>
static const struct virtbus_device_id ids[] = { { .name = "a.b" } };
MODULE_DEVICE_TABLE(virtbus, ids);
MODULE_DESCRIPTION("A table without its end");
MODULE_LICENSE("GPL");
"""


@dataclass(frozen=True)
class BuildRequest:
    """For which kernel source, with which bus (the lab's, a series, or a mutant of the lab's), and by which tools.

    ``header`` is a user's adapter, which calls that bus.
    """

    kernel: KernelRequest
    virtbus: Path | Literal["none"] | None = None
    mutant: Path | None = None
    header: Path | None = None
    tools: frozenset[str] = TOOLS


def bus_build(store: Store, request: BuildRequest, *, apt: Apt | None = None) -> Artifact:
    """Run every tool on the bus, unless that was done. What they find is no error here: the checks judge it.

    Raises InputError for what cannot be asked for, BuildError when the tools cannot be run.
    """
    source = kernel_source(store, request.kernel, apt or Apt())
    sparse = shutil.which("sparse")
    inputs = {
        "source": source.identity,
        **overlay(VIRTBUS, request.virtbus).inputs,
        **({"mutant": file_digest(request.mutant)[:16]} if request.mutant else {}),
        "sparse": proc.run([sparse, "--version"], check=False).text if sparse else "none",
        **({"header": file_digest(request.header)[:16]} if request.header else {}),
        "tools": " ".join(sorted(request.tools)),
        "callers": " ".join(tree_digest(VIRTBUS / name)[:16] for name in _CALLERS if (VIRTBUS / name).is_dir()),
        "building": file_digest(Path(__file__))[:16],
        **kernelbuild.toolchain(),
    }

    def build(into: Path, progress: Progress) -> None:
        tree = progress.scratch / "linux"
        tree.mkdir()
        source.unpack(tree, progress)
        folder = copy_with(request.mutant, progress, VIRTBUS) if request.mutant else VIRTBUS
        layer = overlay(folder, request.virtbus)
        layer.apply(tree)
        _callers(folder, into / "callers")
        if request.header:
            shutil.copy2(request.header, into / "callers" / request.header.name)
        wanted = request.tools if sparse else request.tools - {"sparse"}
        _Tools(tree, into, _files(layer, tree), progress).run(wanted)

    return store.get(Recipe("virtbus-build", inputs, build))


def _callers(folder: Path, into: Path) -> None:
    """Keep the sources of everything in the lab that calls the bus."""
    into.mkdir()
    for name in _CALLERS:
        for file in sorted((folder / name).glob("*.[ch]")):
            shutil.copy2(file, into / f"{name}-{file.name}")


def _files(layer: Overlay, tree: Path) -> list[Path]:
    """The files that the bus adds to the kernel, relative to its top."""
    found = [file.relative_to(layer.tree) for file in layer.tree.rglob("*") if file.is_file()] if layer.tree else []
    for patch in layer.patches_for(tree):
        found += [Path(name.decode()) for name in _NEW_FILE.findall(patch.data)]
    return sorted(found)


@dataclass(frozen=True)
class _Tools:
    """The tools on one laid out tree; ``files`` are the bus's."""

    tree: Path
    into: Path
    files: Sequence[Path]
    progress: Progress

    def run(self, tools: frozenset[str]) -> None:
        """These tools, into the artifact; the sources always."""
        code = [str(file) for file in self.files if file.suffix in (".c", ".h")]
        objects = [str(file.with_suffix(".o")) for file in self.files if file.suffix == ".c"]
        if not objects:
            raise BuildError("the series adds no C file to the kernel: there is nothing to compile")
        self._sources()
        if "checkpatch" in tools:
            argv = ["perl", "scripts/checkpatch.pl", "--no-tree", "--strict", "--terse", "-f", *code]
            self._write("checkpatch", self._command(argv))
        if "kernel-doc" in tools:
            self._write("kernel-doc", self._command(["scripts/kernel-doc", "-none", "-Wall", *code]))
        for power, mode in itertools.product(_POWER, _MODES) if "compile" in tools else ():
            self.progress.step(f"compiling the bus: {mode}, {power}")
            self._write(f"compile-{mode}-{power}", self._compile(mode, power, objects))
        if tools & {"sparse", "unterminated"}:
            configured = self._configure("module", "pm")
            if configured[0] == 0:
                self._prepare("modules_prepare")
            if "sparse" in tools:
                self._write("sparse", self._sparse(objects) if configured[0] == 0 else configured)
            if "unterminated" in tools:
                self._write("unterminated", self._modpost() if configured[0] == 0 else configured)

    def _sources(self) -> None:
        for file in self.files:
            target = self.into / "sources" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.tree / file, target)
        entries = [
            found[0] for path in self.tree.glob("drivers/*/Kconfig") if (found := _ENTRY.search(path.read_text()))
        ]
        (self.into / "sources" / "Kconfig").write_text("".join(entries))

    def _configure(self, mode: str, power: str) -> Result:
        """An allnoconfig with the bus; whether it stuck is part of the result."""
        wanted = [*_BASE, *_POWER[power], f"CONFIG_{OPTION}={_MODES[mode]}"]
        (self.tree / "bus.config").write_text("\n".join(wanted) + "\n")
        status, text = self._make("KCONFIG_ALLCONFIG=bus.config", "allnoconfig")
        have = (self.tree / ".config").read_text().splitlines() if status == 0 else []
        missing = [line for line in wanted if line.startswith("CONFIG_") and line not in have]
        return (1, f"did not stick: {', '.join(missing)}\n{text}") if missing else (status, text)

    def _compile(self, mode: str, power: str, objects: Sequence[str]) -> Result:
        configured = self._configure(mode, power)
        if configured[0] != 0:
            return configured
        self._prepare("prepare")
        return self._make("W=1", *objects)

    def _prepare(self, target: str) -> None:
        """Prepare the configured tree. What it says then is not about the bus; raises BuildError when it fails."""
        kernelbuild.make(self.tree, [_jobs(), target], self.progress, what=f"make {target}")

    def _sparse(self, objects: Sequence[str]) -> Result:
        return self._make("C=2", "CHECK=sparse", *objects)

    def _modpost(self) -> Result:
        folder = self.progress.scratch / "unterminated"
        folder.mkdir()
        (folder / "Kbuild").write_text("obj-m := unterminated.o\n")
        (folder / "unterminated.c").write_text(_UNTERMINATED)
        return self._make(f"M={folder}", "KBUILD_MODPOST_WARN=1", "modules")

    def _make(self, *arguments: str) -> Result:
        return self._logged(lambda: kernelbuild.make(self.tree, [_jobs(), *arguments], self.progress, what="make"))

    def _command(self, argv: Sequence[str]) -> Result:
        return self._logged(lambda: self.progress.run(argv, what=argv[0], cwd=self.tree))

    def _logged(self, work: Callable[[], None]) -> Result:
        """Do something with the builder's log, and take from there what was said.

        A failure is a result, but for that of starting a program. Raises BuildError.
        """
        before = self.progress.log.stat().st_size
        status = 0
        try:
            work()
        except BuildError as error:
            if error.status in _NOT_STARTED:
                raise
            status = 1
        with self.progress.log.open("rb") as log:
            log.seek(before)
            text = log.read().decode(errors="replace")
        return status, text.replace(f"{self.tree}/", "")

    def _write(self, name: str, result: Result) -> None:
        (self.into / f"{name}.txt").write_text(f"status {result[0]}\n{result[1]}")


def _jobs() -> str:
    return f"-j{len(os.sched_getaffinity(0))}"


def read_result(file: Path) -> Result | None:
    """Exit status and output of a tool; None when it was not run."""
    if not file.is_file():
        return None
    first, _, text = file.read_text().partition("\n")
    return int(first.removeprefix("status ")), text
