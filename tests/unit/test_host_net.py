"""lab.host.net: what is asked of iproute2, and that all of it is undone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.errors import CommandError, DeadlineExceeded
from lab.host import net
from lab.host.endpoints import NetEnd
from lab.host.fake import Answer, FakeHost

if TYPE_CHECKING:
    from tests.unit.conftest import TreeHost

MAC = "52:54:00:00:01:02"


def interface(tree: TreeHost, name: str, mac: str, *, device: bool = True) -> None:
    tree.file(f"/sys/class/net/{name}/address", mac)
    if device:
        tree.file(f"/sys/class/net/{name}/device/vendor")


def stub_ip(tree: TreeHost, extra: str = "") -> None:
    """An ip that notes its batches too and makes and removes the files of namespaces."""
    tree.path("/run/netns").mkdir(parents=True)
    tree.file("/operstate", "UP")
    tree.program(
        "ip",
        f"""
        remember() {{
            case $1-$2 in
                netns-add) touch "{tree.root}/run/netns/$3" ;;
                netns-delete) rm "{tree.root}/run/netns/$3" ;;
            esac
        }}
        case $* in
            *-brief*) echo "eth1 $(cat {tree.root}/operstate) {MAC} <BROADCAST>" ;;
            *-batch*) while read -r line; do echo "  $line" >>"{tree.log}"; remember $line; done ;;
            *) remember "$@" ;;
        esac
        {extra}
        """,
    )


def test_find_interface_by_mac_on_a_device(tree: TreeHost) -> None:
    interface(tree, "eth0", "52:54:00:00:01:01")
    interface(tree, "a-slave", MAC, device=False)
    interface(tree, "eth1", MAC)
    assert net.find_interface(tree, MAC.upper()) == "eth1"


def test_find_interface_gives_up(tree: TreeHost) -> None:
    interface(tree, "slave", MAC, device=False)
    with pytest.raises(DeadlineExceeded, match=f"tree: an interface with MAC {MAC}"):
        net.find_interface(tree, MAC, timeout_s=0.05)


def test_configured_in_a_namespace(tree: TreeHost) -> None:
    stub_ip(tree)
    with net.configured(tree, "eth1", "10.1.0.1", mtu=1400, netns="run1-peer") as end:
        assert end == NetEnd(tree, "eth1", "10.1.0.1", "run1-peer")
        assert end.argv(["ping"]) == ["ip", "netns", "exec", "run1-peer", "ping"]
        assert tree.path("/run/netns/run1-peer").exists()
    assert not tree.path("/run/netns/run1-peer").exists()
    assert tree.programs == [
        "ip netns add run1-peer",
        "ip link set dev eth1 netns run1-peer",
        "ip -n run1-peer -batch -",
        "  ",
        "  link set dev lo up",
        "  link set dev eth1 mtu 1400",
        "  address add 10.1.0.1/24 dev eth1",
        "  link set dev eth1 up",
        "ip netns exec run1-peer ip -brief link show dev eth1",
        "ip -n run1-peer link set dev eth1 netns 1",
        "ip netns delete run1-peer",
    ]


def test_no_ipv6_address_where_the_kernel_has_ipv6(tree: TreeHost) -> None:
    stub_ip(tree)
    tree.file("/proc/net/if_inet6")
    interface(tree, "eth1", MAC)
    net.configure(tree, "eth1", "10.1.0.1")
    net.make_loopback(tree, "eth1", ("run1-a", "run1-b"), ("10.9.0.1", "10.9.0.2"))
    assert tree.programs.count("  link set dev eth1 addrgenmode none") == 2
    assert tree.programs.count("  link set dev loop0 addrgenmode none") == 2


def test_interface_without_carrier(tree: TreeHost) -> None:
    stub_ip(tree)
    tree.file("/operstate", "DOWN")
    tree.slowness = 0.01
    with pytest.raises(DeadlineExceeded, match="the carrier of eth1"), net.configured(tree, "eth1", "10.1.0.1"):
        pytest.fail("must not be reached")


def test_configured_without_namespace(tree: TreeHost) -> None:
    stub_ip(tree)
    interface(tree, "eth1", MAC)
    with net.configured(tree, "eth1", "10.1.0.1") as end:
        assert end.argv(["ping"]) == ["ping"]
        assert "ip -batch -" in tree.programs
    assert tree.programs[-2:] == ["ip address delete 10.1.0.1/24 dev eth1", "ip link set dev eth1 down"]


def test_interface_that_has_gone_needs_no_undo(tree: TreeHost) -> None:
    stub_ip(tree)
    with net.configured(tree, "eth1", "10.1.0.1"):
        pass
    assert not any("delete" in line for line in tree.programs)


def test_configure_that_fails_leaves_no_namespace(tree: TreeHost) -> None:
    stub_ip(tree, 'case $* in *-batch*) echo "Cannot find device" >&2; exit 1 ;; esac')
    with pytest.raises(CommandError, match="Cannot find device"), net.configured(tree, "e", "10.1.0.1", netns="run1-a"):
        pytest.fail("must not be reached")
    assert not tree.path("/run/netns/run1-a").exists()


def test_loopback_pair(tree: TreeHost) -> None:
    stub_ip(tree)
    interface(tree, "eth1", MAC)
    with net.loopback_pair(tree, "eth1", ("run1-a", "run1-b"), ("10.9.0.1", "10.9.0.2"), mtu=1400) as (first, second):
        assert (first.netns, first.address) == ("run1-a", "10.9.0.1")
        assert (second.netns, second.address) == ("run1-b", "10.9.0.2")
        assert first.interface == second.interface == "loop0"
    log = tree.programs
    assert "  link set dev eth1 mtu 1400" in log
    assert "  link add link eth1 name loop0 netns run1-a type ipvlan mode l2 vepa" in log
    assert "  link add link eth1 name loop0 netns run1-b type ipvlan mode l2 vepa" in log
    start = log.index("ip -n run1-a -batch -")
    assert f"  neighbour replace 10.9.0.2 lladdr {MAC} dev loop0" in log[start : start + 6]
    start = log.index("ip -n run1-b -batch -")
    assert f"  neighbour replace 10.9.0.1 lladdr {MAC} dev loop0" in log[start : start + 6]
    assert log[-2:] == ["ip netns delete run1-a", "ip netns delete run1-b"]


def test_loopback_that_fails_halfway_leaves_no_namespace(tree: TreeHost) -> None:
    stub_ip(tree)
    with (
        pytest.raises(CommandError, match="address"),
        net.loopback_pair(tree, "eth1", ("run1-a", "run1-b"), ("10.9.0.1", "10.9.0.2")),
    ):
        pytest.fail("eth1 does not exist")
    assert list(tree.path("/run/netns").iterdir()) == []


def test_a_veth_pair_in_namespaces_of_its_own(tree: TreeHost) -> None:
    stub_ip(tree)
    with net.veth_pair(tree, ("n1", "n2"), ("10.9.9.2", "10.9.9.1")) as (one, other):
        assert (one.address, one.netns, other.address, other.netns) == ("10.9.9.2", "n1", "10.9.9.1", "n2")
        assert tree.path("/run/netns/n1").exists()
    assert not list(tree.path("/run/netns").iterdir())
    log = tree.log.read_text()
    assert "link add name veth0 netns n1 type veth peer name veth0 netns n2" in log
    assert "address add 10.9.9.1/24 dev veth0" in log


def test_an_interface_is_told_in_a_line(tmp_path: Path) -> None:
    link = "eth1             UP             52:54:00:00:00:01 <BROADCAST,MULTICAST,UP,LOWER_UP> \n"
    answers: dict[str, Answer] = {
        "ip netns exec n1 ip -brief link show dev eth1": link,
        "ip netns exec n1 ip -brief -4 address show dev eth1": "eth1             UP             10.0.0.2/24 \n",
    }
    end = NetEnd(FakeHost(answers, tmp_path), "eth1", "10.0.0.2", "n1")
    assert net.describe(end) == "eth1 UP 52:54:00:00:00:01 <BROADCAST,MULTICAST,UP,LOWER_UP> 10.0.0.2/24"


@pytest.mark.parametrize(
    ("netstat", "times"),
    [
        ("TcpExt: TW TCPSpuriousRtxHostQueues PAWS\nTcpExt: 4 53 7\nIpExt: InNoRoutes\nIpExt: 9\n", 53),
        ("TcpExt: TW\nTcpExt: 4\n", 0),
    ],
)
def test_how_often_tcp_waited_for_the_driver(tmp_path: Path, netstat: str, times: int) -> None:
    host = FakeHost({"ip netns exec n1 cat /proc/net/netstat": netstat}, tmp_path)
    assert net.kept_by_driver(NetEnd(host, "eth1", "10.0.0.2", "n1")) == times
