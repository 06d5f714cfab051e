from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lab.artifacts import elf
from lab.errors import BuildError
from lab.proc import run

# ls(1) of coreutils is linked with libselinux, with versioned symbols, and calls it only for some options.
LIBRARY = "libselinux.so.1"


@pytest.fixture
def program() -> bytes:
    path = shutil.which("ls")
    assert path
    return Path(path).read_bytes()


def test_a_program_runs_without_a_library_it_does_not_call(program: bytes, tmp_path: Path) -> None:
    slim = tmp_path / "ls"
    slim.write_bytes(elf.without(program, [LIBRARY]))
    slim.chmod(0o755)
    assert LIBRARY in elf.needed(program)
    assert LIBRARY not in elf.needed(slim.read_bytes())
    assert LIBRARY not in run(["ldd", str(slim)]).text
    assert run([str(slim), "-d", "/"]).text == "/"
    assert len(slim.read_bytes()) == len(program)


@pytest.mark.skipif(
    not Path("/etc/debian_version").read_text().startswith("12"),
    reason="only the ls of Debian 12 calls its SELinux library for -Z without SELinux",
)
def test_calling_the_missing_library_crashes_instead_of_doing_something_else(program: bytes, tmp_path: Path) -> None:
    slim = tmp_path / "ls"
    slim.write_bytes(elf.without(program, [LIBRARY]))
    slim.chmod(0o755)
    assert run(["sh", "-c", f"ulimit -c 0; exec {slim} -Z /"], check=False).returncode < 0


def test_the_order_of_the_other_libraries_stays(program: bytes) -> None:
    names = elf.needed(program)
    assert elf.needed(elf.without(program, names[:1])) == names[1:]


def test_a_library_that_is_not_needed_is_named(program: bytes) -> None:
    with pytest.raises(BuildError, match=r"does not need libno\.so\.1"):
        elf.without(program, [LIBRARY, "libno.so.1"])


def test_a_program_needs_at_least_one_library(program: bytes) -> None:
    with pytest.raises(BuildError, match="no versioned library"):
        elf.without(program, elf.needed(program))


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01\x01", b"\x7fELF\x02\x01\x01" + bytes(57)])
def test_what_is_no_dynamic_program_is_refused(data: bytes) -> None:
    with pytest.raises(BuildError, match="ELF"):
        elf.needed(data)


def test_a_truncated_program_is_refused(program: bytes) -> None:
    with pytest.raises(BuildError, match="ELF"):
        elf.needed(program[: os.path.getsize("/bin/ls") // 8])
