"""Requests for kernels: what decides the key, what is refused, and a build with a source tree that only plays Linux."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lab.artifacts import kernel as kernels
from lab.artifacts.apt import Apt
from lab.artifacts.kernel import KernelRequest, kernel, kernel_recipe, problems, wanted_options
from lab.artifacts.modules import build_modules
from lab.artifacts.store import Recipe, Store
from lab.config.catalog import names
from lab.config.kernel import load_config
from lab.errors import BuildError, InputError
from lab.proc import run
from tests.unit.test_bootimage import BANNER, ELF, bzimage

# Answers the targets that kernelbuild asks for, in a second: no compiler takes part.
MAKEFILE = """\
all:
allnoconfig:
	cp lab.config .config; sh ./spoil
bzImage:
	mkdir -p arch/x86/boot include arch/x86/include scripts tools/objtool; touch tools/objtool/objtool Module.symvers
	touch arch/x86/Makefile arch/x86/Makefile_32.cpu
	mkdir -p include/config; echo 6.12.1-fake > include/config/kernel.release
	cp elf vmlinux; cp elf arch/x86/boot/bzImage; sh ./compile
modules:
	@:
modules_install:
	mkdir -p $(INSTALL_MOD_PATH)/lib/modules/6.12.1-fake/kernel
	ln -s /nowhere $(INSTALL_MOD_PATH)/lib/modules/6.12.1-fake/build
	touch $(INSTALL_MOD_PATH)/lib/modules/6.12.1-fake/modules.order
	touch $(INSTALL_MOD_PATH)/lib/modules/6.12.1-fake/modules.builtin
mrproper:
"""


class FakeApt(Apt):
    """Knows one version of every package."""

    def __init__(self, version: str = "6.12.1-1") -> None:
        super().__init__(Path("/nowhere"))
        self.version = version

    def resolve(self, suite: str, names: object, *, update: bool = False) -> dict[str, str]:
        assert isinstance(names, list)
        return dict.fromkeys(names, f"{self.version}{'+new' if update else ''}")

    def newest_source(self, suite: str, *, update: bool = False) -> tuple[str, str]:
        return "linux-source-9.9", self.version


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A kernel tree that builds a kernel of a few bytes."""
    top = tmp_path / "linux"
    top.mkdir()
    for name in ("Kbuild", "Kconfig", "MAINTAINERS", "spoil", "compile"):
        (top / name).write_text("")
    (top / "Makefile").write_text(MAKEFILE)
    write_elf(top / "elf", ELF)
    return top


def write_elf(path: Path, content: bytes) -> None:
    """Write an ELF file that holds some bytes and that objcopy understands: one that every machine has, and a bit."""
    extra = path.with_name("extra")
    extra.write_bytes(content)
    run(["objcopy", f"--add-section=.lab={extra}", "/bin/true", str(path)])


def recipe(store: Store, request: KernelRequest, *, apt: Apt | None = None, update: bool = False) -> Recipe:
    return kernel_recipe(store, request, apt=apt or FakeApt(), update=update)


def test_everything_that_decides_is_an_input(store: Store, tmp_path: Path) -> None:
    patch = tmp_path / "a.patch"
    patch.write_text("--- a/x\n+++ b/x\n")
    plain = recipe(store, KernelRequest())
    assert plain.name == "kernel-default"
    assert plain.inputs["source"] == "linux-source-6.12 6.12.1-1"
    assert {"options base", "options vdpa", "gcc", "ld", "recipe"} <= set(plain.inputs)
    assert not any("/" in value for value in plain.inputs.values() if value.startswith("/"))
    others = [
        recipe(store, KernelRequest(patches=(patch,))),
        recipe(store, KernelRequest(variant="debug")),
        recipe(store, KernelRequest(version="6.1")),
        recipe(store, KernelRequest(), apt=FakeApt("6.12.2-1")),
        recipe(store, KernelRequest(), update=True),
    ]
    assert len({plain.key, *(other.key for other in others)}) == 1 + len(others)
    assert recipe(store, KernelRequest()).key == plain.key


def test_names_tell_variant_and_source(store: Store, tree: Path) -> None:
    requests = (KernelRequest(variant="debug"), KernelRequest(version="backports"), KernelRequest(tree=tree))
    found = [recipe(store, request).name for request in requests]
    assert found == ["kernel-debug", "kernel-default-backports", "kernel-default-tree"]


def test_versions(store: Store) -> None:
    def source(version: str) -> str:
        return recipe(store, KernelRequest(version=version)).inputs["source"]

    assert source("6.12").startswith("linux-source-6.12 ")
    assert source("6.1").startswith("linux-source-6.1 ")
    assert source("backports").startswith("linux-source-9.9 ")
    with pytest.raises(InputError, match="no kernel has version"):
        source("5.4")


@pytest.mark.parametrize("name", names("kernels"))
def test_every_kernel_of_the_lab_is_well_described(name: str) -> None:
    assert load_config(name).summary
    options = {option.name: option.value for option in wanted_options(KernelRequest(variant=name))}
    needed = {
        "PVH": "y",
        "VHOST_VDPA": "m",
        "VDPA_SIM_NET": "m",
        "VIRTIO_BLK": "y",
        "SQUASHFS": "y",
        "PCI_MMCONFIG": "y",
    }
    assert {option: options.get(option) for option in needed} == needed


def test_bad_description_is_told_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "bad.toml").write_text('summary = "x"\nsuite = "trixie"\nfragment = ["base"]\n')
    (folder / "none.toml").write_text('summary = "x"\nsuite = "trixie"\npackage = "p"\nfragments = ["base", "nope"]\n')
    monkeypatch.setattr("lab.config.catalog.CONFIGS", tmp_path)
    with pytest.raises(InputError) as caught:
        load_config("bad")
    assert len(caught.value.problems) == 3
    assert any("fragment: unknown key" in problem for problem in caught.value.problems)
    with pytest.raises(InputError, match=r"fragments: there is no .*nope.config"):
        load_config("none")
    with pytest.raises(InputError, match="no kernel is called 'other'"):
        load_config("other")


def test_impossible_requests_are_told_whole(store: Store, tmp_path: Path) -> None:
    request = KernelRequest(ref="v1", modules=tmp_path)
    with pytest.raises(InputError) as caught:
        recipe(store, request)
    assert len(caught.value.problems) == 2
    request = KernelRequest(
        image=tmp_path / "bzImage", tree=tmp_path, patches=(tmp_path,), virtbus="none", version="6.1"
    )
    with pytest.raises(InputError) as caught:
        recipe(store, request)
    told = "\n".join(caught.value.problems)
    for words in (
        "--kernel-tree cannot change it", "--patch cannot change it", "--virtbus cannot change it", "two sources",
        f"--patch {tmp_path}: holds no patch", "not the top of a kernel source tree", "--kernel-image ",
    ):  # fmt: skip
        assert words in told


def test_a_ref_that_git_does_not_know_and_a_series_that_is_none(tree: Path, tmp_path: Path) -> None:
    run(["git", "-C", str(tree), "init", "-q"])
    found = problems(KernelRequest(tree=tree, ref="v0", virtbus=tmp_path / "absent"))
    assert [words.split()[0] for words in found] == ["--virtbus", "--kernel-ref"]
    assert problems(KernelRequest(virtbus="none")) == []


def test_missing_tools_are_named_by_package(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.artifacts.kernelbuild._PATH", "/nowhere")
    with pytest.raises(BuildError, match=r"needs the packages bc binutils .*kmod.*squashfs-tools") as caught:
        recipe(store, KernelRequest())
    assert "setup" in caught.value.hint


def build(store: Store, request: KernelRequest) -> kernels.Kernel:
    return kernel(store, request, apt=FakeApt())


def test_build_from_a_tree(store: Store, tree: Path) -> None:
    built = build(store, KernelRequest(tree=tree, virtbus="none"))
    assert built.release == "6.12.1-fake"
    assert built.bzimage.is_file()
    assert BANNER in built.bzimage.read_bytes()
    assert built.disk.read_bytes()[:4] == b"hsqs"
    assert "CONFIG_VDPA=m" in (built.artifact.path / "config").read_text()
    assert not build(store, KernelRequest(tree=tree, virtbus="none")).artifact.built
    assert not (tree / "vmlinux").exists()


def test_debug_information_is_kept_beside_what_boots(store: Store, tree: Path) -> None:
    assert not (build(store, KernelRequest(tree=tree, virtbus="none")).artifact.path / "vmlinux.debug").exists()
    built = build(store, KernelRequest(variant="gdb", tree=tree, virtbus="none"))
    assert (built.artifact.path / "vmlinux.debug").read_bytes() == (tree / "elf").read_bytes()


def test_option_that_does_not_stick_is_named(store: Store, tree: Path) -> None:
    (tree / "spoil").write_text("sed -i '/CONFIG_VDPA=/d' .config")
    with pytest.raises(BuildError, match=r"CONFIG_VDPA: asked for m \(vdpa.config\), got n") as caught:
        build(store, KernelRequest(tree=tree, virtbus="none"))
    assert "optional" in caught.value.hint


def test_compiler_errors_are_shown(store: Store, tree: Path) -> None:
    (tree / "compile").write_text("echo 'drivers/vdpa/vdpa.c:7:2: error: oops'; exit 1")
    with pytest.raises(BuildError, match=r"drivers/vdpa/vdpa.c:7:2: error: oops") as caught:
        build(store, KernelRequest(tree=tree, virtbus="none"))
    assert caught.value.log is not None
    assert caught.value.log.is_file()


def test_patch_that_does_not_apply_is_named(store: Store, tree: Path, tmp_path: Path) -> None:
    patch = tmp_path / "bad.patch"
    patch.write_text("--- a/Kconfig\n+++ b/Kconfig\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n")
    with pytest.raises(BuildError, match=r"bad.patch: Kconfig: hunk 1"):
        build(store, KernelRequest(tree=tree, virtbus="none", patches=(patch,)))


def test_kernel_without_pvh_is_refused(store: Store, tree: Path) -> None:
    write_elf(tree / "elf", BANNER)
    with pytest.raises(BuildError, match="no PVH entry"):
        build(store, KernelRequest(tree=tree, virtbus="none"))


@pytest.fixture
def prebuilt(tmp_path: Path) -> Path:
    top = tmp_path / "prebuilt"
    modules = top / "lib" / "modules" / "6.12.1-lab"
    (modules / "kernel").mkdir(parents=True)
    (modules / "modules.order").write_text("")
    (modules / "modules.builtin").write_text("")
    (top / "boot").mkdir()
    elf = ELF.replace(b"IKCFG_ST", b"XXXXXXXX")
    (top / "boot" / "bzImage").write_bytes(bzimage(elf))
    return top


def test_prebuilt_with_modules_found_beside_it(store: Store, prebuilt: Path) -> None:
    image = prebuilt / "boot" / "bzImage"
    built = build(store, KernelRequest(image=image))
    assert built.release == "6.12.1-lab"
    assert built.vmlinux.read_bytes()[:4] == b"\x7fELF"
    assert recipe(store, KernelRequest(image=image)).inputs["modules"] != "none"
    assert not build(store, KernelRequest(image=image, modules=prebuilt)).artifact.built


def test_prebuilt_without_pvh_boots_its_bzimage(store: Store, prebuilt: Path) -> None:
    image = prebuilt / "boot" / "bzImage"
    image.write_bytes(bzimage(b"\x7fELF" + BANNER))
    built = build(store, KernelRequest(image=image))
    assert built.vmlinux.read_bytes() == image.read_bytes()


def test_prebuilt_that_cannot_boot_is_told_whole(store: Store, prebuilt: Path) -> None:
    (prebuilt / "boot" / "config-6.12.1-lab").write_text("CONFIG_EXT4_FS=m\nCONFIG_DEVTMPFS=y\n")
    with pytest.raises(InputError) as caught:
        build(store, KernelRequest(image=prebuilt / "boot" / "bzImage"))
    assert any("CONFIG_EXT4_FS must be built in" in problem for problem in caught.value.problems)
    assert not any("DEVTMPFS" in problem for problem in caught.value.problems)


def test_bad_prebuilt(store: Store, prebuilt: Path, tmp_path: Path) -> None:
    image = prebuilt / "boot" / "bzImage"
    with pytest.raises(InputError, match="No such file"):
        recipe(store, KernelRequest(image=tmp_path / "gone"))
    with pytest.raises(InputError, match=r"has no modules of 6.12.1-lab"):
        recipe(store, KernelRequest(image=image, modules=tmp_path / "store"))
    image.write_text("text")
    with pytest.raises(InputError, match="neither a bzImage nor an ELF kernel"):
        recipe(store, KernelRequest(image=image))


def test_modules_need_source_and_a_kernel_that_was_built_here(store: Store, prebuilt: Path, tmp_path: Path) -> None:
    built = build(store, KernelRequest(image=prebuilt / "boot" / "bzImage"))
    with pytest.raises(InputError) as caught:
        build_modules(store, built, tmp_path / "empty")
    assert len(caught.value.problems) == 2


def test_one_module_is_compiled(store: Store, tree: Path, tmp_path: Path) -> None:
    (tree / "Makefile").write_text(
        MAKEFILE.replace("modules:\n\t@:", "modules:\n\tif [ -n '$(M)' ]; then make -C $(M); fi")
    )
    built = build(store, KernelRequest(tree=tree, virtbus="none"))
    source = tmp_path / "vdpa_sim"
    source.mkdir()
    (source / "old.ko").write_text("old")
    (source / "Makefile").write_text("all:\n\tcp /bin/true new.ko\n")
    artifact = build_modules(store, built, source)
    assert [path.name for path in artifact.path.iterdir()] == ["new.ko"]
    assert not build_modules(store, built, source).built
    other = dataclasses.replace(built, key="other")
    assert build_modules(store, other, source).key != artifact.key
    (source / "Makefile").write_text("all:\n\t@:\n")
    with pytest.raises(BuildError, match="no module that this kernel's configuration selects"):
        build_modules(store, built, source)
