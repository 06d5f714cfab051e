"""lab.artifacts.buildid: of real ELF files, of notes as the kernel shows them, and of what has none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from lab.artifacts.buildid import build_id, build_id_of_notes
from lab.errors import BuildError, CommandError
from lab.proc import run

ID = bytes(range(20))
NOTE = struct.pack("<III", 4, len(ID), 3) + b"GNU\0" + ID
OTHER = struct.pack("<III", 6, 4, 5) + b"Linux\0\0\0" + bytes(4)


@pytest.fixture
def elf(tmp_path: Path) -> Path:
    """A real ELF file whose only build id is ours."""
    note, file = tmp_path / "note", tmp_path / "module.ko"
    note.write_bytes(OTHER + NOTE)
    options = ["--remove-section=.note*", f"--add-section=.note.gnu.build-id={note}"]
    try:
        run(["objcopy", *options, "--set-section-flags=.note.gnu.build-id=readonly,alloc", "/bin/true", str(file)])
    except CommandError as error:
        pytest.skip(f"no objcopy: {error}")
    return file


def test_of_a_file(elf: Path) -> None:
    assert build_id(elf.read_bytes()) == ID.hex()


def test_of_notes() -> None:
    assert build_id_of_notes(NOTE) == ID.hex()
    assert build_id_of_notes(OTHER + NOTE) == ID.hex()
    assert build_id_of_notes(OTHER) == build_id_of_notes(b"") == build_id_of_notes(NOTE[:8]) == ""


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"#!/bin/sh\n", "not a 64-bit ELF"), (b"\x7fELF\x02\x01\x01" + bytes(20), "a broken ELF file")],
)
def test_of_what_is_no_elf_file(content: bytes, problem: str) -> None:
    with pytest.raises(BuildError, match=problem):
        build_id(content)


def test_of_a_file_without_one(tmp_path: Path) -> None:
    file = tmp_path / "stripped"
    run(["objcopy", "--remove-section=.note*", "/bin/true", str(file)])
    with pytest.raises(BuildError, match="has no build id"):
        build_id(file.read_bytes())
