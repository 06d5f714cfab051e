"""docs/reference.md is what the types say."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.cli import main
from lab.config.reference import markdown

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "keys"]) == 0
    assert capsys.readouterr().out == PAGE.read_text(), "./vdpalab show keys >docs/reference.md"


@pytest.mark.parametrize(
    "row",
    [
        "| `mtu` | integer >= 576, <= 9000 | `1500` | net: MTU of both ends |",
        "| `class` | `net`, `blk` |  |  |",
        "| `mode` | `vhost_vdpa`, `virtio_vdpa` |  |  |",
        "| `streams` | list of [iperf3 stream](#iperf3-stream) |  |  |",
        "| `iotlb_entries` | integer >= 1 | none | max_iotlb_entries of vhost_vdpa |",
        '| `block_size` | string `^\\d+[kKmM]?$` | `"4k"` |  |',
        "### iperf3 stream",
    ],
)
def test_keys_have_types_limits_and_defaults(row: str) -> None:
    assert row in markdown().splitlines()
