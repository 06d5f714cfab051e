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
