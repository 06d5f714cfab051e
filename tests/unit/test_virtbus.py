from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from lab.artifacts.kernel import IMAGES
from lab.artifacts.virtbus import overlay
from lab.errors import BuildError, InputError
from lab.proc import run

DIFF = "--- a/Kconfig\n+++ b/Kconfig\n@@ -1 +1,2 @@\n one\n+two\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "virtbus"
    (top / "tree" / "drivers").mkdir(parents=True)
    (top / "tree" / "drivers" / "bus.c").write_text("bus")
    (top / "0001-hook.patch").write_text(DIFF)
    (top / "virtbus.config").write_text("CONFIG_VIRTUAL_BUS=m\n")
    return top


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "linux"
    (top / "drivers").mkdir(parents=True)
    (top / "drivers" / "old.c").write_text("old")
    (top / "Kconfig").write_text("one\n")
    return top


def test_files_and_hooks_are_laid_over(folder: Path, source: Path) -> None:
    layer = overlay(folder, None)
    assert sorted(layer.inputs) == ["virtbus patch 0001-hook.patch", "virtbus tree"]
    assert layer.options == folder / "virtbus.config"
    layer.apply(source)
    assert (source / "drivers" / "bus.c").read_text() == "bus"
    assert (source / "drivers" / "old.c").read_text() == "old"
    assert (source / "Kconfig").read_text() == "one\ntwo\n"


def test_linked_originals_stay_as_they_are(folder: Path, source: Path, tmp_path: Path) -> None:
    (folder / "tree" / "drivers" / "old.c").write_text("new")
    linked = tmp_path / "linked"
    run(["cp", "-al", str(source), str(linked)])
    overlay(folder, None).apply(linked)
    assert ((linked / "drivers" / "old.c").read_text(), (linked / "Kconfig").read_text()) == ("new", "one\ntwo\n")
    assert ((source / "drivers" / "old.c").read_text(), (source / "Kconfig").read_text()) == ("old", "one\n")


def test_source_change_changes_the_inputs(folder: Path) -> None:
    before = overlay(folder, None).inputs
    (folder / "tree" / "drivers" / "bus.c").write_text("other")
    assert overlay(folder, None).inputs != before


def test_none(folder: Path, source: Path) -> None:
    layer = overlay(folder, "none")
    layer.apply(source)
    assert (layer.inputs, layer.options) == ({}, None)
    assert not (source / "drivers" / "bus.c").exists()


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    assert overlay(tmp_path / "none", None).inputs == {}


def test_series_of_the_user_replaces_it(folder: Path, source: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.patch"
    mine.write_text(DIFF.replace("two", "mine"))
    overlay(folder, mine).apply(source)
    assert (source / "Kconfig").read_text() == "one\nmine\n"
    assert not (source / "drivers" / "bus.c").exists()
    with pytest.raises(InputError, match=r"gone.patch: No such file"):
        overlay(folder, tmp_path / "gone.patch")


def test_hook_that_does_not_apply_is_named(folder: Path, source: Path) -> None:
    (source / "Kconfig").write_text("quite another\n")
    with pytest.raises(BuildError, match=r"0001-hook.patch: Kconfig: hunk 1"):
        overlay(folder, None).apply(source)


# Kernel versions


@pytest.fixture
def versions(folder: Path, source: Path) -> Path:
    for name in ("6.1", "6.12", "notes"):
        (folder / name).mkdir()
        patch = folder / name / "0001-for.patch"
        patch.write_text(f"--- a/Kconfig\n+++ b/Kconfig\n@@ -1,2 +1,3 @@\n one\n two\n+for {name}\n")
    return folder


@pytest.mark.parametrize(
    ("makefile", "expected"),
    [
        ("VERSION = 6\nPATCHLEVEL = 1\n", "6.1"),
        ("VERSION = 6\nPATCHLEVEL = 6\n", "6.1"),
        ("VERSION = 7\nPATCHLEVEL = 0\n", "6.12"),
    ],
)
def test_patches_of_the_version_or_of_the_nearest_before_it(
    versions: Path, source: Path, makefile: str, expected: str
) -> None:
    (source / "Makefile").write_text(makefile)
    layer = overlay(versions, None)
    assert sorted(layer.inputs)[:3] == [
        "virtbus patch 0001-hook.patch",
        "virtbus patch 6.1/0001-for.patch",
        "virtbus patch 6.12/0001-for.patch",
    ]
    layer.apply(source)
    assert (source / "Kconfig").read_text() == f"one\ntwo\nfor {expected}\n"


@pytest.mark.parametrize(
    ("makefile", "problem"),
    [("VERSION = 5\nPATCHLEVEL = 10\n", r"no backport to Linux 5\.10, only to 6\.1"), ("all:\n", "which version")],
)
def test_source_that_is_too_old_or_does_not_say(versions: Path, source: Path, makefile: str, problem: str) -> None:
    (source / "Makefile").write_text(makefile)
    with pytest.raises(BuildError, match=problem):
        overlay(versions, None).apply(source)


# The lab's own


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the lab's own folder."""
    return Path(shutil.copytree(IMAGES / "virtbus", tmp_path_factory.mktemp("own") / "virtbus"))


@pytest.mark.parametrize("mutant", sorted((IMAGES / "virtbus" / "mutants").glob("*.patch")), ids=lambda path: path.stem)
def test_mutant_applies(own: Path, mutant: Path) -> None:
    argv = ["patch", "-p1", "--fuzz=0", "--dry-run", "--batch", "--forward"]
    done = run(argv, cwd=own, input=mutant.read_bytes(), check=False)
    assert done.returncode == 0, done.text
    assert b"\nCheck: " in mutant.read_bytes()


def test_adapters_say_what_the_suite_asks_for() -> None:
    tests = IMAGES / "virtbus" / "tests"
    contract = (tests / "vbt_adapter.h").read_text()
    asked = re.findall(r"^static inline [^\n(]*?\*?(vbt_\w+)\([^{]*?\);", contract, re.MULTILINE)
    assert len(asked) == 12
    for adapter in tests.glob("adapter-*.h"):
        text = adapter.read_text()
        missing = [name for name in asked if not re.search(rf"^static inline .*\b{name}\(", text, re.MULTILINE)]
        assert not missing, adapter.name


def test_exempt_ids_are_those_of_tests() -> None:
    tests = IMAGES / "virtbus" / "tests"
    ids = set(re.findall(r'VBT_TEST\("([RU]\d\d[.a-z]*)"', (tests / "vbt_test.c").read_text()))
    known = ids | {item.partition(".")[0] for item in ids}
    for adapter in tests.glob("adapter-*.h"):
        exempt = re.findall(r'\{ "([^"]+)", VBT_(?:SKIP|CANNOT)', adapter.read_text())
        assert set(exempt) <= known, adapter.name
