"""Races: what may happen at the same time does, for a while; lockdep, KASAN and the counters tell if that was safe."""

from __future__ import annotations

from lab.checks.virtbus.bench import Bench, Seen, listed

# Seconds of the host's clock that everything goes on side by side, at least; and until each operation was done so many
# times, at most as long as three things may take that must happen.
_SECONDS = 3
_LEAST = 3

# What is done with the attributes that the devices of a bus have beside uevent, which all have. Of a bus that is not
# named here nothing more is known.
_ATTRIBUTES = {"virtbus": "override read-driver_override read-modalias"}

# A job is a function that does one round. What it did is counted: a write may be refused in a race, but when all of
# them are nothing has met. Where a shell's own commands will do there are no others: a device is gone in less time than
# a process takes to start.
_TOGETHER = """
SECONDS_TOGETHER=$1 LEAST=$2 WANTED=$3
uptime_s() { read -r up _ </proc/uptime; echo "${up%%.*}"; }
did() { what=$1; shift; "$@" 2>/dev/null && echo >>"$KO/did/$what"; }
times_of() { cat "$KO/did/$1" 2>/dev/null | wc -l; }
until_over() { while [ ! -e "$KO/did/over" ]; do "$@" || :; done; }
# Whether a file has that many lines, without a process.
has_lines() {
    lines=0
    while [ "$lines" -lt "$2" ] && read -r _; do lines=$((lines + 1)); done 2>/dev/null <"$1"
    [ "$lines" = "$2" ]
}
over() {
    for what in $WANTED; do has_lines "$KO/did/$what" "$LEAST" || return 1; done
}
together() {
    rm -rf "$KO/did"
    mkdir "$KO/did"
    for job; do until_over "$job" & done
    end=$(($(uptime_s) + 3 * TRIES / 10))
    sleep "$SECONDS_TOGETHER"
    until over || [ "$(uptime_s)" -ge "$end" ]; do sleep 0.1; done
    touch "$KO/did/over"
    wait
    for what in $WANTED; do echo "$what=$(times_of "$what")"; done
}
write() { echo "$1" >"$2"; }
# Thousands of lines of who is probed and removed would push out of the kernel's log what it has to say itself.
quietly() { for module; do insmod "$KO/vbt_${module}_$N.ko" quiet=1; done; }
read_all() { while read -r _; do :; done <"$1"; }
makes() { did create write "alpha 3" "$DEV/create"; did destroy write all "$DEV/destroy"; }
takes() { while read -r device; do did take write "$device" "$DEV/destroy"; done <"$DEV/devices"; }
binds() {
    read -r device <"$DEV/devices"
    for way in unbind bind; do did $way write "$device" "$BUS/drivers/$DRIVER/$way"; done
}
reads() {
    for file in "$BUS/devices/"*/*; do
        [ ! -f "$file" ] || did "read-${file##*/}" read_all "$file"
    done
}
pokes() {
    for node in "$BUS/devices/"*; do
        did announce write add "$node/uevent"
        did override write vbt "$node/driver_override"
        did override write "" "$node/driver_override"
    done
}
scans() { read -r device <"$DEV/devices"; did scan write "$device" "$BUS/drivers_probe"; }
drives() { did driver-goes rmmod "vbt_drv_$N"; did driver-comes quietly drv; }
creates() { did creator-goes rmmod "vbt_dev_$N"; did creator-comes quietly dev; }
quietly dev drv
echo "alpha 3" >"$DEV/create"
BUS=$(dirname "$(dirname "$(node "$(first)")")")
DRIVER=$(basename "$(readlink "$(node "$(first)")/driver")")
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
    """R27: every attribute of the devices is read while they come and go, uevent and driver_override are written, and
    the bus is told to probe them."""
    wanted = f"create destroy announce scan read-uevent {_ATTRIBUTES.get(bench.adapter, '')}"
    return _judge(bench, "pokes reads scans makes", wanted.strip())


def create(bench: Bench) -> Seen:
    """U10: two writers make and destroy the same devices, and the driver's module comes and goes."""
    return _judge(bench, "makes takes drives", "create destroy take driver-goes driver-comes")


def rmmod(bench: Bench) -> Seen:
    """U10: creator and driver are unloaded and loaded, while somebody binds their devices."""
    wanted = "create destroy unbind bind creator-goes creator-comes driver-goes driver-comes"
    return _judge(bench, "creates drives binds makes", wanted)


def _judge(bench: Bench, jobs: str, wanted: str) -> Seen:
    script = f"{_TOGETHER}together {jobs}\n{_END}"
    seen = bench.answer(script, str(_SECONDS), str(_LEAST), wanted, timeout_s=240)
    good = seen.get("balance") == "0" and seen.get("bound") == "0"
    want = f"each was done {_LEAST} times or more, every device was released, and none is bound"
    rare = [key for key in wanted.split() if int(seen.get(key, "0")) < _LEAST]
    if good and rare:
        return Seen.unproven(f"hardly a race, for want of {', '.join(rare)}: {listed(seen)}", want)
    return Seen(good, listed(seen), want)
