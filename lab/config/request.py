"""What one run is asked to do: the options of `run`, as data that travels to the process that executes it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lab.config.strict import Strict

StopAt = Literal["plan", "artifacts", "machines", "devices", "attach", "exercise"]
Keep = Literal["never", "on-fail", "always"]
AccelChoice = Literal["auto", "kvm", "tcg"]


class ArtifactOptions(Strict):
    """Which kernel and QEMU to use instead of the lab's own."""

    kernel: str = "default"
    kernel_tree: Path | None = None
    kernel_ref: str | None = None
    kernel_image: Path | None = None
    kernel_modules: Path | None = None
    patches: tuple[Path, ...] = ()
    virtbus: Path | Literal["none"] | None = None
    virtbus_adapter: Path | None = None
    qemu_l0: Path | None = None
    qemu_l1: Path | None = None
    update: bool = False


class RunRequest(Strict):
    """One scenario's execution as the user asked for it. ``scenario`` is a name or the path of a TOML file."""

    scenario: str
    site: str = "nested"
    overrides: tuple[str, ...] = ()
    artifacts: ArtifactOptions = ArtifactOptions()
    accel: AccelChoice = "auto"
    cold: bool = False
    pcap: bool = False
    keep: Keep = "never"
    stop_at: StopAt | None = None
