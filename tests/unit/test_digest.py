from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lab.artifacts.digest import file_digest, problems, record, tree_digest


def tree(top: Path) -> Path:
    (top / "a").mkdir(parents=True)
    (top / "a" / "x").write_text("x")
    (top / "b").write_text("b")
    (top / "link").symlink_to("a")
    return top


def test_tree_digest_knows_names_contents_links_and_mode(tmp_path: Path) -> None:
    changes: dict[str, Callable[[Path], object]] = {
        "content": lambda top: (top / "b").write_text("c"),
        "name": lambda top: (top / "b").rename(top / "c"),
        "link": lambda top: (top / "link").rename(top / "link2"),
        "mode": lambda top: (top / "b").chmod(0o755),
        "more": lambda top: (top / "new").write_text(""),
    }
    digests = {tree_digest(tree(tmp_path / "same"))}
    assert tree_digest(tree(tmp_path / "again")) in digests
    for name, change in changes.items():
        top = tree(tmp_path / name)
        change(top)
        digest = tree_digest(top)
        assert digest not in digests, name
        digests.add(digest)


def test_tree_digest_ignores_times_and_takes_a_file(tmp_path: Path) -> None:
    top = tree(tmp_path / "tree")
    before = tree_digest(top)
    os.utime(top / "b", (1, 1))
    assert tree_digest(top) == before
    assert tree_digest(top / "b") == file_digest(top / "b")


def test_problems_names_each_file(tmp_path: Path) -> None:
    top = tree(tmp_path / "tree")
    records = record(top)
    assert problems(top, records, full=False) == []
    assert problems(top, records, full=True) == []
    (top / "b").write_text("bb")
    (top / "a" / "x").unlink()
    (top / "link").unlink()
    (top / "link").symlink_to("elsewhere")
    for full in (False, True):
        found = problems(top, records, full=full)
        assert found == [
            "a/x: No such file or directory",
            "b: size is 2, was 1",
            "link: content changed",
        ]
