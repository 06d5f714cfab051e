"""lab.host.disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.errors import DeadlineExceeded
from lab.host import disks

if TYPE_CHECKING:
    from tests.unit.conftest import TreeHost


@pytest.mark.parametrize(("files", "name", "size"), [
    ({"vda": "262144"}, "/dev/vda", 128 << 20),
    ({"sda": "1", "vdb": "8"}, "/dev/vdb", 4096),
])  # fmt: skip
def test_the_virtio_disk_with_its_size(tree: TreeHost, files: dict[str, str], name: str, size: int) -> None:
    for disk, sectors in files.items():
        tree.file(f"/sys/block/{disk}/size", sectors)
    end = disks.wait_disk(tree)
    assert (end.host, end.device, end.size) == (tree, name, size)


def test_a_disk_that_does_not_come(tree: TreeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "_DISK_S", 0.1)
    tree.file("/sys/block/sda/size", "1")
    with pytest.raises(DeadlineExceeded, match="tree: a virtio disk"):
        disks.wait_disk(tree)
