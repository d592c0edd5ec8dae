"""What several tests start from: a house over the embedded engine in a temporary folder, and a clock in hand."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Raw

from howk.domain.delivery import Status
from howk.domain.records import PENDING
from howk.flow.ingest import Enqueue
from howk.ports.log import Record
from howk.ports.telemetry import Attempt, Event, Level
from howk.runtime.declaring import build
from howk.runtime.door import Trust
from howk.runtime.observability import Metrics
from howk.runtime.settings import Settings
from howk.runtime.wiring import Engines, House, SystemRandom, Tools, engines, wire
from howk.testing.clock import ManualClock

TRIAL = Trust((), loopback=True, trial=True)
DEADLINE = 20.0
NOW = 1_790_000_000_000
"""2026-09-21T14:13:20Z: where a house's clock starts unless the test brings one."""


class Notes:
    """A reporter that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[tuple[Event, str]] = []
        self.tried: list[Attempt] = []

    def wants(self, level: Level) -> bool:
        return level != "debug"

    def attempts(self, attempts: Sequence[Attempt]) -> None:
        self.tried += attempts

    def say(self, event: Event, message: str, **fields: str | int | float) -> None:
        self.lines.append((event, message))

    def warn(self, event: Event, message: str, **fields: str | int | float) -> None:
        self.lines.append((event, message))

    def fail(self, event: Event, message: str, **fields: str | int | float) -> None:
        self.lines.append((event, message))


def settings(folder: Path, **values: Any) -> Settings:
    """Defaults over a folder, with single keys set: `retry__jitter=0.0`."""
    given = {name.replace("__", "."): value for name, value in values.items()}
    # A test's clock jumps without waking anybody: the schedule looks often.
    return build(Settings, {"data_dir": folder, "scheduler.poll_interval": 0.01, **given})


class Corridor:
    """A running house. Nothing in it sleeps longer than the ticker's poll."""

    def __init__(self, house: House, clock: ManualClock, metrics: Metrics, notes: Notes) -> None:
        self.house = house
        self.clock = clock
        self.metrics = metrics
        self.notes = notes

    @property
    def engines(self) -> Engines:
        return self.house.engines

    async def send(self, url: str, payload: bytes = b"{}", **fields: Any) -> str:
        """Accept one delivery; its id."""
        answer = (
            await self.house.ingest.accept("app", [Enqueue(endpoint=url, payload=Raw(payload), **fields)], "test")
        )[0]
        assert isinstance(answer, str), answer
        return answer

    async def status(self, webhook_id: str) -> Status | None:
        return (await self.engines.state.status([webhook_id]))[0]

    async def until(self, webhook_id: str, wanted: Callable[[Status], bool]) -> Status:
        """The delivery's status once it is as wanted."""
        async with asyncio.timeout(DEADLINE):
            while True:
                status = await self.status(webhook_id)
                if status is not None and wanted(status):
                    return status
                await asyncio.sleep(0)

    async def ended(self, webhook_id: str) -> Status:
        return await self.until(webhook_id, lambda status: status.ended_at > 0)

    async def failed(self, webhook_id: str, attempts: int) -> Status:
        """Waiting for a retry after this many attempts."""
        return await self.until(webhook_id, lambda s: s.state == "failed" and s.attempts == attempts)

    async def taken(self) -> None:
        """Everything that was accepted so far is in deliver's hands: how long it waits there counts from now on."""
        log = self.engines.log
        await log.append([Record(PENDING, "app/the last", b"?")])
        ((place, (_, stop)),) = (await log.bounds(PENDING)).items()
        # One that nobody can read ends without a call, and behind those before it.
        await self.ended(f"{PENDING}/{place.partition}/{stop - 1}")

    async def delivered_in_time(self, ids: Sequence[str], every: Callable[[], None] = lambda: None) -> None:
        """All of these are delivered while the clock goes on, as fast as the rooms get to see it; `every` looks on
        before each second."""
        async with asyncio.timeout(DEADLINE):
            while not all(status and status.ended_at for status in await self.engines.state.status(ids)):
                every()
                self.clock.advance(1_000)
                await asyncio.sleep(0.02)
        assert {status.state for status in await self.engines.state.status(ids) if status} == {"delivered"}


@contextlib.asynccontextmanager
async def opened(folder: Path, clock: ManualClock | None = None, **values: Any) -> AsyncGenerator[Corridor]:
    """The house with its engines open and nothing running."""
    clock = clock or ManualClock(NOW)
    metrics, notes = Metrics(), Notes()
    tools = Tools(clock, SystemRandom(), metrics, notes)
    tree = settings(folder, **values)
    async with engines(tree, TRIAL, tools) as found:
        yield Corridor(wire(tree, TRIAL, found, tools), clock, metrics, notes)


@contextlib.asynccontextmanager
async def running(folder: Path, clock: ManualClock | None = None, **values: Any) -> AsyncGenerator[Corridor]:
    """The house with every stage running, as the service starts them."""
    async with opened(folder, clock, **values) as corridor, serving(corridor.house):
        yield corridor


@contextlib.asynccontextmanager
async def serving(house: House) -> AsyncGenerator[None]:
    """Every stage of a house that is open."""
    await house.reconcile.recover()
    await house.recall.turn()
    await house.configs.catch_up()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(house.keys.run()),
            group.create_task(house.control.run()),
            group.create_task(house.retention.run()),
            group.create_task(house.settle_stage.run()),
            group.create_task(house.deliver_stage.run()),
            group.create_task(house.pace.run()),
        ]
        await house.settle_stage.caught_up()
        house.deliver.open_turns()
        house.deliver_stage.open_lanes()
        tasks.append(group.create_task(house.schedule.run()))
        yield
        house.schedule.close()
        house.keys.close()
        house.control.close()
        house.retention.close()
        house.deliver_stage.close()
        house.deliver.stop()
        house.engines.sender.abort()
        await house.deliver_stage.flushed()
        for task in tasks:
            task.cancel()
