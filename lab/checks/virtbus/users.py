"""The real users: virtbus_lan on PCI functions, and virtbus_rdma on the devices that it makes of them.

Their files in sysfs and debugfs are those of images/kernel/virtbus/users.
"""

from __future__ import annotations

from lab.checks.virtbus.bench import Bench, Seen, events, in_order, listed

# $PCI has the functions that virtbus_lan drives; class(BDF) is where virtbus_rdma's device of one is.
_USERS = """
insmod "$KO/virtbus_lan.ko"
insmod "$KO/virtbus_rdma.ko"
PCI=$(cd /sys/bus/pci/drivers/virtbus_lan && ls -d 0000:* 2>/dev/null || :)
class() { echo "/sys/class/misc/vrdma-$1"; }
pci() { echo "/sys/bus/pci/devices/$1"; }
"""
_GO = """
leave virtbus_rdma 100
leave virtbus_lan 100
"""
_CLASS = (
    _USERS
    + """
for function in $PCI; do
    echo "function=$function"
    [ "$(readlink -f "$(class "$function")/device")" = "$(readlink -f "$(pci "$function")")" ] && echo "below=$function"
    [ -e "$(pci "$function")/iommu_group" ] && echo "group=$function"
    echo "copied=$(cat "$(class "$function")/copy")"
done
for device in /sys/bus/virtbus/devices/virtbus_lan.*; do
    [ ! -e "$device/iommu_group" ] || echo "dma=$(basename "$device")"
done
"""
    + _GO
)
_OPERATIONS = (
    _USERS
    + """
set -- $PCI
echo 3 >"$(class "$1")/queues"
echo "queues=$(cat "$(pci "$1")/lan/queues")"
echo 17 2>/dev/null >"$(class "$1")/queues" || echo "many=refused"
echo 1 >"$(pci "$1")/lan/link"
echo "link=$(cat "$(class "$1")/link")"
echo Y >"$DEBUG/virtbus_rdma/keep"
echo "$1" >/sys/bus/pci/drivers/virtbus_lan/unbind
[ -e "$(class "$1")" ] || echo "class=gone"
echo "after=$(cat "$DEBUG/virtbus_rdma/kept")"
"""
    + _GO
)
_FUNCTIONS = (
    _USERS
    + """
set -- $PCI
one=$(basename "$(readlink -f "$(ls -d "$(pci "$1")"/virtbus_lan.rdma.*)")")
echo "$one" >/sys/bus/virtbus/drivers/virtbus_rdma/unbind
[ -e "$(class "$1")" ] || echo "first=gone"
echo "second=$(cat "$(class "$2")/copy")"
echo "$one" >/sys/bus/virtbus/drivers/virtbus_rdma/bind
echo "again=$(cat "$(class "$1")/copy")"
"""
    + _GO
)
_REMOVE = (
    _USERS
    + """
set -- $PCI
echo "function=$1"
echo "device=$(basename "$(ls -d "$(pci "$1")"/virtbus_lan.rdma.*)")"
echo "vbt: the function is removed" >/dev/kmsg
echo 1 >"$(pci "$1")/remove"
dmesg | sed -n '/vbt: the function is removed/,$p' | sed 's/^/log=/'
[ -e "$(pci "$1")" ] || echo "gone=yes"
echo 1 >/sys/bus/pci/rescan
"""
    + _GO
)


def class_device(bench: Bench) -> Seen:
    """R02: the class device is below the PCI function, whose IOMMU group and DMA it uses; the bus's device has none."""
    seen = bench.answer(_CLASS)
    functions = seen.get("function", "").splitlines()
    good = len(functions) > 1 and seen.get("below") == seen.get("group") == seen.get("function")
    good = good and seen.get("copied") == "\n".join(["1024 bytes"] * len(functions)) and "dma" not in seen
    want = "each class device below its function; DMA through the function and its group; none for the bus's devices"
    return Seen(good, _words(seen), want)


def operations(bench: Bench) -> Seen:
    """R22: calls in both directions reach each other, and fail cleanly once the function is gone."""
    seen = bench.answer(_OPERATIONS)
    wanted = {
        "queues": "3 of 16",
        "many": "refused",
        "link": "up after 1 events",
        "class": "gone",
        "after": "-19",
    }
    return Seen(seen == wanted, _words(seen), _words(wanted))


def functions(bench: Bench) -> Seen:
    """R25: unbinding the device of one function leaves that of the other as it was."""
    seen = bench.answer(_FUNCTIONS)
    wanted = {"first": "gone", "second": "1024 bytes", "again": "1024 bytes"}
    return Seen(seen == wanted, _words(seen), _words(wanted))


def pci_remove(bench: Bench) -> Seen:
    """R18: when the function is removed, the driver of the bus's device goes before the function's."""
    seen = bench.answer(_REMOVE)
    among = [seen.get("device", ""), seen.get("function", "")]
    order = in_order(events(seen.get("log", "")), "remove", among)
    good = order == among and seen.get("gone") == "yes"
    return Seen(good, f"removed {' → '.join(order) or 'nobody'}", f"removed {' → '.join(among)}")


def _words(seen: dict[str, str]) -> str:
    return listed({key: value.replace("\n", " ") for key, value in seen.items()})
