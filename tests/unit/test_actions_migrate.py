"""lab.actions.migrate: what QEMU is asked, in which order, and what its answers mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.actions import migrate
from lab.config.scenario import Migrate
from lab.errors import MachineDied, ProductFailure
from lab.evidence.record import Record
from lab.machine.machine import State
from lab.model import Level
from tests.fake_machine import FakeProcess, make_machine
from tests.fake_qmp import Refused

CONFIG = Migrate(kind="migrate", downtime_limit_ms=250, max_bandwidth="64M", max_total_s=10)
DONE = {"status": "completed", "total-time": 1500, "downtime": 42, "ram": {"transferred": 25_000_000}}
URI = "unix:/run/vdpalab/x.migrate"


class Pair:
    """A source that runs and a destination that waits; ``ends`` is what the migration comes to."""

    def __init__(self, record: Record) -> None:
        self.source, self.of_source = make_machine(record, "l2")
        self.destination, self.of_destination = make_machine(record, "l2dst")
        self.ends, self.resumes = "completed", True
        self.order: list[str] = []
        ok: dict[str, object] = {"migrate-set-capabilities": {}, "migrate-set-parameters": {}}
        self.of_source.qmp.answers |= ok | {"migrate": self._migrate, "query-migrate": {}}
        self.of_destination.qmp.answers |= ok | {"migrate-incoming": self._incoming}
        self.source.launch()
        self.destination.launch(incoming=True)

    def _incoming(self, _arguments: object) -> object:
        self.order.append("incoming")
        return {}

    def _migrate(self, _arguments: object) -> object:
        self.order.append("migrate")
        self.of_source.qmp.answers["query-migrate"] = DONE | {"status": self.ends}
        for status in ("setup", "active", self.ends):
            self.of_source.qmp.event("MIGRATION", status=status)
        if self.resumes:
            self.of_destination.qmp.event("RESUME")
        return {}

    def run(self, config: Migrate = CONFIG) -> migrate.Migration:
        return migrate.run(self.source, self.destination, config, URI, 1.0)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr("lab.machine.qmp._SLICE_S", 0.05)
    with contextlib.closing(Record(tmp_path / "run")) as record:
        pair = Pair(record)
        yield pair
        pair.source.quit()
        pair.destination.quit()


def asked(process: FakeProcess, command: str) -> dict[str, object]:
    return dict(process.qmp.commands)[command]


def test_a_guest_moves(pair: Pair) -> None:
    moved = pair.run()
    assert [(m.name, m.value, m.unit) for m in moved.metrics()] == [
        ("migration_total", 1500, "ms"), ("migration_downtime", 42, "ms"), ("migration_ram", 25.0, "MB"),
    ]  # fmt: skip
    assert (pair.source.state, pair.destination.state) == (State.PAUSED, State.RUNNING)
    assert pair.order == ["incoming", "migrate"]
    assert asked(pair.of_source, "migrate-set-parameters") == {"max-bandwidth": 64 << 20, "downtime-limit": 250}
    assert asked(pair.of_source, "migrate") == asked(pair.of_destination, "migrate-incoming") == {"uri": URI}
    for process in (pair.of_source, pair.of_destination):
        capabilities = asked(process, "migrate-set-capabilities")["capabilities"]
        assert capabilities == [{"capability": "events", "state": True}]


def test_a_blocked_migration_is_not_tried(pair: Pair) -> None:
    pair.of_source.qmp.answers["query-migrate"] = {"blocked-reasons": ["vhost-vdpa: no suspend", "another"]}
    with pytest.raises(ProductFailure, match="blocked: vhost-vdpa: no suspend; another") as caught:
        pair.run()
    assert (caught.value.level, caught.value.machine, pair.order) == (Level.L1_QEMU, "l2", [])


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_migration_that_fails_gives_qemus_reason(pair: Pair, end: str) -> None:
    pair.ends, pair.resumes = end, False
    with pytest.raises(ProductFailure, match=f"migration {end}: no reason given"):
        pair.run()
    assert (pair.source.state, pair.destination.state) == (State.RUNNING, State.INCOMING)


def test_the_reason_is_qemus(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DONE, "error-desc", "Broken pipe")
    pair.ends = "failed"
    with pytest.raises(ProductFailure, match="migration failed: Broken pipe"):
        pair.run()


def test_a_migration_that_does_not_end(pair: Pair) -> None:
    pair.ends = "active"
    with pytest.raises(ProductFailure, match="has not ended"):
        pair.run(CONFIG.model_copy(update={"max_total_s": 0.1}))


def test_a_destination_that_does_not_run(pair: Pair) -> None:
    pair.resumes = False
    with pytest.raises(ProductFailure, match="has not ended"):
        pair.run(CONFIG.model_copy(update={"max_total_s": 0.2}))
    assert pair.destination.state is State.INCOMING


@pytest.mark.parametrize("victim", ["source", "destination"])
def test_a_qemu_that_dies(pair: Pair, victim: str) -> None:
    def die(_arguments: object) -> object:
        process = pair.of_source if victim == "source" else pair.of_destination
        process.dies(-11)
        if victim == "destination":
            pair.of_source.qmp.event("MIGRATION", status="completed")
        return {}

    pair.of_source.qmp.answers["migrate"] = die
    with pytest.raises(MachineDied, match="signal 11"):
        pair.run()


@pytest.mark.parametrize(("max_bandwidth", "rate"), [("1K", 1 << 10), ("3M", 3 << 20), ("1G", 1 << 30)])
def test_bandwidth(pair: Pair, max_bandwidth: str, rate: int) -> None:
    pair.run(CONFIG.model_copy(update={"max_bandwidth": max_bandwidth}))
    assert asked(pair.of_source, "migrate-set-parameters")["max-bandwidth"] == rate


def test_a_parameter_that_this_qemu_does_not_know(pair: Pair) -> None:
    pair.of_source.qmp.answers["migrate-set-parameters"] = Refused("Invalid parameter")
    with pytest.raises(Exception, match="Invalid parameter"):
        pair.run()
