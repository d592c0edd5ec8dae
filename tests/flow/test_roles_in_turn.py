"""Roles that take turns on one directory: what one leaves undone must not become a second send by another."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

from tests.support import Corridor, ManualClock, opened

from howk.domain.records import SLOW
from howk.ports.telemetry import STALE
from howk.testing.receiver import Receiver

_RETRY_DUE = 10_000


@contextlib.asynccontextmanager
async def _working(corridor: Corridor, *, settling: bool) -> AsyncGenerator[None]:
    """Deliver runs, with settle or without, as the worker starts them."""
    house = corridor.house
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(house.deliver_stage.run())]
        if settling:
            tasks.append(group.create_task(house.settle_stage.run()))
            await house.settle_stage.caught_up()
        house.deliver_stage.open_lanes()
        yield
        house.deliver_stage.close()
        await house.deliver_stage.drained()
        await house.deliver_stage.flushed()
        for task in tasks:
            task.cancel()


async def _in_slow(corridor: Corridor) -> int:
    ((_, (start, stop)),) = (await corridor.engines.log.bounds(SLOW)).items()
    return stop - start


async def test_a_retry_whose_outcome_nobody_settled_yet_is_not_sent_again_by_a_scheduler_that_runs_alone(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with Receiver(fail_first_n=1) as receiver:
        async with opened(tmp_path, clock, retry__jitter=0.0) as corridor:
            await corridor.house.reconcile.recover()
            async with _working(corridor, settling=True):
                id_ = await corridor.send(receiver.url)
                await corridor.failed(id_, attempts=1)
        clock.advance(_RETRY_DUE)
        async with opened(tmp_path, clock, retry__jitter=0.0) as corridor:
            # The retry is made, and its worker is gone before it has settled the outcome.
            await corridor.house.reconcile.recover()
            schedule = asyncio.create_task(corridor.house.schedule.run())
            async with _working(corridor, settling=False):
                await receiver.wait_for(2)
            corridor.house.schedule.close()
            await schedule
            assert await _in_slow(corridor) == 1
        for path in tmp_path.glob("hot.db*"):
            path.unlink()
        async with opened(tmp_path, clock, retry__jitter=0.0) as corridor:
            # The rebuilt hot state knows only that a retry is due: the scheduler, alone, puts it back once more.
            await corridor.house.reconcile.recover()
            schedule = asyncio.create_task(corridor.house.schedule.run())
            async with asyncio.timeout(20):
                while await _in_slow(corridor) < 2:
                    await asyncio.sleep(0)
            corridor.house.schedule.close()
            await schedule
        async with opened(tmp_path, clock, retry__jitter=0.0) as corridor:
            await corridor.house.reconcile.recover()
            async with _working(corridor, settling=True):
                status = await corridor.ended(id_)
                await corridor.house.deliver_stage.caught_up()
            assert (status.state, status.attempts) == ("delivered", 2)
            assert f"{STALE.name} 1.0" in corridor.metrics.expose().decode()
        assert [got.attempt for got in receiver.captured] == [1, 2]
