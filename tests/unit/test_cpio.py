from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lab.artifacts import cpio

NODES = [
    cpio.directory("dev"),
    cpio.character_device("dev/console", 5, 1),
    cpio.directory("bin"),
    cpio.file("bin/busybox", b"x" * 5, 0o755),
    cpio.link("bin/sh", "busybox"),
]


def read(data: bytes) -> list[dict[str, object]]:
    """Entries of a newc archive, read as the kernel does (init/initramfs.c)."""
    names = ["ino", "mode", "uid", "gid", "nlink", "mtime", "size", "maj", "min", "rmaj", "rmin", "namesize", "check"]
    found, at = [], 0
    while at < len(data):
        assert data[at : at + 6] == b"070701"
        entry: dict[str, object] = {
            name: int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n, name in enumerate(names)
        }
        start = at + 110
        length, size = int(str(entry["namesize"])), int(str(entry["size"]))
        entry["name"] = data[start : start + length - 1].decode()
        assert data[start + length - 1] == 0
        body = (start + length + 3) & ~3
        entry["data"] = data[body : body + size]
        at = (body + size + 3) & ~3
        found.append(entry)
    return found


def test_entries_are_what_the_kernel_reads(tmp_path: Path) -> None:
    cpio.write(tmp_path / "a.cpio", NODES)
    *entries, trailer = read((tmp_path / "a.cpio").read_bytes())
    assert trailer["name"] == "TRAILER!!!"
    assert [entry["name"] for entry in entries] == [node.name for node in NODES]
    by_name = {str(entry["name"]): entry for entry in entries}
    assert by_name["dev/console"]["mode"] == stat.S_IFCHR | 0o600
    assert (by_name["dev/console"]["rmaj"], by_name["dev/console"]["rmin"]) == (5, 1)
    assert by_name["bin/busybox"]["data"] == b"xxxxx"
    assert by_name["bin/busybox"]["mode"] == stat.S_IFREG | 0o755
    assert by_name["bin/sh"]["data"] == b"busybox"
    assert by_name["bin/sh"]["mode"] == stat.S_IFLNK | 0o777
    assert len({entry["ino"] for entry in entries}) == len(entries)


def test_the_same_nodes_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        cpio.write(tmp_path / name, NODES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "nodes",
    [
        [cpio.file("init", b""), cpio.file("init", b"")],
        [cpio.file("bin/sh", b"")],
        [cpio.file("bin/sh", b""), cpio.directory("bin")],
    ],
    ids=["twice", "no directory", "directory too late"],
)
def test_an_archive_that_the_kernel_would_unpack_wrongly_is_refused(tmp_path: Path, nodes: list[cpio.Node]) -> None:
    with pytest.raises(ValueError, match="twice in the archive, or before its directory"):
        cpio.write(tmp_path / "a.cpio", nodes)
