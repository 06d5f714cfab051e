"""The image of L2, the guest: an uncompressed initramfs made of files of the host image.

Uncompressed, because inflating it under two levels of TCG takes longer than the whole boot (facts: 45 s instead of
17-22 s).
"""

from __future__ import annotations

import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lab.artifacts import bundle, cpio, elf, tools
from lab.artifacts.hostimage import IMAGES, HostImage, code_inputs, image_inputs
from lab.artifacts.progress import Progress
from lab.artifacts.squashfs import squash
from lab.artifacts.store import Artifact, Recipe, Store
from lab.config.strict import Strict, read_toml, validate
from lab.errors import BuildError
from lab.proc import run

_TOOLS = {"debugfs": "e2fsprogs", "mksquashfs": "squashfs-tools"}

_BUSYBOX = "/usr/bin/busybox"
# busybox's shell, unshare, timeout and their like run its own applets whatever PATH says, and its ip has neither ipvlan
# modes, nor batches, nor named namespaces. Its table of names is sorted, and what replaces a name must be as long: so
# the next one has to go too.
_IP_APPLETS, _HIDDEN_APPLETS = ("ip", "ipcalc"), ("iz", "izcalc")
# The first directory in which ld.so looks.
_LIBRARIES = "lib/x86_64-linux-gnu"
_FOLDERS = (
    *("bin", "dev", "etc", "lab", "lib", _LIBRARIES, "lib64", "mnt", "proc", "root", "root/.ssh", "run", "sys", "tmp"),
    *("usr", "var", "var/log", "var/run", "var/tmp"),
)
# Where the keys given by -fw_cfg appear; the link saves copying them at boot.
_AUTHORIZED_KEYS = "/sys/firmware/qemu_fw_cfg/by_name/opt/vdpalab/authorized_keys/raw"
_ETC = {
    "passwd": "root:*:0:0:root:/root:/bin/sh\n",
    "group": "root:*:0:\ntty:*:5:\n",
    "shells": "/bin/sh\n",
    "hosts": "127.0.0.1 localhost\n",
}


class GuestRecipe(Strict):
    """``images/guest/image.toml``."""

    programs: tuple[str, ...]
    opened: tuple[str, ...]
    without: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class GuestImage:
    """``cpio`` is the initramfs; ``disk`` an uncompressed squashfs that holds it as ``guest.cpio``, for L1."""

    cpio: Path
    disk: Path
    artifact: Artifact


def guest_image(store: Store, host: HostImage) -> GuestImage:
    """The L2 image, built if needed from what is in the host image. Raises BuildError."""
    recipe = validate(GuestRecipe, read_toml(IMAGES / "guest" / "image.toml"), "images/guest/image.toml")
    tools.require(_TOOLS, "the guest image")
    code = code_inputs(__file__, bundle.__file__, cpio.__file__, elf.__file__)
    inputs = {"host image": host.artifact.key, **image_inputs("guest"), **code}
    artifact = store.get(Recipe("guest-image", inputs, lambda out, progress: _build(out, progress, recipe, host.path)))
    return GuestImage(artifact.path / "guest.cpio", artifact.path / "guest.squashfs", artifact)


def dropbear_host_key(key: Ed25519PrivateKey) -> bytes:
    """The private key as dropbear reads it: type, then seed and public key, each with its length (``dropbearkey(1)``).

    L0 converts, because a start of dropbearconvert in L2 takes as long as a login.
    """
    kind = b"ssh-ed25519"
    pair = key.private_bytes_raw() + key.public_key().public_bytes_raw()
    return b"".join(struct.pack(">I", len(part)) + part for part in (kind, pair))


def _build(out: Path, progress: Progress, recipe: GuestRecipe, root: Path) -> None:
    tree = out / "tree"
    progress.step("taking programs out of the host image")
    _extract(root, tree, ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", _BUSYBOX, *recipe.programs], progress)
    (tree / "lib64").symlink_to("usr/lib64")
    slim(tree, recipe)
    progress.step("initramfs")
    cpio.write(out / "guest.cpio", nodes(tree, recipe))
    shutil.rmtree(tree)
    squash(out / "guest.cpio", out / "guest.squashfs", progress)


def _extract(image: Path, tree: Path, paths: list[str], progress: Progress) -> None:
    """Copy files and directories out of an ext4 image by debugfs(8), which needs no mount."""
    for path in paths:
        folder = tree / Path(path).parent.relative_to("/")
        folder.mkdir(parents=True, exist_ok=True)
        dump = tools.owned_by_root(["debugfs", "-R", f"rdump {path} {folder}", str(image)])
        progress.run(dump, what="debugfs", env=tools.ENV)
        if not (tree / path.lstrip("/")).exists():
            raise BuildError(f"the host image has no {path}")


def slim(tree: Path, recipe: GuestRecipe) -> None:
    """Take the libraries out that the recipe says a file does without. Raises BuildError naming the file."""
    places = {Path(program).name: tree / program.lstrip("/") for program in recipe.programs}
    for name, libraries in recipe.without.items():
        path = places.get(name, tree / bundle.LIBRARIES / name).resolve()
        try:
            path.write_bytes(elf.without(path.read_bytes(), libraries))
        except (BuildError, OSError) as error:
            raise BuildError(f"images/guest/image.toml: {name}: {error}") from error


def hide_ip(busybox: bytes) -> bytes:
    """A busybox that does not know its applet ``ip``. Raises BuildError when its table of names is another one."""
    old, new = (b"\0" + "\0".join(names).encode() + b"\0" for names in (_IP_APPLETS, _HIDDEN_APPLETS))
    if busybox.count(old) != 1:
        raise BuildError(f"busybox has no applets {' and '.join(_IP_APPLETS)} one after the other")
    return busybox.replace(old, new)


def nodes(tree: Path, recipe: GuestRecipe) -> list[cpio.Node]:
    """Everything that the initramfs holds."""
    programs = [tree / program.lstrip("/") for program in recipe.programs]
    libraries = {name: path for program in programs for name, path in bundle.libraries(program, root=tree).items()}
    libraries |= {name: (tree / bundle.LIBRARIES / name).resolve() for name in recipe.opened}
    busybox = tree / _BUSYBOX.lstrip("/")
    taken = {"busybox", *_IP_APPLETS, *(program.name for program in programs)}
    applets = [name for name in run([str(busybox), "--list"]).text.splitlines() if name not in taken]
    return [
        *[cpio.directory(folder) for folder in _FOLDERS],
        # Linux opens it for process 1 before devtmpfs is mounted.
        cpio.character_device("dev/console", 5, 1),
        cpio.link("sbin", "bin"),
        *[cpio.link(f"usr/{name}", "../bin") for name in ("bin", "sbin")],
        *[cpio.file(f"etc/{name}", text.encode()) for name, text in _ETC.items()],
        cpio.file("lab/lib.sh", (IMAGES / "common" / "lib.sh").read_bytes()),
        cpio.file("init", (IMAGES / "guest" / "init").read_bytes(), 0o755),
        cpio.link("root/.ssh/authorized_keys", _AUTHORIZED_KEYS),
        cpio.file(bundle.LOADER, (tree / bundle.LOADER).read_bytes(), 0o755),
        *[cpio.file(f"{_LIBRARIES}/{name}", path.read_bytes()) for name, path in sorted(libraries.items())],
        cpio.file("bin/busybox", hide_ip(busybox.read_bytes()), 0o755),
        *[cpio.file(f"bin/{path.name}", path.read_bytes(), 0o755) for path in programs],
        *[cpio.link(f"bin/{name}", "busybox") for name in applets],
    ]
