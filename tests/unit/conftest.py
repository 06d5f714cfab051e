"""What all unit tests share: no test sees or touches the user's own cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from lab import proc
from lab.evidence.record import Record
from lab.host.base import Host, Stream
from lab.model import Completed
from lab.wait import Deadline

# The same examples everywhere and each time: what fails here fails for whoever looks into it.
# HYPOTHESIS_PROFILE=default tries others.
settings.register_profile("same", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDPALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VDPALAB_DEBUG", raising=False)


class TreeHost(Host):
    """Runs commands here, for real, but with ``/sys``, ``/run`` and ``/proc/net`` in a folder, and stubs as programs.

    So the shell scripts that a helper sends are executed, and what they write to sysfs can be read back.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("tree", Record(folder / "record"))
        self.root = folder / "root"
        self._bin = folder / "bin"
        self._bin.mkdir()
        self.log = folder / "programs.log"
        self.log.touch()

    def file(self, path: str, content: str = "") -> Path:
        """Make a file of the tree; its parents too."""
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content + "\n" if content else "")
        return target

    def link(self, path: str, to: str) -> None:
        """Make a symbolic link of the tree to another place of the tree, which need not exist."""
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).symlink_to(self.path(to))

    def path(self, path: str) -> Path:
        """Where a file of the tree is."""
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str:
        """Content of a file of the tree without the final newline."""
        return self.path(path).read_text().rstrip("\n")

    def program(self, name: str, script: str = "") -> None:
        """A stub that notes its arguments, then runs ``script``."""
        stub = self._bin / name
        stub.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.log}"\n{script}\n')
        stub.chmod(0o755)

    @property
    def programs(self) -> list[str]:
        """What the stubs were called with, in order."""
        return self.log.read_text().splitlines()

    def _execute(self, argv: Sequence[str], data: bytes, deadline: Deadline) -> Completed:
        moved = list(argv)
        for top in ("/sys/", "/run/", "/proc/net/"):
            moved = [word.replace(top, f"{self.root}{top}") for word in moved]
        env = {"PATH": f"{self._bin}:{os.environ['PATH']}", "LC_ALL": "C"}
        return proc.run(moved, input=data, env=env, check=False, timeout_s=deadline.left())

    def _start(self, argv: Sequence[str]) -> Stream:
        raise NotImplementedError


@pytest.fixture
def tree(tmp_path: Path) -> TreeHost:
    """A host whose sysfs is a folder."""
    return TreeHost(tmp_path)
