"""Read-only disks for L1."""

from __future__ import annotations

from pathlib import Path

from lab.artifacts.progress import Progress

# Nothing is compressed: inflating costs far more under TCG than reading. Owners and times are fixed, so that the
# same content gives the same image.
_OPTIONS = (
    "-noI",
    "-noD",
    "-noF",
    "-noX",
    "-noappend",
    "-no-progress",
    "-all-root",
    "-all-time",
    "0",
    "-mkfs-time",
    "0",
)


def squash(source: Path, image: Path, progress: Progress) -> None:
    """Make a squashfs of a directory's content, or of one file. Raises BuildError."""
    progress.run(["mksquashfs", str(source), str(image), *_OPTIONS], what="mksquashfs")
