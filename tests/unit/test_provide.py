"""lab.artifacts.provide: every option reaches what it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.artifacts import provide
from lab.artifacts.kernel import KernelRequest
from lab.artifacts.store import Store
from lab.config.request import ArtifactOptions


def test_options_of_the_kernel_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name in ("host_image", "guest_image", "qemu_l0", "qemu_l1"):
        monkeypatch.setattr(provide, name, lambda *_, **__: None)

    def kernel(_store: Store, request: KernelRequest, **_: Any) -> None:
        asked.append(request)

    monkeypatch.setattr(provide, "kernel", kernel)
    provide.provide(Store(), ArtifactOptions(kernel_image=Path("/i"), kernel_modules=Path("/m")))
    provide.provide(
        Store(), ArtifactOptions(kernel="debug", kernel_tree=Path("/t"), kernel_ref="r", patches=(Path("/p"),))
    )
    provide.provide(Store(), ArtifactOptions(virtbus="none"))
    assert asked == [
        KernelRequest(image=Path("/i"), modules=Path("/m")),
        KernelRequest(variant="debug", tree=Path("/t"), ref="r", patches=(Path("/p"),)),
        KernelRequest(virtbus="none"),
    ]
