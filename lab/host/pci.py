"""PCI functions of a host: finding them, SR-IOV, binding to a driver (kernel: Documentation/ABI/testing/sysfs-bus-pci).

A function is named by its address, ``DDDD:BB:DD.F``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from lab.errors import CommandError, HostError, LabError, SiteLacks
from lab.host.base import Host
from lab.host.shell import run_script
from lab.host.undo import undoing
from lab.wait import Deadline, wait_until

_FUNCTIONS_S = 15.0

_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")

# Prints "SERIAL PATH" of each disk that has a serial number; the number itself may contain spaces.
_DISKS = """
for disk in /sys/block/*; do
    [ ! -r "$disk/serial" ] || echo "$(cat "$disk/serial") $(readlink -f "$disk/device")"
done
"""
_CAPACITY = """
cd "/sys/bus/pci/devices/$1"
[ ! -e sriov_numvfs ] || cat sriov_totalvfs sriov_numvfs sriov_drivers_autoprobe
"""
# Prints the links to the VFs in their order.
_ENABLE_VFS = """
cd "/sys/bus/pci/devices/$1"
put 0 sriov_drivers_autoprobe
put "$2" sriov_numvfs
i=0
while [ "$i" -lt "$2" ]; do
    readlink "virtfn$i"
    i=$((i + 1))
done
"""
_DISABLE_VFS = """
cd "/sys/bus/pci/devices/$1" 2>/dev/null || exit 0
put 0 sriov_numvfs
put "$2" sriov_drivers_autoprobe
"""
# Prints "ADDRESS DRIVER" (DRIVER is - without one) of each function of vendor $1 and subsystem vendor $2.
_FUNCTIONS = """
for device in /sys/bus/pci/devices/*; do
    [ "$(cat "$device/vendor")" = "$1" ] && [ "$(cat "$device/subsystem_vendor")" = "$2" ] || continue
    driver=$(readlink "$device/driver") || driver=-
    echo "${device##*/} ${driver##*/}"
done
"""
# Prints the former driver's name (empty: none), then the link to the new one. With $3 the driver's id table is asked.
_BIND = """
device=/sys/bus/pci/devices/$1
former=$(readlink "$device/driver" || :)
echo "${former##*/}"
[ -z "$former" ] || put "$1" "$device/driver/unbind"
if [ -n "$3" ]; then
    put "$1" "/sys/bus/pci/drivers/$2/bind"
else
    put "$2" "$device/driver_override"
    put "$1" /sys/bus/pci/drivers_probe
fi
readlink "$device/driver" || :
"""
_RESTORE = """
device=/sys/bus/pci/devices/$1
[ -e "$device" ] || exit 0
[ ! -e "$device/driver" ] || put "$1" "$device/driver/unbind"
put '' "$device/driver_override"
[ -z "$2" ] || put "$1" "/sys/bus/pci/drivers/$2/bind"
"""


def address_in(path: str) -> str | None:
    """The PCI function that a sysfs path leads through last: a virtio device's path gives the function it is on."""
    found = _ADDRESS.findall(path)
    return found[-1] if found else None


def function_of_interface(host: Host, interface: str) -> str:
    """The function under a network interface. Raises LabError when there is none."""
    path = host.run(["readlink", "-f", f"/sys/class/net/{interface}/device"]).text
    address = address_in(path)
    if address is None:
        raise LabError(f"{host.name}: interface {interface} is not on a PCI function ({path})")
    return address


def function_of_disk(host: Host, serial: str) -> str:
    """The function under the virtio-blk disk with this serial number. Raises LabError naming the disks there are."""
    disks = dict(line.rsplit(" ", 1) for line in run_script(host, _DISKS).text.splitlines() if " " in line)
    address = address_in(disks.get(serial, ""))
    if address is None:
        raise LabError(f"{host.name}: no PCI disk with serial {serial!r}; there are: {', '.join(disks) or 'none'}")
    return address


def iommu_group(host: Host, function: str) -> tuple[str, ...]:
    """The functions in the IOMMU group of ``function``, itself included; empty when it is in none."""
    listing = host.run(["ls", f"/sys/bus/pci/devices/{function}/iommu_group/devices"], check=False)
    return tuple(listing.text.split()) if listing.returncode == 0 else ()


@contextlib.contextmanager
def sriov(host: Host, pf: str, count: int) -> Iterator[tuple[str, ...]]:
    """Enable ``count`` VFs of the function ``pf``, bound to no driver, and yield their addresses in order.

    Raises SiteLacks when the function has no SR-IOV or too few VFs, LabError when somebody has enabled VFs before.
    """
    words = run_script(host, _CAPACITY, pf).text.split()
    if not words:
        raise SiteLacks(f"SR-IOV on {pf} of {host.name}")
    total, enabled, autoprobe = words
    if int(total) < count:
        raise SiteLacks(f"{count} VFs on {pf} of {host.name}, which has {total}")
    if enabled != "0":
        raise LabError(f"{host.name}: {pf} has {enabled} VFs enabled by somebody else")
    with undoing(host, f"VFs of {pf}", lambda: run_script(host, _DISABLE_VFS, pf, autoprobe)):
        links = run_script(host, _ENABLE_VFS, pf, str(count)).text.splitlines()
        yield tuple(link.rpartition("/")[2] for link in links)


def wait_functions(host: Host, *, vendor: str, subsystem_vendor: str, count: int) -> tuple[str, ...]:
    """Addresses of the first ``count`` functions of a vendor (``0x1af4``), once each has the driver that wanted it.

    A function that was plugged a moment ago is given to a driver while others can see it already.
    Raises DeadlineExceeded.
    """

    def settled() -> list[str]:
        rows = [line.split() for line in run_script(host, _FUNCTIONS, vendor, subsystem_vendor).text.splitlines()]
        taken = [address for address, driver in sorted(rows) if driver != "-"]
        return taken if len(taken) >= count else []

    deadline = Deadline(_FUNCTIONS_S * host.slowness)
    return tuple(wait_until(settled, deadline, f"{host.name}: {count} PCI functions of {subsystem_vendor}")[:count])


@contextlib.contextmanager
def bound(host: Host, function: str, driver: str, *, by_id: bool = False) -> Iterator[None]:
    """Bind a function to ``driver`` (the PCI driver's name, its module is loaded) and give it back afterwards.

    ``by_id`` leaves it to the driver's id table whether it takes the function; otherwise it has to try.
    Raises HostError when the driver did not take it (the kernel log says why).
    """
    done = run_script(host, _BIND, function, driver, "id" if by_id else "", check=False)
    former, _, link = done.text.partition("\n")
    with undoing(host, f"{driver} on {function}", lambda: run_script(host, _RESTORE, function, former)):
        if done.returncode != 0:
            raise CommandError(host.name, done)
        taken = link.rpartition("/")[2]
        if taken != driver:
            raise HostError(f"{host.name}: {driver} did not take {function} (bound to: {taken or 'nothing'})")
        yield
