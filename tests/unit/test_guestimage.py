from __future__ import annotations

import shutil
import stat
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lab.artifacts import bundle, cpio, guestimage
from lab.artifacts.guestimage import GuestRecipe
from lab.artifacts.hostimage import IMAGES
from lab.config.strict import read_toml, validate
from lab.errors import BuildError

RECIPE = validate(GuestRecipe, read_toml(IMAGES / "guest" / "image.toml"), "image.toml")

APPLETS = b"\0insmod\0ionice\0ip\0ipcalc\0kill\0"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system with this machine's ls as the only program, and a busybox with three applets."""
    program = shutil.which("ls")
    assert program
    top = tmp_path / "tree"
    bundle.make(top, [Path(program)])
    busybox = top / "usr/bin/busybox"
    busybox.write_bytes(b"#!/bin/sh\nprintf 'busybox\\nip\\nipcalc\\nls\\nmount\\nsh\\n'\nexit\n" + APPLETS)
    busybox.chmod(0o755)
    return top


def recipe(without: dict[str, tuple[str, ...]]) -> GuestRecipe:
    return GuestRecipe(programs=("/usr/bin/ls",), opened=(), without=without)


def by_name(nodes: list[cpio.Node]) -> dict[str, cpio.Node]:
    return {node.name: node for node in nodes}


def test_programs_come_with_the_libraries_that_are_left(tree: Path) -> None:
    want = recipe({"ls": ("libselinux.so.1",)})
    guestimage.slim(tree, want)
    nodes = by_name(guestimage.nodes(tree, want))
    libraries = {name.rpartition("/")[2] for name in nodes if name.startswith("lib/x86_64-linux-gnu/")}
    assert "libc.so.6" in libraries
    assert not any(name.startswith("libselinux") for name in libraries)
    # ld.so loads it for libselinux only.
    assert not any(name.startswith("libpcre2") for name in libraries)
    assert "lib64/ld-linux-x86-64.so.2" in nodes


def test_a_library_loses_what_it_does_without_too(tree: Path) -> None:
    want = recipe({"libselinux.so.1": ("libpcre2-8.so.0",)})
    guestimage.slim(tree, want)
    names = {node.name.rpartition("/")[2] for node in guestimage.nodes(tree, want)}
    assert "libselinux.so.1" in names
    assert "libpcre2-8.so.0" not in names


def test_a_library_that_is_only_opened_comes_too(tree: Path) -> None:
    (tree / bundle.LIBRARIES / "libopened.so.1").write_bytes(b"opened")
    want = GuestRecipe(programs=("/usr/bin/ls",), opened=("libopened.so.1",), without={})
    assert by_name(guestimage.nodes(tree, want))["lib/x86_64-linux-gnu/libopened.so.1"].data == b"opened"


@pytest.mark.parametrize("without", [{"ls": ("libnot.so.1",)}, {"libnot.so.1": ("libc.so.6",)}])
def test_a_rule_that_fits_nothing_is_an_error(tree: Path, without: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(BuildError, match=r"images/guest/image\.toml: (ls|libnot\.so\.1): "):
        guestimage.slim(tree, recipe(without))


def test_applets_are_links_but_where_a_program_is_taken(tree: Path) -> None:
    nodes = by_name(guestimage.nodes(tree, recipe({})))
    assert nodes["bin/mount"].data == nodes["bin/sh"].data == b"busybox"
    assert stat.S_ISREG(nodes["bin/ls"].mode)
    assert stat.S_ISREG(nodes["bin/busybox"].mode)


def test_busybox_does_not_know_its_own_ip(tree: Path) -> None:
    nodes = by_name(guestimage.nodes(tree, recipe({})))
    table = nodes["bin/busybox"].data[-len(APPLETS) :].split(b"\0")[1:-1]
    assert b"ip" not in table
    assert table == sorted(table)
    assert "bin/ip" not in nodes
    assert "bin/ipcalc" not in nodes


@pytest.mark.parametrize("table", [b"\0ionice\0ipaddr\0", b"\0ip\0ipaddr\0ipcalc\0", APPLETS + APPLETS])
def test_a_busybox_with_other_applets_is_refused(table: bytes) -> None:
    with pytest.raises(BuildError, match="no applets ip and ipcalc one after the other"):
        guestimage.hide_ip(b"\x7fELF" + table)


def test_the_archive_is_one_that_the_kernel_can_unpack_and_start(tree: Path, tmp_path: Path) -> None:
    nodes = guestimage.nodes(tree, recipe({}))
    cpio.write(tmp_path / "guest.cpio", nodes)
    found = by_name(nodes)
    assert stat.S_IMODE(found["init"].mode) == 0o755
    assert (found["dev/console"].major, found["dev/console"].minor) == (5, 1)


def test_the_real_recipe_keeps_what_scenarios_use() -> None:
    assert {Path(program).name for program in RECIPE.programs} >= {"fio", "iperf3", "ip", "dropbear", "ethtool"}


def test_dropbears_host_key_format() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    data = guestimage.dropbear_host_key(key)
    (length,) = struct.unpack_from(">I", data)
    assert data[4 : 4 + length] == b"ssh-ed25519"
    assert struct.unpack_from(">I", data, 4 + length) == (64,)
    assert data[8 + length :] == bytes(range(32)) + key.public_key().public_bytes_raw()
