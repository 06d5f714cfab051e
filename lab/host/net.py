"""Network interfaces, namespaces and addresses of a host (ip-link(8), ip-netns(8)).

In a guest that is thrown away afterwards use ``configure`` and ``make_loopback``; on a host that stays use the context
managers ``configured`` and ``loopback_pair``, which undo them. All addresses are IPv4 and get the prefix /24.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lab.host.base import Host
from lab.host.endpoints import NetEnd
from lab.host.shell import run_script
from lab.host.undo import undoing
from lab.wait import Deadline, wait_until

INTERFACE_S = 10.0
# vdpa_sim_net cuts each frame, with the 12-byte virtio header and the Ethernet header, at one page
# (drivers/vdpa/vdpa_sim/vdpa_sim_net.c).
LOOPBACK_MAX_MTU = 4070
_LOOPBACK_INTERFACE = "loop0"
_KEPT = "TCPSpuriousRtxHostQueues"

# Prints the interface on a device whose MAC is $1; one that only shares the MAC (ipvlan) has no device.
_FIND = """
for path in /sys/class/net/*; do
    [ -e "$path/device" ] || continue
    read -r mac <"$path/address" || continue
    [ "$mac" != "$1" ] || echo "${path##*/}"
done
"""
# Interface $1 with address $2 and MTU $3, in a new namespace $4 if that is not empty. No IPv6 address: what the kernel
# sends on its own would be counted with the traffic under test.
_CONFIGURE = """
if [ -n "$4" ]; then
    ip netns add "$4"
    ip link set dev "$1" netns "$4"
fi
[ -e /proc/net/if_inet6 ] && v6=1 || v6=
ip ${4:+-n "$4"} -batch - <<IP
${v6:+link set dev $1 addrgenmode none}
link set dev lo up
link set dev $1 mtu $3
address add $2/24 dev $1
link set dev $1 up
IP
"""
# Back to the first namespace before this one goes, so that the interface is there again when the command returns.
_UNCONFIGURE = """
if [ -n "$3" ]; then
    [ -e "/run/netns/$3" ] || exit 0
    ip -n "$3" link set dev "$1" netns 1 2>/dev/null || :
    ip netns delete "$3"
elif [ -e "/sys/class/net/$1" ]; then
    ip address delete "$2/24" dev "$1"
    ip link set dev "$1" down
fi
"""
# Two ipvlan slaves of $1 in the namespaces $4 and $6 with addresses $5 and $7. Slaves share the parent's MAC ($3) and
# `vepa` forbids switching between them inside the host, so each frame goes out to the device and is looped back by it.
_LOOPBACK = """
[ -e /proc/net/if_inet6 ] && v6=1 || v6=
ip -batch - <<IP
${v6:+link set dev $1 addrgenmode none}
link set dev $1 mtu $2
link set dev $1 up
netns add $4
netns add $6
link add link $1 name $3 netns $4 type ipvlan mode l2 vepa
link add link $1 name $3 netns $6 type ipvlan mode l2 vepa
IP
read -r mac <"/sys/class/net/$1/address"
slave() {
    ip -n "$1" -batch - <<IP
${v6:+link set dev $2 addrgenmode none}
link set dev lo up
address add $3/24 dev $2
link set dev $2 up
neighbour replace $4 lladdr $mac dev $2
IP
}
slave "$4" "$3" "$5" "$7"
slave "$6" "$3" "$7" "$5"
"""
# A pair of interfaces in new namespaces $1 and $3 with addresses $2 and $4.
_VETH = """
ip -batch - <<IP
netns add $1
netns add $3
link add name veth0 netns $1 type veth peer name veth0 netns $3
IP
end() {
    ip -n "$1" -batch - <<IP
link set dev lo up
address add $2/24 dev veth0
link set dev veth0 up
IP
}
end "$1" "$2"
end "$3" "$4"
"""
_DELETE_NAMESPACES = """
for name; do
    [ ! -e "/run/netns/$name" ] || ip netns delete "$name"
done
"""


def find_interface(host: Host, mac: str, *, timeout_s: float = INTERFACE_S) -> str:
    """Wait for the interface on a device with this MAC and return its name. Raises DeadlineExceeded."""
    deadline = Deadline(timeout_s * host.slowness)
    found = wait_until(
        lambda: run_script(host, _FIND, mac.lower()).text, deadline, f"{host.name}: an interface with MAC {mac}"
    )
    return found.splitlines()[0]


def configure(host: Host, interface: str, address: str, *, mtu: int = 1500, netns: str | None = None) -> NetEnd:
    """Give an interface an address and an MTU and set it up, moved into a new namespace ``netns`` if one is named.

    Returns when it can send. Raises DeadlineExceeded when the device reports no carrier.
    """
    run_script(host, _CONFIGURE, interface, address, str(mtu), netns or "")
    end = NetEnd(host, interface, address, netns)
    wait_until(
        lambda: _operational(end), Deadline(INTERFACE_S * host.slowness), f"{host.name}: the carrier of {interface}"
    )
    return end


def kept_by_driver(end: NetEnd) -> int:
    """How often TCP of an end's namespace did not send a segment again because the driver still had the packet.

    It never does while that lasts (net/ipv4/tcp_output.c: skb_still_in_host_queue), so this grows for ever on a device
    that lost one. 0 for a kernel that does not count it.
    """
    # Pairs of lines: names, and below them their values (net/ipv4/proc.c).
    lines = [line.split() for line in end.host.run(end.argv(["cat", "/proc/net/netstat"])).text.splitlines()]
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if _KEPT in names:
            return int(values[names.index(_KEPT)])
    return 0


def describe(end: NetEnd) -> str:
    """The interface of an end in one line: name, state, MAC, flags, IPv4 addresses with their prefixes.

    The same before and after something that must leave it alone (ip-link(8), -brief).
    """
    argvs = (["ip", "-brief", "link"], ["ip", "-brief", "-4", "address"])
    looks = (end.host.run(end.argv([*argv, "show", "dev", end.interface])).text.split() for argv in argvs)
    link, address = looks
    return " ".join([*link, *address[2:]])


def _operational(end: NetEnd) -> bool:
    # Until the kernel has seen the carrier, what is sent is dropped. A device without a carrier says UNKNOWN.
    words = end.host.run(end.argv(["ip", "-brief", "link", "show", "dev", end.interface])).text.split()
    return len(words) > 1 and words[1] in ("UP", "UNKNOWN")


@contextlib.contextmanager
def configured(
    host: Host, interface: str, address: str, *, mtu: int = 1500, netns: str | None = None
) -> Iterator[NetEnd]:
    """:func:`configure` for as long as the block lasts; an interface that has gone meanwhile is fine."""
    with undoing(
        host, f"address of {interface}", lambda: run_script(host, _UNCONFIGURE, interface, address, netns or "")
    ):
        yield configure(host, interface, address, mtu=mtu, netns=netns)


def make_loopback(
    host: Host, interface: str, names: tuple[str, str], addresses: tuple[str, str], *, mtu: int = 1500
) -> tuple[NetEnd, NetEnd]:
    """Two ends, in new namespaces ``names``, whose traffic to each other passes through one looping ``interface``.

    vdpa_sim_net returns each frame that is sent to its own MAC to its sender; the ends make use of that.
    """
    (first, second), (address, peer) = names, addresses
    run_script(host, _LOOPBACK, interface, str(mtu), _LOOPBACK_INTERFACE, first, address, second, peer)
    return (
        NetEnd(host, _LOOPBACK_INTERFACE, address, first),
        NetEnd(host, _LOOPBACK_INTERFACE, peer, second),
    )


@contextlib.contextmanager
def loopback_pair(
    host: Host, interface: str, names: tuple[str, str], addresses: tuple[str, str], *, mtu: int = 1500
) -> Iterator[tuple[NetEnd, NetEnd]]:
    """:func:`make_loopback` for as long as the block lasts."""
    with undoing(host, f"loopback over {interface}", lambda: run_script(host, _DELETE_NAMESPACES, *names)):
        yield make_loopback(host, interface, names, addresses, mtu=mtu)


@contextlib.contextmanager
def veth_pair(host: Host, names: tuple[str, str], addresses: tuple[str, str]) -> Iterator[tuple[NetEnd, NetEnd]]:
    """Two ends in new namespaces ``names`` with nothing but the kernel's own veth between them."""
    with undoing(host, "veth pair", lambda: run_script(host, _DELETE_NAMESPACES, *names)):
        run_script(host, _VETH, names[0], addresses[0], names[1], addresses[1])
        yield NetEnd(host, "veth0", addresses[0], names[0]), NetEnd(host, "veth0", addresses[1], names[1])
