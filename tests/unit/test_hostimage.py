from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.artifacts import apt, bundle, hostimage, tools
from lab.artifacts.apt import Apt
from lab.artifacts.hostimage import HostRecipe
from lab.artifacts.mirror import Mirror
from lab.artifacts.progress import Progress
from lab.artifacts.store import Store
from lab.config.strict import read_toml, validate
from lab.errors import BuildError
from lab.proc import run

RECIPE = validate(HostRecipe, read_toml(hostimage.IMAGES / "host" / "image.toml"), "image.toml")


class FakeApt(Apt):
    """An archive whose package versions are what a test says."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, Mirror("http://mirror.example/debian"))
        self.version = "1"
        self.asked: list[tuple[str, bool]] = []

    def resolve(self, suite: str, names: Sequence[str], *, update: bool = False) -> dict[str, str]:
        self.asked.append((suite, update))
        return dict.fromkeys(names, self.version)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    monkeypatch.setattr(apt, "reach", lambda: ['Acquire::Check-Valid-Until "false";'])
    return FakeApt(tmp_path / "apt")


def test_the_recipe_names_every_qemu_package() -> None:
    # apt takes the others from the older suite, and then nothing fits (facts).
    qemu = {"qemu-system-x86", "qemu-system-common", "qemu-system-data", "qemu-utils", "seabios"}
    assert qemu <= set(RECIPE.packages)


@pytest.mark.parametrize(
    ("uid", "begin"),
    [(0, ["unshare", "--mount", "mmdebstrap", "--mode=root"]), (1000, ["mmdebstrap", "--mode=unshare"])],
)
def test_mmdebstrap_command_line(
    archive: FakeApt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid: int, begin: list[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    argv = hostimage.mmdebstrap_argv(RECIPE, archive, tmp_path / "t.tar")
    assert argv[: len(begin)] == begin
    assert f"--include={','.join(RECIPE.packages)}" in argv
    assert f'--aptopt=APT::Default-Release "{RECIPE.backports}";' in argv
    assert '--aptopt=Acquire::Check-Valid-Until "false";' in argv
    assert "--dpkgopt=path-exclude=/usr/share/man/*" in argv
    where = argv.index(RECIPE.suite)
    assert argv[where + 1] == str(tmp_path / "t.tar")
    assert all(line.startswith("deb [") and "mirror.example" in line for line in argv[where + 2 :])
    assert any(f" {RECIPE.backports} " in line for line in argv[where + 2 :])


def fake_tree(top: Path) -> Path:
    for folder in ("etc/ssh", "etc/apt/apt.conf.d", "usr/lib/modules", "usr/sbin", "usr/bin", "var"):
        (top / folder).mkdir(parents=True)
    (top / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\nsshd:x:1:1::/run/sshd:/usr/sbin/nologin\n")
    (top / "etc/ssh/ssh_host_ed25519_key").write_text("secret")
    (top / "etc/ssh/moduli").write_text("")
    (top / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    (top / "etc/apt/apt.conf.d/99mmdebstrap").write_text('Acquire::http::Proxy "http://user:password@proxy";')
    return top


def test_what_is_installed(tmp_path: Path) -> None:
    tree = fake_tree(tmp_path / "tree")
    hostimage.install(tree)
    for name in ("init", "disks"):
        assert os.access(tree / "lab" / name, os.X_OK)
    assert (tree / "lab/lib.sh").is_file()
    assert (tree / "etc/fstab").read_text() == (hostimage.IMAGES / "host/fstab").read_text()
    assert os.readlink(tree / "usr/lib/modules") == "/lab/kernel/lib/modules"
    assert os.readlink(tree / "usr/sbin/poweroff") == "../bin/busybox"
    assert all((tree / "lab" / disk).is_dir() for disk in ("kernel", "guest", "qemu"))
    assert (tree / "etc/passwd").read_text().startswith("root:x:0:0:root:/root:/bin/sh\nsshd:")


def test_a_shared_image_has_no_keys_and_nothing_of_the_machine_that_made_it(tmp_path: Path) -> None:
    tree = fake_tree(tmp_path / "tree")
    hostimage.install(tree)
    assert [path.name for path in (tree / "etc/ssh").iterdir()] == ["moduli"]
    assert not (tree / "etc/resolv.conf").exists()
    assert not (tree / "etc/apt/apt.conf.d/99mmdebstrap").exists()


def test_the_ext4_image_holds_the_tree_as_roots(tmp_path: Path) -> None:
    if not shutil.which("mke2fs", path=tools.ENV["PATH"]):
        pytest.skip("e2fsprogs is not installed")
    tree, image = tmp_path / "tree", tmp_path / "root.ext4"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/sh").write_text("x" * 10000)
    run(hostimage.mke2fs_argv(tree, image, free_mb=8), env=tools.ENV)
    stat = run(["debugfs", "-R", "stat /bin/sh", str(image)], env=tools.ENV).text
    assert "User:     0   Group:     0" in stat
    features = run(["dumpe2fs", "-h", str(image)], env=tools.ENV).text
    assert "has_journal" not in features
    free = next(line.split()[-1] for line in features.splitlines() if line.startswith("Free blocks:"))
    assert 7 << 20 <= int(free) * 4096 <= 9 << 20
    assert image.stat().st_blocks * 512 < image.stat().st_size


def test_versions_and_files_decide_the_key(archive: FakeApt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built: list[str] = []

    def build(out: Path, _progress: Progress, _recipe: HostRecipe, _archive: Apt) -> None:
        built.append(archive.version)
        (out / "root.ext4").write_text(archive.version)

    monkeypatch.setattr(hostimage, "_build", build)
    monkeypatch.setattr(tools, "require", lambda _packages, _what: None)
    monkeypatch.setattr(hostimage, "run", lambda argv: run(["echo", *argv]))
    images = tmp_path / "images"
    shutil.copytree(hostimage.IMAGES, images)
    monkeypatch.setattr(hostimage, "IMAGES", images)
    store = Store(tmp_path / "store")
    first = hostimage.host_image(store, archive=archive)
    assert hostimage.host_image(store, archive=archive).artifact.key == first.artifact.key
    assert built == ["1"]
    archive.version = "2"
    assert hostimage.host_image(store, update=True, archive=archive).path.read_text() == "2"
    assert archive.asked[-1] == (RECIPE.backports, True)
    with (images / "host" / "init").open("a") as init:
        init.write("# changed\n")
    changed = hostimage.host_image(store, archive=archive)
    assert changed.artifact.built
    assert changed.artifact.inputs["images/host/init"] != first.artifact.inputs["images/host/init"]


@pytest.mark.parametrize(("uid", "first"), [(0, "mke2fs"), (1000, "unshare")])
def test_a_user_makes_images_in_a_namespace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid: int, first: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert hostimage.mke2fs_argv(tmp_path, tmp_path / "x", free_mb=1)[0] == first


def test_missing_programs_are_named_by_package() -> None:
    with pytest.raises(BuildError, match=r"x needs the packages other-pkg some-pkg\n"):
        tools.require({"no-such-program": "some-pkg", "nor-this": "other-pkg", "sh": "dash"}, "x")
    tools.require({"sh": "dash"}, "x")


def test_the_bundled_qemu_has_its_firmware_only(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for folder in (*hostimage.QEMU_DATA, "usr/bin", "lib64"):
        (tree / folder).mkdir(parents=True)
    for name in ("usr/share/qemu/pvh.bin", "usr/share/qemu/openbios-ppc", "usr/share/seabios/bios-256k.bin"):
        (tree / name).write_text(name)
    # Its "loader" answers as ld.so does for a program without libraries.
    (tree / bundle.LOADER).write_text('#!/bin/sh\necho "statically linked"\n')
    (tree / bundle.LOADER).chmod(0o755)
    for name in ("qemu-system-x86_64", "qemu-img"):
        (tree / "usr/bin" / name).write_text(name)
    hostimage.extract_qemu(tree, tmp_path / "qemu")
    files = {str(path.relative_to(tmp_path / "qemu")) for path in (tmp_path / "qemu").rglob("*") if path.is_file()}
    assert files == {
        bundle.LOADER,
        "usr/bin/qemu-img",
        "usr/bin/qemu-system-x86_64",
        "usr/share/qemu/pvh.bin",
        "usr/share/seabios/bios-256k.bin",
    }
