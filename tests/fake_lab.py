"""A lab whose machines are hosts that answer from a script: what the layers above the bring-up are tested with."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from lab.checks.process import Held
from lab.config.catalog import load_scenario
from lab.config.request import RunRequest
from lab.config.site import NestedSite
from lab.errors import QmpRefused
from lab.evidence.record import Record
from lab.host.fake import FakeHost
from lab.host.kmsg import KernelLog
from lab.topology.lab import Lab
from lab.topology.plan import plan
from lab.topology.undo import Undo

RUN_ID = "1a2b3c4d"


def fake_lab(record: Record, scenario: str, *, sets: Sequence[str] = (), cold: bool = False) -> Lab:
    """The lab of a scenario with its L1 up and, unless it boots cold, its first guest; both answer nothing yet.

    A guest's machine notes ``plug`` and ``quit`` in ``lab.did``; its process has the pid 4711. Its QEMU holds as many
    buffers of a queue as ``lab.inuse`` says.
    """
    site = NestedSite(kind="nested", summary="here")
    request = RunRequest(scenario=scenario, cold=cold)
    shells = record.path / f"shells-{secrets.token_hex(4)}"
    lab: Any = SimpleNamespace(
        plan=plan(scenario, load_scenario(scenario, sets)[1], site, request, RUN_ID),
        record=record,
        undo=Undo(record),
        host=FakeHost({}, shells / "l1", "l1"),
        connected=True,
        l1=None,
        device_model=None,
        expendable=False,
        l0_log=KernelLog(Path("/absent/kmsg")),
        guests={},
        machines={},
        slowness={"l1": 1.0, "l2": 1.0},
        did=[],
        inuse={},
        shells=shells,
    )
    lab.plug_functions = lambda: lab.did.append("plug functions")
    lab.start_guest = lambda name, devices=(), incoming=False: _start_guest(lab, name, devices, incoming)
    if lab.plan.guests and not lab.plan.cold:
        _start_guest(lab, "l2", (), False)
        lab.did.clear()
    return cast(Lab, lab)


def did(lab: Lab) -> list[str]:
    """What was done with the machines of a fake lab."""
    return cast(Any, lab).did  # type: ignore[no-any-return]


def _start_guest(lab: Any, name: str, devices: Sequence[Any], incoming: bool) -> Any:
    lab.did.append(f"start {name} with {len(devices)} devices{', incoming' if incoming else ''}")
    folder: Path = lab.record.folder("machines", name)

    def query(command: str, arguments: dict[str, Any]) -> dict[str, int]:
        assert (command, arguments["path"]) == ("x-query-virtio-queue-status", "/machine/peripheral/dut/virtio-backend")
        if arguments["queue"] > 2:
            raise QmpRefused("l2: Invalid virtqueue number 3")
        return {"inuse": lab.inuse.get(arguments["queue"], 0)}

    machine = SimpleNamespace(
        name=name,
        plug=lambda device: lab.did.append(f"plug {device.id}"),
        quit=lambda: lab.did.append(f"quit {name}"),
        query=query,
    )
    host = None if incoming else FakeHost({}, lab.shells / name, name)
    process = SimpleNamespace(pid=4711, folder=folder)
    lab.guests[name] = SimpleNamespace(
        name=name,
        machine=machine,
        process=process,
        host=host,
        shell=host,
        held_before=None if devices else Held(0, ()),
        reach_before=[],
    )
    return lab.guests[name]
