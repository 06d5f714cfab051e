"""Every procedure by the name that configs/virtbus.toml uses for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lab.checks.virtbus import api, errors, lifetime, naming, pm, races, users
from lab.checks.virtbus.bench import Bench, Seen

PROCEDURES: Mapping[str, Callable[[Bench], Seen]] = {
    "R01/anchor": api.anchor,
    "R02/class": users.class_device,
    "R22/users": users.operations,
    "R25/functions": users.functions,
    "R18/pci-remove": users.pci_remove,
    "R05/modinfo": api.modinfo,
    "R06/uevent": api.uevent,
    "R06/autoload": api.autoload,
    "R27/bind": api.bind,
    "R27/override": api.override,
    "U02/quiet": api.quiet,
    "R09/hold": naming.hold,
    "R16/twin": naming.twin,
    "R10/scale": lifetime.scale,
    "R10/unload": lifetime.unload,
    "R10/kmemleak": lifetime.kmemleak,
    "U03/release": lifetime.release,
    "U10/rmmod": lifetime.rmmod,
    "R07/fail-nth": errors.fail_nth,
    "R07/failslab": errors.failslab,
    "R26/can-fail": errors.can_fail,
    "R18/freeze": pm.freeze,
    "R19/once": pm.once,
    "U01/freeze": pm.bare,
    "R27/race": races.bind,
    "R27/sysfs": races.sysfs,
    "U10/create": races.create,
    "U10/race": races.rmmod,
}
