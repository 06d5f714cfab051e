from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lab.artifacts import bundle
from lab.errors import BuildError
from lab.proc import run

LIST = """\
\tlinux-vdso.so.1 (0x00007ffc5a5f2000)
\tlibz.so.1 => /tree/usr/lib/x86_64-linux-gnu/libz.so.1 (0x00007f1)
\tlibc.so.6 => /tree/usr/lib/x86_64-linux-gnu/libc.so.6 (0x00007f2)
\t/lib64/ld-linux-x86-64.so.2 => /tree/lib64/ld-linux-x86-64.so.2 (0x00007f3)
"""


def test_libraries_are_listed_without_loader_and_vdso() -> None:
    found, missing = bundle.parse_list(LIST)
    assert list(found) == ["libz.so.1", "libc.so.6"]
    assert found["libz.so.1"] == Path("/tree/usr/lib/x86_64-linux-gnu/libz.so.1")
    assert missing == []


def test_a_library_that_is_not_found_is_named() -> None:
    found, missing = bundle.parse_list(LIST + "\tlibpmem.so.1 => not found\n")
    assert missing == ["libpmem.so.1"]
    assert "libpmem.so.1" not in found


def test_a_bundled_program_runs_with_the_bundled_libraries(tmp_path: Path) -> None:
    program = shutil.which("env")
    assert program
    bundle.make(tmp_path, [Path(program)])
    libc = tmp_path / bundle.LIBRARIES / "libc.so.6"
    assert libc.is_file()
    assert not libc.is_symlink()
    assert run([*bundle.argv(tmp_path, "env"), "echo", "ran"]).text == "ran"
    libc.unlink()
    assert str(libc) not in run([*bundle.argv(tmp_path, "env")], check=False).text


def test_the_libraries_of_another_tree_count_there_only(tmp_path: Path) -> None:
    program = shutil.which("env")
    assert program
    bundle.make(tmp_path, [Path(program)])
    assert bundle.libraries(Path(program), root=tmp_path)["libc.so.6"] == tmp_path / bundle.LIBRARIES / "libc.so.6"


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a program")
    with pytest.raises(BuildError, match="text"):
        bundle.libraries(text)
