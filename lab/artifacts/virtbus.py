"""The virtbus overlay: what is laid over kernel source before the user's patches.

``images/kernel/virtbus`` may hold ``tree/`` (files copied into the source), ``*.patch`` (applied in order of their
names; they hook the files into Kconfig and Makefile) and ``virtbus.config`` (options). A series given by the user
takes the place of tree and patches.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.artifacts import patches
from lab.artifacts.digest import tree_digest
from lab.artifacts.patches import Patch


@dataclass(frozen=True)
class Overlay:
    """Files to copy (``tree``), patches to apply after that, and a fragment of options; any may be missing."""

    tree: Path | None = None
    series: tuple[Patch, ...] = ()
    options: Path | None = None

    @property
    def inputs(self) -> dict[str, str]:
        """What of it goes into a kernel's key."""
        found = {f"virtbus patch {patch.name}": hashlib.sha256(patch.data).hexdigest()[:16] for patch in self.series}
        return {**found, "virtbus tree": tree_digest(self.tree)[:16]} if self.tree else found

    def apply(self, source: Path) -> None:
        """Lay it over unpacked kernel source. Raises BuildError naming a hunk that does not apply."""
        if self.tree:
            shutil.copytree(self.tree, source, dirs_exist_ok=True, copy_function=_replace)
        patches.apply(self.series, source)


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
    own = sorted(folder.glob("*.patch"))
    return Overlay(tree if tree.is_dir() else None, tuple(patches.read_patches(own)), fragment)
