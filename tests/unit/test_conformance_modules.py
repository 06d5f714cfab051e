"""lab.artifacts.conformance: what is compiled for which adapters, and what decides the key."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lab.artifacts import conformance
from lab.artifacts.conformance import ModulesRequest, adapter_name, known_adapters, mutant_patch, suite_modules
from lab.artifacts.kernel import Kernel
from lab.artifacts.store import Progress, Store
from lab.errors import BuildError, InputError

PATCH = "--- a/tree/bus.c\n+++ b/tree/bus.c\n@@ -1 +1 @@\n-good\n+bad\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small images/kernel/virtbus, with a compiler that copies names: FOLDER.ko with a list of its files."""
    top = tmp_path / "virtbus"
    for name, text in {
        "tree/drivers/bus.c": "good\n",
        "tree/include/bus.h": "good\n",
        "tests/adapter-virtbus.h": "",
        "tests/adapter-auxiliary.h": "",
        "tests/vbt_test.c": "test",
        "users/lan.c": "lan",
        "mutants/R08-bad.patch": PATCH.replace("bus.c", "drivers/bus.c"),
        "mutants/R09-header.patch": PATCH.replace("bus.c", "include/bus.h"),
        "Kbuild": "obj-m := tree/drivers/bus.o tests/ users/\n",
    }.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)

    def compile_modules(devel: Path, source: Path, into: Path, progress: Progress) -> None:
        files = sorted(str(file.relative_to(source)) for file in source.rglob("*") if file.is_file())
        if source.name == "virtbus":
            bus = (source / "tree/drivers/bus.c").read_text() + (source / "tree/include/bus.h").read_text()
            (into / "virtual_bus.ko").write_text(bus)
        if source.name != "virtbus" or "tests/" in (source / "Kbuild").read_text():
            (into / f"{source.name.replace('virtbus', 'all')}.ko").write_text(" ".join(files))

    monkeypatch.setattr(conformance, "VIRTBUS", top)
    monkeypatch.setattr(conformance, "compile_modules", compile_modules)
    return top


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    files = tmp_path / "kernel"
    files.mkdir()
    (files / "devel.tar.zst").touch()
    return cast(Kernel, SimpleNamespace(release="6.12", key="abc", artifact=SimpleNamespace(path=files)))


def build(tmp_path: Path, kernel: Kernel, request: ModulesRequest) -> list[Path]:
    return suite_modules(Store(tmp_path / "store"), kernel, request)


def built(files: list[Path]) -> dict[str, str]:
    return {path.stem: path.read_text() for path in files}


def test_only_the_adapters_asked_for(tmp_path: Path, folder: Path, kernel: Kernel) -> None:
    both = build(tmp_path, kernel, ModulesRequest(("virtbus", "auxiliary")))
    assert built(both) == {"tests": "adapter-auxiliary.h adapter-virtbus.h vbt_test.c", "users": "lan.c"}
    control = build(tmp_path, kernel, ModulesRequest(("auxiliary",)))
    assert built(control) == {"tests": "adapter-auxiliary.h vbt_test.c"}
    assert both[0].parent != control[0].parent


def test_a_header_of_the_users(tmp_path: Path, folder: Path, kernel: Kernel) -> None:
    header = tmp_path / "adapter-mine.h"
    header.write_text("one")
    request = ModulesRequest(("mine",), header)
    first = build(tmp_path, kernel, request)
    assert built(first) == {"tests": "adapter-mine.h vbt_test.c"}
    header.write_text("two")
    assert build(tmp_path, kernel, request) != first


def test_a_mutant_of_the_bus_compiles_the_bus_alone(tmp_path: Path, folder: Path, kernel: Kernel) -> None:
    plain = built(build(tmp_path, kernel, ModulesRequest(("virtbus",))))
    found = built(build(tmp_path, kernel, ModulesRequest(("virtbus",), mutant=mutant_patch("R08-bad"))))
    assert found == {**plain, "virtual_bus": "bad\ngood\n"}
    assert (folder / "tree/drivers/bus.c").read_text() == "good\n"


def test_a_mutant_of_the_header_compiles_everything(tmp_path: Path, folder: Path, kernel: Kernel) -> None:
    found = built(build(tmp_path, kernel, ModulesRequest(("virtbus",), mutant=mutant_patch("R09-header"))))
    assert found.keys() == {"virtual_bus", "all"}
    assert found["virtual_bus"] == "good\nbad\n"
    assert "tests/adapter-auxiliary.h" not in found["all"]
    assert "tests/adapter-virtbus.h" in found["all"]


def test_a_mutant_that_does_not_apply_is_named(tmp_path: Path, folder: Path, kernel: Kernel) -> None:
    (folder / "tree/drivers/bus.c").write_text("other\n")
    with pytest.raises(BuildError, match=r"R08-bad.patch: tree/drivers/bus.c: hunk 1"):
        build(tmp_path, kernel, ModulesRequest(("virtbus",), mutant=mutant_patch("R08-bad")))


def test_the_bus_itself_counts_only_with_a_mutant(tmp_path: Path, folder: Path, kernel: Kernel) -> None:
    plain, mutant = ModulesRequest(("virtbus",)), ModulesRequest(("virtbus",), mutant=mutant_patch("R08-bad"))
    before = set(build(tmp_path, kernel, plain)), set(build(tmp_path, kernel, mutant))
    (folder / "tree/drivers/bus.c").write_text("good\nand more\n")
    (folder / "mutants/R08-bad.patch").write_text((folder / "mutants/R08-bad.patch").read_text() + "\n")
    assert set(build(tmp_path, kernel, plain)) == before[0]
    assert {path.name for path in before[1] - set(build(tmp_path, kernel, mutant))} == {"virtual_bus.ko"}


def test_names(folder: Path) -> None:
    assert known_adapters() == ["auxiliary", "virtbus"]
    assert adapter_name(Path("/x/adapter-mine.h")) == "mine"
    for wrong in ("mine.h", "adapter-mine.c", "adapter-.x"):
        with pytest.raises(InputError, match=r"its name must be adapter-NAME.h"):
            adapter_name(Path(wrong))


def test_what_there_is_not(tmp_path: Path, folder: Path, kernel: Kernel) -> None:
    with pytest.raises(InputError, match="there is no mutant 'R99', only R08-bad, R09-header"):
        mutant_patch("R99")
    with pytest.raises(InputError, match="there is no adapter 'mine', only auxiliary, virtbus"):
        build(tmp_path, kernel, ModulesRequest(("mine",)))
    (kernel.artifact.path / "devel.tar.zst").unlink()
    with pytest.raises(InputError, match="is a finished kernel"):
        build(tmp_path, kernel, ModulesRequest(("virtbus",)))
