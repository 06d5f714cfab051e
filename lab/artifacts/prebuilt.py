"""A finished kernel of the user's as an artifact: a bzImage or ELF, and the modules that belong to it."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab.artifacts import bootimage, kernelbuild
from lab.artifacts.digest import file_digest, tree_digest
from lab.artifacts.store import Progress, Recipe
from lab.errors import BuildError, InputError


def prebuilt_recipe(image: Path, modules: Path | None, recipe: str) -> Recipe:
    """How the image (and ``modules``: a directory with ``lib/modules/RELEASE``, or that itself) becomes an artifact.

    Raises InputError when the image is no kernel, or the modules are not there or of another release.
    """
    try:
        data = image.read_bytes()
        release = bootimage.release(data)
    except OSError as error:
        raise InputError([f"--kernel-image {image}: {error.strerror}"]) from error
    except BuildError as error:
        raise InputError([f"--kernel-image {image}: {error.message}"]) from error
    folder = _modules_folder(modules, release) if modules else None
    inputs = {
        "image": file_digest(image),
        "modules": tree_digest(folder) if folder else "none",
        "tools": " ".join(kernelbuild.toolchain(building=False).values()),
        "recipe": recipe,
    }

    def build(into: Path, progress: Progress) -> None:
        progress.step(f"taking Linux {release}")
        shutil.copyfile(image, into / "bzImage")
        (into / "version").write_text(f"{release}\n")
        vmlinux = into / "vmlinux"
        vmlinux.write_bytes(bootimage.elf_of(data))
        if not bootimage.boots_through_pvh(vmlinux.read_bytes()):
            progress.step("this kernel has no PVH entry: guests boot its bzImage, which is slower")
            shutil.copyfile(image, vmlinux)
        stage = progress.scratch / "stage"
        place = stage / "lib" / "modules" / release
        if folder:
            shutil.copytree(folder, place, symlinks=True, ignore=shutil.ignore_patterns("build", "source"))
        else:
            place.mkdir(parents=True)
        kernelbuild.pack_disk(stage, release, vmlinux, into / "kernel.squashfs", progress)

    return Recipe("kernel-prebuilt", inputs, build)


def _modules_folder(modules: Path, release: str) -> Path:
    """The directory of the release's modules. Raises InputError."""
    places = (modules / "lib" / "modules" / release, modules / release, modules)
    for place in places:
        if (place / "kernel").is_dir() and place.name == release:
            return place
    raise InputError([f"--kernel-modules {modules}: has no modules of {release}"])
