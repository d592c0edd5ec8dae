"""The only loops. A stage reads for its room, bounds what is in hand, and writes what the room gives back.

A room says for each record what comes of it by calling `emit`; the stage gathers what has come, appends it together
with the progress in one act, and only then tells the room. A room decides; it never waits for work, retries, or
starts a task.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from msgspec import Struct

from howk.domain.errors import HowkError, NewerRecord, Transient, whereabouts
from howk.domain.limits import Shares
from howk.flow.journal import Journal
from howk.ports.clock import Clock
from howk.ports.log import Consumer, Entry, Finish, Place, Record
from howk.ports.telemetry import POISON, STAGE_RETRIES, Meter, Reporter

_MAX_BYTES_IN_HAND = 64 << 20
_MAX_PAUSE = 10.0
_OWED_FOR = 0.1
_HURRIES_FOR = 0.1
_FOREVER = 1 << 62
# Records that fail alone, with none between them that passes, are not the fault of the records.
_MOST_POISON_IN_A_ROW = 100
_T = TypeVar("_T")


class Emission(Struct, frozen=True):
    """What came of an entry. `effect` is the room's own, handed back when the records are durable. One that is not
    `finished` is given back as it was: it is read again at the next start. For one that is not `awaited` nothing goes
    on sooner, however soon it is taken."""

    entry: Entry
    records: Sequence[Record]
    effect: object = None
    finished: bool = True
    awaited: bool = True


Emit = Callable[[Emission], None]


class Room(Protocol):
    """A room that takes records. `take` emits exactly once for each entry, then or later, and raises a `HowkError` only
    before it has emitted anything; `Transient` from any call means that the stage calls again.

    A bug may raise anything else at any point. The stage then gives the entries that were not emitted again, each
    alone, and one that still raises to `refuse`. A room that had begun with an entry, so that it will emit for it
    later, knows that itself: it neither begins again nor emits in either call.
    """

    async def take(self, batch: Sequence[Entry], emit: Emit) -> None: ...

    async def refuse(self, entry: Entry, error: str, emit: Emit) -> None:
        """Emit the end of a record that makes `take` raise, and look into it as little as can be. `error` holds nothing
        of the record."""
        ...

    async def settled(self, emissions: Sequence[Emission]) -> None:
        """These emissions are durable, in the order given."""
        ...


class Lane(NamedTuple):
    """A stream that a stage reads, and its share when several have records."""

    stream: str
    weight: int = 1
    held: bool = False
    """Not read until `open_lanes`."""


class Stage:
    """One room's reading of its lanes as one group.

    `window` bounds how many entries are in hand, `at_once` how many the room is given in one call, during which nothing
    else of the process may move, and `appetite` how many more it wants now. With `one_at_a_time` a batch is durable and
    settled before the next is read: for a room whose decisions build on the ones before. With `lazy_finish` progress
    alone, without a record to append, waits for the next append or a tenth of a second: for a room that may be given a
    record again without harm. With `rest` such a stage waits so many seconds for more to come, between batches of which
    nothing was awaited lately: what a batch costs whatever is in it is then shared by more.
    """

    def __init__(
        self,
        group: str,
        room: Room,
        lanes: Sequence[Lane],
        journal: Journal,
        window: int,
        meter: Meter,
        reporter: Reporter,
        *,
        at_once: int = 256,
        one_at_a_time: bool = False,
        lazy_finish: bool = False,
        rest: float = 0.0,
        appetite: Callable[[], int] = lambda: _FOREVER,
    ) -> None:
        self.group = group
        self.problem = ""
        self._room = room
        self._lanes = tuple(lanes)
        self._journal = journal
        self._window = window
        self._at_once = at_once
        self._meter = meter
        self._reporter = reporter
        self._one_at_a_time = one_at_a_time
        self._lazy_finish = lazy_finish
        self._rest = rest
        self._hurries_until = 0.0
        self._appetite = appetite
        self._owed: dict[Place, list[int]] = {}
        self._owed_until = 0.0
        self._shares = Shares([lane.weight for lane in lanes])
        self._emitted: list[Emission] = []
        self._emitted_in_take: list[Emission] = []
        self._poison_in_a_row = 0
        self._consumers: Sequence[Consumer] = ()
        self._in_hand = 0
        self._bytes_in_hand = 0
        self._taking = False
        self._closing = False
        self._lanes_open = False
        self._writing = False
        self._progressed = asyncio.Event()
        self._wake = asyncio.Event()
        self._something = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Read and write until cancelled; raises what no retry can mend."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write())
            group.create_task(self._read())

    def open_lanes(self) -> None:
        """Read the lanes that were held back too."""
        self._lanes_open = True
        self._wake.set()

    def close(self) -> None:
        """Read no more. What is in hand goes on."""
        self._closing = True
        self._wake.set()

    async def drained(self) -> None:
        """Returns when nothing is in hand."""
        await self._idle.wait()

    async def flushed(self) -> None:
        """Returns when everything that was emitted is durable."""
        while self._emitted or self._writing:
            await self._progressed.wait()

    async def caught_up(self) -> None:
        """Returns when everything that the lanes held at the call has been finished, and the room knows."""
        ends = await self._insist(self._ends)
        # The event of the write that is the next to end: asked for before the log is, none is missed.
        progressed = self._progressed
        while await self._insist(lambda: self._lacks(ends)):
            await progressed.wait()
            progressed = self._progressed
        if self._writing:
            # What the log says is finished may still be on its way to the room.
            await self._progressed.wait()

    async def _ends(self) -> dict[Place, int]:
        ends: dict[Place, int] = {}
        for lane in self._lanes:
            bounds = await self._journal.log.bounds(lane.stream)
            ends.update({place: end for place, (_, end) in bounds.items()})
        return ends

    async def _lacks(self, ends: Mapping[Place, int]) -> bool:
        """Whether something below these offsets is not finished."""
        for lane in self._lanes:
            progress = await self._journal.log.progress(lane.stream, self.group)
            if any(done.next < ends.get(place, 0) for place, done in progress.items()):
                return True
        return False

    def backlog(self) -> dict[str, int]:
        """Records not fetched yet, about, of each lane; none before the stage reads."""
        lanes = zip(self._lanes, self._consumers, strict=bool(self._consumers))
        return {lane.stream: consumer.backlog() for lane, consumer in lanes}

    async def _read(self) -> None:
        self._consumers = consumers = [
            await self._insist(lambda lane=lane: self._consume(lane)) for lane in self._lanes
        ]
        while not self._closing:
            self._wake.clear()
            batch = await self._insist(lambda: self._fetch(consumers))
            if not batch:
                await self._wake.wait()
                continue
            if self._closing:
                # It was read while the stage closed, and whoever waits for what is in hand does not know of it.
                return
            self._in_hand += len(batch)
            self._bytes_in_hand += sum([len(entry.value) for entry in batch])
            self._idle.clear()
            self._tell_damage(batch)
            if not await self._hand_over(batch):
                return
            if self._one_at_a_time:
                await self._idle.wait()
                if self._may_rest(len(batch)):
                    await asyncio.sleep(self._rest)
            # Neither an engine nor a room need have let anybody else run.
            await asyncio.sleep(0)

    def _may_rest(self, taken: int) -> bool:
        """Whether more may come before the next batch: not where more was there already."""
        time = asyncio.get_running_loop().time
        return self._rest > 0 and taken < self._at_once and time() >= self._hurries_until

    def _tell_damage(self, batch: Sequence[Entry]) -> None:
        for entry in batch:
            if entry.damage:
                self._reporter.warn("undecodable", entry.damage, stage=self.group, source=entry.source)

    async def _hand_over(self, batch: Sequence[Entry]) -> bool:
        """Give a batch to the room; False when a newer record stops the stage."""
        left = batch
        try:
            if await self._take(batch) is None:
                self._poison_in_a_row = 0
                return True
            left = self._not_emitted(batch)
            while left:
                await self._hand_over_alone(left[0])
                left = left[1:]
        except NewerRecord as error:
            # What is left stays unfinished: the version that wrote it takes it from here.
            self.problem = str(error)
            self._reporter.warn("stage_stalled", str(error), stage=self.group)
            self._in_hand -= len(left)
            if self._in_hand == 0:
                self._idle.set()
            return False
        return True

    async def _hand_over_alone(self, entry: Entry) -> None:
        if self._one_at_a_time:
            await self.flushed()
        error = await self._take((entry,))
        if error is None:
            self._poison_in_a_row = 0
            return
        self._poison_in_a_row += 1
        where = whereabouts(error)
        text = f"howk failed on this record: {where}"
        self._reporter.fail("poison", text, stage=self.group, source=entry.source, key=entry.key)
        self._meter.count(POISON, 1, self.group)
        if self._poison_in_a_row > _MOST_POISON_IN_A_ROW:
            raise error
        if self._not_emitted((entry,)):
            await self._insist(lambda: self._room.refuse(entry, text, self._emit))

    async def _take(self, batch: Sequence[Entry]) -> Exception | None:
        """The unforeseen error of the room's take, None when there was none."""
        self._emitted_in_take.clear()
        self._taking = True
        try:
            await self._insist(lambda: self._room.take(batch, self._emit))
        except (HowkError, MemoryError):
            # Where memory is short no record is at fault: the process ends, and begins anew from the log.
            raise
        except Exception as error:  # noqa: BLE001 - a record must not end the process again and again
            self._emitted_in_take += self._emitted
            return error
        finally:
            self._taking = False
        return None

    def _not_emitted(self, batch: Sequence[Entry]) -> Sequence[Entry]:
        """Of the batch of the take that failed last, what the room has not emitted in it."""
        emitted = {id(emission.entry) for emission in self._emitted_in_take}
        return [entry for entry in batch if id(entry) not in emitted]

    def _consume(self, lane: Lane) -> Awaitable[Consumer]:
        return self._journal.log.consume(lane.stream, self.group, self._wake.set)

    async def _fetch(self, consumers: Sequence[Consumer]) -> Sequence[Entry]:
        free = min(self._window - self._in_hand, self._appetite(), self._at_once)
        if free <= 0 or self._bytes_in_hand >= _MAX_BYTES_IN_HAND:
            return ()
        ready = [
            consumer.ready() and (self._lanes_open or not lane.held)
            for lane, consumer in zip(self._lanes, consumers, strict=True)
        ]
        batch: list[Entry] = []
        for consumer, places in zip(consumers, self._shares.deal(free, ready), strict=True):
            if not places:
                continue
            try:
                batch.extend(await consumer.fetch(places))
            except Transient:
                if not batch:
                    raise
                # What the lane before it has given is in hand. This one is asked again after that.
                break
        return batch

    def _emit(self, emission: Emission) -> None:
        self._emitted.append(emission)
        self._something.set()

    async def _write(self) -> None:
        time = asyncio.get_running_loop().time
        while True:
            await _either(self._something, max(0.0, self._owed_until - time()) if self._owed else None)
            self._something.clear()
            emissions, self._emitted = self._emitted, []
            if self._taking:
                self._emitted_in_take += emissions
            self._writing = True
            records = [record for emission in emissions for record in emission.records]
            if not self._owed:
                self._owed_until = time() + _OWED_FOR
            self._owe(emissions)
            # However busy it is: what is owed grows, and retention waits for it.
            if records or not self._lazy_finish or not emissions or time() >= self._owed_until:
                await self._append(records)
            if emissions:
                await self._insist(lambda emissions=emissions: self._room.settled(emissions))
                if self._rest and any(emission.awaited for emission in emissions):
                    self._hurries_until = time() + _HURRIES_FOR
            self._in_hand -= len(emissions)
            self._bytes_in_hand -= sum([len(emission.entry.value) for emission in emissions])
            if self._in_hand == 0:
                self._idle.set()
            self._writing = False
            progressed, self._progressed = self._progressed, asyncio.Event()
            progressed.set()
            self._wake.set()

    async def _append(self, records: Sequence[Record]) -> None:
        if not records and not self._owed:
            return
        finish = Finish(self.group, self._owed)
        await self._insist(lambda: self._journal.append(records, finish))
        self._owed = {}

    def _owe(self, emissions: Sequence[Emission]) -> None:
        owed = self._owed
        for emission in emissions:
            if not emission.finished:
                continue
            entry = emission.entry
            place = Place(entry.stream, entry.partition)
            if place in owed:
                owed[place].append(entry.offset)
            else:
                owed[place] = [entry.offset]

    async def _insist(self, act: Callable[[], Awaitable[_T]]) -> _T:
        return await insist(act, self.group, self._meter, self._reporter)


class Ticker:
    """A stage without a stream: calls `turn`, which answers with the seconds until it wants to be called again."""

    def __init__(
        self, name: str, turn: Callable[[], Awaitable[float]], clock: Clock, meter: Meter, reporter: Reporter
    ) -> None:
        self._name = name
        self._turn = turn
        self._clock = clock
        self._meter = meter
        self._reporter = reporter
        self._closing = False
        self._wake = asyncio.Event()
        self._sleeps_until = 0

    async def run(self) -> None:
        """Turn until closed."""
        while not self._closing:
            self._wake.clear()
            # Whatever falls due during the turn may have come too late for it.
            self._sleeps_until = _FOREVER
            pause = await insist(self._turn, self._name, self._meter, self._reporter)
            if pause > 0:
                self._sleeps_until = self._clock.now() + round(pause * 1000)
                await _either(self._wake, pause)

    def wake_by(self, due: int) -> None:
        """Something is due at this Unix time in milliseconds: the pause is cut short where it is longer."""
        if due < self._sleeps_until:
            self._wake.set()

    def close(self) -> None:
        """Take no further turn."""
        self._closing = True
        self._wake.set()


async def insist(act: Callable[[], Awaitable[_T]], who: str, meter: Meter, reporter: Reporter) -> _T:
    """Call until it does not raise `Transient`, with a growing pause."""
    failures = 0
    while True:
        try:
            return await act()
        except Transient as error:
            failures += 1
            meter.count(STAGE_RETRIES, 1, who)
            reporter.warn("stage_retry", str(error), stage=who, failures=failures)
            await asyncio.sleep(min(error.retry_after * failures, _MAX_PAUSE))


def attempted(act: Callable[[], _T], tell: Callable[[Exception], None] = lambda _: None) -> _T | None:
    """What `act` returns, None when it raises: for a room that goes on without it. `tell` gets the unforeseen error
    where it has not been said already."""
    try:
        return act()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - one record or answer must not hold up the others
        tell(error)
        return None


async def each(batches: AsyncIterator[Sequence[_T]], act: Callable[[Sequence[_T]], Awaitable[None]]) -> None:
    """Hand every batch of a finite reading to `act`, one after the other."""
    async for batch in batches:
        await act(batch)


async def _either(event: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
