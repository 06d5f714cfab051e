"""One published artifact on disk: its manifest, and whether it still is what was published."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.artifacts import digest
from lab.errors import BuildError


@dataclass(frozen=True)
class Entry:
    """An artifact as the store lists it. Times are seconds since the epoch, ``size`` is bytes."""

    name: str
    key: str
    path: Path
    inputs: Mapping[str, str]
    why: str
    created: float
    used: float
    size: int
    lines: int


def write_manifest(folder: Path, inputs: Mapping[str, str], why: str, lines: int) -> None:
    """Record what the builder left in ``folder/files``. Raises BuildError when that is nothing, OSError."""
    files = digest.record(folder / "files")
    if not files:
        raise BuildError("the builder left nothing")
    manifest = {
        "inputs": dict(inputs),
        "why": why,
        "created": time.time(),
        "lines": lines,
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and "files" in manifest else None


def problems(folder: Path, *, full: bool) -> list[str]:
    """What is wrong with the entry, one sentence each: what `verify` noted, or what a look now shows."""
    with contextlib.suppress(OSError):
        return (folder / "corrupt").read_text().splitlines()
    manifest = _manifest(folder)
    if manifest is None:
        return ["manifest.json: missing or unreadable"]
    return digest.problems(folder / "files", manifest["files"], full=full)


def read_entry(folder: Path) -> Entry | None:
    """The entry in ``folder``; None when its manifest cannot be read."""
    manifest = _manifest(folder)
    if manifest is None:
        return None
    created = float(manifest["created"])
    used = max((path.stat().st_mtime for path in (folder / "used",) if path.exists()), default=created)
    size = sum(int(file["size"]) for file in manifest["files"].values())
    return Entry(
        name=folder.parent.name,
        key=folder.name,
        path=folder,
        inputs=manifest["inputs"],
        why=manifest["why"],
        created=created,
        used=used,
        size=size,
        lines=manifest["lines"],
    )
