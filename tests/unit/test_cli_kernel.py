"""The verb ``kernel`` through the command line; the build itself is a stand-in."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.artifacts import kernel as kernels
from lab.artifacts import modules
from lab.artifacts.kernel import Kernel, KernelRequest
from lab.artifacts.store import Artifact, Recipe, Store, cache_root
from lab.cli import main
from lab.evidence.record import Record

RUN = "jobs/20260101-000000-abcd/001-net"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[KernelRequest, bool]]:
    """What kernels were asked for, and whether with newer packages."""
    found = []
    (tmp_path / "config").write_text("CONFIG_VDPA=m\n")
    (tmp_path / "vdpa_sim.ko").write_text("")
    artifact = Artifact("kernel-default", "0123", tmp_path, {}, built=True)

    def fake(_store: Store, request: KernelRequest, *, update: bool = False) -> Kernel:
        found.append((request, update))
        return Kernel("6.12.1-lab", tmp_path / "b", tmp_path / "v", tmp_path / "d", "0123", artifact)

    monkeypatch.setattr(kernels, "kernel", fake)
    monkeypatch.setattr(modules, "build_modules", lambda _store, _kernel, _folder: artifact)
    return found


def test_build(asked: list[tuple[KernelRequest, bool]], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["kernel", "build"]) == 0
    assert capsys.readouterr().out == f"Linux 6.12.1-lab in {tmp_path}\n"
    assert asked == [(KernelRequest(), False)]


def test_build_with_everything(asked: list[tuple[KernelRequest, bool]], capsys: pytest.CaptureFixture[str]) -> None:
    words = "kernel build --kernel debug --kernel-tree t --kernel-ref r --patch a --patch b --virtbus s --update --json"
    assert main(words.split()) == 0
    assert json.loads(capsys.readouterr().out)["release"] == "6.12.1-lab"
    request = KernelRequest(variant="debug", tree=Path("t"), ref="r", patches=(Path("a"), Path("b")), virtbus=Path("s"))
    assert asked == [(request, True)]


def test_no_virtbus_and_prebuilt(asked: list[tuple[KernelRequest, bool]]) -> None:
    assert main(["kernel", "build", "--version", "6.1", "--virtbus", "none"]) == 0
    assert main(["kernel", "build", "--kernel-image", "i", "--kernel-modules", "m"]) == 0
    assert [request for request, _ in asked] == [
        KernelRequest(version="6.1", virtbus="none"),
        KernelRequest(image=Path("i"), modules=Path("m")),
    ]


def test_config(asked: list[tuple[KernelRequest, bool]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernel", "config", "--kernel", "debug"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["CONFIG_KASAN=y", "debug.config"] in [line.split() for line in lines]
    assert asked == []
    assert main(["kernel", "config", "--full"]) == 0
    assert capsys.readouterr().out == "CONFIG_VDPA=m\n"


def test_config_of_a_finished_kernel(
    asked: list[tuple[KernelRequest, bool]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").unlink()
    assert main(["kernel", "config", "--full"]) == 3
    assert "without its configuration" in capsys.readouterr().err


def test_module(asked: list[tuple[KernelRequest, bool]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Kbuild").touch()
    assert main(["kernel", "module", str(tmp_path), "--kernel", "debug"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'vdpa_sim.ko'}\n"
    assert asked[0][0].variant == "debug"


def test_no_kernel_is_built_for_modules_that_cannot_be(
    asked: list[tuple[KernelRequest, bool]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kernel", "module", str(tmp_path), "--kernel-image", "/vmlinux"]) == 2
    err = capsys.readouterr().err
    assert "has neither Makefile nor Kbuild" in err
    assert "a finished kernel" in err
    assert asked == []


@pytest.fixture
def up(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """A lab that is up with a kernel of the store, and what was loaded into its L1."""
    loaded: dict[str, object] = {}

    def build_kernel(into: Path, _progress: object) -> None:
        (into / "version").write_text("6.18.0-mine\n")

    built = Store().get(Recipe("kernel-default-tree", {"source": "mine"}, build_kernel))
    plan = {"artifacts": {"kernel": {"release": "6.18.0-mine", "key": built.key}}}

    def build_modules(_store: Store, kernel: Kernel, _folder: Path) -> Artifact:
        loaded["kernel"] = kernel.artifact.path
        (built.path.parent / "vdpa_sim.ko").touch()
        return dataclasses.replace(built, path=built.path.parent)

    def replace(host: str, files: list[Path], release: str) -> list[str]:
        loaded[host] = [*(file.name for file in files), release]
        return ["vdpa_sim"]

    monkeypatch.setattr(modules, "build_modules", build_modules)
    monkeypatch.setattr("lab.host.modules.replace", replace)
    monkeypatch.setattr("lab.topology.attachable.logged_in", lambda run, name: contextlib.nullcontext(name))
    with contextlib.closing(Record(cache_root() / RUN)) as record:
        record.write("plan.json", json.dumps(plan))
        yield loaded


def test_module_is_loaded_into_the_lab_that_is_up_for_its_own_kernel(
    up: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Kbuild").touch()
    assert main(["kernel", "module", str(tmp_path), "--load"]) == 0
    assert up["l1"] == ["vdpa_sim.ko", "6.18.0-mine"]
    assert str(up["kernel"]).endswith("/files")
    captured = capsys.readouterr()
    assert captured.out.endswith("/vdpa_sim.ko\n")
    assert "loaded into l1: vdpa_sim" in captured.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--load"], "no lab is up"),
        (["--load", "--kernel", "debug"], "no other can be named"),
        (["--run", "2026"], "--run needs --load"),
    ],
)
def test_what_cannot_be_loaded(words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Kbuild").touch()
    Record(cache_root() / RUN).close()  # a run that has ended
    assert main(["kernel", "module", str(tmp_path), *words]) == 2
    assert told in capsys.readouterr().err


def test_a_lab_without_a_kernel_yet_and_one_whose_kernel_was_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Kbuild").touch()
    with contextlib.closing(Record(cache_root() / RUN)) as record:
        assert main(["kernel", "module", str(tmp_path), "--load"]) == 2
        assert "has no kernel yet" in capsys.readouterr().err
        record.write("plan.json", '{"artifacts": {"kernel": {"key": "0123"}}}')
        assert main(["kernel", "module", str(tmp_path), "--load"]) == 2
        assert "the kernel 0123 is no longer in the store" in capsys.readouterr().err


def test_unknown_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernel", "config", "--kernel", "nope"]) == 2
    err = capsys.readouterr().err
    assert "no kernel is called 'nope'" in err
    assert "default" in err


def test_export_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["kernel", "export-series", str(tmp_path / "out"), "--author", "A <a@example.org>", "--version", "6.12.7"]
    assert main(argv) == 0
    files = capsys.readouterr().out.split()
    assert len(files) == 3
    assert "Signed-off-by" not in Path(files[0]).read_text()
    assert main(argv) == 2
    assert "not empty" in capsys.readouterr().err


def test_export_series_for_no_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernel", "export-series", str(tmp_path / "out"), "--author", "A", "--version", "new"]) == 2
    assert "a version of Linux is like 6.12" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
