"""Which QEMU runs at L0 and which inside L1: one under test, the machine's own, or the host image's.

Data paths of vDPA need QEMU >= 11.1 (facts: 10.0 lacks SR-IOV on virtio, and its queues are too long for vdpa_sim),
which most machines do not have; the host image holds one, and it runs on L0 as a bundle.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.artifacts import bundle
from lab.artifacts.hostimage import QEMU_DATA, QEMU_FIRMWARE, HostImage
from lab.artifacts.progress import Progress
from lab.artifacts.squashfs import squash
from lab.artifacts.store import Recipe, Store, file_digest
from lab.errors import BuildError, CommandError, DeadlineExceeded, InputError
from lab.proc import run

Version = tuple[int, int, int]

NEEDED: Version = (11, 1, 0)
ANY: Version = (0, 0, 0)
PROGRAM = "qemu-system-x86_64"
# Serial of the virtio-blk disk with a QEMU under test; L1's init mounts it there.
DISK_SERIAL = "qemu"
_IN_L1 = Path("/lab") / DISK_SERIAL
_MODULES = "usr/lib/qemu"

_VERSION = re.compile(r"^QEMU emulator version (\d+)\.(\d+)\.(\d+)")
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Qemu:
    """How to start a QEMU: ``argv`` (with -L options) and ``img`` (qemu-img) are prefixes of command lines.

    ``source`` says in words where it comes from; ``digest`` is that of its program.
    """

    argv: tuple[str, ...]
    img: tuple[str, ...]
    version: Version
    source: str
    digest: str


@dataclass(frozen=True)
class QemuInL1(Qemu):
    """A QEMU for L2, with paths as L1 sees them. ``disk`` is a squashfs that L1 needs with serial DISK_SERIAL."""

    disk: Path | None = None


def qemu_l0(host: HostImage, *, path: Path | None = None, need: Version = NEEDED) -> Qemu:
    """The QEMU for L1: ``path`` (a program or an install prefix), else the machine's own, else the host image's.

    Raises InputError when ``path`` is no QEMU or is older than ``need``.
    """
    if path is not None:
        program, version = given(path, need)
        return Qemu((str(program),), _img(program, host), version, f"{path}", file_digest(program))
    return _machines_own(need) or _extracted(host)


def qemu_l1(store: Store, host: HostImage, *, path: Path | None = None) -> QemuInL1:
    """The QEMU for L2: the host image's, or ``path`` (a program or an install prefix) with all it needs, on a disk.

    Raises InputError when ``path`` is no QEMU, BuildError when a library or a firmware file of it is missing.
    """
    if path is None:
        own = _extracted(host)
        return QemuInL1(("/usr/bin/" + PROGRAM,), ("/usr/bin/qemu-img",), own.version, "the host image", own.digest)
    program, version = given(path)
    image = program.with_name("qemu-img")
    programs = [program, *([image] if image.is_file() else [])]
    artifact = store.get(_recipe(programs))
    img = bundle.argv(_IN_L1, "qemu-img") if len(programs) > 1 else ("/usr/bin/qemu-img",)
    argv = ("env", f"QEMU_MODULE_DIR={_IN_L1 / _MODULES}", *_bundle_argv(_IN_L1))
    return QemuInL1(argv, img, version, f"{path}", file_digest(program), artifact.path / "qemu.squashfs")


def given(path: Path, need: Version = ANY) -> tuple[Path, Version]:
    """The program that a user means by ``path``, and its version. Raises InputError as :func:`qemu_l0` does."""
    program = _program(path)
    version = _version([str(program)])
    if version is None:
        raise InputError([f"{program} is not a QEMU system emulator: --version does not say so"])
    if version < need:
        raise InputError([f"{program} is QEMU {_dotted(version)}, this needs {_dotted(need)} or newer"])
    return program, version


def parse_version(text: str) -> Version | None:
    """The version in what ``--version`` prints; None when that is no QEMU system emulator."""
    match = _VERSION.match(text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _machines_own(need: Version) -> Qemu | None:
    program, image = shutil.which(PROGRAM), shutil.which("qemu-img")
    if program is None or image is None:
        return None
    version = _version([program])
    if version is None or version < need:
        return None
    return Qemu((program,), (image,), version, "this machine", file_digest(Path(program)))


def _extracted(host: HostImage) -> Qemu:
    argv = _bundle_argv(host.qemu)
    version = _version(argv)
    if version is None:
        raise BuildError(f"the QEMU in {host.qemu} does not start", hint="vdpalab artifacts verify")
    digest = file_digest(host.qemu / bundle.PROGRAMS / PROGRAM)
    return Qemu(argv, bundle.argv(host.qemu, "qemu-img"), version, "the host image", digest)


def _bundle_argv(top: Path) -> tuple[str, ...]:
    return (*bundle.argv(top, PROGRAM), *(word for data in QEMU_DATA for word in ("-L", str(top / data))))


def _program(path: Path) -> Path:
    """The system emulator that a user means by a program, an install prefix or a build directory."""
    places = [path / "bin" / PROGRAM, path / PROGRAM] if path.is_dir() else [path]
    for place in places:
        if place.is_file():
            return place.absolute()
    raise InputError([f"no QEMU at {path}: there is no {' and no '.join(map(str, places))}"])


def _img(program: Path, host: HostImage) -> tuple[str, ...]:
    """The qemu-img beside a program, else the host image's."""
    beside = program.with_name("qemu-img")
    return (str(beside),) if beside.is_file() else bundle.argv(host.qemu, "qemu-img")


def _version(argv: Sequence[str]) -> Version | None:
    try:
        return parse_version(run([*argv, "--version"], timeout_s=_TIMEOUT_S).text)
    except (CommandError, DeadlineExceeded):
        return None


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _recipe(programs: Sequence[Path]) -> Recipe:
    """A user's QEMU with its libraries and firmware, as a disk for L1."""
    firmware, modules = _firmware(programs[0]), _accelerators(programs[0])
    libraries = {name: path for program in programs for name, path in bundle.libraries(program).items()}
    inputs = {path.name: file_digest(path) for path in (*programs, *firmware, *modules)}
    inputs |= {name: file_digest(path) for name, path in libraries.items()}
    return Recipe("qemu-l1", inputs, lambda out, progress: _build(out, progress, programs, firmware, modules))


def _firmware(program: Path) -> list[Path]:
    """The firmware files that direct kernel boot needs, from the directories in which the QEMU looks for them."""
    folders = [Path(line) for line in run([str(program), "-L", "help"], timeout_s=_TIMEOUT_S).text.splitlines()]
    found = {name: folder / name for folder in reversed(folders) for name in QEMU_FIRMWARE if (folder / name).is_file()}
    if "bios-256k.bin" not in found:
        raise BuildError(f"{program}: no bios-256k.bin in {', '.join(map(str, folders)) or 'its data directories'}")
    return sorted(found.values())


def _accelerators(program: Path) -> list[Path]:
    """Accelerators that the QEMU loads as modules: distributions build it so, upstream's default is without."""
    prefix = program.resolve().parent.parent
    folders = [program.resolve().parent, *prefix.glob("lib*/qemu"), *prefix.glob("lib/*/qemu")]
    return sorted(module for folder in folders for module in folder.glob("accel-*.so"))


def _build(
    out: Path, progress: Progress, programs: Sequence[Path], firmware: Sequence[Path], modules: Sequence[Path]
) -> None:
    tree = out / "tree"
    progress.step(f"collecting {programs[0]} with its libraries")
    bundle.make(tree, programs)
    for folder, files in ((QEMU_DATA[0], firmware), (QEMU_DATA[1], ()), (_MODULES, modules)):
        (tree / folder).mkdir(parents=True)
        for path in files:
            shutil.copy(path, tree / folder)
    if programs[0].name != PROGRAM:
        (tree / bundle.PROGRAMS / programs[0].name).rename(tree / bundle.PROGRAMS / PROGRAM)
    _start(tree)
    squash(tree, out / "qemu.squashfs", progress)
    shutil.rmtree(tree)


def _start(tree: Path) -> None:
    """Raise BuildError when the collected QEMU does not start a machine with TCG, which says what it lacks."""
    argv = [*_bundle_argv(tree), "-M", "none", "-accel", "tcg", "-nodefaults", "-display", "none", "-monitor", "stdio"]
    env = {"QEMU_MODULE_DIR": str(tree / _MODULES)}
    done = run(argv, env=env, input=b"quit\n", check=False, timeout_s=_TIMEOUT_S)
    if done.returncode != 0:
        raise BuildError(f"the QEMU does not start from what was collected:\n{done.stderr.decode(errors='replace')}")
