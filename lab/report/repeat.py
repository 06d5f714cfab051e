"""The command that repeats a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from lab.config.request import ArtifactOptions, RunRequest


def repeat_command(request: RunRequest) -> str:
    """The `vdpalab run` command line for a request, as one would type it; defaults are left out."""
    words = ["vdpalab", "run", request.scenario]
    words += _option("--site", request.site, RunRequest.model_fields["site"].default)
    for override in request.overrides:
        words += ["--set", override]
    words += _artifact_words(request.artifacts)
    words += _option("--accel", request.accel, "auto")
    words += ["--cold"] * request.cold + ["--pcap"] * request.pcap
    words += _option("--stop-at", request.stop_at, None)
    return shlex.join(words)


def _artifact_words(options: ArtifactOptions) -> list[str]:
    words = _option("--kernel", options.kernel, ArtifactOptions().kernel)
    for name, value in (
        ("--kernel-tree", options.kernel_tree),
        ("--kernel-ref", options.kernel_ref),
        ("--kernel-image", options.kernel_image),
        ("--kernel-modules", options.kernel_modules),
        ("--virtbus", options.virtbus),
        ("--virtbus-adapter", options.virtbus_adapter),
        ("--qemu-l0", options.qemu_l0),
        ("--qemu-l1", options.qemu_l1),
    ):
        words += _option(name, value, None)
    for patch in options.patches:
        words += ["--patch", str(patch)]
    return words


def _option(name: str, value: str | Path | None, default: str | None) -> list[str]:
    return [] if value is None or value == default else [name, str(value)]
