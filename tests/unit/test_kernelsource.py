"""Kernel source out of a user's tree: exactly what is asked for, and never a byte written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.artifacts.apt import Apt
from lab.artifacts.digest import tree_digest
from lab.artifacts.kernelsource import DirectorySource, GitSource, PackageSource, local_source
from lab.artifacts.store import Progress, Store
from lab.errors import InputError
from lab.proc import run


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    (tmp_path / "scratch").mkdir()
    return Progress("x", tmp_path / "log", lambda _line: None, scratch=tmp_path / "scratch")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    top = tmp_path / "linux"
    top.mkdir()
    for name in ("Kbuild", "Kconfig", "MAINTAINERS"):
        (top / name).write_text(name)
    (top / "Makefile").write_text("mrproper:\n\trm -f left.o\n")
    (top / ".gitignore").write_text("*.o\n")
    return top


def git(top: Path, *argv: str) -> str:
    return run(["git", "-C", str(top), "-c", "user.name=a", "-c", "user.email=a@x", *argv]).text


@pytest.fixture
def tree(plain: Path) -> Path:
    git(plain, "init", "-q")
    git(plain, "add", ".")
    git(plain, "commit", "-q", "-m", "one")
    git(plain, "tag", "v1")
    (plain / "left.o").write_text("object")
    return plain


def names(top: Path) -> set[str]:
    return {path.name for path in top.iterdir()}


def test_clean_tree_is_its_commit(tree: Path, tmp_path: Path, progress: Progress) -> None:
    source = local_source(tree, None)
    assert source.identity == f"git {git(tree, 'rev-parse', 'HEAD')}"
    into = tmp_path / "into"
    into.mkdir()
    source.unpack(into, progress)
    assert names(into) == {"Kbuild", "Kconfig", "MAINTAINERS", "Makefile", ".gitignore"}


def test_changes_count_and_are_built(tree: Path, tmp_path: Path, progress: Progress) -> None:
    clean = local_source(tree, None).identity
    (tree / "Kconfig").write_text("changed")
    changed = local_source(tree, None).identity
    (tree / "new.c").write_text("new")
    new = local_source(tree, None).identity
    (tree / "new.c").write_text("newer")
    assert len({clean, changed, new, local_source(tree, None).identity}) == 4
    (tree / "MAINTAINERS").unlink()
    into = tmp_path / "into"
    into.mkdir()
    GitSource(tree).unpack(into, progress)
    assert (into / "Kconfig").read_text() == "changed"
    assert names(into) == {"Kbuild", "Kconfig", "Makefile", ".gitignore", "new.c"}


def test_ref_is_taken_without_the_changes(tree: Path, tmp_path: Path, progress: Progress) -> None:
    (tree / "Kconfig").write_text("changed")
    git(tree, "commit", "-q", "-a", "-m", "two")
    source = local_source(tree, "v1")
    assert source.identity == f"git {git(tree, 'rev-parse', 'v1')}"
    into = tmp_path / "into"
    into.mkdir()
    source.unpack(into, progress)
    assert (into / "Kconfig").read_text() == "Kconfig"


def test_users_tree_is_only_read(tree: Path, tmp_path: Path, progress: Progress) -> None:
    (tree / "Kconfig").write_text("changed")
    before = tree_digest(tree)
    for number, ref in enumerate((None, "v1")):
        into = tmp_path / f"into{number}"
        into.mkdir()
        source = GitSource(tree, ref)
        assert source.identity
        source.unpack(into, progress)
    assert tree_digest(tree) == before


def test_unknown_ref_is_bad_input(tree: Path) -> None:
    with pytest.raises(InputError, match=r"--kernel-ref v2 of .*linux: Needed a single revision"):
        assert local_source(tree, "v2").identity


def test_tree_without_git(plain: Path, tmp_path: Path, progress: Progress) -> None:
    (plain / "left.o").write_text("object")
    source = local_source(plain, None)
    assert isinstance(source, DirectorySource)
    into = tmp_path / "into"
    into.mkdir()
    source.unpack(into, progress)
    assert "left.o" not in names(into)
    assert "left.o" in names(plain)
    before = source.identity
    (plain / "Kconfig").write_text("changed")
    assert source.identity != before


def test_what_is_no_kernel_tree(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        local_source(tmp_path, "v1")
    assert len(caught.value.problems) == 2


class FakeApt(Apt):
    """Builds a kernel source package that holds a file and a part of a graphics driver, instead of downloading one."""

    downloads = 0

    def download(self, suite: str, name: str, version: str, into: Path) -> Path:
        self.downloads += 1
        top = into / "made"
        registers = top / name / "drivers" / "gpu" / "drm" / "amd" / "include" / "asic_reg"
        registers.mkdir(parents=True)
        (registers / "large.h").write_text("large")
        (top / name / "Makefile").write_text(f"{suite} {version}")
        tarball = top / "package" / "usr" / "src" / f"{name}.tar.xz"
        tarball.parent.mkdir(parents=True)
        run(["tar", "-cJf", str(tarball), "-C", str(top), name])
        control = top / "package" / "DEBIAN" / "control"
        control.parent.mkdir()
        control.write_text(f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a\nDescription: b\n")
        run(["dpkg-deb", "-b", str(top / "package"), str(into / "it.deb")])
        return into / "it.deb"


def test_package_is_kept_and_unpacked(tmp_path: Path, progress: Progress) -> None:
    apt = FakeApt(tmp_path / "apt")
    source = PackageSource(Store(tmp_path / "store"), apt, "trixie", "linux-source-6.12", "6.12.1-1")
    assert source.identity == "linux-source-6.12 6.12.1-1"
    for number in range(2):
        into = tmp_path / f"into{number}"
        into.mkdir()
        source.unpack(into, progress)
        assert (into / "Makefile").read_text() == "trixie 6.12.1-1"
        assert list(into.rglob("large.h")) == []
        (into / "new").write_text("made by a build")
    assert apt.downloads == 1
