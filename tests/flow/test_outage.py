"""What an outage costs: 100 000 deliveries to an endpoint that is down for an hour and for a day, counted in the log.

Every room and the embedded engine are the real ones; only the network is not: a sender that answers at once.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Raw
from tests.support import TRIAL, Corridor, ManualClock, Notes, serving, settings

from howk.domain.records import DEADLETTER, PENDING, RESULTS, SLOW, STATE
from howk.flow.ingest import Enqueue
from howk.ports.log import Finish, Log, Record
from howk.ports.sender import Answer, Answered, Call, Connections
from howk.runtime.observability import Metrics
from howk.runtime.wiring import SystemRandom, Tools, engines, wire

MANY = 100_000
_HOUR = 3_600_000
_MINUTE = 60_000
_BATCH = 1_000


class Line:
    """A sender whose receiver is down or up, and answers on the next turn of the loop."""

    def __init__(self) -> None:
        self.status = 503
        self.seen: Counter[str] = Counter()
        self.answered_well: Counter[str] = Counter()
        self._open: dict[int, tuple[Call, Answered]] = {}

    def send(self, calls: Sequence[Call], answered: Answered) -> None:
        loop = asyncio.get_running_loop()
        for call in calls:
            self._open[id(call)] = (call, answered)
            loop.call_soon(self._answer, call)

    def _answer(self, call: Call) -> None:
        if id(call) not in self._open:
            return
        _, answered = self._open.pop(id(call))
        id_ = call.head.partition(b"webhook-id: ")[2].partition(b"\r\n")[0].decode()
        self.seen[id_] += 1
        if self.status < 300:
            self.answered_well[id_] += 1
        answered(call, Answer(self.status))

    def in_flight(self) -> int:
        return len(self._open)

    def connections(self) -> Connections:
        return Connections(0, 0, 0, 0, 0)

    async def drain(self, timeout: float) -> bool:
        return not self._open

    def abort(self) -> None:
        for call, answered in list(self._open.values()):
            answered(call, Answer(0, "cancelled"))
        self._open.clear()

    async def close(self) -> None:
        self.abort()


class Counted:
    """A log that counts what is appended to it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.appended: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        await self._log.append(records, finish)
        self.appended.update([record.stream for record in records])


class Outage(NamedTuple):
    corridor: Corridor
    line: Line
    counted: Counted

    def records(self) -> int:
        return self.counted.appended.total()


@contextlib.asynccontextmanager
async def outage(folder: Path) -> AsyncGenerator[Outage]:
    clock, metrics, notes = ManualClock(), Metrics(), Notes()
    tools = Tools(clock, SystemRandom(), metrics, notes)
    tree = settings(folder, retry__jitter=0.0, scheduler__poll_interval=0.001)
    async with engines(tree, TRIAL, tools) as found:
        line, counted = Line(), Counted(found.log)
        house = wire(tree, TRIAL, found._replace(log=counted, sender=line), tools)  # pyright: ignore[reportArgumentType]
        corridor = Corridor(house, clock, metrics, notes)
        async with serving(house):
            yield Outage(corridor, line, counted)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0)


async def _settled(corridor: Corridor) -> None:
    await corridor.house.deliver_stage.caught_up()
    await corridor.house.settle_stage.caught_up()


async def _hold(out: Outage, many: int) -> None:
    """Open the breaker, then let so many come."""
    ingest = out.corridor.house.ingest
    hook = Enqueue(endpoint="https://down.example.com/hook", payload=Raw(b"{}"))
    await ingest.accept("app", [hook] * 5, "test")
    await _settled(out.corridor)
    for _ in range(many // _BATCH):
        await ingest.accept("app", [hook] * _BATCH, "test")
    await _settled(out.corridor)
    # The first five fall due once more, and are put aside as well.
    out.corridor.clock.advance(10_000)
    await _until(lambda: out.counted.appended[SLOW] >= 5)
    await _settled(out.corridor)
    held = (await out.corridor.engines.state.claim(out.corridor.clock.now(), 0, 1.0)).held
    assert held == {"breaker": many + 5}


async def _pass_time(out: Outage, milliseconds: int) -> int:
    """Minute by minute: in each one probe goes and fails; how many records that took."""
    before = out.records()
    for _ in range(milliseconds // _MINUTE):
        seen = out.line.seen.total()
        out.corridor.clock.advance(_MINUTE)
        await _until(lambda seen=seen: out.line.seen.total() > seen)
        await _settled(out.corridor)
    return out.records() - before


async def test_an_outage_costs_three_records_a_hold_and_its_length_only_the_probes(tmp_path: Path) -> None:
    async with outage(tmp_path) as out:
        await _hold(out, MANY)
        # Two for each to be accepted and tell so, were they not held; a hold is a result and a row, and its way back
        # will be a record of the slow lane.
        assert out.records() <= (MANY + 5) + 2 * (MANY + 5) + 5 * 3 + 10
        out.corridor.clock.advance(4 * _MINUTE)
        an_hour = await _pass_time(out, _HOUR)
        the_day = an_hour + await _pass_time(out, 23 * _HOUR)
        assert (await out.corridor.engines.state.statistics(out.corridor.clock.now())).waiting == MANY + 5
        assert out.line.seen.total() == 5 + 24 * 60
        # A probe is let go, fails and waits for its retry, is let go for that, and put aside: with the endpoint's row
        # seven records, however many are held; the first ones find the retries of the failures that opened the breaker.
        assert an_hour <= 7 * 60 + 10
        assert the_day <= 7 * 60 * 24 + 10


async def test_when_the_outage_is_over_all_of_it_is_delivered_once_at_three_records_a_hold(tmp_path: Path) -> None:
    many = 20_000
    async with outage(tmp_path) as out:
        await _hold(out, many)
        out.line.status = 200
        before = out.counted.appended.copy()
        out.corridor.clock.advance(5 * _MINUTE)
        async with asyncio.timeout(120):
            while (await out.corridor.engines.state.statistics(out.corridor.clock.now())).waiting:
                out.corridor.clock.advance(250)
                await asyncio.sleep(0.002)
        await _settled(out.corridor)
        grown = out.counted.appended - before
        assert out.line.answered_well.total() == len(out.line.answered_well) == many + 5
        assert out.line.seen.total() == 5 + many + 5
        # The way back of each, its outcome, and the end of its row; beside them the rows of the endpoint.
        assert grown[SLOW] == many + 5
        assert grown[RESULTS] == many + 5
        assert grown[STATE] <= many + 5 + 10
        assert grown[PENDING] == grown[DEADLETTER] == 0
