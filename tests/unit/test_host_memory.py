"""lab.host.memory: huge pages are added to what is there, and only what was added is given back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.errors import LabError
from lab.host.fake import FakeHost
from lab.host.memory import huge_pages

if TYPE_CHECKING:
    from tests.unit.conftest import TreeHost

POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"


def test_pages_are_added_and_given_back(tree: TreeHost) -> None:
    tree.file(POOL, "3")
    with huge_pages(tree, 513):
        assert tree.text(POOL) == "260"
    assert tree.text(POOL) == "3"


def test_too_few_pages_are_told_and_given_back(tmp_path: Path) -> None:
    given_back: list[str] = []

    def answer(argv: Sequence[str], _data: bytes) -> str:
        if "wanted" in str(argv):
            return "210 266"  # ten were there
        given_back.append(argv[-1])
        return ""

    host = FakeHost({"*": answer}, tmp_path, "l1")
    with (
        pytest.raises(LabError, match="l1: 200 huge pages of 2 MiB could be had of the 256 that are needed for 512"),
        huge_pages(host, 512),
    ):
        pytest.fail("must not be reached")
    assert given_back == ["200"], "not what others had"
