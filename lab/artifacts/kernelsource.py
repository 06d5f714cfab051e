"""Where kernel source comes from: a Debian source package, a git tree (as it lies there, or at a ref), a plain tree.

The user's tree is only read: what is built is always a copy.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lab.artifacts.apt import Apt
from lab.artifacts.store import Progress, Recipe, Store, tree_digest
from lab.errors import CommandError, InputError
from lab.proc import run

# A third of the source's bytes: descriptions of graphics registers, which no kernel of the lab compiles.
_LEFT_OUT = "*/drivers/gpu/drm/amd/include/asic_reg"


class KernelSource(Protocol):
    """Kernel source that can be put into a directory."""

    @property
    def identity(self) -> str:
        """What decides the content, in words without paths; part of the key."""

    def unpack(self, into: Path, progress: Progress) -> None:
        """Fill the empty directory ``into``. Raises BuildError or CommandError."""


@dataclass(frozen=True)
class PackageSource:
    """A ``linux-source-X.Y`` package of a Debian suite; the store keeps it unpacked."""

    store: Store
    apt: Apt
    suite: str
    package: str
    version: str

    @property
    def identity(self) -> str:
        """Package and version."""
        return f"{self.package} {self.version}"

    def unpack(self, into: Path, progress: Progress) -> None:
        """Link the files of the store's tree, which is made now unless it is there.

        Links, for a copy of a gigabyte in 90,000 files costs minutes on a slow disk, and removing it as much again.
        So whoever changes a file must replace it, as make, patch(1) and the overlay do.
        """
        inputs = {"package": self.package, "version": self.version, "left out": _LEFT_OUT}
        tree = self.store.get(Recipe(self.package, inputs, self._fetch)).path
        progress.step(f"laying out {self.identity}")
        progress.run(["cp", "-al", f"{tree}/.", str(into)], what="linking the kernel source")

    def _fetch(self, into: Path, progress: Progress) -> None:
        progress.step(f"downloading {self.identity} of {self.suite}")
        deb = self.apt.download(self.suite, self.package, self.version, progress.scratch)
        progress.run(["dpkg-deb", "-x", str(deb), str(progress.scratch / "deb")], what="unpacking the package")
        progress.step(f"unpacking {self.identity}")
        tarball = progress.scratch / "deb" / "usr" / "src" / f"{self.package}.tar.xz"
        argv = ["tar", "-xJf", str(tarball), "--strip-components=1", f"--exclude={_LEFT_OUT}", "-C", str(into)]
        progress.run(argv, what="unpacking the kernel source")


@dataclass(frozen=True)
class GitSource:
    """A git work tree: the commit ``ref`` names, or without one the tree as it lies there, changes included."""

    tree: Path
    ref: str | None = None

    @property
    def identity(self) -> str:
        """Commit, and a digest of what differs from it. Raises InputError when git does not know the ref."""
        changes = "" if self.ref else self._changes()
        return f"git {self.commit()}" + (f" with changes {changes}" if changes else "")

    def commit(self) -> str:
        """The commit's id. Raises InputError when git does not know the ref."""
        try:
            return _git(self.tree, "rev-parse", "--verify", f"{self.ref or 'HEAD'}^{{commit}}").decode().strip()
        except CommandError as error:
            why = error.completed.stderr.decode(errors="replace").strip().removeprefix("fatal: ")
            raise InputError([f"--kernel-ref {self.ref or 'HEAD'} of {self.tree}: {why}"]) from error

    def unpack(self, into: Path, progress: Progress) -> None:
        """Copy the files that git tracks or would track; with a ref, those of the commit."""
        progress.step(f"copying {self.identity}")
        if self.ref:
            tar = progress.scratch / "source.tar"
            _git(self.tree, "archive", "--format=tar", f"--output={tar}", f"{self.ref}^{{commit}}")
            progress.run(["tar", "-xf", str(tar), "-C", str(into)], what="unpacking the commit")
            tar.unlink()
            return
        files = progress.scratch / "files"
        files.write_bytes(b"\0".join(self._present()))
        argv = ["rsync", "-a", "--from0", f"--files-from={files}", f"{self.tree}/", str(into)]
        progress.run(argv, what="copying the tree")

    def _present(self) -> list[bytes]:
        listed = _git(self.tree, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split(b"\0")
        top = os.fsencode(self.tree)
        return sorted({name for name in listed if name and os.path.lexists(os.path.join(top, name))})

    def _changes(self) -> str:
        """Digest of the difference to HEAD and of untracked files; empty when there is none."""
        diff = _git(self.tree, "diff", "--binary", "--no-ext-diff", "HEAD")
        untracked = _git(self.tree, "ls-files", "-z", "--others", "--exclude-standard").split(b"\0")
        total = hashlib.sha256(diff)
        for name in sorted(filter(None, untracked)):
            total.update(name + b"\0" + tree_digest(self.tree / os.fsdecode(name)).encode())
        return total.hexdigest()[:16] if diff or any(untracked) else ""


@dataclass(frozen=True)
class DirectorySource:
    """A source tree without git."""

    tree: Path

    @property
    def identity(self) -> str:
        """Digest of all files; the whole tree is read for it."""
        return f"tree {tree_digest(self.tree)}"

    def unpack(self, into: Path, progress: Progress) -> None:
        """Copy the tree and remove from the copy what a build in it left."""
        progress.step("copying the tree")
        progress.run(["cp", "-a", "--reflink=auto", f"{self.tree}/.", str(into)], what="copying the tree")
        progress.run(["make", "-s", "mrproper"], cwd=into, what="make mrproper")


def local_source(tree: Path, ref: str | None) -> GitSource | DirectorySource:
    """The source that a user's tree is. Raises InputError for what is no kernel tree, or a ref unknown to git."""
    problems = []
    if not tree.exists():
        problems.append(f"--kernel-tree {tree}: does not exist")
    elif not all((tree / name).exists() for name in ("Kbuild", "Kconfig", "MAINTAINERS")):
        problems.append(f"--kernel-tree {tree}: not the top of a kernel source tree")
    git = (tree / ".git").exists()
    if ref and not git:
        problems.append(f"--kernel-ref {ref}: {tree} is not a git work tree")
    if problems:
        raise InputError(problems)
    if not git:
        return DirectorySource(tree)
    source = GitSource(tree, ref)
    source.commit()
    return source


def _git(tree: Path, *argv: str) -> bytes:
    # Without this, git would refresh the index of a tree that is not ours to write.
    return run(["git", "-C", str(tree), *argv], env={"GIT_OPTIONAL_LOCKS": "0"}).stdout
