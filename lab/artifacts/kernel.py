"""The kernel artifact: one Linux for the host (L1) and its guests (L2), built from a package or a tree, or prebuilt.

Files of the artifact::

    bzImage          for L1, direct kernel boot
    vmlinux          ELF that boots through PVH, with symbols
    vmlinux.debug    the same with debug information, when the kernel has it (kernel ``gdb``)
    config version   its .config (when known) and its release
    kernel.squashfs  uncompressed, mounted read-only in L1: lib/modules/RELEASE, boot/vmlinux
    devel.tar.zst    what compiling single modules needs (lab.artifacts.modules); none for a prebuilt kernel
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.artifacts import kconfig, kernelbuild, patches
from lab.artifacts.apt import Apt
from lab.artifacts.kernelsource import KernelSource, PackageSource, local_source
from lab.artifacts.prebuilt import examine, prebuilt_recipe
from lab.artifacts.store import Artifact, Progress, Recipe, Store
from lab.artifacts.virtbus import Overlay, overlay
from lab.config.catalog import names
from lab.config.kernel import KernelConfig, fragment, load_config
from lab.errors import InputError, problems_of

IMAGES = Path(__file__).resolve().parents[2] / "images" / "kernel"


@dataclass(frozen=True)
class KernelRequest:
    """What kernel is wanted.

    ``variant`` is a name in ``configs/kernels``; ``version`` (``6.1``, ``backports``) takes the source of another one
    there, ``tree`` a local source tree (``ref``: a commit of it), ``image`` a finished kernel with its ``modules``
    (the directory that holds ``lib/modules`` or is ``/lib/modules/RELEASE``). ``patches`` are files or quilt series;
    ``virtbus`` a series in place of the lab's own virtbus, or ``none``.
    """

    variant: str = "default"
    version: str | None = None
    tree: Path | None = None
    ref: str | None = None
    image: Path | None = None
    modules: Path | None = None
    patches: tuple[Path, ...] = ()
    virtbus: Path | Literal["none"] | None = None


@dataclass(frozen=True)
class Kernel:
    """A kernel to boot. ``vmlinux`` is a copy of ``bzimage`` when a prebuilt one cannot be entered through PVH."""

    release: str
    bzimage: Path
    vmlinux: Path
    disk: Path
    key: str
    artifact: Artifact


def kernel(store: Store, request: KernelRequest, *, update: bool = False, apt: Apt | None = None) -> Kernel:
    """The kernel asked for, built now if need be. ``update`` asks the archive for newer source packages.

    Raises InputError for what cannot be asked for, BuildError when it cannot be built.
    """
    return _kernel(store.get(kernel_recipe(store, request, update=update, apt=apt)))


def kernel_there(store: Store, key: str) -> Kernel:
    """The kernel with this key, as it was built. Raises InputError when it is no longer in the store."""
    for entry in store.entries():
        if entry.key == key and entry.name.startswith("kernel-"):
            return _kernel(Artifact(entry.name, key, entry.path / "files", entry.inputs, built=False))
    raise InputError([f"the kernel {key} is no longer in the store"])


def _kernel(artifact: Artifact) -> Kernel:
    files = artifact.path
    return Kernel(
        release=(files / "version").read_text().strip(),
        bzimage=files / "bzImage",
        vmlinux=files / "vmlinux",
        disk=files / "kernel.squashfs",
        key=artifact.key,
        artifact=artifact,
    )


def kernel_recipe(store: Store, request: KernelRequest, *, update: bool = False, apt: Apt | None = None) -> Recipe:
    """How the kernel asked for is made. Raises InputError with all problems, BuildError for missing tools."""
    if found := problems(request):
        raise InputError(found)
    if request.image:
        return prebuilt_recipe(request.image, request.modules)
    layer = _overlay(request)
    fragments = {path.stem: kconfig.read_fragments([path]) for path in _fragments(request, layer)}
    series = patches.read_patches(request.patches)
    source = kernel_source(store, request, apt or Apt(), update=update)
    inputs = {
        "source": source.identity,
        **{f"options {name}": _digest(kconfig.all_config(options)) for name, options in fragments.items()},
        **layer.inputs,
        **{f"patch {number} {patch.name}": _digest(patch.data) for number, patch in enumerate(series, start=1)},
        **kernelbuild.toolchain(),
    }

    def build(into: Path, progress: Progress) -> None:
        tree = progress.scratch / "linux"
        tree.mkdir()
        source.unpack(tree, progress)
        layer.apply(tree)
        patches.apply(series, tree)
        kernelbuild.configure(tree, kconfig.merge(list(fragments.values())), progress)
        kernelbuild.compile_all(tree, progress)
        kernelbuild.install(tree, into, progress)

    return Recipe(_name(request), inputs, build)


def problems(request: KernelRequest) -> list[str]:
    """Everything about a request that can be seen to be wrong before anything is built. Only reads."""
    found = [*_clashes(request), *problems_of(lambda: wanted_options(dataclasses.replace(request, virtbus="none")))]
    found += problems_of(lambda: patches.read_patches(request.patches), "--patch ")
    if request.virtbus:
        found += problems_of(lambda: _overlay(request), "--virtbus ")
    if tree := request.tree:
        found += problems_of(lambda: local_source(tree.resolve(), request.ref))
    if image := request.image:
        found += problems_of(lambda: examine(image, request.modules))
    return found


def wanted_options(request: KernelRequest) -> list[kconfig.Option]:
    """The options that the kernel asked for is built with. Raises InputError."""
    return kconfig.read_fragments(_fragments(request, _overlay(request)))


def _clashes(request: KernelRequest) -> list[str]:
    found = []
    if request.ref and not request.tree:
        found.append("--kernel-ref needs --kernel-tree")
    if request.modules and not request.image:
        found.append("--kernel-modules needs --kernel-image")
    if request.image:
        clash = {"--kernel-tree": request.tree, "--patch": request.patches, "--virtbus": request.virtbus}
        found += [f"--kernel-image is finished: {option} cannot change it" for option, on in clash.items() if on]
    if request.tree and request.version:
        found.append("--kernel-tree and a kernel version are two sources: give one")
    return found


def _name(request: KernelRequest) -> str:
    source = "tree" if request.tree else request.version
    return f"kernel-{request.variant}" + (f"-{source}" if source else "")


def kernel_source(store: Store, request: KernelRequest, apt: Apt, *, update: bool = False) -> KernelSource:
    """The source that a request names, without virtbus and patches. Raises InputError, also for a finished kernel."""
    if request.image:
        raise InputError(["--kernel-image is finished: it has no source"])
    if request.tree:
        return local_source(request.tree.resolve(), request.ref)
    config = _config_of_version(request.version) if request.version else load_config(request.variant)
    if config.package == "newest":
        package, version = apt.newest_source(config.suite, update=update)
    else:
        package = config.package
        version = apt.resolve(config.suite, [package], update=update)[package]
    return PackageSource(store, apt, config.suite, package, version)


def _config_of_version(version: str) -> KernelConfig:
    """The configured kernel of that name, or the first whose package has that version."""
    if version in names("kernels"):
        return load_config(version)
    configs = [load_config(name) for name in names("kernels")]
    for config in configs:
        if config.package == f"linux-source-{version}":
            return config
    raise InputError([f"no kernel has version {version!r}"], hint=f"there are: {', '.join(names('kernels'))}")


def _fragments(request: KernelRequest, layer: Overlay) -> list[Path]:
    own = [fragment(name) for name in load_config(request.variant).fragments]
    return [*own, layer.options] if layer.options else own


def _overlay(request: KernelRequest) -> Overlay:
    return overlay(IMAGES / "virtbus", request.virtbus)


def _digest(content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:16]
