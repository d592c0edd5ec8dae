"""The front of the log: what every room shares of encoding, keys and measuring. Rooms meet here and nowhere else.

Knows the shapes of records and which stream each goes to; knows no engine and takes no decision.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence

from msgspec.structs import replace

from howk.domain.breaker import is_default, written
from howk.domain.delivery import schedule
from howk.domain.idempotency import scoped
from howk.domain.offsets import Finished
from howk.domain.records import (
    CONTROL,
    DEADLETTER,
    KEYS,
    PENDING,
    RESULTS,
    SLOW,
    STATE,
    ConfigRecord,
    DeadLetter,
    Delivery,
    EndpointRow,
    KeyRecord,
    Mark,
    Result,
    Waiting,
    encode,
)
from howk.ports.log import Entry, Finish, Follower, Log, Record
from howk.ports.telemetry import APPEND, Meter

MARK = "cancel/"
"""Begins the key of a mark in `howk.state`, before the id of its delivery."""
_AT_ONCE = 500
_ORDERED = "/="


def key_of(scope: str, delivery: str, ordering_key: str = "") -> str:
    """What decides the order of a delivery's records. An ordering key can't be taken for an id."""
    return f"{scope}{_ORDERED}{ordering_key}" if ordering_key else f"{scope}/{delivery}"


def is_ordered(key: str) -> bool:
    """Whether it is the key of a record that has an ordering key."""
    return _ORDERED in key


def pending(delivery: Delivery) -> Record:
    """A first attempt, for the fresh lane."""
    return Record(PENDING, key_of(delivery.scope, delivery.targets[0].id, delivery.ordering_key), encode(delivery))


def accepted(delivery: Delivery) -> Record:
    """A new delivery of one target: to be sent, or for settle to lay by until it is due."""
    return outcome(schedule(delivery), delivery.ordering_key) if delivery.deliver_at else pending(delivery)


def slow(delivery: Delivery, value: bytes) -> Record:
    """A delivery that need not wait any longer; `value` is it as settle wrote it. The first attempt of one with an
    ordering key takes its place in the fresh lane."""
    stream = PENDING if delivery.ordering_key and not delivery.rank else SLOW
    return Record(stream, key_of(delivery.scope, delivery.targets[0].id, delivery.ordering_key), value)


def crowded(delivery: Delivery) -> Record:
    """A first attempt of a sender that is over its share."""
    return Record(SLOW, key_of(delivery.scope, delivery.targets[0].id), encode(delivery))


def outcome(result: Result, ordering_key: str = "") -> Record:
    """The outcome of one attempt."""
    return Record(RESULTS, key_of(result.scope, result.id, ordering_key), encode(result))


def waits(waiting: Waiting) -> Record:
    """The row of a delivery that waits."""
    return Record(STATE, waiting.delivery.targets[0].id, encode(waiting))


def waits_no_more(delivery: str) -> Record:
    """The tombstone of a delivery that has ended."""
    return Record(STATE, delivery, b"")


def marks(mark: Mark) -> Record:
    """The row of a delivery that is to be cancelled."""
    return Record(STATE, MARK + mark.id, encode(mark))


def marks_no_more(delivery: str) -> Record:
    """The tombstone of a mark: its delivery has ended."""
    return Record(STATE, MARK + delivery, b"")


def stands(row: EndpointRow) -> Record:
    """The row of an endpoint; a tombstone where there is nothing to remember of it."""
    if is_default(row.circuit):
        return Record(STATE, row.id, b"")
    return Record(STATE, row.id, encode(replace(row, circuit=written(row.circuit))))


def dead(letter: DeadLetter) -> Record:
    """A delivery given up; a record that nobody could read is kept under the name of the place where it stood."""
    return Record(DEADLETTER, letter.source or key_of(letter.scope, letter.id), encode(letter))


def kept(record: KeyRecord) -> Record:
    """An idempotency key, for the append that holds its delivery."""
    return Record(KEYS, scoped(record.scope, record.key), encode(record))


def config_key(scope: str) -> str:
    """The key of a config's row in the table of everything that is set from outside."""
    return f"config/{scope}"


def sets(record: ConfigRecord) -> Record:
    """The row of a config."""
    return Record(CONTROL, config_key(record.scope), encode(record))


def sets_no_more(scope: str) -> Record:
    """The tombstone of a config."""
    return Record(CONTROL, config_key(scope), b"")


class Journal:
    """The log as rooms and stages use it, measured."""

    def __init__(self, log: Log, meter: Meter) -> None:
        self.log = log
        self._meter = meter

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        """See `Log.append`."""
        began = time.perf_counter()
        await self.log.append(records, finish)
        self._meter.observe(APPEND, (time.perf_counter() - began,))

    def replay(self, table: str, prefix: str = "") -> AsyncIterator[Sequence[Entry]]:
        """See `Log.replay`."""
        return self.log.replay(table, prefix)

    async def follow(self, table: str, wake: Callable[[], None]) -> Follower:
        """See `Log.follow`."""
        return await self.log.follow(table, wake)

    async def news(self, follower: Follower) -> AsyncIterator[Sequence[Entry]]:
        """What a follower was not given yet, to the end that its table had when this came to it."""
        while batch := await follower.fetch(_AT_ONCE):
            yield batch

    def read(self, stream: str, partition: int, start: int, stop: int) -> AsyncIterator[Sequence[Entry]]:
        """See `Log.read`."""
        return self.log.read(stream, partition, start, stop)

    async def all(self, stream: str) -> AsyncIterator[Sequence[Entry]]:
        """Every record that a stream keeps now."""
        for place, (start, stop) in (await self.log.bounds(stream)).items():
            async for batch in self.log.read(stream, place.partition, start, stop):
                yield batch

    async def unfinished(self, stream: str, group: str) -> AsyncIterator[Sequence[Entry]]:
        """Every record of a stream that a group has not finished."""
        bounds = await self.log.bounds(stream)
        for place, progress in (await self.log.progress(stream, group)).items():
            finished = Finished(progress.next, progress.beyond)
            async for batch in self.log.read(stream, place.partition, progress.next, bounds[place][1]):
                yield [entry for entry in batch if entry.offset not in finished]
