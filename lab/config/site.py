"""A site: where scenarios run. One TOML file in configs/sites."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lab.config.strict import Strict


def _public_key(text: str) -> str:
    """RFC 4253, section 6.6: the key itself begins with its type, as a string."""
    kind, _, words = text.partition(" ")
    try:
        blob = base64.b64decode((words.split() or [""])[0], validate=True)
    except ValueError as error:
        raise ValueError(f"not a public key: {error}") from error
    if kind not in _KEY_TYPES or not blob.startswith(struct.pack(">I", len(kind)) + kind.encode()):
        raise ValueError(f"not a public key of a type that is known here ({', '.join(_KEY_TYPES)})")
    return text


_KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")

Megabytes = Annotated[int, Field(ge=64, le=1 << 20)]
Cpus = Annotated[int, Field(ge=1, le=255)]


class MachineSize(Strict):
    """Memory and processors of a VM."""

    memory_mb: Megabytes
    cpus: Cpus


class NestedSite(Strict):
    """L1 is a VM of the lab on this machine."""

    kind: Literal["nested"]
    summary: str
    l1: MachineSize = MachineSize(memory_mb=2048, cpus=2)
    l2: MachineSize = MachineSize(memory_mb=256, cpus=1)


class SshSite(Strict):
    """L1 is a machine that exists: a real server, or somebody else's VM. The lab logs in as root."""

    kind: Literal["ssh"]
    summary: str
    address: str
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: str = "root"
    identity: Path
    host_key: Annotated[str, AfterValidator(_public_key)] = Field(description="pinned public key, as in known_hosts")
    qemu: str = Field("qemu-system-x86_64", description="QEMU on that machine")
    l2: MachineSize = MachineSize(memory_mb=256, cpus=1)


Site = Annotated[NestedSite | SshSite, Field(discriminator="kind")]


class SiteFile(Strict):
    """The content of a site file."""

    site: Site
