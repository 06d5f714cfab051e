"""A finished kernel of the user's as an artifact: a bzImage or ELF, and the modules that belong to it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from lab.artifacts import bootimage, kernelbuild
from lab.artifacts.digest import file_digest, tree_digest
from lab.artifacts.store import Progress, Recipe
from lab.errors import BuildError, InputError

# The host (L1) boots without an initrd from ext4 on virtio-blk and has its modules on squashfs; the guest (L2) boots
# from a cpio; both talk on a serial console.
_BUILT_IN = (
    "BLK_DEV_INITRD",
    "DEVTMPFS",
    "EXT4_FS",
    "SERIAL_8250_CONSOLE",
    "SQUASHFS",
    "VIRTIO_BLK",
    "VIRTIO_PCI",
)


@dataclass(frozen=True)
class Finished:
    """What is known of a finished kernel: its file and the ELF in it; ``config`` is empty when it is not to be had."""

    data: bytes
    elf: bytes
    release: str
    config: str
    modules: Path | None


def examine(image: Path, modules: Path | None) -> Finished:
    """Look at a finished kernel.

    ``modules`` is a directory with ``lib/modules/RELEASE``, or that itself; without it, one beside or above the image
    or of this machine that has the image's release is taken, if any. Raises InputError when the image is no kernel or
    lacks what the lab's machines boot from, or the modules are of another release.
    """
    try:
        data = image.read_bytes()
        release = bootimage.release(data)
        elf = bootimage.elf_of(data)
    except OSError as error:
        raise InputError([f"--kernel-image {image}: {error.strerror}"]) from error
    except BuildError as error:
        raise InputError([f"--kernel-image {image}: {error.message}"]) from error
    config = _config(image, elf, release)
    _check_boot(image, config)
    return Finished(data, elf, release, config, _modules_folder(image, modules, release))


def prebuilt_recipe(image: Path, modules: Path | None) -> Recipe:
    """How a finished kernel becomes an artifact. Raises InputError as :func:`examine` does."""
    found = examine(image, modules)
    release, folder = found.release, found.modules
    inputs = {
        "image": file_digest(image),
        "modules": tree_digest(folder) if folder else "none",
        "taking": file_digest(Path(__file__))[:16],
        **kernelbuild.toolchain(building=False),
    }

    def build(into: Path, progress: Progress) -> None:
        progress.step(f"taking Linux {release}, modules: {folder or 'none found'}")
        shutil.copyfile(image, into / "bzImage")
        (into / "version").write_text(f"{release}\n")
        if found.config:
            (into / "config").write_text(found.config)
        pvh = bootimage.boots_through_pvh(found.elf)
        if not pvh:
            progress.step("this kernel has no PVH entry: guests boot its bzImage, which is slower")
        vmlinux = into / "vmlinux"
        vmlinux.write_bytes(found.elf if pvh else found.data)
        stage = progress.scratch / "stage"
        place = stage / "lib" / "modules" / release
        if folder:
            shutil.copytree(folder, place, symlinks=True, ignore=shutil.ignore_patterns("build", "source"))
        else:
            place.mkdir(parents=True)
        kernelbuild.pack_disk(stage, release, vmlinux, into / "kernel.squashfs", progress)

    return Recipe("kernel-prebuilt", inputs, build)


def _modules_folder(image: Path, modules: Path | None, release: str) -> Path | None:
    """The directory of the release's modules. Raises InputError when those the user named are not."""
    tops = [modules] if modules else [image.parent, image.parent.parent, Path("/")]
    for top in tops:
        for place in (top / "lib" / "modules" / release, top / release, top):
            if (place / "modules.order").is_file() and place.name == release:
                return place
    if modules:
        raise InputError([f"--kernel-modules {modules}: has no modules of {release}"])
    return None


def _config(image: Path, elf: bytes, release: str) -> str:
    """The kernel's .config: from the kernel itself, or beside it as distributions put it; empty when unknown."""
    beside = image.with_name(f"config-{release}")
    return bootimage.config(elf) or (beside.read_text() if beside.is_file() else "")


def _check_boot(image: Path, config: str) -> None:
    """Raise InputError naming what the lab's machines need to boot and this kernel has not built in."""
    missing = [name for name in _BUILT_IN if config and f"CONFIG_{name}=y" not in config.splitlines()]
    if missing:
        raise InputError([f"--kernel-image {image}: CONFIG_{name} must be built in (=y)" for name in missing])
