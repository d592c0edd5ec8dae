"""The `Log` port in plain memory: what is durable is an object of its own, which outlives the process that wrote it.

Streams have several partitions, so that only the order of one key holds, as the port says and no more. An append is one
act; of those under way when the process is killed each is there whole or not at all. An engine that can't append
progress in the same act (`atomic=False`) may lose that alone.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple, Protocol
from zlib import crc32

from msgspec.structs import replace
from tests.simulation.world import DAMAGED

from howk.domain.errors import Full, Transient
from howk.domain.offsets import Finished
from howk.domain.records import CONTROL, DEADLETTER, KEYS, PENDING, RESULTS, SLOW, STATE
from howk.ports.clock import Clock
from howk.ports.log import Capabilities, Consumer, Entry, Finish, Follower, Place, Progress, Record, Space

STREAMS = (PENDING, SLOW, RESULTS, DEADLETTER, KEYS)
TABLES = (STATE, CONTROL)
_MOST_WAITING = 20_000
_READ_AT_ONCE = 100
ROW = 10
DISK = 1 << 40


class Partition:
    """Entries of a stream from `first` on. They were stored in rows of so many, which are dropped whole."""

    def __init__(self, row: int) -> None:
        self.entries: list[Entry] = []
        self.first = 0
        self._row = row

    @property
    def end(self) -> int:
        return self.first + len(self.entries)

    def since(self, offset: int, limit: int) -> list[Entry]:
        start = max(offset - self.first, 0)
        return self.entries[start : start + limit]

    def drop(self, before: int, older_than: int | None) -> None:
        count = 0
        while self.first + count + self._row <= min(before, self.end):
            if older_than is not None and self.entries[count + self._row - 1].at >= older_than:
                break
            count += self._row
        del self.entries[:count]
        self.first += count


class Watcher(Protocol):
    """Is told of every commit, before anybody else may see it."""

    def __call__(self, entries: Sequence[Entry], rows: Sequence[Record], finish: Finish | None) -> None: ...


class LogDurable:
    """What is on the disk, and stays when a process ends."""

    def __init__(self, partitions: int = 1, watcher: Watcher | None = None, row: int = ROW) -> None:
        self.partitions = partitions
        self.watcher = watcher
        self.disk = DISK
        self.streams = {stream: [Partition(row) for _ in range(partitions)] for stream in STREAMS}
        self.tables: dict[str, dict[str, Entry]] = {table: {} for table in TABLES}
        self.finished: dict[tuple[str, Place], Finished] = {}

    def commit(self, records: Sequence[Record], finish: Finish | None, at: int) -> tuple[list[Entry], list[Entry]]:
        """One act: what it added to streams, and what it set in tables."""
        added: list[Entry] = []
        rows: list[Entry] = []
        for record in records:
            stream, key, value = record.stream, record.key, record.value
            if stream in self.tables:
                entry = Entry(stream, 0, 0, key, value, at)
                rows.append(entry)
                if value:
                    self.tables[stream][key] = entry
                else:
                    self.tables[stream].pop(key, None)
                continue
            number = crc32(key.encode()) % self.partitions
            partition = self.streams[stream][number]
            entry = Entry(stream, number, partition.end, key, value, at)
            partition.entries.append(entry)
            added.append(entry)
        if finish is not None:
            for place, offsets in finish.offsets.items():
                self.of_group(finish.group, place).add_all(offsets)
        if self.watcher:
            self.watcher(added, [record for record in records if record.stream in self.tables], finish)
        return added, rows

    def damage(self, entry: Entry) -> None:
        """Its bytes are not what was written, and their sum says so."""
        part = self.streams[entry.stream][entry.partition]
        value = b"\xff" + entry.value[1:]
        part.entries[entry.offset - part.first] = replace(entry, value=value, damage=DAMAGED)

    def of_group(self, group: str, place: Place) -> Finished:
        """What a group has finished of a partition; from now on the group is known."""
        key = (group, place)
        if key not in self.finished:
            self.finished[key] = Finished(self.streams[place.stream][place.partition].first)
        return self.finished[key]

    def places(self, stream: str) -> list[Place]:
        return [Place(stream, number) for number in range(self.partitions)]

    def everything(self, stream: str) -> list[Entry]:
        """What a stream holds, partition by partition."""
        return [entry for partition in self.streams[stream] for entry in partition.entries]


class _Append(NamedTuple):
    records: Sequence[Record]
    finish: Finish | None
    done: "asyncio.Future[None]"


class SimulatedLog:
    """What one process knows of it. `pause` gives the seconds until what waits is committed, None for at once;
    `chance` decides from which partition is read first."""

    def __init__(
        self,
        durable: LogDurable,
        clock: Clock,
        *,
        pause: Callable[[], float] = lambda: 0.0,
        chance: Random | None = None,
        atomic: bool = True,
    ) -> None:
        self.capabilities = Capabilities(atomic_append=atomic, multi_process=False, max_record=64 << 20)
        self._durable = durable
        self._clock = clock
        self._pause = pause
        self._chance = chance
        self._waiting: deque[_Append] = deque()
        self._committing = False
        self._closed = False
        self._consumers: dict[str, list[_Consumer]] = {}
        self._followers: dict[str, list[_Follower]] = {}

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        self._check_open()
        if len(self._waiting) >= _MOST_WAITING:
            raise Full(f"{len(self._waiting)} appends wait: try again in a moment")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append(_Append(records, _copy(finish), done))
        if not self._committing:
            self._committing = True
            loop.call_later(self._pause(), self._commit)
        await done

    def _commit(self) -> None:
        """Everything that waits, in the order in which it came."""
        group, self._waiting = self._waiting, deque()
        self._committing = False
        for append in group:
            self._write(append)

    def _write(self, append: _Append) -> None:
        added, rows = self._durable.commit(append.records, append.finish, self._clock.now())
        if not append.done.done():
            append.done.set_result(None)
        for stream in dict.fromkeys([entry.stream for entry in added]):
            for consumer in self._consumers.get(stream, ()):
                consumer.wake()
        for table in dict.fromkeys([row.stream for row in rows]):
            for follower in self._followers.get(table, ()):
                follower.offer([row for row in rows if row.stream == table])

    def kill(self, chance: Random) -> list[str]:
        """The process is gone: each append under way has happened or not. What became of them."""
        self._closed = True
        fates: list[str] = []
        for append in self._waiting:
            fate = chance.choice(("lost", "kept") if self.capabilities.atomic_append else ("lost", "kept", "half"))
            fates.append(fate)
            if fate != "lost":
                finish = append.finish if fate == "kept" else None
                self._durable.commit(append.records, finish, self._clock.now())
        self._waiting.clear()
        return fates

    async def consume(self, stream: str, group: str, wake: Callable[[], None]) -> Consumer:
        self._check_open()
        places = self._durable.places(stream)
        finished = {place: self._durable.of_group(group, place).copy() for place in places}
        consumer = _Consumer(self._durable, finished, wake, self._chance)
        self._consumers.setdefault(stream, []).append(consumer)
        return consumer

    async def replay(self, table: str, prefix: str = "") -> AsyncIterator[Sequence[Entry]]:
        self._check_open()
        rows = [entry for key, entry in sorted(self._durable.tables[table].items()) if key.startswith(prefix)]
        for start in range(0, len(rows), _READ_AT_ONCE):
            yield rows[start : start + _READ_AT_ONCE]

    async def follow(self, table: str, wake: Callable[[], None]) -> Follower:
        self._check_open()
        follower = _Follower(self._durable.tables[table], wake)
        self._followers.setdefault(table, []).append(follower)
        return follower

    async def read(self, stream: str, partition: int, start: int, stop: int) -> AsyncIterator[Sequence[Entry]]:
        self._check_open()
        while start < stop:
            limit = min(_READ_AT_ONCE, stop - start)
            batch = self._durable.streams[stream][partition].since(start, limit)
            kept = [entry for entry in batch if entry.offset < stop]
            if not kept:
                return
            yield kept
            start = kept[-1].offset + 1

    async def bounds(self, stream: str) -> Mapping[Place, tuple[int, int]]:
        self._check_open()
        parts = self._durable.streams[stream]
        return {Place(stream, number): (part.first, part.end) for number, part in enumerate(parts)}

    async def progress(self, stream: str, group: str) -> Mapping[Place, Progress]:
        self._check_open()
        found = {place: self._durable.of_group(group, place) for place in self._durable.places(stream)}
        return {place: Progress(finished.next, finished.beyond) for place, finished in found.items()}

    async def trim(self, stream: str, partition: int, before: int, older_than: int | None = None) -> int:
        self._check_open()
        place = Place(stream, partition)
        groups = [state.next for (_, known), state in self._durable.finished.items() if known == place]
        found = self._durable.streams[stream][partition]
        found.drop(min([before, *groups]), older_than)
        return found.first

    async def space(self) -> Space:
        self._check_open()
        used, disk = sum(self.sizes().values()), self._durable.disk
        return Space(used, max(0, disk - used), disk)

    async def check(self) -> None:
        self._check_open()

    def sizes(self) -> Mapping[str, int]:
        return {"data": sum(len(e.value) for stream in STREAMS for e in self._durable.everything(stream))}

    async def close(self) -> None:
        if not self._closed:
            self._commit()
            self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise Transient("the log is closed: the process is stopping, try again")


def _copy(finish: Finish | None) -> Finish | None:
    """As it is now: whoever appends may go on with its own."""
    if finish is None:
        return None
    return Finish(finish.group, {place: tuple(offsets) for place, offsets in finish.offsets.items()})


class _Consumer:
    """One group's reading: nothing that was finished when it was opened, and the order of a partition."""

    def __init__(
        self, durable: LogDurable, finished: dict[Place, Finished], wake: Callable[[], None], chance: Random | None
    ) -> None:
        self.wake = wake
        self._durable = durable
        self._finished = finished
        self._chance = chance
        self._positions = {place: state.next for place, state in finished.items()}

    async def fetch(self, limit: int) -> Sequence[Entry]:
        places = [place for place in self._positions if self._left(place)]
        if self._chance:
            self._chance.shuffle(places)
        batch: list[Entry] = []
        for place in places:
            if len(batch) < limit:
                batch += self._from(place, limit - len(batch))
        return batch

    def _from(self, place: Place, limit: int) -> list[Entry]:
        part = self._durable.streams[place.stream][place.partition]
        taken: list[Entry] = []
        while len(taken) < limit and self._positions[place] < part.end:
            batch = part.since(self._positions[place], limit - len(taken))
            self._positions[place] = batch[-1].offset + 1
            taken += [entry for entry in batch if entry.offset not in self._finished[place]]
        return taken

    def _left(self, place: Place) -> int:
        part = self._durable.streams[place.stream][place.partition]
        return part.end - max(self._positions[place], part.first)

    def ready(self) -> bool:
        return self.backlog() > 0

    def backlog(self) -> int:
        # Run by run, so that what is finished does not count: a consumer that has nothing to give is not ready.
        return sum(self._unfinished(place) for place in self._positions)

    def _unfinished(self, place: Place) -> int:
        part = self._durable.streams[place.stream][place.partition]
        start, known = max(self._positions[place], part.first), self._finished[place]
        done = sum(max(0, stop - max(begin, start)) for begin, stop in known.beyond)
        return max(0, part.end - start - done)


class _Follower:
    """A table's rows, then the last value of each key that has changed."""

    def __init__(self, rows: Mapping[str, Entry], wake: Callable[[], None]) -> None:
        self._wake = wake
        self._changed: dict[str, Entry] = dict(sorted(rows.items()))

    def offer(self, rows: Sequence[Entry]) -> None:
        for row in rows:
            self._changed[row.key] = row
        self._wake()

    async def fetch(self, limit: int) -> Sequence[Entry]:
        keys = list(self._changed)[:limit]
        return [self._changed.pop(key) for key in keys]

    def ready(self) -> bool:
        return bool(self._changed)
