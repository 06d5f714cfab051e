"""Which runs may run at the same time."""

from __future__ import annotations

import asyncio

import pytest

from lab.jobs.admission import Budget, Gate, Weight, fits, machine_budget

BUDGET = Budget(ram_mb=1000, cores=4, runs=3)


@pytest.mark.parametrize(
    ("weight", "running", "may"),
    [
        (Weight(400, 2), [Weight(600, 2)], True),
        (Weight(401, 2), [Weight(600, 2)], False),
        (Weight(400, 3), [Weight(600, 2)], False),
        (Weight(1, 1), [Weight(1, 1)] * 2, True),
        (Weight(1, 1), [Weight(1, 1)] * 3, False),
        (Weight(5000, 64), [], True),
        (Weight(5000, 64), [Weight()], False),
        (Weight(1, 1), [Weight(5000, 64)], False),
    ],
)
def test_fits(weight: Weight, running: list[Weight], may: bool) -> None:
    assert fits(weight, running, BUDGET) is may


def test_no_limit_on_cores_and_number() -> None:
    assert fits(Weight(1, 100), [Weight(1, 100)] * 50, Budget(1000))


def test_budget_of_this_machine() -> None:
    own = machine_budget(None)
    assert own.ram_mb >= 0
    assert own.cores
    assert own.runs is None
    assert machine_budget(3) == Budget(machine_budget(3).ram_mb, None, 3)


async def enter_all(gate: Gate, weights: list[Weight]) -> list[asyncio.Task[bool]]:
    tasks = [asyncio.create_task(gate.enter(weight)) for weight in weights]
    await settle()
    return tasks


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def admitted(tasks: list[asyncio.Task[bool]]) -> list[bool]:
    return [task.done() and task.result() for task in tasks]


def test_the_first_that_fits_goes_and_others_follow_when_there_is_room() -> None:
    async def story() -> None:
        gate = Gate(Budget(1000))
        weights = [Weight(600), Weight(600), Weight(300)]
        tasks = await enter_all(gate, weights)
        assert admitted(tasks) == [True, False, True]
        await gate.leave(weights[2])
        await settle()
        assert admitted(tasks) == [True, False, True]
        await gate.leave(weights[0])
        await settle()
        assert admitted(tasks) == [True, True, True]

    asyncio.run(story())


def test_one_that_is_bigger_than_the_machine_runs_alone() -> None:
    async def story() -> None:
        gate = Gate(Budget(1000))
        weights = [Weight(300), Weight(9000), Weight(300)]
        tasks = await enter_all(gate, weights)
        assert admitted(tasks) == [True, False, True]
        await gate.leave(weights[0])
        await gate.leave(weights[2])
        late = await enter_all(gate, [Weight(1)])
        assert admitted([*tasks, *late]) == [True, True, True, False]
        await gate.leave(weights[1])
        await settle()
        assert admitted(late) == [True]

    asyncio.run(story())


def test_a_closed_gate_lets_nobody_in() -> None:
    async def story() -> None:
        gate = Gate(Budget(1000))
        waiting = await enter_all(gate, [Weight(800), Weight(800)])
        await gate.close()
        late = await enter_all(gate, [Weight(1)])
        assert [task.result() for task in [*waiting, *late]] == [True, False, False]

    asyncio.run(story())
