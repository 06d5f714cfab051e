"""Patches in every form that people have them, on a small real tree, with the real patch(1)."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from lab.artifacts.patches import apply, failures, read_patches
from lab.errors import BuildError, InputError

DIFF = """\
--- a/drivers/vdpa/vdpa.c
+++ b/drivers/vdpa/vdpa.c
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
"""
SECOND = DIFF.replace("-two\n+TWO\n three", " TWO\n-three\n+THREE").replace("@@ -1,3", "@@ -1,3")
MAIL = (
    "From 0123 Mon Sep 17 00:00:00 2001\nFrom: A <a@x>\nSubject: [PATCH {n}] {title}\n\nWhy.\n---\n{diff}-- \n2.39\n\n"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    file = tmp_path / "tree" / "drivers" / "vdpa" / "vdpa.c"
    file.parent.mkdir(parents=True)
    file.write_text("one\ntwo\nthree\n")
    return tmp_path / "tree"


def content(tree: Path) -> str:
    return (tree / "drivers/vdpa/vdpa.c").read_text()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_diff(tree: Path, tmp_path: Path) -> None:
    apply(read_patches([write(tmp_path / "a.diff", DIFF)]), tree)
    assert content(tree) == "one\nTWO\nthree\n"


def test_mailbox_with_cover_letter(tree: Path, tmp_path: Path) -> None:
    cover = "From 0123 Mon Sep 17 00:00:00 2001\nSubject: [PATCH 0/2] both\n\n drivers/vdpa/vdpa.c | 2 +-\n\n"
    mails = cover + MAIL.format(n="1/2", title="first", diff=DIFF) + MAIL.format(n="2/2", title="second", diff=SECOND)
    found = read_patches([write(tmp_path / "series.mbox", mails)])
    assert [patch.name for patch in found] == ["series.mbox ([PATCH 1/2] first)", "series.mbox ([PATCH 2/2] second)"]
    apply(found, tree)
    assert content(tree) == "one\nTWO\nTHREE\n"
    assert sorted(item.name for item in (tree / "drivers/vdpa").iterdir()) == ["vdpa.c"]


@pytest.mark.parametrize("lone", [True, False])
def test_encoded_mail(tree: Path, tmp_path: Path, lone: bool) -> None:
    body = base64.encodebytes(DIFF.encode()).decode()
    mail = f"Subject: [PATCH] x\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\n{body}"
    prefix = "" if lone else "From 0123 Mon Sep 17 00:00:00 2001\n"
    apply(read_patches([write(tmp_path / "a.eml", prefix + mail)]), tree)
    assert content(tree) == "one\nTWO\nthree\n"


@pytest.mark.parametrize("give", ["directory", "file"])
def test_quilt_series(tree: Path, tmp_path: Path, give: str) -> None:
    folder = tmp_path / "patches"
    write(folder / "b.patch", DIFF)
    write(folder / "a.patch", SECOND.replace("a/drivers", "drivers").replace("b/drivers", "drivers"))
    write(folder / "unused.patch", DIFF)
    series = write(folder / "series", "# first\nb.patch\n\na.patch -p0  # second\n")
    apply(read_patches([folder if give == "directory" else series]), tree)
    assert content(tree) == "one\nTWO\nTHREE\n"


def test_directory_of_format_patch(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "patches"
    write(folder / "0002-second.patch", MAIL.format(n="2/2", title="second", diff=SECOND))
    write(folder / "0001-first.patch", MAIL.format(n="1/2", title="first", diff=DIFF))
    write(folder / "README", DIFF)
    apply(read_patches([folder]), tree)
    assert content(tree) == "one\nTWO\nTHREE\n"


def test_failing_hunk_is_named(tree: Path, tmp_path: Path) -> None:
    (tree / "drivers/vdpa/vdpa.c").write_text("quite\nanother\nfile\n")
    with pytest.raises(BuildError) as caught:
        apply(read_patches([write(tmp_path / "fix.patch", DIFF)]), tree)
    assert caught.value.message == "fix.patch: drivers/vdpa/vdpa.c: hunk 1 (line 1) does not apply"


def test_applied_twice(tree: Path, tmp_path: Path) -> None:
    patch = write(tmp_path / "fix.patch", DIFF)
    with pytest.raises(BuildError, match=r"fix.patch: drivers/vdpa/vdpa.c: is applied already"):
        apply(read_patches([patch, patch]), tree)


def test_missing_file_is_named(tree: Path, tmp_path: Path) -> None:
    diff = DIFF.replace("vdpa.c", "gone.c")
    with pytest.raises(BuildError, match=r"fix.patch: .*drivers/vdpa/gone.c: does not exist"):
        apply(read_patches([write(tmp_path / "fix.patch", diff)]), tree)


def test_malformed_patch(tree: Path, tmp_path: Path) -> None:
    diff = DIFF.replace(" three\n", "three\n")
    with pytest.raises(BuildError, match=r"fix.patch: .*(malformed|unexpectedly ends)"):
        apply(read_patches([write(tmp_path / "fix.patch", diff)]), tree)


def test_silent_failure_is_still_one() -> None:
    assert failures("") == ["patch failed without a word"]


def test_all_unreadable_patches_are_named(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.patch", "no diff in here\n")
    series = write(tmp_path / "q" / "series", "gone.patch\ngone2.patch\n")
    with pytest.raises(InputError) as caught:
        read_patches([empty, tmp_path / "none.patch", series])
    assert [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems] == [
        "empty.patch: holds no patch",
        "none.patch: No such file or directory",
        "q/series: gone.patch: No such file or directory",
        "q/series: gone2.patch: No such file or directory",
    ]
