"""A kernel variant: which source, built with which options. One TOML file in configs/kernels."""

from __future__ import annotations

from pathlib import Path

from lab.config import catalog
from lab.config.strict import Strict, read_toml, validate
from lab.errors import InputError

FRAGMENTS = Path(__file__).resolve().parents[2] / "images" / "kernel" / "fragments"


class KernelConfig(Strict):
    """Which source package of which suite, built with which option fragments."""

    summary: str
    suite: str
    package: str
    fragments: tuple[str, ...]


def load_config(name: str) -> KernelConfig:
    """Read a file of ``configs/kernels``. Raises InputError with all its problems."""
    known = catalog.names("kernels")
    if name not in known:
        raise InputError([f"no kernel is called {name!r}; there are {', '.join(known)}"])
    path = catalog.CONFIGS / "kernels" / f"{name}.toml"
    config = validate(KernelConfig, read_toml(path), str(path))
    missing = [fragment(item) for item in config.fragments if not fragment(item).is_file()]
    if missing:
        raise InputError([f"{path}: fragments: there is no {item}" for item in missing])
    return config


def fragment(name: str) -> Path:
    """The file of an option fragment."""
    return FRAGMENTS / f"{name}.config"
