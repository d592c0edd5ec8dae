"""A stage that may rest, in virtual time: what it waits for, and for whom it does not."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import pairwise

from tests.simulation.log import LogDurable, SimulatedLog
from tests.simulation.loop import VirtualLoop
from tests.support import Notes

from howk.domain.records import PENDING
from howk.flow.journal import Journal
from howk.flow.stage import Emission, Emit, Lane, Stage
from howk.ports.log import Entry, Record
from howk.runtime.observability import Metrics
from howk.testing.clock import ManualClock

Append = Callable[..., Awaitable[None]]
REST = 0.01
AT_ONCE = 16


class Told:
    """Takes what comes, and notes when and how much; what says so is awaited."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, int]] = []

    async def take(self, batch: Sequence[Entry], emit: Emit) -> None:
        self.taken.append((round(asyncio.get_running_loop().time(), 4), len(batch)))
        for entry in batch:
            emit(Emission(entry, (), awaited=entry.value == b"awaited"))

    async def refuse(self, entry: Entry, error: str, emit: Emit) -> None:
        raise AssertionError(error)

    async def settled(self, emissions: Sequence[Emission]) -> None:
        pass


def taken(
    comes: Callable[[Append, Stage], Awaitable[None]], rest: float = REST, *, to_the_end: bool = True
) -> list[tuple[float, int]]:
    """When a stage took how much of what came. `comes` gets what appends so many records of a value."""
    loop, room = VirtualLoop(), Told()

    async def run() -> None:
        log, metrics = SimulatedLog(LogDurable(1), ManualClock()), Metrics()
        stage = Stage(
            "told",
            room,
            (Lane(PENDING),),
            Journal(log, metrics),
            100,
            metrics,
            Notes(),
            at_once=AT_ONCE,
            one_at_a_time=True,
            lazy_finish=True,
            rest=rest,
        )

        async def append(count: int, value: bytes = b"") -> None:
            await log.append([Record(PENDING, "k", value)] * count)

        running = asyncio.ensure_future(stage.run())
        await comes(append, stage)
        if to_the_end:
            await stage.caught_up()
        running.cancel()

    loop.run_until_complete(run())
    loop.bury()
    return room.taken


async def _one_a_millisecond(append: Append, stage: Stage, value: bytes = b"") -> None:
    for _ in range(20):
        await append(1, value)
        await asyncio.sleep(0.001)


def test_what_nobody_waits_for_is_taken_together_and_the_first_of_it_at_once() -> None:
    found = taken(_one_a_millisecond)
    assert found[0] == (0.0, 1)
    assert sum(count for _, count in found) == 20
    assert len(found) <= 4
    pauses = [after - before for (before, _), (after, _) in pairwise(found)]
    assert all(REST <= round(pause, 4) <= 2 * REST for pause in pauses)


def test_without_a_rest_each_is_taken_as_it_comes() -> None:
    assert taken(_one_a_millisecond, rest=0.0) == [(round(n / 1000, 4), 1) for n in range(20)]


def test_what_is_awaited_is_taken_as_it_comes_and_so_is_what_follows_for_a_while() -> None:
    assert taken(partial(_one_a_millisecond, value=b"awaited")) == [(round(n / 1000, 4), 1) for n in range(20)]

    async def comes(append: Append, stage: Stage) -> None:
        await append(1, b"awaited")
        await _one_a_millisecond(append, stage)
        await asyncio.sleep(1.0)
        await _one_a_millisecond(append, stage)

    found = taken(comes)
    assert len([at for at, _ in found if at < 0.5]) >= 20
    assert len([at for at, _ in found if at > 0.5]) <= 4


def test_a_backlog_is_not_made_to_wait() -> None:
    async def comes(append: Append, stage: Stage) -> None:
        await append(5 * AT_ONCE)

    assert taken(comes) == [(0.0, AT_ONCE)] * 5


def test_a_stage_that_rests_closes_without_taking_more() -> None:
    async def comes(append: Append, stage: Stage) -> None:
        await append(1)
        await asyncio.sleep(REST / 2)
        stage.close()
        await stage.drained()
        await append(1)
        await asyncio.sleep(10 * REST)

    assert taken(comes, to_the_end=False) == [(0.0, 1)]
