"""The virtbus overlay as mails: what git makes of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab.artifacts import series
from lab.artifacts.kernel import IMAGES
from lab.artifacts.patches import read_patches
from lab.artifacts.series import Sender, SeriesWords
from lab.artifacts.virtbus import overlay
from lab.config.strict import validate
from lab.errors import BuildError, InputError
from lab.proc import run

SENDER = Sender("A Developer <a@example.org>", datetime(2026, 1, 2, tzinfo=UTC), signoff=True)
WORDS = {
    "patch": [
        {"paths": ["drivers"], "subject": "bus: Add a bus", "body": "It is needed.\n"},
        {"paths": ["Kconfig"], "subject": "Let it be built", "body": "By an option."},
    ]
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An overlay with a file, a hook, and for Linux 6.1 another hook and a backport."""
    top = tmp_path / "virtbus"
    (top / "tree" / "drivers").mkdir(parents=True)
    (top / "tree" / "drivers" / "bus.c").write_text("one\ntwo\n")
    for name, words in (("6.1", "old"), ("6.12", "new")):
        (top / name).mkdir()
        (top / name / "1.patch").write_text(f"Words.\n\n--- a/Kconfig\n+++ b/Kconfig\n@@ -1 +1,2 @@\n top\n+{words}\n")
    (top / "6.1" / "2.patch").write_text(
        "A backport.\n\n--- a/drivers/bus.c\n+++ b/drivers/bus.c\n@@ -1,2 +1,2 @@\n one\n-two\n+zwei\n"
    )
    return top


@pytest.fixture
def words() -> SeriesWords:
    return validate(SeriesWords, WORDS, "series.toml")


def git(tree: Path, *argv: str) -> str:
    identity = ["-c", "user.name=B", "-c", "user.email=b@example.org"]
    return run(["git", "-C", str(tree), *identity, *argv]).text


@pytest.mark.parametrize(("version", "bus", "option"), [((6, 1), "one\nzwei\n", "old"), ((7, 0), "one\ntwo\n", "new")])
def test_git_am_takes_it(
    folder: Path, words: SeriesWords, tmp_path: Path, version: tuple[int, int], bus: str, option: str
) -> None:
    mails = series.write(series.export(overlay(folder, None), words, version, SENDER), tmp_path / "out" / "deep")
    assert [mail.name for mail in mails] == ["0001-bus-Add-a-bus.patch", "0002-Let-it-be-built.patch"]
    tree = tmp_path / "linux"
    tree.mkdir()
    (tree / "Kconfig").write_text("top\n")
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "start")
    git(tree, "am", "-q", *map(str, mails))
    assert (tree / "drivers" / "bus.c").read_text() == bus
    assert (tree / "Kconfig").read_text() == f"top\n{option}\n"
    log = git(tree, "log", "-1", "--format=%an <%ae>%n%at%n%B", "HEAD~1").splitlines()
    assert log[:3] == ["A Developer <a@example.org>", f"{SENDER.date.timestamp():.0f}", "bus: Add a bus"]
    assert log[4:7] == ["It is needed.", "", "Signed-off-by: A Developer <a@example.org>"]


def test_file_that_no_patch_takes(folder: Path, words: SeriesWords) -> None:
    (folder / "tree" / "stray").write_text("x\n")
    with pytest.raises(BuildError, match="no patch takes stray"):
        series.export(overlay(folder, None), words, (6, 12), SENDER)


def test_linux_that_is_too_old(folder: Path, words: SeriesWords) -> None:
    with pytest.raises(BuildError, match=r"no backport to Linux 5\.15"):
        series.export(overlay(folder, None), words, (5, 15), SENDER)


def test_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        series.write(["From x\n"], tmp_path)
    with pytest.raises(InputError, match="not empty"):
        series.write(["From x\n"], tmp_path / "mine")


@pytest.mark.parametrize("version", [(6, 1), (6, 12), (6, 18), (7, 3)])
def test_own_overlay_is_whole(version: tuple[int, int]) -> None:
    own = overlay(IMAGES / "virtbus", None)
    mails = series.export(own, series.series_words(IMAGES / "virtbus" / "series.toml"), version, SENDER)
    text = "".join(mails)
    assert len(mails) == 3
    for name in ("drivers/bus/virtual_bus.c", "drivers/bus/Kconfig", "scripts/mod/file2alias.c"):
        assert text.count(f"diff --git a/{name} ") == 1


def test_what_is_exported_can_be_given_back(folder: Path, words: SeriesWords, tmp_path: Path) -> None:
    mails = series.write(series.export(overlay(folder, None), words, (6, 12), SENDER), tmp_path / "out")
    assert [patch.strip for patch in read_patches([tmp_path / "out"])] == [1] * len(mails)
