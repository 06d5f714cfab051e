"""Write an initramfs: a cpio archive in the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).

Written here and not by cpio(1) because that needs root for device nodes and is not reproducible.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Node:
    """One entry: ``name`` relative to /, ``mode`` with the file type, the content, and a device's number."""

    name: str
    mode: int
    data: bytes = b""
    major: int = 0
    minor: int = 0


def directory(name: str, mode: int = 0o755) -> Node:
    """A directory."""
    return Node(name, stat.S_IFDIR | mode)


def file(name: str, data: bytes, mode: int = 0o644) -> Node:
    """A regular file."""
    return Node(name, stat.S_IFREG | mode, data)


def link(name: str, target: str) -> Node:
    """A symbolic link."""
    return Node(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int) -> Node:
    """A character device node, readable and writable by root."""
    return Node(name, stat.S_IFCHR | 0o600, major=major, minor=minor)


def write(path: Path, nodes: Sequence[Node]) -> None:
    """Write the archive, all owned by root, with no times, in the given order (a directory before what it holds).

    Raises ValueError for a name that occurs twice or whose directory does not come before it.
    """
    _check(nodes)
    with path.open("wb") as archive:
        for number, node in enumerate(nodes, 1):
            archive.write(_entry(node, number))
        archive.write(_entry(Node(_TRAILER, 0), 0))


def _check(nodes: Sequence[Node]) -> None:
    folders, seen = {""}, set()
    for node in nodes:
        parent = node.name.rpartition("/")[0]
        if node.name in seen or parent not in folders:
            raise ValueError(f"{node.name}: twice in the archive, or before its directory")
        seen.add(node.name)
        if stat.S_ISDIR(node.mode):
            folders.add(node.name)


def _entry(node: Node, inode: int) -> bytes:
    name = node.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(node.mode) else 1
    fields = (inode, node.mode, 0, 0, links, 0, len(node.data), 0, 0, node.major, node.minor, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(node.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
