"""Digests of files and trees, and the record of what a published artifact's directory held."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict

# A sampled digest reads this much at the start, in the middle and at the end of a file. It is taken of the largest
# files only: those are the ones too large to hash at each use, and truncation or a hole shows in them.
_SAMPLE_BYTES = 4096
_SAMPLED_FILES = 32


class FileRecord(TypedDict):
    """What a file was when it was published: ``size`` in bytes, ``mtime`` in ns; a link is its target."""

    size: int
    mtime: int
    sha256: str
    sample: str


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(path: Path) -> str:
    """SHA-256, in hex, of a tree: relative names, executable bits, link targets, contents. A file is a tree of one.

    Times and owners do not matter, so that a fresh checkout of the same files has the same digest. Raises OSError.
    """
    if not path.is_dir():
        return file_digest(path)
    total = hashlib.sha256()
    for name in walk(path):
        item = path / name
        kind = "l" if item.is_symlink() else "x" if os.access(item, os.X_OK) else "f"
        total.update(f"{kind} {name}\0{_content_digest(item)}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def walk(top: Path) -> Iterator[str]:
    """Names, relative to ``top`` and sorted, of all files and links below it; sockets and devices are left out."""
    found = []
    for folder, dirs, files in os.walk(top):
        links = [name for name in dirs if os.path.islink(os.path.join(folder, name))]
        found += [os.path.relpath(os.path.join(folder, name), top) for name in files + links]
    for name in sorted(found):
        mode = (top / name).lstat().st_mode
        if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            yield name


def record(top: Path) -> dict[str, FileRecord]:
    """The records of all files below ``top``. Raises OSError."""
    return {name: _record_one(top / name) for name in walk(top)}


def problems(top: Path, records: Mapping[str, FileRecord], *, full: bool) -> list[str]:
    """What below ``top`` is not as recorded, one sentence per file; extra files do not matter.

    ``full`` compares every content; otherwise sizes and times of all files and a sample of the largest. A file whose
    time alone changed is hashed: a copied cache is not a broken one.
    """
    largest = sorted(records, key=lambda name: records[name]["size"], reverse=True)[:_SAMPLED_FILES]
    sampled = set() if full else set(largest)
    found = (_problem(top / name, records[name], full=full, sampled=name in sampled) for name in records)
    return [f"{name}: {problem}" for name, problem in zip(records, found, strict=True) if problem]


def _problem(path: Path, was: FileRecord, *, full: bool, sampled: bool) -> str:
    try:
        now = path.lstat()
        if not stat.S_ISLNK(now.st_mode) and now.st_size != was["size"]:
            return f"size is {now.st_size}, was {was['size']}"
        if full or now.st_mtime_ns != was["mtime"]:
            return "" if _content_digest(path) == was["sha256"] else "content changed"
        return "content changed" if sampled and _sample(path) != was["sample"] else ""
    except OSError as error:
        return error.strerror or str(error)


def _record_one(path: Path) -> FileRecord:
    info = path.lstat()
    return {"size": info.st_size, "mtime": info.st_mtime_ns, "sha256": _content_digest(path), "sample": _sample(path)}


def _content_digest(path: Path) -> str:
    if path.is_symlink():
        return hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()
    return file_digest(path)


def _sample(path: Path) -> str:
    if path.is_symlink():
        return ""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for offset in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
            file.seek(offset)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
