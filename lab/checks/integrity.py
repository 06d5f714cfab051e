"""What was written is what is read: a pattern through one attachment of a disk, its digest through another."""

from __future__ import annotations

import hashlib

from lab.errors import LabError
from lab.host.base import Host
from lab.host.endpoints import BlockEnd

# Enough to go over several requests and cheap over SSH into L2.
PATTERN_BYTES = 256 * 1024
_SECTOR = 512
_WRITE = 'cat >"$0" && sync "$0" 2>/dev/null || sync'
_DIGEST = 'head -c "$1" "$0" | sha256sum'


def pattern(seed: str, size: int = PATTERN_BYTES) -> bytes:
    """``size`` bytes in which every sector of 512 tells its own number, so that a misplaced one shows too."""
    sectors = range((size + _SECTOR - 1) // _SECTOR)
    return b"".join(f"{seed} {number}".ljust(_SECTOR - 1, ".").encode() + b"\n" for number in sectors)[:size]


def digest(data: bytes) -> str:
    """SHA-256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def write(end: BlockEnd, data: bytes) -> str:
    """Write ``data`` to the beginning of the disk, through to the device, and return its digest. Raises HostError."""
    if len(data) > end.size:
        raise LabError(f"{end.host.name}: {end.device} has {end.size} bytes, {len(data)} do not fit")
    end.host.run(["sh", "-c", _WRITE, end.device], input=data, timeout_s=120)
    return digest(data)


def read(host: Host, device: str, size: int = PATTERN_BYTES) -> str | None:
    """Digest of the first ``size`` bytes of the disk, None when it could not be read.

    The page cache of ``host`` answers for what that host itself has written, so this is a witness only elsewhere.
    """
    try:
        return parse(host.run(["sh", "-c", _DIGEST, device, str(size)], timeout_s=120).text)
    except LabError:
        return None


def parse(text: str) -> str | None:
    """The digest in the output of sha256sum; None for what is none."""
    word = text.split(maxsplit=1)[0] if text.strip() else ""
    return word if len(word) == 2 * hashlib.sha256().digest_size and word != digest(b"") else None
