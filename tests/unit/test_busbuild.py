"""lab.artifacts.busbuild: every tool is asked, and what it says is kept with its status; none of it is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.artifacts import busbuild
from lab.artifacts.busbuild import TOOLS, BuildRequest, bus_build, read_result
from lab.artifacts.kernel import KernelRequest
from lab.artifacts.store import Artifact, Store
from lab.errors import BuildError, InputError

# Plays a kernel's: says what it is asked for; a file `refuse` names a target that fails.
MAKEFILE = """\
VERSION = 6
PATCHLEVEL = 12
LACKS ?= nothing
all modules:
	@echo modpost: not terminated; exit 1
allnoconfig:
	@grep -v "$(LACKS)" bus.config >.config
prepare modules_prepare:
	@[ "$(UNREADY)" != $@ ]
drivers/bus/virtual_bus.o:
	@echo "compiled W=$(W) C=$(C) $$(grep VIRTUAL_BUS .config) $$(grep CONFIG_PM .config)"
	@! grep -q bad drivers/bus/*.c
"""
HOOK = "--- a/drivers/bus/Kconfig\n+++ b/drivers/bus/Kconfig\n@@ -1 +1,3 @@\n menu\n+config VIRTUAL_BUS\n+\ttristate\n"
MUTANT = "--- a/tree/drivers/bus/virtual_bus.c\n+++ b/tree/drivers/bus/virtual_bus.c\n@@ -1 +1 @@\n-good\n+bad\n"


@pytest.fixture
def linux(tmp_path: Path) -> Path:
    top = tmp_path / "linux"
    for name, text in {
        **dict.fromkeys(("Kbuild", "Kconfig", "MAINTAINERS"), ""),
        "Makefile": MAKEFILE + "mrproper:\n",
        "drivers/bus/Kconfig": "menu\n",
        "scripts/checkpatch.pl": 'print "checked @ARGV\\n"; exit 1;\n',
        "scripts/kernel-doc": "#!/bin/sh\necho documented $*\n",
    }.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    (top / "scripts/kernel-doc").chmod(0o755)
    return top


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    top = tmp_path / "virtbus"
    for name, text in {
        "tree/drivers/bus/virtual_bus.c": "good\n",
        "tree/include/linux/virtual_bus.h": "header\n",
        "0001-hook.patch": HOOK,
        "users/lan.c": "a caller\n",
    }.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    (tmp_path / "R14-bad.patch").write_text(MUTANT)
    monkeypatch.setattr(busbuild, "VIRTBUS", top)
    monkeypatch.setattr("shutil.which", lambda name, **_: f"/usr/bin/{name}" if name == "sparse" else name)
    return top


def build(tmp_path: Path, linux: Path, **request: object) -> Artifact:
    asked = BuildRequest(KernelRequest(tree=linux), **request)  # type: ignore[arg-type]
    return bus_build(Store(tmp_path / "store"), asked)


def test_what_is_kept(tmp_path: Path, linux: Path) -> None:
    files = build(tmp_path, linux).path
    assert sorted(file.name for file in files.glob("*.txt")) == [
        "checkpatch.txt",
        *(f"compile-{mode}-{power}.txt" for mode in ("builtin", "module") for power in ("nopm", "pm")),
        "kernel-doc.txt",
        "sparse.txt",
        "unterminated.txt",
    ]
    assert (files / "sources/drivers/bus/virtual_bus.c").read_text() == "good\n"
    assert (files / "sources/Kconfig").read_text() == "config VIRTUAL_BUS\n\ttristate\n"
    assert (files / "callers/users-lan.c").read_text() == "a caller\n"
    checked = read_result(files / "checkpatch.txt")
    assert checked is not None
    assert checked[0] == 1
    assert "checked --no-tree --strict --terse -f drivers/bus/virtual_bus.c include/linux/virtual_bus.h" in checked[1]


def test_each_configuration_is_another(tmp_path: Path, linux: Path) -> None:
    files = build(tmp_path, linux, tools=frozenset(["compile"])).path
    said = {file.stem.removeprefix("compile-"): read_result(file) for file in files.glob("compile-*.txt")}
    assert {name: result[0] for name, result in said.items() if result} == dict.fromkeys(said, 0)
    assert "W=1 C= CONFIG_VIRTUAL_BUS=m CONFIG_PM=y" in str(said["module-pm"])
    assert "CONFIG_VIRTUAL_BUS=y # CONFIG_PM is not set" in str(said["builtin-nopm"])
    assert not (files / "checkpatch.txt").exists()


def test_an_option_that_does_not_stick_is_a_result(
    tmp_path: Path, linux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACKS", "CONFIG_VIRTUAL_BUS")
    result = read_result(build(tmp_path, linux).path / "compile-module-nopm.txt")
    assert result is not None
    assert result[0] == 1
    assert result[1].startswith("did not stick: CONFIG_VIRTUAL_BUS=m")


@pytest.mark.parametrize("target", ["prepare", "modules_prepare"])
def test_a_tree_that_cannot_be_prepared_says_nothing_about_the_bus(
    tmp_path: Path, linux: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setenv("UNREADY", target)
    with pytest.raises(BuildError, match=f"make {target} failed"):
        build(tmp_path, linux)


def test_a_tool_that_cannot_be_started_is_no_result(tmp_path: Path, linux: Path) -> None:
    (linux / "scripts/kernel-doc").write_text("#!/usr/bin/env no-such-interpreter\n")
    with pytest.raises(BuildError, match="kernel-doc failed"):
        build(tmp_path, linux, tools=frozenset(["kernel-doc"]))


def test_a_bus_that_cannot_be_configured_is_a_result_of_sparse_too(
    tmp_path: Path, linux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACKS", "CONFIG_VIRTUAL_BUS")
    result = read_result(build(tmp_path, linux, tools=frozenset(["sparse"])).path / "sparse.txt")
    assert result is not None
    assert result[1].startswith("did not stick")


def test_a_mutant_is_what_the_tools_see(tmp_path: Path, linux: Path, folder: Path) -> None:
    files = build(tmp_path, linux, mutant=tmp_path / "R14-bad.patch").path
    assert (files / "sources/drivers/bus/virtual_bus.c").read_text() == "bad\n"
    assert (folder / "tree/drivers/bus/virtual_bus.c").read_text() == "good\n"
    result = read_result(files / "compile-module-pm.txt")
    assert result is not None
    assert result[0] == 1


def test_the_users_tree_is_not_written_to(tmp_path: Path, linux: Path) -> None:
    build(tmp_path, linux)
    assert not (linux / "drivers/bus/virtual_bus.c").exists()
    assert not (linux / ".config").exists()


def test_a_users_adapter_calls_the_bus(tmp_path: Path, linux: Path) -> None:
    header = tmp_path / "adapter-mine.h"
    header.write_text("calls")
    first = build(tmp_path, linux, header=header, tools=frozenset())
    assert sorted(file.name for file in (first.path / "callers").iterdir()) == ["adapter-mine.h", "users-lan.c"]
    header.write_text("calls more")
    assert build(tmp_path, linux, header=header, tools=frozenset()).key != first.key


def test_a_series_without_a_bus(tmp_path: Path, linux: Path) -> None:
    series = tmp_path / "hook.patch"
    series.write_text(HOOK)
    with pytest.raises(BuildError, match="adds no C file"):
        build(tmp_path, linux, virtbus=series)


def test_a_finished_kernel_has_no_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it has no source"):
        bus_build(Store(tmp_path / "store"), BuildRequest(KernelRequest(image=tmp_path)))


def test_a_tool_that_was_not_run(tmp_path: Path) -> None:
    assert read_result(tmp_path / "sparse.txt") is None
    assert {"sparse", "compile"} <= TOOLS
