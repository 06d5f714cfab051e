"""lab.devices.ifcvf: IFC functions are bound by the driver's id table, in the order of the bus, and given back."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.devices import ifcvf
from lab.errors import HostError, LabError
from lab.host import modules, pci
from lab.host.base import Host
from lab.host.fake import FakeHost
from lab.model import DeviceClass

FUNCTIONS = ("0000:01:00.0", "0000:02:00.0")


def host(tmp_path: Path, *functions: str, of: str = "net") -> FakeHost:
    shown = {f"pci/{name}": {"supported_classes": [of], "max_supported_vqs": 3} for name in functions}
    return FakeHost({"vdpa -j mgmtdev show": json.dumps({"mgmtdev": shown})}, tmp_path)


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    did: list[str] = []

    @contextlib.contextmanager
    def bound(_host: Host, function: str, driver: str, *, by_id: bool = False) -> Iterator[None]:
        did.append(f"{driver} on {function}{' by id' if by_id else ''}")
        yield
        did.append(f"back {function}")

    monkeypatch.setattr(pci, "bound", bound)
    monkeypatch.setattr(modules, "load", lambda _host, name: did.append(f"load {name}"))
    return did


def test_every_function_is_bound_by_its_ids_and_given_back(tmp_path: Path, did: list[str]) -> None:
    with ifcvf.parent(host(tmp_path, *reversed(FUNCTIONS)), FUNCTIONS, DeviceClass.NET) as names:
        assert names == ("pci/0000:01:00.0", "pci/0000:02:00.0")
    assert did == [
        "load ifcvf",
        "ifcvf on 0000:01:00.0 by id",
        "ifcvf on 0000:02:00.0 by id",
        "back 0000:02:00.0",
        "back 0000:01:00.0",
    ]


def test_a_function_without_a_management_device(tmp_path: Path, did: list[str]) -> None:
    with (
        pytest.raises(HostError, match=r"no management device of: 0000:02:00\.0"),
        ifcvf.parent(host(tmp_path, FUNCTIONS[0]), FUNCTIONS, DeviceClass.NET),
    ):
        pytest.fail("must not be reached")


@pytest.mark.parametrize(("wanted", "of"), [(DeviceClass.BLK, "net"), (DeviceClass.NET, "block")])
def test_a_management_device_of_another_class(tmp_path: Path, did: list[str], wanted: DeviceClass, of: str) -> None:
    with (
        pytest.raises(LabError, match=r"not of class \w+: pci/0000:01:00.0"),
        ifcvf.parent(host(tmp_path, FUNCTIONS[0], of=of), FUNCTIONS[:1], wanted),
    ):
        pytest.fail("must not be reached")


def test_a_disk(tmp_path: Path, did: list[str]) -> None:
    with ifcvf.parent(host(tmp_path, FUNCTIONS[0], of="block"), FUNCTIONS[:1], DeviceClass.BLK) as names:
        assert names == ("pci/0000:01:00.0",)
