"""SSH keys that live as long as a run: one identity for the lab, one host key per machine, pinned before it boots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)


@dataclass(frozen=True)
class KeyPair:
    """An Ed25519 key: ``private`` is the OpenSSH file, ``public`` the text ``ssh-ed25519 AAAA…``."""

    private: Path
    public: str

    def load(self) -> Ed25519PrivateKey:
        """The private key itself, to write it in another program's format."""
        key = load_ssh_private_key(self.private.read_bytes(), None)
        assert isinstance(key, Ed25519PrivateKey)
        return key


def make_key(path: Path) -> KeyPair:
    """Generate a key and write it, readable by its owner only; the public half goes beside it as ``.pub``."""
    key = Ed25519PrivateKey.generate()
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    path.with_suffix(".pub").write_text(public + "\n")
    return KeyPair(path, public)
