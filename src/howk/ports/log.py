"""The log: streams that are read once by each group, and tables that hold the last value of each key.

This is the contract; `howk.testing` holds the suite that shows it of an engine. Two authors who read this page
should build engines that can't be told apart by a room.

**Order.** Records of one key in one stream are read in the order in which their appends were called. Between keys
there is no promise. An offset belongs to (stream, partition), rises, and is never given twice; there may be gaps.

**Append.** `append(records, finish)` takes records of several streams and tables and the progress of one group, and
is one atomic act where `capabilities.atomic_append` says so: after a crash either all of it is there or none of
it. Where an engine can't, records come first and progress last, so that a crash repeats and never loses. When
it returns everything is durable (embedded: fsync; Kafka: acks=all) and only then may readers see it. When it raises
`Transient`, the caller can't know whether it happened; it appends again, and what that repeats is told apart by
(series, gen). `Full` means that nothing was taken. A cancelled caller's append may still happen. Calls may overlap;
an engine commits those that wait together.

**Finish.** Progress of a group in a partition is the next offset and a run-length map of what is finished beyond
it, so a record that takes 30 s does not hold back those behind it, and a crash repeats only what was in flight. To
finish an offset again changes nothing. A group that is new starts at the earliest record.

**Consume.** `consume(stream, group, wake)` gives a consumer whose `fetch` answers at once with what is there, each
record once, nothing that the group had finished when the consumer was opened. `wake` is called on the event loop when
`fetch` may have more; it may be called too often, never too seldom. A record is handed out by one consumer of the
group at a time. What is fetched and not finished stays the caller's; the engine buffers no more than a bounded
number of records ahead of it. A record whose bytes on disk are damaged is handed out with `value` as it was found
and `damage` set: it is the caller's to dead-letter and finish it.

**Tables.** A value of `b""` is a tombstone: the key is gone. `replay(table, prefix)` gives the live rows whose key
begins with the prefix, as they were at one instant, in batches; what was appended before the call is among them.
`follow(table, wake)` gives a table's live rows and then its changes, for a part that holds it in memory. After the last
value of a key that a fetch has given, no earlier one comes; values that were replaced before they were fetched may be
left out, a value may come again, and a removal comes as its tombstone. **A fetch gives nothing only when everything
whose append was answered before the call has been given**: so a part that has read until nothing came knows every such
write, whoever made it, and that is how a write governs what begins after its answer. (Kafka: the end offsets are asked
for when there is nothing at hand.) A fetch that is cancelled or raises `Transient` loses nothing; two at once are the
caller's mistake. A follower that does not fetch holds at most the last value of each key that changed.

**Read.** `read(stream, partition, start, stop)` gives records by offset, for rebuilding: in order, in batches, gaps
allowed, nothing at or past `stop`. `bounds` gives the earliest offset kept and the offset that comes next.

**Trim.** `trim` drops whole stored batches below an offset, a bounded part of them, and never past what some group of
the stream has not finished; with a time it stops at the first batch that was appended then or later. It answers with
the earliest offset that is still there, and is called again for the rest. A group that has never consumed the stream
holds nothing back: who trims knows whose work it is. What was dropped leaves room for what comes.

**Space.** `space` says what the log keeps and what it could still write. What holds nothing any more does not count as
used, and is written over before files grow; what is held beyond that is given back to the disk with each `trim`, a
bounded part. (Kafka: the brokers' own retention; an engine that can't tell says that it uses nothing.)

**Retries** are the caller's. **After close** every call raises `Transient`; `close` first commits what was appended.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct


class Record(Struct, frozen=True, gc=False):
    """What is appended. `key` decides order and, in a table, identity."""

    stream: str
    key: str
    value: bytes


class Entry(Struct, frozen=True, gc=False):
    """What is read: a record and where it stands. `at` is the time of its append in Unix milliseconds."""

    stream: str
    partition: int
    offset: int
    key: str
    value: bytes
    at: int
    damage: str = ""

    @property
    def source(self) -> str:
        """`stream/partition/offset`: the name of a record that has no other."""
        return f"{self.stream}/{self.partition}/{self.offset}"


class Place(NamedTuple):
    """A partition of a stream."""

    stream: str
    partition: int


class Finish(NamedTuple):
    """Offsets that `group` has finished: their outcome is in the log before or with this."""

    group: str
    offsets: Mapping[Place, Sequence[int]]


class Progress(NamedTuple):
    """What a group has finished: everything below `next`, and the half-open ranges in `beyond`."""

    next: int
    beyond: tuple[tuple[int, int], ...] = ()


class Capabilities(NamedTuple):
    """What an engine can do; wiring refuses a combination that can't keep an invariant."""

    atomic_append: bool
    multi_process: bool
    max_record: int
    """The largest value in bytes."""


class Space(NamedTuple):
    """How full the log is, in bytes."""

    used: int
    """What is kept takes so much."""
    room: int
    """So much more can be written: what is free on the disk, and in files that the log has already."""
    disk: int
    """The size of the disk."""
    excess: int = 0
    """Held and not used, and to be given back."""


class Consumer(Protocol):
    """One group's reading of one stream."""

    async def fetch(self, limit: int) -> Sequence[Entry]:
        """At most `limit` records that are there now, in order; none when there is nothing."""
        ...

    def ready(self) -> bool:
        """Whether `fetch` may give something."""
        ...

    def backlog(self) -> int:
        """How many records are not fetched yet, about."""
        ...


class Follower(Protocol):
    """One reading of a table: its rows, then its changes."""

    async def fetch(self, limit: int) -> Sequence[Entry]:
        """At most `limit` of what was not given yet; none at the end that the table had at the call."""
        ...

    def ready(self) -> bool:
        """Whether `fetch` may give something."""
        ...


class Log(Protocol):
    """See the module for the contract."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None: ...

    async def consume(self, stream: str, group: str, wake: Callable[[], None]) -> Consumer: ...

    def replay(self, table: str, prefix: str = "") -> AsyncIterator[Sequence[Entry]]: ...

    async def follow(self, table: str, wake: Callable[[], None]) -> Follower: ...

    def read(self, stream: str, partition: int, start: int, stop: int) -> AsyncIterator[Sequence[Entry]]: ...

    async def bounds(self, stream: str) -> Mapping[Place, tuple[int, int]]:
        """For each partition of a stream, the earliest offset kept and the next one that will be given."""
        ...

    async def progress(self, stream: str, group: str) -> Mapping[Place, Progress]: ...

    async def trim(self, stream: str, partition: int, before: int, older_than: int | None = None) -> int:
        """Drop what stands below the offset `before`, and was appended before `older_than` in Unix milliseconds."""
        ...

    async def space(self) -> Space: ...

    async def check(self) -> None:
        """Ask the engine; returns when it answers, raises `Transient` with the reason when it does not."""
        ...

    def sizes(self) -> Mapping[str, int]:
        """Bytes on disk by part, of a small fixed set of parts; for a gauge."""
        ...

    async def close(self) -> None: ...
