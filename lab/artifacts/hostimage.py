"""The image of L1, the vDPA host: Debian by mmdebstrap, without privileges, as a raw ext4 file system.

The image is never written: every run puts a qcow2 overlay on it. Beside it lies the same QEMU in a form that runs on
L0 (facts: it needs a newer C library than Debian 12 has), so that one artifact serves both levels.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from lab.artifacts import apt, bundle, tools
from lab.artifacts.apt import Apt
from lab.artifacts.progress import Progress
from lab.artifacts.store import Artifact, Recipe, Store, tree_digest
from lab.config.strict import Strict, read_toml, validate
from lab.proc import run

IMAGES = Path(__file__).resolve().parents[2] / "images"

_TOOLS = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "tar": "tar", "unshare": "util-linux"}
# mmdebstrap needs a range of user ids for its namespace (subuid(5)).
_TOOLS_OF_A_USER = {"newuidmap": "uidmap"}

_QEMU_PROGRAMS = ("usr/bin/qemu-system-x86_64", "usr/bin/qemu-img")
# What q35 and microvm need for direct kernel boot without a display: SeaBIOS or qboot, PVH and bzImage loaders.
QEMU_FIRMWARE = ("bios-256k.bin", "bios-microvm.bin", "qboot.rom", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin")
QEMU_DATA = ("usr/share/qemu", "usr/share/seabios")

# No journal, no checksums: the file system lives for one run, and both cost time under TCG. The UUIDs are fixed so
# that the same content gives the same image.
_MKE2FS = (
    *("-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "vdpalab-host"),
    *("-O", "^has_journal,^metadata_csum,^orphan_file,^resize_inode,^64bit"),
    *("-U", "5d1b8ea2-0f0c-4f0b-9f5f-7664706c6162"),
    *("-E", "lazy_itable_init=0,hash_seed=5d1b8ea2-0f0c-4f0b-9f5f-7664706c6163,root_owner=0:0"),
)
_BLOCK = 4096


class HostRecipe(Strict):
    """``images/host/image.toml``."""

    suite: str
    backports: str
    packages: tuple[str, ...]
    exclude: tuple[str, ...]
    free_mb: int


@dataclass(frozen=True)
class HostImage:
    """``path`` is the raw ext4 image, ``qemu`` a bundle (lab.artifacts.bundle) of the same QEMU for L0."""

    path: Path
    qemu: Path
    artifact: Artifact


def host_image(store: Store, *, update: bool = False, archive: Apt | None = None) -> HostImage:
    """The L1 image, built if needed; ``update`` takes the newest package versions. Raises BuildError, InputError."""
    recipe = validate(HostRecipe, read_toml(IMAGES / "host" / "image.toml"), "images/host/image.toml")
    archive = archive or Apt()
    tools.require(_TOOLS if os.geteuid() == 0 else _TOOLS | _TOOLS_OF_A_USER, "the host image")
    artifact = store.get(
        Recipe(
            "host-image",
            _inputs(recipe, archive, update=update),
            lambda out, progress: _build(out, progress, recipe, archive),
        )
    )
    return HostImage(artifact.path / "root.ext4", artifact.path / "qemu", artifact)


def _inputs(recipe: HostRecipe, archive: Apt, *, update: bool) -> dict[str, str]:
    versions = archive.resolve(recipe.backports, recipe.packages, update=update)
    return {
        **image_inputs("host"),
        **code_inputs(__file__, bundle.__file__),
        "mmdebstrap": run(["mmdebstrap", "--version"]).text,
        **{f"package {name}": version for name, version in versions.items()},
    }


def image_inputs(name: str) -> dict[str, str]:
    """Digests of the files that ``images/NAME`` and ``images/common`` hold, by path: inputs of the image's recipe."""
    files = [path for folder in ("common", name) for path in sorted((IMAGES / folder).iterdir())]
    return {str(path.relative_to(IMAGES.parent)): tree_digest(path) for path in files}


def code_inputs(*modules: str) -> dict[str, str]:
    """Digests of modules that decide what an image holds: a change there must not leave the old image in use."""
    return {f"lab/artifacts/{Path(module).name}": tree_digest(Path(module)) for module in modules}


def _build(out: Path, progress: Progress, recipe: HostRecipe, archive: Apt) -> None:
    tree, tarball = out / "tree", out / "tree.tar"
    progress.step(f"Debian {recipe.suite} by mmdebstrap")
    # In the store, what a killed build leaves is cleaned. A user's mmdebstrap has other ids, which cannot enter it.
    env = {"TMPDIR": str(out)} if os.geteuid() == 0 else {}
    progress.run(mmdebstrap_argv(recipe, archive, tarball), what="mmdebstrap", env=env)
    progress.step("unpacking it")
    tree.mkdir()
    # Owners do not matter in an image where everything is root's; device nodes would need privileges.
    unpack = ["tar", "--extract", "--preserve-permissions", "--no-same-owner", "--exclude=./dev/*"]
    progress.run([*unpack, f"--file={tarball}", f"--directory={tree}"], what="tar")
    tarball.unlink()
    install(tree)
    progress.step("QEMU for L0")
    extract_qemu(tree, out / "qemu")
    progress.step("ext4 image")
    progress.run(mke2fs_argv(tree, out / "root.ext4", recipe.free_mb), what="mke2fs", env=tools.ENV)
    shutil.rmtree(tree)


def mmdebstrap_argv(recipe: HostRecipe, archive: Apt, tarball: Path) -> list[str]:
    """Command line of mmdebstrap(1): as root with chroot(2), else in a user namespace.

    As root it gets a mount namespace, because killed without one it leaves /proc and /sys mounted in its tree.
    """
    mode = (
        ["unshare", "--mount", "mmdebstrap", "--mode=root"] if os.geteuid() == 0 else ["mmdebstrap", "--mode=unshare"]
    )
    options = [f'APT::Default-Release "{recipe.backports}";', 'APT::Install-Recommends "false";', *apt.reach()]
    return [
        *[*mode, "--variant=essential", "--architectures=amd64", "--format=tar"],
        f"--include={','.join(recipe.packages)}",
        *[f"--aptopt={option}" for option in options],
        *[f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.exclude],
        *[recipe.suite, str(tarball), *archive.sources(recipe.backports)],
    ]


def install(tree: Path) -> None:
    """Put the lab's own files into an unpacked Debian tree, and take out what a shared image must not have."""
    lab = tree / "lab"
    for disk in ("kernel", "guest", "qemu"):
        (lab / disk).mkdir(parents=True)
    shutil.copy(IMAGES / "common" / "lib.sh", lab)
    for name in ("init", "disks", "sshd_config"):
        shutil.copy(IMAGES / "host" / name, lab)
    shutil.copy(IMAGES / "host" / "fstab", tree / "etc" / "fstab")
    (tree / "var" / "crash").mkdir(exist_ok=True)
    (tree / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    for name in ("hostname", "resolv.conf", "apt/apt.conf.d/99mmdebstrap"):
        (tree / "etc" / name).unlink(missing_ok=True)
    for key in (tree / "etc" / "ssh").glob("ssh_host_*"):
        key.unlink()
    _replace(tree / "usr" / "lib" / "modules", "/lab/kernel/lib/modules")
    for applet in ("poweroff", "reboot", "halt"):
        _replace(tree / "usr" / "sbin" / applet, "../bin/busybox")
    # sshd gives commands to the login shell: the lab writes them for sh(1), and bash would read ~/.bashrc each time.
    passwd = tree / "etc" / "passwd"
    passwd.write_text(passwd.read_text().replace(":/root:/bin/bash\n", ":/root:/bin/sh\n"))


def _replace(path: Path, target: str) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def extract_qemu(tree: Path, top: Path) -> None:
    """Make the bundle of the tree's QEMU, with the firmware that direct kernel boot needs. Raises BuildError."""
    bundle.make(top, [tree / program for program in _QEMU_PROGRAMS], root=tree)
    for folder in QEMU_DATA:
        (top / folder).mkdir(parents=True)
        for name in QEMU_FIRMWARE:
            if (tree / folder / name).is_file():
                shutil.copy(tree / folder / name, top / folder / name)


def mke2fs_argv(tree: Path, image: Path, free_mb: int) -> list[str]:
    """Command line that makes the image with room for ``free_mb`` MiB more, its files owned by root."""
    blocks = sum(-(-path.lstat().st_size // _BLOCK) + 1 for path in tree.rglob("*"))
    size_kb = (blocks * _BLOCK >> 10) + (free_mb << 10)
    return tools.owned_by_root(["mke2fs", *_MKE2FS, "-d", str(tree), str(image), f"{size_kb}k"])
