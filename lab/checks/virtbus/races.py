"""Races: what may happen at the same time does, for a while; lockdep, KASAN and the counters tell if that was safe."""

from __future__ import annotations

from lab.checks.virtbus.bench import Bench, Seen, listed

# Seconds of the host's clock that everything goes on side by side, at least.
_SECONDS = 3

# A job is a function that does one round. What it did is counted: a write may be refused in a race, but when all of
# them are nothing has met. Where a shell's own commands will do there are no others: a device is gone in less time than
# a process takes to start.
_TOGETHER = """
SECONDS_TOGETHER=$1 WANTED=$2
did() { what=$1; shift; "$@" 2>/dev/null && echo >>"$KO/did/$what"; }
times_of() { cat "$KO/did/$1" 2>/dev/null | wc -l; }
until_over() { while [ ! -e "$KO/did/over" ]; do "$@" || :; done; }
over() {
    for what in $WANTED; do [ -e "$KO/did/$what" ] || return 1; done
}
together() {
    rm -rf "$KO/did"
    mkdir "$KO/did"
    for job; do until_over "$job" & done
    sleep "$SECONDS_TOGETHER"
    left=$((TRIES / 6))
    while [ "$left" -gt 0 ] && ! over; do left=$((left - 1)); sleep 0.1; done
    touch "$KO/did/over"
    wait
    for what in $WANTED; do echo "$what=$(times_of "$what")"; done
}
write() { echo "$1" >"$2"; }
read_all() { while read -r _; do :; done <"$1"; }
makes() { did create write "alpha 3" "$DEV/create"; did destroy write all "$DEV/destroy"; }
takes() { while read -r device; do did take write "$device" "$DEV/destroy"; done <"$DEV/devices"; }
binds() {
    read -r device <"$DEV/devices"
    for way in unbind bind; do did $way write "$device" "$BUS/drivers/$DRIVER/$way"; done
}
reads() { for node in "$BUS/devices/"*; do did read read_all "$node/uevent"; done; }
pokes() {
    for node in "$BUS/devices/"*; do
        did announce write add "$node/uevent"
        did override write vbt "$node/driver_override"
        did override write "" "$node/driver_override"
    done
}
scans() { read -r device <"$DEV/devices"; did scan write "$device" "$BUS/drivers_probe"; }
drives() { did driver-goes rmmod "vbt_drv_$N"; did driver-comes insmod "$KO/vbt_drv_$N.ko"; }
creates() { did creator-goes rmmod "vbt_dev_$N"; did creator-comes insmod "$KO/vbt_dev_$N.ko"; }
load dev drv
echo "alpha 3" >"$DEV/create"
BUS=$(dirname "$(dirname "$(node "$(first)")")")
DRIVER=$(basename "$(readlink "$(node "$(first)")/driver")")
# Not every bus lets its devices be forced on a driver.
[ -e "$(node "$(first)")/driver_override" ] || WANTED=$(echo " $WANTED " | sed 's/ override / /')
"""
_END = """
load drv 2>/dev/null || :
load dev 2>/dev/null || :
echo all >"$DEV/destroy"
released "$DEV"
echo "balance=$(($(count "$DEV" created) - $(count "$DEV" released)))"
unload drv
echo "bound=$(ls -d "$BUS/devices/"*/driver 2>/dev/null | wc -l)"
unload dev
"""


def bind(bench: Bench) -> Seen:
    """R27: binding and unbinding by several writers, while the devices come and go."""
    return _judge(bench, "binds binds makes", "create destroy unbind bind")


def sysfs(bench: Bench) -> Seen:
    """R27: every attribute of devices and bus is read and written while devices come and go."""
    return _judge(bench, "pokes reads scans makes", "create destroy announce override read scan")


def create(bench: Bench) -> Seen:
    """U10: two writers make and destroy the same devices, and the driver's module comes and goes."""
    return _judge(bench, "makes takes drives", "create destroy take driver-goes driver-comes")


def rmmod(bench: Bench) -> Seen:
    """U10: creator and driver are unloaded and loaded, while somebody binds their devices."""
    wanted = "create destroy unbind bind creator-goes creator-comes driver-goes driver-comes"
    return _judge(bench, "creates drives binds makes", wanted)


def _judge(bench: Bench, jobs: str, wanted: str) -> Seen:
    script = f"{_TOGETHER}together {jobs}\n{_END}"
    seen = bench.answer(script, str(_SECONDS), wanted, timeout_s=180)
    did = [int(seen.get(key, "0")) for key in wanted.split() if key in seen or key != "override"]
    good = min(did) > 0 and seen.get("balance") == "0" and seen.get("bound") == "0"
    return Seen(good, listed(seen), "everything was done, every device was released, and none is bound")
