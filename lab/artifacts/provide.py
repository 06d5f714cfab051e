"""Every artifact that a run needs, from its options: found in the store, or built now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab.artifacts.guestimage import GuestImage, guest_image
from lab.artifacts.hostimage import HostImage, host_image
from lab.artifacts.kernel import Kernel, KernelRequest, kernel
from lab.artifacts.kernel import problems as kernel_problems
from lab.artifacts.qemu import NEEDED, Qemu, QemuInL1, given, qemu_l0, qemu_l1
from lab.artifacts.store import Store
from lab.config.request import ArtifactOptions
from lab.errors import problems_of


@dataclass(frozen=True)
class Artifacts:
    """What a lab is made of."""

    kernel: Kernel
    host_image: HostImage
    guest_image: GuestImage
    qemu_l0: Qemu
    qemu_l1: QemuInL1

    def versions(self) -> dict[str, str]:
        """Name and version of each, in words, for the report."""
        return {
            "kernel": f"{self.kernel.release} (artifact {self.kernel.key})",
            "QEMU at L0": f"{_dotted(self.qemu_l0)} ({self.qemu_l0.source})",
            "QEMU in L1": f"{_dotted(self.qemu_l1)} ({self.qemu_l1.source})",
            "host image": self.host_image.artifact.key,
            "guest image": self.guest_image.artifact.key,
        }

    def describe(self) -> dict[str, Any]:
        """What ran, for plan.json and the report."""
        return {
            "kernel": {"release": self.kernel.release, "key": self.kernel.key},
            "host_image": self.host_image.artifact.key,
            "guest_image": self.guest_image.artifact.key,
            "qemu_l0": {"version": _dotted(self.qemu_l0), "source": self.qemu_l0.source},
        }


def _dotted(qemu: Qemu) -> str:
    return ".".join(map(str, qemu.version))


def problems(options: ArtifactOptions) -> list[str]:
    """Everything about the options that can be seen to be wrong before anything is built. Only reads."""
    found = kernel_problems(kernel_request(options))
    if l0 := options.qemu_l0:
        found += problems_of(lambda: given(l0, NEEDED), "--qemu-l0: ")
    if l1 := options.qemu_l1:
        found += problems_of(lambda: given(l1), "--qemu-l1: ")
    return found


def provide(store: Store, options: ArtifactOptions) -> Artifacts:
    """Check or build everything. Raises InputError for options that cannot be, BuildError for what cannot be built."""
    host = host_image(store, update=options.update)
    return Artifacts(
        kernel=kernel(store, kernel_request(options), update=options.update),
        host_image=host,
        guest_image=guest_image(store, host),
        qemu_l0=qemu_l0(host, path=options.qemu_l0),
        qemu_l1=qemu_l1(store, host, path=options.qemu_l1),
    )


def kernel_request(options: ArtifactOptions) -> KernelRequest:
    """The kernel that the options of a run ask for."""
    return KernelRequest(
        variant=options.kernel,
        tree=options.kernel_tree,
        ref=options.kernel_ref,
        image=options.kernel_image,
        modules=options.kernel_modules,
        patches=options.patches,
        virtbus=options.virtbus,
    )
