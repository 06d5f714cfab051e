"""Building a kernel from unpacked source: configure, compile, install modules, pack the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lab.artifacts import bootimage, kconfig
from lab.artifacts.store import Progress, cache_root, file_digest
from lab.errors import BuildError
from lab.proc import run

# So that the same inputs give the same bytes: Documentation/kbuild/reproducible-builds.rst.
_REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "2025-01-01",
    "KBUILD_BUILD_USER": "vdpalab",
    "KBUILD_BUILD_HOST": "vdpalab",
    "SOURCE_DATE_EPOCH": "1735689600",
    "LC_ALL": "C",
}
# depmod lies where an ordinary user's PATH does not look.
_PATH = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
# Programs, and the Debian packages that have them: those that pack a kernel, and those that compile one.
_PACK = {"depmod": "kmod", "mksquashfs": "squashfs-tools"}
_COMPILE = {
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "gcc": "gcc",
    "ld": "binutils",
    "make": "make",
    "patch": "patch",
    "rsync": "rsync",
    "xz": "xz-utils",
    "zstd": "zstd",
}
_VERSIONED = {"gcc": "--version", "ld": "--version", "mksquashfs": "-version"}


def toolchain(*, building: bool = True) -> dict[str, str]:
    """What decides the bytes besides the source: this recipe, and versions of programs. Part of every key.

    Raises BuildError naming every missing package.
    """
    tools = {**_PACK, **(_COMPILE if building else {})}
    missing = sorted(package for tool, package in tools.items() if not shutil.which(tool, path=_PATH))
    if missing:
        raise BuildError(f"building a kernel needs the packages {' '.join(missing)}", hint="vdpalab setup")
    # The status is not looked at: mksquashfs -version ends with 1 in some releases.
    versions = {tool: run([tool, option], check=False).text for tool, option in _VERSIONED.items() if tool in tools}
    recipe = file_digest(Path(__file__))[:16]
    return {"recipe": recipe, **{tool: text.splitlines()[0] for tool, text in versions.items()}}


def configure(source: Path, options: Sequence[kconfig.Option], progress: Progress) -> None:
    """Make ``.config`` from nothing but the options. Raises BuildError naming each that did not stick."""
    progress.step("configuring")
    (source / "lab.config").write_text(kconfig.all_config(options))
    make(source, ["KCONFIG_ALLCONFIG=lab.config", "allnoconfig"], progress, what="make allnoconfig")
    problems = kconfig.not_stuck(options, (source / ".config").read_text())
    if problems:
        hint = "a missing dependency, or an option that this version lacks: mark it '# optional' in its fragment"
        raise BuildError("options that did not stick:\n" + "\n".join(problems), hint=hint)


def compile_all(source: Path, progress: Progress) -> None:
    """Compile the image and the modules."""
    jobs = len(os.sched_getaffinity(0))
    progress.step(f"compiling with {jobs} jobs{' and ccache' if shutil.which('ccache') else ''}")
    # Debug information names files relative to the source: its directory here is gone when gdb looks.
    flags = [f"KCFLAGS=-fdebug-prefix-map={source}=."] if _has_debug_info(source) else []
    make(source, [f"-j{jobs}", *flags, "bzImage", "modules"], progress, what="compiling the kernel")


def install(source: Path, into: Path, progress: Progress) -> None:
    """Put image, ELF, configuration, release and the disk of a compiled kernel into ``into``."""
    progress.step("packing")
    release = (source / "include" / "config" / "kernel.release").read_text().strip()
    shutil.copy2(source / "arch" / "x86" / "boot" / "bzImage", into / "bzImage")
    shutil.copy2(source / ".config", into / "config")
    if _has_debug_info(source):
        shutil.copy2(source / "vmlinux", into / "vmlinux.debug")
    (into / "version").write_text(f"{release}\n")
    strip_debug(source / "vmlinux", into / "vmlinux", progress)
    if not bootimage.boots_through_pvh((into / "vmlinux").read_bytes()):
        raise BuildError("vmlinux has no PVH entry although CONFIG_PVH is set")
    stage = progress.scratch / "stage"
    strip = [] if _has_debug_info(source) else ["INSTALL_MOD_STRIP=1"]
    argv = ["-s", f"INSTALL_MOD_PATH={stage}", *strip, f"DEPMOD={shutil.which('depmod', path=_PATH)}"]
    make(source, [*argv, "modules_install"], progress, what="installing modules")
    pack_disk(stage, release, into / "vmlinux", into / "kernel.squashfs", progress)
    pack_devel(source, into / "devel.tar.zst", progress)


def pack_devel(source: Path, tar: Path, progress: Progress) -> None:
    """Pack what ``make M=`` needs of a built tree, so that one changed module is compiled in a second."""
    needed = [".config", "Makefile", "Module.symvers", "scripts", "include", "tools/objtool/objtool"]
    needed += [f"arch/x86/{name}" for name in ("Makefile", "Makefile_32.cpu", "include")]
    left_out = ["*.o", "*.cmd", "include/config/[A-Z]*", "scripts/kconfig", "scripts/dtc", "scripts/gcc-plugins"]
    excludes = [f"--exclude={pattern}" for pattern in left_out]
    argv = ["tar", "--zstd", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]
    progress.run([*argv, "-cf", str(tar), "-C", str(source), *excludes, *needed], what="packing what modules need")


def pack_disk(stage: Path, release: str, vmlinux: Path, disk: Path, progress: Progress) -> None:
    """Pack the modules in ``stage`` and the ELF kernel as an uncompressed squashfs: read in a guest, at once."""
    modules = stage / "lib" / "modules" / release
    for link in ("build", "source"):
        (modules / link).unlink(missing_ok=True)
    depmod = shutil.which("depmod", path=_PATH) or "depmod"
    progress.run([depmod, "-b", str(stage), release], what="depmod")
    (stage / "boot").mkdir(exist_ok=True)
    shutil.copy2(vmlinux, stage / "boot" / "vmlinux")
    options = ["-noI", "-noD", "-noF", "-noX", "-all-root", "-no-progress", "-noappend"]
    progress.run(["mksquashfs", str(stage), str(disk), *options], env=_REPRODUCIBLE, what="packing kernel.squashfs")


def strip_debug(elf: Path, into: Path, progress: Progress) -> None:
    """Copy an ELF file without debug information; symbols and build id stay."""
    progress.run(["objcopy", "--strip-debug", str(elf), str(into)], what=f"copying {elf.name}")


def make(source: Path, arguments: Sequence[str], progress: Progress, *, what: str) -> None:
    """Run make in a source tree, through ccache when there is one. Raises BuildError with the compiler's errors."""
    ccache = "ccache " if shutil.which("ccache") else ""
    argv = ["make", "-C", str(source), f"CC={ccache}gcc", f"HOSTCC={ccache}gcc", "LOCALVERSION=", *arguments]
    progress.run(argv, env=_environment(source), what=what)


def _has_debug_info(source: Path) -> bool:
    return "CONFIG_DEBUG_INFO=y" in (source / ".config").read_text().splitlines()


def _environment(source: Path) -> dict[str, str]:
    own = {"CCACHE_DIR": str(cache_root() / "ccache"), "CCACHE_MAXSIZE": "4G", "CCACHE_BASEDIR": str(source)}
    # kbuild has gcc write dependencies anyway: with them ccache needs no preprocessor run of its own (ccache(1)).
    own["CCACHE_DEPEND"] = "1"
    kept = {name: os.environ.get(name, value) for name, value in own.items()}
    # What a kernel developer's shell may have set for other builds.
    fixed = {"ARCH": "x86", "CROSS_COMPILE": "", "KBUILD_OUTPUT": "", "KCFLAGS": "", "MAKEFLAGS": ""}
    return {**_REPRODUCIBLE, **kept, **fixed, "PATH": _PATH}
