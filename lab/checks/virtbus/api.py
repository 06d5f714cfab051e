"""The interface as user space sees it: where devices lie, aliases and events, binding by hand."""

from __future__ import annotations

import fnmatch

from lab.checks.virtbus.bench import Bench, Seen, events, listed

BIND_TIMES = 200
_PLATFORM = "/sys/devices/platform/vbt_dev"

_ANCHOR = """
load dev
echo alpha >"$DEV/create"
device=$(first)
echo "device=$device"
echo "path=$(readlink -f $(node "$device"))"
unload dev
"""
_ALIAS = """
modinfo -F alias "$KO/vbt_drv_$N.ko" | sed 's/^/alias=/'
# The users of the kernel's own bus, where they were compiled.
if [ "$N" = virtbus ] && [ -e "$KO/virtbus_rdma.ko" ]; then
    echo "user=virtbus_rdma"
    modinfo -F alias "$KO/virtbus_rdma.ko" | sed 's/^/of_user=/'
fi
load dev
echo alpha >"$DEV/create"
device=$(first)
echo "device=$device"
sed -n 's/^MODALIAS=/modalias=/p' $(node "$device")/uevent
unload dev
"""
# A listener for uevents that does what udev does with an alias: busybox's uevent runs it for each event. The path of
# the shell is whole: busybox takes `sh` for itself, whose modprobe knows no other directory.
_AUTOLOAD = """
busybox uevent /bin/sh -c 'case $ACTION in add) modprobe -q -d "$0" "$MODALIAS" ;; esac' "$KO/root" >/dev/null 2>&1 &
listener=$!
trap 'kill $listener' EXIT
# Protocol 15 is NETLINK_KOBJECT_UEVENT; the port is the process id.
until awk -v pid=$listener '$2 == 15 && $3 == pid { found = 1 } END { exit !found }' /proc/net/netlink; do again; done
load dev
echo alpha >"$DEV/create"
device=$(first)
tries=$((TRIES * 2 / 3))
until [ -e "$(node "$device")/driver" ]; do again; done
echo "driver=$(basename "$(readlink "$(node "$device")/driver")")"
unload drv dev
"""
_BIND = """
load dev drv
echo alpha >"$DEV/create"
device=$(first)
driver=$(readlink -f "$(node "$device")/driver")
echo "bound=$(basename "$driver")"
times=0
while [ "$times" -lt "$1" ]; do
    echo "$device" >"$driver/unbind"
    [ ! -e "$(node "$device")/driver" ] || { echo "still=$times"; break; }
    echo "$device" >"$driver/bind"
    times=$((times + 1))
done
echo "times=$times"
echo "probe=$(count "$DRV" probe)"
echo "remove=$(count "$DRV" remove)"
unload drv dev
"""
_OVERRIDE = """
load dev drv
echo alpha >"$DEV/create"
echo gamma >"$DEV/create"
alpha=$(sed -n 1p "$DEV/devices") gamma=$(sed -n 2p "$DEV/devices")
bus=$(dirname "$(dirname "$(node "$alpha")")")
bound() { basename "$(readlink "$(node "$1")/driver" || echo nobody)"; }
ours=$(bound "$alpha")
echo "ours=$ours"
echo "gamma=$(bound "$gamma")"
echo "$ours" >"$(node "$gamma")/driver_override"
echo "$gamma" >"$bus/drivers_probe"
echo "forced=$(bound "$gamma")"
sed -n "s/.* $gamma probe /told=/p" "$DRV/log"
echo "$alpha" >"$bus/drivers/$ours/unbind"
echo nobody >"$(node "$alpha")/driver_override"
echo "$alpha" >"$bus/drivers_probe"
echo "kept_away=$(bound "$alpha")"
echo >"$(node "$alpha")/driver_override"
echo "$alpha" >"$bus/drivers_probe"
echo "again=$(bound "$alpha")"
unload drv dev
"""
_QUIET = """
echo "vbt: quiet $N" >/dev/kmsg
load dev drv
echo alpha >"$DEV/create"
echo all >"$DEV/destroy"
released "$DEV"
unload drv dev
since=$(dmesg | sed -n "/vbt: quiet $N/,\\$p")
[ -z "$since" ] || echo "heard=yes"
printf '%s\\n' "$since" | sed -nE '/needs updating - please use bus_type methods|does not have a release/s/^/said=/p'
"""


def anchor(bench: Bench) -> Seen:
    """R01: the creator's parent is its platform device, and the device lies below it."""
    seen = bench.answer(_ANCHOR)
    path, device = seen.get("path", ""), seen.get("device", "")
    parent, _, name = path.rpartition("/")
    good = bool(device) and name == device and parent.startswith(_PLATFORM) and "/" not in parent[len(_PLATFORM) :]
    return Seen(good, path or "no device", f"{_PLATFORM}…/{device}")


def modinfo(bench: Bench) -> Seen:
    """R05: a driver's module has an alias for each entry of its table, the suite's and the real one's."""
    seen = bench.once("alias", _ALIAS)
    aliases = [*seen.get("alias", "").splitlines(), *seen.get("of_user", "").splitlines()]
    wanted = ["alpha", "beta", *(["virtbus_lan.rdma"] if "user" in seen else [])]
    missing = [name for name in wanted if not any(alias.partition(":")[2].endswith(name) for alias in aliases)]
    lacks = f"none of {', '.join(missing)}; " if missing else ""
    there = ", ".join(aliases) or "no alias"
    return Seen(not missing, f"{lacks}{there}", f"aliases BUS:… of the entries {', '.join(wanted)}")


def uevent(bench: Bench) -> Seen:
    """R06: the event of a device carries an alias that the driver's module has, without the device's number."""
    seen = bench.once("alias", _ALIAS)
    modalias, device = seen.get("modalias", ""), seen.get("device", "")
    matches = [alias for alias in seen.get("alias", "").splitlines() if fnmatch.fnmatchcase(modalias, alias)]
    numbered = bool(device) and modalias.endswith(device)
    text = f"MODALIAS={modalias} of {device}" if modalias else f"no MODALIAS of {device}"
    return Seen(bool(matches) and not numbered, text, "an alias of the driver's module, without the number")


def autoload(bench: Bench) -> Seen:
    """R06: a listener that loads what MODALIAS names brings the driver, and it binds."""
    driver = bench.answer(_AUTOLOAD).get("driver", "")
    return Seen(
        bool(driver), f"bound to {driver}" if driver else "not bound", "the driver's module is loaded and binds"
    )


def bind(bench: Bench) -> Seen:
    """R27: unbind and bind, 200 times; each probe has its remove."""
    seen = bench.answer(_BIND, str(BIND_TIMES), timeout_s=240)
    counts = tuple(seen.get(key, "") for key in ("times", "probe", "remove"))
    good = counts == (str(BIND_TIMES), str(BIND_TIMES + 1), str(BIND_TIMES))
    return Seen(good, listed(seen), f"{BIND_TIMES} times, {BIND_TIMES + 1} probes, {BIND_TIMES} removes")


def override(bench: Bench) -> Seen:
    """R27: driver_override binds a device that no entry fits, whose probe is told so, or keeps one unbound."""
    seen = bench.answer(_OVERRIDE)
    ours = seen.get("ours", "")
    wanted = {"gamma": "nobody", "forced": ours, "told": "0", "kept_away": "nobody", "again": ours}
    good = ours not in ("", "nobody") and seen == {"ours": ours, **wanted}
    return Seen(good, listed(seen), listed(wanted))


def quiet(bench: Bench) -> Seen:
    """U02: the core has no complaint about a bus and its drivers setting the same callbacks, or about a release."""
    seen = bench.answer(_QUIET)
    said, want = seen.get("said", ""), "no complaint of the driver core about callbacks or release"
    if "heard" not in seen:
        return Seen.unproven("the kernel's log has lost the mark of its beginning", want)
    return Seen(not said, said or "no such message", want)


def probes(log: str) -> dict[str, str]:
    """What each device's probe was told, by device."""
    return {event.who: event.what for event in events(log) if event.what.startswith("probe")}
