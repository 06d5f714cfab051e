"""What the process is to serve, from JSON: checked as a whole, all problems at once, before anything is made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.ifcvf import faults
from lab.ifcvf.blk import BlkDevice
from lab.ifcvf.net import NetDevice
from lab.ifcvf.pci import MAX_VECTORS, Model
from lab.ifcvf.ring import MAX_QUEUE_SIZE

# sizeof sun_path, without its terminating zero.
MAX_PATH = 107


class ConfigError(Exception):
    """What was asked for cannot be; ``problems`` has all the reasons."""

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class VfConfig:
    """One VF."""

    name: str
    model: Model
    socket: str
    backend: Mapping[str, Any]
    queue_size: int
    vectors: int | None
    msix: str
    features: int | None
    faults: Mapping[str, dict[str, int]]
    mac: bytes = b""
    mtu: int = 1500
    pairs: int = 1
    queues: int = 1
    serial: str = ""

    @property
    def is_net(self) -> bool:
        """Whether it is a network device, else a block device."""
        return self.model is not Model.C5000X_BLK

    @property
    def all_features(self) -> int:
        """What its model can offer."""
        if self.is_net:
            return NetDevice.all_features(self.pairs)
        return BlkDevice.all_features(self.queues, bool(self.backend.get("read_only", False)))


@dataclass(frozen=True)
class Config:
    """The whole process."""

    vfs: tuple[VfConfig, ...]
    control: str | None


@dataclass
class _Problems:
    """Collects what is wrong, each with the place it was found at."""

    found: list[str] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        self.found.append(f"{where}: {what}")

    def table(self, where: str, value: object) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self.add(where, "must be an object")
        return {}

    def known(self, where: str, table: Mapping[str, Any], keys: set[str]) -> None:
        for key in table:
            if key not in keys:
                self.add(where, f"unknown key {key!r}; there are {', '.join(sorted(keys))}")

    def text(self, where: str, table: Mapping[str, Any], key: str, default: str | None = None) -> str:
        value = table.get(key, default)
        if isinstance(value, str) and value:
            return value
        self.add(where, f"{key} must be a text" if key in table else f"{key} is missing")
        return ""

    def number(self, where: str, table: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
        value = table.get(key, default)
        if type(value) is int and low <= value <= high:
            return value
        self.add(where, f"{key} must be a whole number from {low} to {high}")
        return default

    def truth(self, where: str, table: Mapping[str, Any], key: str) -> None:
        if not isinstance(table.get(key, True), bool):
            self.add(where, f"{key} must be true or false")

    def path(self, where: str, table: Mapping[str, Any], key: str) -> str:
        value = self.text(where, table, key)
        if len(value.encode()) > MAX_PATH:
            self.add(where, f"{key} is longer than {MAX_PATH} bytes: a UNIX socket cannot have that path")
        return value


_COMMON_KEYS = {"name", "model", "socket", "backend", "queue_size", "vectors", "msix", "features", "faults"}
_NET_KEYS = {"mac", "mtu", "pairs"}
_BLK_KEYS = {"queues", "serial"}
_MSIX = ("qemu", "device")
_MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")


def parse(text: str) -> Config:
    """Read a configuration. Raises ConfigError."""
    problems = _Problems()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"no JSON: {error}"]) from None
    table = problems.table("configuration", document)
    problems.known("configuration", table, {"control", "vfs"})
    control = problems.path("configuration", table, "control") if "control" in table else None
    listed = table.get("vfs")
    if not isinstance(listed, list) or not listed:
        problems.add("configuration", "vfs must be a list with at least one VF")
        listed = []
    vfs = tuple(_vf(problems, f"vfs[{at}]", entry) for at, entry in enumerate(listed))
    _distinct(problems, "name", [vf.name for vf in vfs])
    _distinct(problems, "socket", [vf.socket for vf in vfs] + ([control] if control else []))
    if problems.found:
        raise ConfigError(problems.found)
    return Config(vfs, control)


def _distinct(problems: _Problems, key: str, values: list[str]) -> None:
    for value in sorted({value for value in values if value and values.count(value) > 1}):
        problems.add("configuration", f"{key} {value!r} is used more than once")


def _vf(problems: _Problems, where: str, entry: object) -> VfConfig:
    table = problems.table(where, entry)
    name = problems.text(where, table, "name")
    where = f"{where} ({name})" if name else where
    model = _model(problems, where, table)
    net = model is not Model.C5000X_BLK
    problems.known(where, table, _COMMON_KEYS | (_NET_KEYS if net else _BLK_KEYS))
    queue_size = problems.number(where, table, "queue_size", MAX_QUEUE_SIZE, 64, MAX_QUEUE_SIZE)
    if queue_size & (queue_size - 1):
        problems.add(where, "queue_size must be a power of 2")
    serial = problems.text(where, table, "serial", name[:20]) if not net and name else ""
    if len(serial.encode()) > 20:
        problems.add(where, "serial is longer than 20 bytes")
    msix = problems.text(where, table, "msix", _MSIX[0])
    if msix not in _MSIX:
        problems.add(where, f"msix must be one of {', '.join(_MSIX)}")
    vf = VfConfig(
        name=name,
        model=model,
        socket=problems.path(where, table, "socket"),
        backend=_backend(problems, where, table, net),
        queue_size=queue_size,
        vectors=problems.number(where, table, "vectors", 1, 1, MAX_VECTORS) if "vectors" in table else None,
        msix=msix,
        features=problems.number(where, table, "features", 0, 0, (1 << 64) - 1) if "features" in table else None,
        faults=_faults(problems, where, table.get("faults", {}), net),
        mac=_mac(problems, where, table) if net else b"",
        mtu=problems.number(where, table, "mtu", 1500, 68, 65535),
        pairs=problems.number(where, table, "pairs", 1, 1, 8),
        queues=problems.number(where, table, "queues", 1, 1, 16),
        serial=serial,
    )
    if vf.features is not None and vf.features & ~vf.all_features:
        problems.add(where, f"the model does not have features {vf.features & ~vf.all_features:#x}")
    return vf


def _model(problems: _Problems, where: str, table: Mapping[str, Any]) -> Model:
    value = table.get("model")
    if value in [model.value for model in Model]:
        return Model(value)
    problems.add(where, f"model must be one of {', '.join(model.value for model in Model)}")
    return Model.N3000_NET


def _mac(problems: _Problems, where: str, table: Mapping[str, Any]) -> bytes:
    text = problems.text(where, table, "mac")
    if not text:
        return b""
    if not _MAC.fullmatch(text):
        problems.add(where, f"mac {text!r} is no MAC address")
        return b""
    mac = bytes.fromhex(text.replace(":", ""))
    if mac[0] & 1:
        problems.add(where, f"mac {text!r} is a multicast address")
    return mac


def _faults(problems: _Problems, where: str, value: object, net: bool) -> dict[str, dict[str, int]]:
    result = {}
    for name, given in problems.table(f"{where} faults", value).items():
        values, wrong = faults.parameters(name, problems.table(f"{where} faults {name}", given), net=net)
        for what in wrong:
            problems.add(where, what)
        result[name] = values
    return result


def _backend(problems: _Problems, where: str, table: Mapping[str, Any], net: bool) -> Mapping[str, Any]:
    if "backend" not in table:
        problems.add(where, "backend is missing")
        return {}
    where = f"{where} backend"
    backend = problems.table(where, table["backend"])
    checks = _NET_BACKENDS if net else _BLK_BACKENDS
    check = checks.get(backend.get("kind", ""))
    if check is None:
        problems.add(where, f"kind must be one of {', '.join(checks)}")
    else:
        check(problems, where, backend)
    return backend


def _switch(problems: _Problems, where: str, backend: Mapping[str, Any]) -> None:
    problems.known(where, backend, {"kind", "name"})
    problems.text(where, backend, "name")


def _dgram(problems: _Problems, where: str, backend: Mapping[str, Any]) -> None:
    problems.known(where, backend, {"kind", "local", "remote", "vnet_hdr"})
    problems.path(where, backend, "local")
    problems.path(where, backend, "remote")
    problems.truth(where, backend, "vnet_hdr")


def _stream(problems: _Problems, where: str, backend: Mapping[str, Any]) -> None:
    problems.known(where, backend, {"kind", "listen", "connect", "vnet_hdr"})
    if ("listen" in backend) == ("connect" in backend):
        problems.add(where, "either listen or connect")
    else:
        problems.path(where, backend, "listen" if "listen" in backend else "connect")
    problems.truth(where, backend, "vnet_hdr")


def _tap(problems: _Problems, where: str, backend: Mapping[str, Any]) -> None:
    problems.known(where, backend, {"kind", "ifname"})
    if len(problems.text(where, backend, "ifname").encode()) > 15:
        problems.add(where, "ifname is longer than 15 bytes")


def _none(problems: _Problems, where: str, backend: Mapping[str, Any]) -> None:
    problems.known(where, backend, {"kind"})


def _memory(problems: _Problems, where: str, backend: Mapping[str, Any]) -> None:
    problems.known(where, backend, {"kind", "size"})
    if problems.number(where, backend, "size", 0, 512, 1 << 50) % 512:
        problems.add(where, "size must be a multiple of 512")


def _file(problems: _Problems, where: str, backend: Mapping[str, Any]) -> None:
    problems.known(where, backend, {"kind", "path", "read_only"})
    problems.text(where, backend, "path")
    problems.truth(where, backend, "read_only")


_Check = Callable[[_Problems, str, Mapping[str, Any]], None]
_NET_BACKENDS: dict[str, _Check] = {"switch": _switch, "dgram": _dgram, "stream": _stream, "tap": _tap, "none": _none}
_BLK_BACKENDS: dict[str, _Check] = {"memory": _memory, "file": _file}
