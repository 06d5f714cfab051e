"""The virtbus overlay: what is laid over kernel source before the user's patches.

``images/kernel/virtbus`` may hold ``tree/`` (files copied into the source), ``*.patch`` (applied in order of their
names; they hook the files into Kconfig and Makefile), ``X.Y/*.patch`` (hooks and backports for Linux X.Y and what comes
after it, up to the next such folder) and ``virtbus.config`` (options). A series given by the user takes the place of
tree and patches.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lab.artifacts import patches
from lab.artifacts.digest import tree_digest
from lab.artifacts.patches import Patch
from lab.errors import BuildError

Version = tuple[int, int]


@dataclass(frozen=True)
class Overlay:
    """Files to copy (``tree``), patches to apply after that, and a fragment of options; any may be missing.

    ``since`` has patches for the kernels from a version up to the next one in it.
    """

    tree: Path | None = None
    series: tuple[Patch, ...] = ()
    options: Path | None = None
    since: Mapping[Version, tuple[Patch, ...]] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, str]:
        """What of it goes into a kernel's key: all versions' patches, for the source's is known when it is unpacked."""
        named = {patch.name: patch for patch in self.series}
        for (major, minor), series in self.since.items():
            named |= {f"{major}.{minor}/{patch.name}": patch for patch in series}
        found = {f"virtbus patch {name}": hashlib.sha256(patch.data).hexdigest()[:16] for name, patch in named.items()}
        return {**found, "virtbus tree": tree_digest(self.tree)[:16]} if self.tree else found

    def apply(self, source: Path) -> None:
        """Lay it over unpacked kernel source.

        Raises BuildError naming a hunk that does not apply, or for a kernel that is older than all backports.
        """
        if self.tree:
            shutil.copytree(self.tree, source, dirs_exist_ok=True, copy_function=_replace)
        patches.apply(self.patches_for(source), source)

    def patches_for(self, source: Path) -> tuple[Patch, ...]:
        """The patches that this kernel source takes, in order. Raises BuildError when it is too old."""
        return self.patches_since(source_version(source)) if self.since else self.series

    def patches_since(self, version: Version) -> tuple[Patch, ...]:
        """The patches that a Linux of that version takes, in order. Raises BuildError when it is too old."""
        if not self.since:
            return self.series
        known = [first for first in self.since if first <= version]
        if not known:
            oldest = ".".join(map(str, min(self.since)))
            raise BuildError(f"virtbus has no backport to Linux {version[0]}.{version[1]}, only to {oldest} and later")
        return self.series + tuple(self.since[max(known)])


def source_version(source: Path) -> Version:
    """VERSION and PATCHLEVEL of the Makefile of kernel source. Raises BuildError when they are not there."""
    text = (source / "Makefile").read_text(errors="replace") if (source / "Makefile").is_file() else ""
    words = dict(re.findall(r"^(VERSION|PATCHLEVEL) = (\d+)$", text, re.MULTILINE))
    if len(words) != 2:
        raise BuildError(f"{source / 'Makefile'} does not say which version of Linux it is")
    return int(words["VERSION"]), int(words["PATCHLEVEL"])


def _replace(file: str, target: str) -> None:
    """Copy a file over another that may be a link to the store's (kernelsource): a new file, never new content."""
    Path(target).unlink(missing_ok=True)
    shutil.copy2(file, target)


def overlay(folder: Path, wish: Path | Literal["none"] | None) -> Overlay:
    """The overlay in ``folder``, as the user wants it: as it is (None), not at all, or a series. Raises InputError."""
    if wish == "none":
        return Overlay()
    options = folder / "virtbus.config"
    fragment = options if options.is_file() else None
    if wish:
        return Overlay(series=tuple(patches.read_patches([wish])), options=fragment)
    tree = folder / "tree"
    return Overlay(tree if tree.is_dir() else None, _own(folder), fragment, _since(folder))


def _own(folder: Path) -> tuple[Patch, ...]:
    return tuple(patches.read_patches(sorted(folder.glob("*.patch"))))


def _since(folder: Path) -> dict[Version, tuple[Patch, ...]]:
    found = {}
    for item in folder.glob("*/"):
        if match := re.fullmatch(r"(\d+)\.(\d+)", item.name):
            found[int(match[1]), int(match[2])] = _own(item)
    return dict(sorted(found.items()))
