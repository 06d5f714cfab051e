"""lab.machine.keys."""

from __future__ import annotations

import stat
from pathlib import Path

import paramiko
import pytest

from lab.machine.keys import make_key


def test_a_key_is_private_and_what_ssh_understands(tmp_path: Path) -> None:
    key = make_key(tmp_path / "identity")
    assert stat.S_IMODE(key.private.stat().st_mode) == 0o600
    assert (tmp_path / "identity.pub").read_text() == key.public + "\n"
    read = paramiko.Ed25519Key.from_private_key_file(str(key.private))
    assert key.public == f"ssh-ed25519 {read.get_base64()}"


def test_every_key_is_another(tmp_path: Path) -> None:
    assert make_key(tmp_path / "a").public != make_key(tmp_path / "b").public


def test_a_key_can_be_loaded_for_another_format(tmp_path: Path) -> None:
    key = make_key(tmp_path / "identity")
    raw = key.load().public_key().public_bytes_raw()
    assert paramiko.Ed25519Key.from_private_key_file(str(key.private)).asbytes().endswith(raw)


def test_a_key_file_that_is_none(tmp_path: Path) -> None:
    key = make_key(tmp_path / "identity")
    key.private.write_text("no key")
    with pytest.raises(ValueError):
        key.load()
