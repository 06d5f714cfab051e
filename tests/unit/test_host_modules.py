"""lab.host.modules: parameters are compared with what is loaded, a missing module is the site's lack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.errors import CommandError, InputError, LabError, SiteLacks
from lab.host import modules

if TYPE_CHECKING:
    from tests.unit.conftest import TreeHost

NOT_FOUND = 'echo "modprobe: FATAL: Module $1 not found in directory /lib/modules/6.12.117" >&2; exit 1'


def test_parameters_are_given_and_read_back(tree: TreeHost) -> None:
    tree.program("modprobe")
    tree.file("/sys/module/vdpa_sim/parameters/use_va", "N")
    tree.file("/sys/module/vdpa_sim/parameters/batch_mapping", "0")
    tree.file("/sys/module/vdpa_sim/parameters/max_iotlb_entries", "5")
    modules.load(tree, "vdpa_sim", {"use_va": False, "batch_mapping": False, "max_iotlb_entries": 5})
    assert tree.programs == ["modprobe vdpa_sim use_va=0 batch_mapping=0 max_iotlb_entries=5"]


def test_loaded_with_other_parameters_is_an_error_that_names_each(tree: TreeHost) -> None:
    tree.program("modprobe")
    tree.file("/sys/module/vdpa_sim/parameters/use_va", "Y")
    tree.file("/sys/module/vdpa_sim/parameters/batch_mapping", "N")
    with pytest.raises(LabError) as caught:
        modules.load(tree, "vdpa_sim", {"use_va": False, "batch_mapping": True})
    assert not isinstance(caught.value, SiteLacks)
    assert "use_va is Y, asked for 0; batch_mapping is N, asked for 1" in str(caught.value)
    assert "modprobe -r vdpa_sim" in caught.value.hint


@pytest.mark.parametrize(
    "answer",
    [NOT_FOUND, 'echo "modprobe: module $1 not found in modules.dep" >&2; exit 1'],
    ids=["kmod", "busybox"],
)
def test_missing_module_is_what_the_site_lacks(tree: TreeHost, answer: str) -> None:
    tree.program("modprobe", answer)
    tree.program("uname", "echo 6.12.117-lab")
    with pytest.raises(SiteLacks, match=r"module vp_vdpa \(kernel 6.12.117-lab of tree\)"):
        modules.load(tree, "vp_vdpa")


def test_module_that_does_not_load_is_an_error(tree: TreeHost) -> None:
    tree.program("modprobe", 'echo "modprobe: ERROR: could not insert: Invalid argument" >&2; exit 1')
    with pytest.raises(CommandError, match="Invalid argument"):
        modules.load(tree, "vp_vdpa")


def test_a_missing_parameter_is_what_the_site_lacks(tree: TreeHost) -> None:
    """Linux 6.1 has no use_va."""
    tree.program("modprobe")
    tree.program("uname", "echo 6.1.192-lab")
    tree.file("/sys/module/vdpa_sim/parameters/batch_mapping", "1")
    with pytest.raises(SiteLacks, match=r"parameter use_va of module vdpa_sim \(kernel 6.1.192-lab of tree\)"):
        modules.load(tree, "vdpa_sim", {"use_va": True, "batch_mapping": True})


def test_vhost_vdpa_gets_room_where_the_kernel_has_the_limit(tree: TreeHost) -> None:
    tree.program("modprobe")
    modules.load_vhost_vdpa(tree)
    tree.file("/sys/module/vhost_vdpa/parameters/max_iotlb_entries", "262144")
    modules.load_vhost_vdpa(tree)
    assert tree.programs == ["modprobe vhost_vdpa max_iotlb_entries=262144"] * 2


def test_vhost_vdpa_loaded_with_little_room_is_an_error(tree: TreeHost) -> None:
    tree.program("modprobe")
    tree.file("/sys/module/vhost_vdpa/parameters/max_iotlb_entries", "2048")
    with pytest.raises(LabError, match="max_iotlb_entries is 2048"):
        modules.load_vhost_vdpa(tree)


# vdpa_sim_net needs vdpa_sim of the same folder, and vringh of the kernel's own.
MODINFO = """
case "$2 $3" in
    "name "*) basename "$3" .ko | tr - _ ;;
    *sim-net.ko) echo vringh,vdpa_sim ;;
    *sim.ko) echo vringh ;;
    *) echo ;;
esac
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("alone.ko", "vdpa_sim-net.ko", "vdpa_sim.ko")]
    for path in made:
        path.write_bytes(path.name.encode())
    return made


@pytest.fixture
def kernel(tree: TreeHost) -> TreeHost:
    tree.program("uname", "echo 6.12.117-lab")
    tree.program("modinfo", MODINFO)
    for name in ("rmmod", "modprobe", "insmod"):
        tree.program(name)
    return tree


def did(tree: TreeHost) -> list[str]:
    return [line for line in tree.programs if line.split()[0] in ("rmmod", "modprobe", "insmod")]


def test_new_modules_take_the_place_of_those_loaded(kernel: TreeHost, files: list[Path]) -> None:
    for name in ("vdpa_sim", "vdpa_sim_net"):
        kernel.file(f"/sys/module/{name}/refcnt", "0")
    kernel.program("rmmod", f'rm -r "{kernel.path("/sys/module")}/$1"')
    kernel.program("insmod", f'mkdir "{kernel.path("/sys/module")}/$(basename "$1" .ko | tr - _)"')
    names = modules.replace(kernel, files, "6.12.117-lab")
    assert sorted(names) == ["alone", "vdpa_sim", "vdpa_sim_net"]
    assert names.index("vdpa_sim") < names.index("vdpa_sim_net")
    calls = [line for line in did(kernel) if "alone" not in line]
    assert calls == [
        "rmmod vdpa_sim_net",
        "rmmod vdpa_sim",
        "modprobe vringh",
        "insmod ./vdpa_sim.ko",
        "modprobe vringh",
        "insmod ./vdpa_sim-net.ko",
    ]
    assert not list(kernel.path("/run/vdpalab").iterdir())


def test_a_module_in_use_stays_and_nothing_is_loaded(kernel: TreeHost, files: list[Path]) -> None:
    kernel.file("/sys/module/vdpa_sim/refcnt", "1")
    kernel.program("rmmod", 'echo "rmmod: ERROR: Module $1 is in use" >&2; exit 1')
    with pytest.raises(CommandError, match="vdpa_sim is in use"):
        modules.replace(kernel, files, "6.12.117-lab")
    assert did(kernel) == ["rmmod vdpa_sim"]
    assert not list(kernel.path("/run/vdpalab").iterdir())


def test_modules_of_another_kernel_are_refused(kernel: TreeHost, files: list[Path]) -> None:
    with pytest.raises(InputError, match=r"tree runs Linux 6.12.117-lab, and these modules are for 7.3.0"):
        modules.replace(kernel, files, "7.3.0")
    assert kernel.programs == ["uname -r"]
