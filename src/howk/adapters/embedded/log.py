"""The log on SQLite: WAL, synchronous=FULL, one file, so that an append of several streams is one atomic act.

A row is a batch of records of one stream, its key the offset of the first, as in Kafka; what waits together shares
one commit and so one fsync. Consumers at the end of a stream are handed what was committed without reading it
back. There is one partition, 0: the process is the only consumer.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from howk.adapters.embedded import rows, schema
from howk.adapters.embedded.db import Checkpoints, Committer, connect, transaction, translate
from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.follow import Follow
from howk.adapters.embedded.tail import Tail
from howk.domain.errors import Full, Transient
from howk.domain.offsets import Finished
from howk.ports.clock import Clock
from howk.ports.log import Capabilities, Consumer, Entry, Finish, Follower, Place, Progress, Record, Space

_MAX_RECORD = 64 << 20
_MAX_WAITING_BYTES = 256 << 20
_WAL_BYTES = 32 << 20
_LARGE = 16 << 10
_LARGE_IN_ALL = 1 << 20
_READ_BATCH = 256
# What is restored of it then fills its statements.
_REPLAY_BATCH = 1_024
_READ_BYTES = 16 << 20
_T = TypeVar("_T")

Added = dict[str, tuple[int, list[Record]]]
Tables = dict[str, dict[str, bytes]]


class _Append(NamedTuple):
    records: Sequence[Record]
    finish: Finish | None
    size: int = 0


class _Trim(NamedTuple):
    stream: str
    before: int
    older_than: int | None


class _GiveBack(NamedTuple):
    """Let the file shrink; a job of its own, so that appends may come between it and the trim before."""

    gently: bool


class _Probe(NamedTuple):
    """Commit something, to see that it can be done."""


_Job = _Append | _Trim | _GiveBack | _Probe


def _order(job: _Job) -> Collection[Hashable]:
    """What the order of an append is promised by: the keys of its records in their streams."""
    return {(record.stream, record.key) for record in job.records} if isinstance(job, _Append) else ()


class _Outcome(NamedTuple):
    """A job's answer. The group's first also says what the group added to each stream, from which offset, what it set
    in each table, and when."""

    answer: int
    added: Added
    tables: Tables
    at: int


class EmbeddedLog:
    """The `Log` port on one SQLite file."""

    capabilities = Capabilities(atomic_append=True, multi_process=False, max_record=_MAX_RECORD)

    def __init__(self, path: Path, writer: sqlite3.Connection, directory: Directory, clock: Clock) -> None:
        self._path = path
        self._directory = directory
        self._clock = clock
        self._writer = writer
        # `_next` is the writer thread's, `_end` the loop's: what consumers may see.
        self._next = {stream: schema.end(writer, stream) for stream in schema.STREAMS}
        self._end = dict(self._next)
        self._finished = schema.load_progress(writer, self._next)
        self._tails: dict[str, list[Tail]] = {stream: [] for stream in schema.STREAMS}
        self._follows: dict[str, list[Follow]] = {}
        self._reader = connect(path, pragmas=("cache_size=-8192",), read_only=True)
        self._reader.text_factory = schema.tolerant
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="howk-log-read")
        self._loop = asyncio.get_running_loop()
        self._snapshots: set[sqlite3.Connection] = set()
        self._waiting_bytes = 0
        self._closed = False
        self._checkpoints = Checkpoints(path, _WAL_BYTES)
        self._committer: Committer[_Job, _Outcome] = Committer(
            "log", self._commit, before_answer=self._publish, order=_order
        )

    @classmethod
    def open(cls, directory: Directory, clock: Clock) -> "EmbeddedLog":
        """Open or create `log.db`. Raises `Permanent` where opening it would hide a loss."""
        path = directory.path / "log.db"
        with ExitStack() as undo:
            writer = schema.open_writer(path, directory)
            undo.callback(schema.leave_writer, writer, directory)
            try:
                log = cls(path, writer, directory, clock)
            except schema.UNREADABLE as error:
                raise schema.unopened(path, error) from error
            undo.pop_all()
        directory.opened()
        return log

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        size = sum([len(record.value) for record in records])
        if self._waiting_bytes + size > _MAX_WAITING_BYTES and self._waiting_bytes:
            raise Full(f"{self._waiting_bytes >> 20} MiB wait for the log: try again in a moment")
        self._waiting_bytes += size
        try:
            # What ends work passes what brings some, and what is little passes what is much.
            large = finish is None and size > min(_LARGE * len(records), _LARGE_IN_ALL)
            await self._committer.submit(_Append(records, finish, size), size, large=large)
        finally:
            self._waiting_bytes -= size

    def _commit(self, jobs: list[_Job]) -> list[_Outcome]:
        added: Added = {}
        tables: Tables = {}
        finished: dict[tuple[str, Place], Finished] = {}
        for job in jobs:
            if isinstance(job, _Append):
                self._gather(job.records, added, tables)
                if job.finish is not None:
                    self._merge(finished, job.finish)
        at = self._clock.now()
        letters = schema.progress_letters(finished)
        for stream, (base, batch) in added.items():
            letters.extend(schema.batch_letters(stream, rows.pack(base, at, batch)))
        for table, values in tables.items():
            letters.extend(schema.table_letters(table, values))
        answers = self._write(jobs, letters)
        self._finished.update(finished)
        for stream, (base, batch) in added.items():
            self._next[stream] = base + len(batch)
        self._checkpoints.after_commit(self._writer, sum([job.size for job in jobs if isinstance(job, _Append)]))
        return [_Outcome(answer, {} if i else added, {} if i else tables, at) for i, answer in enumerate(answers)]

    def _write(self, jobs: list[_Job], letters: list[schema.Letter]) -> list[int]:
        if all(isinstance(job, _Append) for job in jobs):
            schema.write(self._writer, letters)
            return [0] * len(jobs)
        # One transaction, and so one fsync, for all of it.
        with transaction(self._writer):
            answers = [self._trim(job) if isinstance(job, _Trim) else 0 for job in jobs]
            if any(isinstance(job, _Probe) for job in jobs):
                schema.touch(self._writer)
            schema.write(self._writer, letters)
        for job in jobs:
            if isinstance(job, _GiveBack):
                # What was committed stands, whatever becomes of this.
                with suppress(sqlite3.DatabaseError):
                    schema.give_back(self._writer, gently=job.gently)
        return answers

    def _gather(self, records: Sequence[Record], added: Added, tables: Tables) -> None:
        for record in records:
            stream = record.stream
            if stream in added:
                added[stream][1].append(record)
            elif stream in self._next:
                added[stream] = (self._next[stream], [record])
            else:
                tables.setdefault(stream, {})[record.key] = record.value

    def _trim(self, job: _Trim) -> int:
        unfinished = [state.next for (_, place), state in self._finished.items() if place.stream == job.stream]
        return schema.trim(self._writer, job.stream, min([job.before, *unfinished]), job.older_than)

    def _merge(self, finished: dict[tuple[str, Place], Finished], finish: Finish) -> None:
        for place, offsets in finish.offsets.items():
            key = (finish.group, place)
            if key not in finished:
                known = self._finished.get(key)
                finished[key] = known.copy() if known else Finished(schema.first(self._writer, place.stream))
            finished[key].add_all(offsets)

    def _publish(self, group: list[_Outcome]) -> None:
        _, added, tables, at = group[0]
        for stream, (base, records) in added.items():
            tails = self._tails[stream]
            self._end[stream] = base + len(records)
            if any(tail.wants(base) for tail in tails):
                entries = [Entry(stream, 0, base + i, each.key, each.value, at) for i, each in enumerate(records)]
                for tail in tails:
                    tail.offer(base, entries)
            for tail in tails:
                tail.wake()
        for table, follows in self._follows.items():
            if table in tables:
                entries = [Entry(table, 0, 0, key, value, at) for key, value in tables[table].items()]
                for follow in follows:
                    follow.offer(entries)

    async def consume(self, stream: str, group: str, wake: Callable[[], None]) -> Consumer:
        # From now on the group is known, and nothing that it has yet to finish is trimmed away.
        await self._committer.submit(_Append((), Finish(group, {Place(stream, 0): ()})))
        finished = await self._ask(lambda: schema.load_group(self._reader, stream, group))

        async def read(start: int, limit: int) -> Sequence[Entry]:
            return await self._ask(lambda: self._rows(stream, start, limit))

        tail = Tail(finished, read, lambda: self._end[stream], wake)
        self._tails[stream].append(tail)
        return tail

    async def replay(self, table: str, prefix: str = "") -> AsyncIterator[Sequence[Entry]]:
        # Rows change place when they change, so the instant is fixed by one read transaction of its own.
        snapshot = await self._ask(lambda: schema.snapshot(self._path, table, prefix))
        self._snapshots.add(snapshot.connection)
        try:
            while batch := await self._ask(lambda: schema.next_rows(snapshot, table, _REPLAY_BATCH, _READ_BYTES)):
                yield batch
        finally:
            self._snapshots.discard(snapshot.connection)
            snapshot.connection.close()

    async def follow(self, table: str, wake: Callable[[], None]) -> Follower:
        if self._closed:
            raise self._gone()

        async def rows(after: str | None, limit: int) -> Sequence[Entry]:
            batch = await self._ask(lambda: schema.rows_after(self._reader, table, after, limit))
            if not batch:
                # The reader may have seen a commit before it was published: changes are handed out only after it was.
                await self._committer.submit(_Append((), None))
            return batch

        follow = Follow(rows, wake)
        self._follows.setdefault(table, []).append(follow)
        return follow

    async def read(self, stream: str, partition: int, start: int, stop: int) -> AsyncIterator[Sequence[Entry]]:
        del partition
        while start < stop:
            batch = await self._ask(lambda at=start: self._rows(stream, at, _READ_BATCH))
            kept = batch if batch and batch[-1].offset < stop else [entry for entry in batch if entry.offset < stop]
            if not kept:
                return
            yield kept
            start = kept[-1].offset + 1

    def _rows(self, stream: str, start: int, limit: int) -> list[Entry]:
        entries: list[Entry] = []
        size = 0
        with closing(schema.rows_from(self._reader, stream, start)) as found:
            for row in found:
                unpacked = rows.unpack(stream, row)
                entries += unpacked if row[0] >= start else [entry for entry in unpacked if entry.offset >= start]
                size += len(row[4])
                if len(entries) >= limit or size >= _READ_BYTES:
                    break
        return entries

    async def bounds(self, stream: str) -> Mapping[Place, tuple[int, int]]:
        first = await self._ask(lambda: schema.first(self._reader, stream))
        return {Place(stream, 0): (first, self._end[stream])}

    async def progress(self, stream: str, group: str) -> Mapping[Place, Progress]:
        finished = await self._ask(lambda: schema.load_group(self._reader, stream, group))
        return {Place(stream, 0): Progress(finished.next, finished.beyond)}

    async def trim(self, stream: str, partition: int, before: int, older_than: int | None = None) -> int:
        del partition
        first = (await self._committer.submit(_Trim(stream, before, older_than))).answer
        await self._committer.submit(_GiveBack(gently=older_than is not None))
        return first

    async def space(self) -> Space:
        return await self._ask(self._space)

    def _space(self) -> Space:
        held = schema.pages(self._reader)
        disk = os.statvfs(self._path.parent)
        room = held.free + disk.f_bavail * disk.f_frsize
        return Space(held.used, room, disk.f_blocks * disk.f_frsize, held.excess)

    async def check(self) -> None:
        # A commit, since nothing less tells a full disk.
        await self._committer.submit(_Probe())
        await self._ask(lambda: self._reader.execute("SELECT 1").fetchone())

    def sizes(self) -> Mapping[str, int]:
        parts = {"data": self._path, "wal": self._path.with_name(self._path.name + "-wal")}
        return {part: path.stat().st_size if path.exists() else 0 for part, path in parts.items()}

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._committer.close()
        await self._loop.run_in_executor(None, self._checkpoints.close)
        self._reading.shutdown(wait=True)
        self._reader.close()
        for left in self._snapshots:
            # Of a reading that an error broke off; it would keep the log from being closed whole.
            left.close()
        await self._loop.run_in_executor(None, schema.close_writer, self._writer, self._directory)

    async def _ask(self, question: Callable[[], _T]) -> _T:
        if self._closed:
            raise self._gone()
        try:
            return await self._loop.run_in_executor(self._reading, question)
        except sqlite3.DatabaseError as error:
            raise translate("log", error) from error

    def _gone(self) -> Transient:
        return Transient("the log is closed: the process is stopping, try again")
