"""Disks of a guest: finding the one that was just plugged."""

from __future__ import annotations

from lab.host.base import Host
from lab.host.endpoints import BlockEnd
from lab.host.shell import run_script
from lab.wait import Deadline, wait_until

_DISK_S = 15.0
_SECTOR = 512

# Prints "NAME SECTORS" of the first virtio disk that has a size.
_FIRST = """
for disk in /sys/block/vd*; do
    [ -e "$disk/size" ] || continue
    echo "${disk##*/} $(cat "$disk/size")"
    break
done
"""


def wait_disk(host: Host) -> BlockEnd:
    """The virtio disk of a guest that has one, as soon as it is there. Raises DeadlineExceeded."""
    deadline = Deadline(_DISK_S * host.slowness)
    found = wait_until(lambda: run_script(host, _FIRST).text, deadline, f"{host.name}: a virtio disk")
    name, sectors = found.split()
    return BlockEnd(host, f"/dev/{name}", int(sectors) * _SECTOR)


# Writes $2 bytes that nobody can guess to disk $1 and prints their SHA-256.
_WRITE_PATTERN = """
head -c "$2" /dev/urandom >/tmp/pattern
dd if=/tmp/pattern of="$1" bs=65536 conv=notrunc,fsync 2>/dev/null
blockdev --flushbufs "$1"
sha256sum </tmp/pattern
rm /tmp/pattern
"""
_DIGEST = """
blockdev --flushbufs "$1"
head -c "$2" "$1" | sha256sum
"""


def write_pattern(disk: BlockEnd, size: int) -> str:
    """Overwrite the first ``size`` bytes with random ones and return their SHA-256 as hexadecimal digits."""
    return run_script(disk.host, _WRITE_PATTERN, disk.device, str(size)).text.split()[0]


def digest(disk: BlockEnd, size: int) -> str:
    """SHA-256 of the first ``size`` bytes as the disk gives them now, not as a cache remembers them."""
    return run_script(disk.host, _DIGEST, disk.device, str(size)).text.split()[0]
