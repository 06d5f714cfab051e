"""lab.actions.unplug."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from lab.actions import unplug
from lab.config.scenario import Unplug
from lab.errors import DeadlineExceeded, ProductFailure
from lab.evidence.record import Record
from lab.model import QemuDevice
from tests.fake_machine import make_machine

NIC = QemuDevice({"driver": "virtio-net-pci", "id": "dut"}, {"type": "vhost-vdpa", "id": "dut-back"})


@pytest.mark.parametrize("answers", [True, False])
def test_unplug(tmp_path: Path, answers: bool) -> None:
    with contextlib.closing(Record(tmp_path)) as record:
        machine, process = make_machine(record, "l2")

        def delete(_arguments: object) -> object:
            if answers:
                process.qmp.event("DEVICE_DELETED", device="dut", path="/machine/dut")
            return {}

        process.qmp.answers |= {"device_del": delete, "netdev_del": {}}
        machine.launch()
        with contextlib.closing(contextlib.ExitStack()) as stack:
            stack.callback(machine.quit)
            if answers:
                [metric] = unplug.run(machine, NIC, Unplug(kind="unplug"), 1.0).metrics()
                assert (metric.name, metric.unit) == ("unplug_device_deleted", "s")
                assert 0 <= metric.value < 10
            else:
                # The limit is stretched by the machine's slowness.
                with pytest.raises(ProductFailure, match="has not released") as caught:
                    unplug.run(machine, NIC, Unplug(kind="unplug", max_delete_s=0.1), 2.0)
                assert isinstance(caught.value.__cause__, DeadlineExceeded)
                assert caught.value.__cause__.seconds == 0.2
