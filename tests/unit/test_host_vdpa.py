"""lab.host.vdpa: the tool's JSON as it really is, devices and bindings that are undone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.errors import CommandError, HostError, LabError
from lab.host import vdpa
from lab.host.fake import FakeHost
from lab.host.vdpa import MgmtDev, VdpaDevice
from lab.model import AttachMode, DeviceClass

if TYPE_CHECKING:
    from tests.unit.conftest import TreeHost

SAMPLES = Path(__file__).parent / "samples" / "vdpa"


def sample(name: str) -> str:
    return SAMPLES.joinpath(name).read_text()


def vdpa_bus(tree: TreeHost, autoprobe: str = "1") -> None:
    tree.file("/sys/bus/vdpa/drivers_autoprobe", autoprobe)
    shown = {"dev": {"d0": {"type": "network", "mgmtdev": "vdpasim_net", "vendor_id": 0, "max_vqs": 3}}}
    add = f'echo "$(cat {tree.root}/sys/bus/vdpa/drivers_autoprobe) at add" >>"{tree.log}"'
    tree.program(
        "vdpa",
        f"""case $* in
            *show*) echo '{json.dumps(shown)}' ;;
            *add*) {add}; mkdir -p "{tree.root}/sys/bus/vdpa/devices/d0" ;;
            *del*) rmdir "{tree.root}/sys/bus/vdpa/devices/d0" ;;
        esac""",
    )


def bindable(tree: TreeHost, driver: str | None) -> None:
    tree.file("/sys/bus/vdpa/drivers_probe")
    tree.file("/sys/bus/vdpa/devices/d0/driver_override")
    tree.file("/sys/bus/vdpa/drivers/virtio_vdpa/unbind")
    if driver:
        tree.link("/sys/bus/vdpa/devices/d0/driver", f"/sys/bus/vdpa/drivers/{driver}")


def test_mgmtdevs_of_the_simulator() -> None:
    found = vdpa.parse_mgmtdevs(sample("mgmtdev-sim.json"))
    assert set(found) == {"vdpasim_net", "vdpasim_blk"}
    assert found["vdpasim_net"].classes == {"net"}
    assert found["vdpasim_net"].max_vqs == 3
    assert found["vdpasim_net"].features >= {"MAC", "CTRL_VQ", "VERSION_1", "ACCESS_PLATFORM"}
    assert found["vdpasim_net"].pci is None
    assert found["vdpasim_blk"] == MgmtDev("vdpasim_blk", frozenset({"block"}), 0, frozenset())


def test_mgmtdevs_of_pci_functions() -> None:
    found = vdpa.parse_mgmtdevs(sample("mgmtdev-pci.json"))
    functions = {device.pci: device for device in found.values() if device.pci}
    assert set(functions) == {"0000:01:00.1", "0000:01:00.2", "0000:02:00.0"}
    assert functions["0000:01:00.1"].name == "pci/0000:01:00.1"
    for device in functions.values():
        assert {"VERSION_1", "ACCESS_PLATFORM", "bit_40"} <= device.features
    assert "bit_9" in functions["0000:02:00.0"].features


def test_devices() -> None:
    assert vdpa.parse_devices(sample("dev.json")) == {
        "vsim0": VdpaDevice("vsim0", "vdpasim_net", DeviceClass.NET, 0, 3, 256),
        "vblk0": VdpaDevice("vblk0", "vdpasim_blk", DeviceClass.BLK, 0, 1, 256),
        "vblk1": VdpaDevice("vblk1", "vdpasim_blk", DeviceClass.BLK, 0, 1, 256),
    }
    assert vdpa.parse_devices(sample("dev-pci.json"))["vp1"].vendor_id == 0x1AF4


def test_device_of_another_class_is_left_out() -> None:
    assert vdpa.parse_devices('{"dev":{"x":{"type":"<unknown type>","mgmtdev":"m"}}}') == {}


def test_config_keys_are_cleaned(tmp_path: Path) -> None:
    host = FakeHost({"vdpa -j dev config show vsim0": sample("config-net.json")}, tmp_path)
    assert '"link "' in sample("config-net.json")
    fields = vdpa.config(host, "vsim0")
    assert fields["link"] == "up"
    assert fields["mac"] == "02:00:00:00:00:01"
    assert fields["mtu"] == 1500


@pytest.mark.parametrize("name", ["config-net-negotiated.json", "config-vf-negotiated.json"])
def test_negotiated_features(name: str) -> None:
    (fields,) = vdpa.parse_section(sample(name), "config").values()
    assert {"MAC", "VERSION_1", "ACCESS_PLATFORM"} <= set(fields["negotiated_features"])


def test_config_of_a_block_device_is_empty(tmp_path: Path) -> None:
    host = FakeHost({"vdpa -j dev config show vblk0": sample("config-blk.json")}, tmp_path)
    assert vdpa.config(host, "vblk0") == {}


@pytest.mark.parametrize(
    ("qidx", "names"),
    [
        (0, {"rx packets", "rx bytes", "rx errors", "rx overruns", "rx drops"}),
        (1, {"tx packets", "tx bytes", "tx errors", "tx drops"}),
        (2, {"cvq requests", "cvq successes", "cvq errors"}),
    ],
)
def test_vstats_are_numbers(tmp_path: Path, qidx: int, names: set[str]) -> None:
    host = FakeHost({f"vdpa -j dev vstats show vsim0 qidx {qidx}": sample(f"vstats-{qidx}.json")}, tmp_path)
    counters = vdpa.vstats(host, "vsim0", qidx)
    assert set(counters) == names
    assert qidx == 2 or counters["tx bytes" if qidx else "rx bytes"] == 21513040


def test_vstats_before_negotiation_is_an_error(tmp_path: Path) -> None:
    host = FakeHost({"vdpa -j dev vstats show *": (1, "kernel answers: Resource temporarily unavailable")}, tmp_path)
    with pytest.raises(CommandError, match="temporarily unavailable"):
        vdpa.vstats(host, "vsim0", 0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"dev":{}}', '{"mgmtdev":[]}', '{"mgmtdev":{"a":1}}'])
def test_broken_output_is_named(text: str) -> None:
    with pytest.raises(HostError, match="not the expected 'mgmtdev' object"):
        vdpa.parse_mgmtdevs(text)


def test_device_freezes_autoprobe_while_it_exists(tree: TreeHost) -> None:
    vdpa_bus(tree)
    with vdpa.device(tree, "d0", "vdpasim_net", mac="02:00:00:00:00:01", mtu=1400, features=0x300000020) as device:
        assert device == VdpaDevice("d0", "vdpasim_net", DeviceClass.NET, 0, 3, 0)
        assert tree.text("/sys/bus/vdpa/drivers_autoprobe") == "0"
    assert tree.text("/sys/bus/vdpa/drivers_autoprobe") == "1"
    assert tree.programs == [
        "vdpa dev add name d0 mgmtdev vdpasim_net mac 02:00:00:00:00:01 mtu 1400 device_features 0x300000020",
        "0 at add",
        "vdpa -j dev show d0",
        "vdpa dev del d0",
    ]


def test_nested_devices_restore_autoprobe_once(tree: TreeHost) -> None:
    vdpa_bus(tree)
    with vdpa.device(tree, "d0", "vdpasim_net"):
        with vdpa.device(tree, "d0", "vdpasim_net"):
            pass
        assert tree.text("/sys/bus/vdpa/drivers_autoprobe") == "0"
    assert tree.text("/sys/bus/vdpa/drivers_autoprobe") == "1"


def test_device_that_was_deleted_by_the_scenario(tree: TreeHost) -> None:
    vdpa_bus(tree)
    with vdpa.device(tree, "d0", "vdpasim_net"):
        tree.path("/sys/bus/vdpa/devices/d0").rmdir()
    assert "vdpa dev del d0" not in tree.programs


def test_refused_device_restores_autoprobe(tree: TreeHost) -> None:
    vdpa_bus(tree)
    tree.program("vdpa", 'echo "kernel answers: File exists" >&2; exit 1')
    with pytest.raises(CommandError, match="File exists"), vdpa.device(tree, "d0", "vdpasim_net"):
        pytest.fail("must not be reached")
    assert tree.text("/sys/bus/vdpa/drivers_autoprobe") == "1"
    assert not any("del" in line for line in tree.programs)


def test_bound(tree: TreeHost) -> None:
    bindable(tree, "virtio_vdpa")
    with vdpa.bound(tree, "d0", AttachMode.VIRTIO_VDPA):
        assert tree.text("/sys/bus/vdpa/devices/d0/driver_override") == "virtio_vdpa"
        assert tree.text("/sys/bus/vdpa/drivers_probe") == "d0"
    assert tree.text("/sys/bus/vdpa/devices/d0/driver_override") == ""
    assert tree.text("/sys/bus/vdpa/drivers/virtio_vdpa/unbind") == "d0"


@pytest.mark.parametrize(("driver", "seen"), [(None, "nothing"), ("virtio_vdpa", "virtio_vdpa")])
def test_driver_that_did_not_take_it(tree: TreeHost, driver: str | None, seen: str) -> None:
    bindable(tree, driver)
    with (
        pytest.raises(HostError, match=rf"vhost_vdpa did not take vDPA device d0 \(bound to: {seen}\)"),
        vdpa.bound(tree, "d0", AttachMode.VHOST_VDPA),
    ):
        pytest.fail("must not be reached")
    assert tree.text("/sys/bus/vdpa/devices/d0/driver_override") == ""


def parent(name: str, *features: str) -> MgmtDev:
    return MgmtDev(name, frozenset({"net"}), 3, frozenset(features))


def test_isolated_dma(tmp_path: Path) -> None:
    group = "ls /sys/bus/pci/devices/0000:01:00.1/iommu_group/devices"
    good = FakeHost({group: "0000:01:00.1\n"}, tmp_path / "good")
    vdpa.require_isolated_dma(good, parent("vdpasim_blk"))
    assert good.commands == []
    vdpa.require_isolated_dma(good, parent("pci/0000:01:00.1", "ACCESS_PLATFORM"))
    with pytest.raises(LabError, match="does not offer VIRTIO_F_ACCESS_PLATFORM"):
        vdpa.require_isolated_dma(good, parent("pci/0000:01:00.1", "VERSION_1"))
    shared = FakeHost({group: "0000:01:00.0\n0000:01:00.1\n"}, tmp_path / "shared")
    with pytest.raises(LabError, match=r"shares its IOMMU group with 0000:01:00\.0, 0000:01:00\.1"):
        vdpa.require_isolated_dma(shared, parent("pci/0000:01:00.1", "ACCESS_PLATFORM"))


def told(tmp_path: Path, *features: object) -> int | None:
    shown = {"config": {"v1": {"negotiated_features": list(features)} if features else {}}}
    return vdpa.negotiated_features(FakeHost({"vdpa -j dev config show v1": json.dumps(shown)}, tmp_path), "v1")


def test_negotiated_features_as_bits(tmp_path: Path) -> None:
    assert told(tmp_path / "a", "CSUM", "GUEST_CSUM", "VERSION_1", "ACCESS_PLATFORM") == 0x3_0000_0003
    assert told(tmp_path / "b", "MAC", 40) == 1 << 40 | 1 << 5
    assert told(tmp_path / "c") is None
    with pytest.raises(HostError, match="no feature bit is known for 'NEW'"):
        told(tmp_path / "d", "NEW")
