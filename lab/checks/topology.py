"""Where a vDPA device sits in sysfs and who uses it, for both bus drivers (facts: virtbus.md, C01 to C06, C15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lab.errors import LabError
from lab.host.base import Host
from lab.model import AttachMode, Check, DeviceClass, Level

# Prints one fact per line, its kind first, "-" for what is not there, and "end" when it got that far.
# The virtio device is a child of the device that does the DMA: of the function for a PCI parent, of the vDPA device
# itself for vdpa_sim.
_GATHER = """
name() { link=$(readlink "$1") && echo "${link##*/}" || echo -; }
virtio() {
    for one in "$1"/virtio[0-9]*; do
        [ -e "$one" ] || continue
        users=$(cd "$one" && ls -d net/* block/* 2>/dev/null | tr '\\n' ' ') || :
        echo "virtio ${one##*/} $(name "$one/driver") ${users:--}"
    done
}
device=/sys/bus/vdpa/devices/$1
if [ -e "$device" ]; then
    echo "driver $(name "$device/driver")"
    virtio "$device"
    for node in "$device"/vhost-vdpa-*; do
        [ -e "$node" ] || continue
        numbers=$(stat -L -c %t:%T "/dev/${node##*/}" 2>/dev/null) || numbers=-
        echo "char ${node##*/} $(cat "$node/dev") $numbers $(name "$node/subsystem")"
    done
    above=$(readlink -f "$device")
    above=${above%/*}
    if [ "$(name "$above/subsystem")" = pci ]; then
        echo "parent ${above##*/} $(name "$above/driver")"
        virtio "$above"
        echo "group $(ls "$above/iommu_group/devices" 2>/dev/null | tr '\\n' ' ')"
    fi
fi
for module in /sys/module/vfio* /sys/module/mdev; do
    [ ! -e "$module" ] || echo "module ${module##*/}"
done
echo end
"""

_DRIVERS = {DeviceClass.NET: ("virtio_net", "net/"), DeviceClass.BLK: ("virtio_blk", "block/")}


@dataclass(frozen=True)
class Expected:
    """How a vDPA device should sit: ``parent`` is the address of its PCI function (None: a software device) with its
    driver; ``own_group`` whether that function must be alone in its IOMMU group (VFs, and whatever a guest gets).
    """

    attach: AttachMode
    device_class: DeviceClass
    parent: str | None = None
    parent_driver: str | None = None
    own_group: bool = False


@dataclass
class Facts:
    """What the host showed; each fact is the words of a line. ``complete`` is whether all of it arrived."""

    rows: list[list[str]] = field(default_factory=list)
    complete: bool = False

    def of(self, kind: str) -> list[list[str]]:
        """All facts of a kind, without its name."""
        return [row[1:] for row in self.rows if row[0] == kind]


def judge(host: Host, device: str, expected: Expected, *, netns: str | None = None) -> list[Check]:
    """Look at a vDPA device of ``host`` with one command and judge what is there; ERROR when it could not be seen.

    ``netns`` is where the device's interface has been moved: sysfs shows an interface in its own namespace only.
    """
    inside = ["ip", "netns", "exec", netns] if netns else []
    try:
        facts = parse(host.run([*inside, "sh", "-ec", _GATHER, "topology", device]).text)
    except LabError as error:
        return [Check.unproven("topology", str(error), f"{device} in sysfs", machine=host.name)]
    return judge_facts(facts, device, expected, machine=host.name)


def parse(text: str) -> Facts:
    """The output of the script."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return Facts(rows, bool(rows) and rows[-1] == ["end"])


def judge_facts(facts: Facts, device: str, expected: Expected, *, machine: str) -> list[Check]:
    """Judge what was gathered."""
    if not facts.complete:
        return [Check.unproven("topology", f"incomplete: {facts.rows}", f"{device} in sysfs", machine=machine)]
    if not facts.of("driver"):
        return [_Judge(facts, expected, machine).check("vDPA device", False, f"no {device}", f"{device} exists")]
    return _Judge(facts, expected, machine).all()


@dataclass(frozen=True)
class _Judge:
    """One look, judged."""

    facts: Facts
    expected: Expected
    machine: str

    def check(self, name: str, good: bool, seen: str, expected: str) -> Check:
        return Check.judged(name, good, seen, expected, level=Level.L1_KERNEL, machine=self.machine)

    def all(self) -> list[Check]:
        checks = [self._bus_driver(), self._one_consumer(), self._parent(), self._nothing_foreign()]
        if self.expected.attach is AttachMode.VHOST_VDPA:
            checks += [self._node(words) for words in self.facts.of("char")]
        else:
            checks += [self._virtio(words) for words in self.facts.of("virtio")]
        return [*checks, *([self._group()] if self.expected.own_group else [])]

    def _bus_driver(self) -> Check:
        (driver,) = self.facts.of("driver")[0]
        return self.check("vDPA bus driver", driver == self.expected.attach, driver, self.expected.attach)

    def _one_consumer(self) -> Check:
        nodes, virtio = self.facts.of("char"), self.facts.of("virtio")
        wanted = (1, 0) if self.expected.attach is AttachMode.VHOST_VDPA else (0, 1)
        seen = " ".join(words[0] for words in [*nodes, *virtio]) or "none"
        expected = f"{wanted[0]} vhost-vdpa node, {wanted[1]} virtio device"
        return self.check("one consumer", (len(nodes), len(virtio)) == wanted, seen, expected)

    def _node(self, words: Sequence[str]) -> Check:
        name, dev, numbers, subsystem = words
        good = numbers != "-" and _decimal(numbers) == dev and subsystem == "-"
        seen = f"/dev/{name} {numbers} (hexadecimal), sysfs {dev}, subsystem {subsystem}"
        return self.check("vhostdev node", good, seen, "the device numbers of sysfs, no class or bus")

    def _virtio(self, words: Sequence[str]) -> Check:
        name, driver, *users = words
        wanted, kind = _DRIVERS[self.expected.device_class]
        good = driver == wanted and len(users) == 1 and users[0].startswith(kind)
        return self.check("virtio driver", good, f"{name}: {driver}, {' '.join(users)}", f"{wanted}, one {kind}*")

    def _parent(self) -> Check:
        found = [tuple(words) for words in self.facts.of("parent")]
        want = self.expected
        wanted = [(want.parent, want.parent_driver)] if want.parent else []
        return self.check("parent", found == wanted, _pairs(found), _pairs(wanted))

    def _group(self) -> Check:
        members = [member for words in self.facts.of("group") for member in words]
        return self.check("IOMMU group", members == [self.expected.parent], " ".join(members) or "none", "of its own")

    def _nothing_foreign(self) -> Check:
        modules = [words[0] for words in self.facts.of("module")]
        return self.check("no mdev or VFIO", not modules, " ".join(modules) or "none", "none")


def _pairs(found: Sequence[tuple[str | None, ...]]) -> str:
    return ", ".join(" by ".join(map(str, pair)) for pair in found) or "no PCI function"


def _decimal(numbers: str) -> str:
    """``1ff:0`` of stat(1) as sysfs writes it."""
    return ":".join(str(int(part, 16)) for part in numbers.split(":"))
