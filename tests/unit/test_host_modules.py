"""lab.host.modules: parameters are compared with what is loaded, a missing module is the site's lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.errors import CommandError, LabError, SiteLacks
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


def test_unknown_parameter_is_an_error(tree: TreeHost) -> None:
    tree.program("modprobe")
    with pytest.raises(LabError, match="has no parameter use_vaa"):
        modules.load(tree, "vdpa_sim", {"use_vaa": True})


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
