"""The modules of the virtbus conformance suite for a kernel: tests, users, and for a mutant the changed bus itself.

They are an artifact of their own, so that neither kernel nor images depend on a test. Their source is
``images/kernel/virtbus``; its README says what lies there. Only the adapters asked for are compiled.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from lab.artifacts import kernelbuild, patches
from lab.artifacts.digest import file_digest, tree_digest
from lab.artifacts.kernel import IMAGES, Kernel
from lab.artifacts.modules import BUILT, compile_modules, headers_of
from lab.artifacts.store import Artifact, Progress, Recipe, Store
from lab.errors import BuildError, InputError

VIRTBUS = IMAGES / "virtbus"
BUS = "virtual_bus"
# The adapter of the kernel's own bus; the users are users of that.
OWN = "virtbus"
_TOUCHED = re.compile(r"^\+\+\+ b/(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class ModulesRequest:
    """Which modules: for these adapters, with a user's adapter header, with a mutant's patch in the bus."""

    adapters: tuple[str, ...]
    header: Path | None = None
    mutant: Path | None = None


def adapter_name(header: Path) -> str:
    """``foo`` of ``adapter-foo.h``. Raises InputError for another name."""
    if header.suffix != ".h" or not header.stem.startswith("adapter-"):
        raise InputError([f"--virtbus-adapter {header}: its name must be adapter-NAME.h"])
    return header.stem.removeprefix("adapter-")


def mutant_patch(name: str) -> Path:
    """The file of a mutant. Raises InputError when there is none of that name."""
    path = VIRTBUS / "mutants" / f"{name}.patch"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.patch")))
        raise InputError([f"there is no mutant {name!r}, only {known or 'none yet'}"])
    return path


def known_adapters() -> list[str]:
    """Names of the adapters that the lab has."""
    return sorted(adapter_name(file) for file in (VIRTBUS / "tests").glob("adapter-*.h"))


def suite_modules(store: Store, kernel: Kernel, request: ModulesRequest) -> list[Path]:
    """Compile the modules for ``kernel``; their ``.ko`` files, sorted.

    Of a mutant in the bus's own code only the bus is compiled, and lies with the modules that there are for the kernel
    anyway; any other mutant may change what they are compiled against, so that all are.

    Raises InputError for an adapter that there is not or a kernel that nothing can be compiled for, BuildError with the
    compiler's lines, or naming the hunk of a mutant that does not apply.
    """
    have = {*known_adapters(), *([adapter_name(request.header)] if request.header else [])}
    unknown = [name for name in request.adapters if name not in have]
    if unknown:
        raise InputError([f"there is no adapter {name!r}, only {', '.join(sorted(have))}" for name in unknown])
    plain = replace(request, mutant=None)
    if not request.mutant:
        made = [_modules(store, kernel, plain)]
    elif _in_the_bus(request.mutant):
        made = [_modules(store, kernel, plain), _mutant(store, kernel, request.mutant, plain, bus_only=True)]
    else:
        made = [_mutant(store, kernel, request.mutant, plain, bus_only=False)]
    return sorted(file for artifact in made for file in artifact.path.glob("*.ko"))


def _modules(store: Store, kernel: Kernel, request: ModulesRequest) -> Artifact:
    devel = headers_of(kernel)
    inputs = {
        **_inputs(kernel, request),
        **{f"source {name}": tree_digest(VIRTBUS / name)[:16] for name in _parts(request)},
    }

    def build(into: Path, progress: Progress) -> None:
        progress.step("compiling the conformance suite")
        source = copy_with(None, progress, VIRTBUS)
        _choose(source / "tests", request)
        for name in _parts(request):
            compile_modules(devel, source / name, into, progress)

    return store.get(Recipe(f"conformance-{'-'.join(request.adapters)}", inputs, build))


def _mutant(store: Store, kernel: Kernel, mutant: Path, request: ModulesRequest, *, bus_only: bool) -> Artifact:
    devel = headers_of(kernel)
    parts = ("tree",) if bus_only else ("tree", *_parts(request))
    inputs = {
        **_inputs(kernel, request),
        **{f"source {name}": tree_digest(VIRTBUS / name)[:16] for name in parts},
        "mutant": file_digest(mutant)[:16],
    }

    def build(into: Path, progress: Progress) -> None:
        progress.step(f"compiling the mutant {mutant.stem}")
        source = copy_with(mutant, progress, VIRTBUS)
        _choose(source / "tests", request)
        if bus_only:
            kbuild = source / "Kbuild"
            kbuild.write_text(re.sub(r"^(obj-m\s*:=\s*\S+).*", r"\1", kbuild.read_text(), flags=re.MULTILINE))
        compile_modules(devel, source, into, progress)
        if not (into / f"{BUS}.ko").exists():
            raise BuildError(f"{BUS}.ko was not compiled with the mutant")

    return store.get(Recipe("conformance-mutant", inputs, build))


def _in_the_bus(mutant: Path) -> bool:
    """Whether a mutant changes nothing but the bus's own C files."""
    return all(name.startswith("tree/drivers/") for name in _TOUCHED.findall(mutant.read_text()))


def _inputs(kernel: Kernel, request: ModulesRequest) -> dict[str, str]:
    return {
        "kernel": f"{kernel.release} {kernel.key}",
        "adapters": " ".join(request.adapters),
        **({"header": file_digest(request.header)[:16]} if request.header else {}),
        "laying out": file_digest(Path(__file__))[:16],
        **kernelbuild.toolchain(),
    }


def copy_with(mutant: Path | None, progress: Progress, folder: Path) -> Path:
    """A copy of the virtbus folder that may be written to, with a mutant. Raises BuildError if that does not apply."""
    source = progress.scratch / "virtbus"
    shutil.copytree(folder, source, ignore=shutil.ignore_patterns(*BUILT))
    if mutant:
        patches.apply(patches.read_patches([mutant]), source)
    return source


def _parts(request: ModulesRequest) -> list[str]:
    """The folders that are compiled: the users are of the kernel's own bus."""
    wanted = ("tests", "users") if OWN in request.adapters else ("tests",)
    return [name for name in wanted if (VIRTBUS / name).is_dir()]


def _choose(tests: Path, request: ModulesRequest) -> None:
    """Leave only the adapters asked for: each needs the header of its bus."""
    if request.header:
        shutil.copy2(request.header, tests / request.header.name)
    for file in tests.glob("adapter-*.h"):
        if adapter_name(file) not in request.adapters:
            file.unlink()
