"""The conformance suite of the `Log` port: an engine is done when it passes.

Subclass `LogSuite` under a name that begins with `Test`, say how the engine is opened, and let pytest (with
pytest-asyncio in its auto mode) collect it. Only the port is used, so nothing here knows how an engine stores
anything; what one engine promises beyond the port (damage, kill -9, its own files) belongs beside the subclass. To
have pytest explain a failed assertion call `pytest.register_assert_rewrite("howk.testing.log_suite")` in a conftest.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from howk.domain.errors import Full, Transient
from howk.domain.records import PENDING, RESULTS, STATE
from howk.ports.log import Consumer, Entry, Finish, Follower, Log, Place, Progress, Record

_T = TypeVar("_T")


class Reading:
    """A consumer and its wake, used as a stage uses them: fetch, and wait for the wake when there was nothing."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._woken = asyncio.Event()
        self.consumer: Consumer

    def wake(self) -> None:
        """What the engine calls."""
        self._woken.set()

    async def some(self, limit: int = 500) -> list[Entry]:
        """The next records, at least one; waits for them."""
        async with asyncio.timeout(self._patience):
            while True:
                self._woken.clear()
                batch = await self.consumer.fetch(limit)
                assert len(batch) <= limit, f"fetch({limit}) gave {len(batch)} records"
                if batch:
                    return list(batch)
                await self._woken.wait()

    async def take(self, count: int, limit: int = 500) -> list[Entry]:
        """Exactly `count` records."""
        taken: list[Entry] = []
        while len(taken) < count:
            taken += await self.some(min(limit, count - len(taken)))
        return taken

    async def until(self, value: bytes) -> list[Entry]:
        """All records before the one with this value."""
        taken: list[Entry] = []
        while not taken or taken[-1].value != value:
            taken += await self.some(1)
        return taken[:-1]


class Holder:
    """A part that holds a table in memory. `went_back` are the keys that were given an earlier value after a later one,
    where values rise."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.rows: dict[str, bytes] = {}
        self.went_back: list[str] = []

    async def step(self, limit: int = 100) -> bool:
        """Take what one fetch gives; whether it was the end."""
        batch = await self.follower.fetch(limit)
        assert len(batch) <= limit, f"fetch({limit}) gave {len(batch)} rows"
        for entry in batch:
            if entry.value < self.rows.get(entry.key, b""):
                self.went_back.append(entry.key)
            if entry.value:
                self.rows[entry.key] = entry.value
            else:
                self.rows.pop(entry.key, None)
        return not batch

    async def catch_up(self) -> None:
        """Take everything until a fetch gives nothing."""
        while not await self.step():
            pass


class LogSuite(ABC):
    """What every log promises; see `howk.ports.log` for the words. Each test has a storage of its own."""

    stream = PENDING
    other_stream = RESULTS
    table = STATE
    overload = 25_000
    """How many appends, begun at once, are more than the engine lets wait."""
    patience = 10.0
    """Seconds after which something that should come is taken for missing."""

    @abstractmethod
    async def open_log(self) -> Log:
        """Open the storage of the running test: empty at first, and as it was left after `close_log`."""

    async def later(self) -> None:
        """Let the log's clock go on, so that what is appended from now on is younger than what was before."""
        await asyncio.sleep(0.002)

    async def close_log(self, log: Log) -> None:
        """Close what `open_log` has opened, so that it can be opened again. May be called for one that is closed."""
        await log.close()

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Log]:
        """A log that is closed at the end, whatever happens."""
        log = await self.open_log()
        try:
            yield log
        finally:
            await self.close_log(log)

    async def reading(self, log: Log, group: str = "group", stream: str = "") -> Reading:
        """A consumer of `stream`."""
        reading = Reading(self.patience)
        reading.consumer = await log.consume(stream or self.stream, group, reading.wake)
        return reading

    # Append

    async def test_records_of_one_key_are_read_in_the_order_of_their_appends(self) -> None:
        async with self.opened() as log:
            reading = await self.reading(log)
            each = [Record(self.stream, key, f"{key}{n}".encode()) for n in range(150) for key in "abc"]
            await asyncio.gather(*[log.append([record]) for record in each])
            handed_out = await reading.take(len(each))
            stored = await everything(log, self.stream)
        for found in (handed_out, stored):
            for key in "abc":
                assert [entry.value for entry in found if entry.key == key] == [
                    f"{key}{n}".encode() for n in range(150)
                ]

    async def test_what_an_answered_append_wrote_is_there_for_every_reader(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.stream, "a", b"1"), Record(self.table, "row", b"2")])
            assert values(await everything(log, self.stream)) == [b"1"]
            assert await rows(log, self.table) == {"row": b"2"}
            assert values(await (await self.reading(log)).take(1)) == [b"1"]

    async def test_one_append_of_streams_table_and_progress_is_all_there_after_a_reopen(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.stream, "a", b"1")])
            first = await (await self.reading(log)).take(1)
            await log.append(
                [Record(self.stream, "a", b"2"), Record(self.other_stream, "a", b"3"), Record(self.table, "row", b"4")],
                finish("group", first),
            )
        async with self.opened() as log:
            assert values(await everything(log, self.stream)) == [b"1", b"2"]
            assert values(await everything(log, self.other_stream)) == [b"3"]
            assert await rows(log, self.table) == {"row": b"4"}
            assert values(await (await self.reading(log)).take(1)) == [b"2"]

    async def test_an_entry_says_where_it_stands_and_is_whole(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.stream, "key ä/1", b"\x00\xff<>&")])
            (entry,) = await (await self.reading(log)).take(1)
            (stored,) = await everything(log, self.stream)
        assert (entry.stream, entry.key, entry.value, entry.damage) == (self.stream, "key ä/1", b"\x00\xff<>&", "")
        assert stored == entry
        assert entry.source == f"{entry.stream}/{entry.partition}/{entry.offset}"

    async def test_many_appends_at_once_all_arrive_once_with_offsets_of_their_own(self) -> None:
        streams = (self.stream, self.other_stream)
        async with self.opened() as log:
            batches = [
                [Record(s, f"k{n % 7}", f"{n}/{i}".encode()) for i in range(n % 4)] for n in range(300) for s in streams
            ]
            await asyncio.gather(*[log.append(batch) for batch in batches])
            found = {stream: await everything(log, stream) for stream in streams}
        for stream, entries in found.items():
            written = [record.value for batch in batches for record in batch if record.stream == stream]
            assert sorted(values(entries)) == sorted(written)
            assert len(places(entries)) == len(written)

    async def test_a_value_of_one_mebibyte_comes_back_byte_for_byte(self) -> None:
        large = bytes(range(256)) * 4096
        async with self.opened() as log:
            reading = await self.reading(log)
            await log.append([Record(self.stream, "a", b"before"), Record(self.stream, "a", large)])
            await log.append([Record(self.table, "row", large), Record(self.stream, "a", b"after")])
            assert values(await reading.take(3)) == [b"before", large, b"after"]
        async with self.opened() as log:
            assert values(await (await self.reading(log)).take(3)) == [b"before", large, b"after"]
            assert await rows(log, self.table) == {"row": large}

    async def test_a_cancelled_append_takes_nothing_from_the_others(self) -> None:
        async with self.opened() as log:
            reading = await self.reading(log)
            first, second, third = (
                asyncio.ensure_future(log.append([Record(self.stream, "a", value)])) for value in (b"1", b"2", b"3")
            )
            second.cancel()
            await asyncio.gather(first, third)
            await log.append([Record(self.stream, "a", b"end")])
            taken = values(await reading.until(b"end"))
        assert [value for value in taken if value != b"2"] == [b"1", b"3"]
        assert taken == sorted(set(taken))

    async def test_over_its_bound_a_log_says_full_and_takes_nothing_of_what_it_refused(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.stream, "a", b"%d" % n) for n in range(100)])
            owed = await (await self.reading(log)).take(100)
            finishing = dict(enumerate(owed, self.overload - len(owed)))
            answers = await asyncio.gather(
                *[
                    log.append(
                        [Record(self.other_stream, "a", b"%d" % n)],
                        finish("group", [finishing[n]]) if n in finishing else None,
                    )
                    for n in range(self.overload)
                ],
                return_exceptions=True,
            )
            refused = [answer for answer in answers if answer is not None]
            assert refused, f"{self.overload} appends at once were all taken"
            assert [error for error in refused if not isinstance(error, Full)] == []
            taken = [n for n, answer in enumerate(answers) if answer is None]
            assert values(await everything(log, self.other_stream)) == [b"%d" % n for n in taken]
            unfinished = [entry for n, entry in finishing.items() if answers[n] is not None]
            assert await self._left(log) == unfinished
            await log.append([Record(self.stream, "a", b"there is room again")])

    async def _left(self, log: Log) -> list[Entry]:
        """What the group has not finished, by its progress."""
        progress = await log.progress(self.stream, "group")
        stored = await everything(log, self.stream)
        return [
            entry for entry in stored if not has_finished(progress[Place(entry.stream, entry.partition)], entry.offset)
        ]

    # Finish

    async def test_records_finished_out_of_order_do_not_come_again_and_the_others_do(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.stream, "a", b"%d" % n) for n in range(6)])
            entries = await (await self.reading(log)).take(6)
            await log.append([], finish("group", [entries[5], entries[1], entries[3]]))
        async with self.opened() as log:
            reading = await self.reading(log)
            await log.append([Record(self.stream, "a", b"end")])
            assert values(await reading.until(b"end")) == [b"0", b"2", b"4"]
            (progress,) = [p for p in (await log.progress(self.stream, "group")).values() if p.beyond]
            offsets = [entry.offset for entry in entries]
            assert progress.next == offsets[0]
            assert progress.beyond == tuple((offsets[n], offsets[n] + 1) for n in (1, 3, 5))

    async def test_progress_closes_up_when_the_first_is_finished_last(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.stream, "a", b"%d" % n) for n in range(5)])
            entries = await (await self.reading(log)).take(5)
            for entry in reversed(entries):
                await log.append([], finish("group", [entry]))
            progress = (await log.progress(self.stream, "group"))[Place(self.stream, entries[0].partition)]
        assert progress == Progress(entries[-1].offset + 1, ())

    async def test_to_finish_an_offset_again_changes_nothing(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.stream, "a", b"%d" % n) for n in range(4)])
            entries = await (await self.reading(log)).take(4)
            await log.append([], finish("group", [entries[0], entries[2]]))
            before = await log.progress(self.stream, "group")
            await log.append([], finish("group", [entries[2], entries[0], entries[2]]))
            assert await log.progress(self.stream, "group") == before
        async with self.opened() as log:
            assert await log.progress(self.stream, "group") == before

    async def test_groups_and_streams_have_progress_of_their_own(self) -> None:
        async with self.opened() as log:
            await log.append([Record(s, "a", b"1") for s in (self.stream, self.other_stream)])
            entries = await (await self.reading(log, "one")).take(1)
            await log.append([], finish("one", entries))
        async with self.opened() as log:
            assert values(await (await self.reading(log, "two")).take(1)) == [b"1"]
            assert values(await (await self.reading(log, "one", self.other_stream)).take(1)) == [b"1"]

    async def test_a_long_run_of_finished_records_does_not_hide_what_follows_it(self) -> None:
        # One record hangs while thousands behind it finish; then the process ends.
        async with self.opened() as log:
            await log.append([Record(self.stream, "a", b"hangs")])
            reading = await self.reading(log)
            for _ in range(5):
                await log.append([Record(self.stream, "a", b"quick")] * 1000)
            entries = await reading.take(5001)
            await log.append([], finish("group", entries[1:]))
            await log.append([Record(self.stream, "a", b"last")])
        async with self.opened() as log:
            reading = await self.reading(log)
            assert values(await reading.take(2, limit=10)) == [b"hangs", b"last"]

    # Consume

    async def test_a_new_group_starts_at_the_earliest_record(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.stream, "a", b"%d" % n) for n in range(3)])
            reading = await self.reading(log, "new")
            await log.append([Record(self.stream, "a", b"3")])
            assert values(await reading.take(4)) == [b"0", b"1", b"2", b"3"]

    async def test_a_group_that_is_new_after_a_trim_comes_to_the_end_of_its_progress(self) -> None:
        async with self.opened() as log:
            place, (_, end) = await self._trimmed(log)
            left = [entry.offset for entry in await everything(log, self.stream)]
            entries = await (await self.reading(log, "new")).take(len(left))
            assert [entry.offset for entry in entries] == left
            await log.append([], finish("new", entries))
            assert (await log.progress(self.stream, "new"))[place] == Progress(end, ())

    async def test_fetch_answers_at_once_when_there_is_nothing(self) -> None:
        async with self.opened() as log:
            consumer = (await self.reading(log)).consumer
            async with asyncio.timeout(self.patience):
                assert list(await consumer.fetch(10)) == []
            assert consumer.backlog() == 0

    async def test_a_consumer_with_something_to_give_is_ready_and_one_without_is_not(self) -> None:
        async with self.opened() as log:
            reading = await self.reading(log)
            assert not reading.consumer.ready()
            await log.append([Record(self.stream, "a", b"1"), Record(self.stream, "a", b"2")])
            await reading.take(1)
            assert reading.consumer.ready()
            assert reading.consumer.backlog() == 1
            await reading.take(1)
            assert not reading.consumer.ready()

    async def test_what_a_consumer_has_given_does_not_come_again_until_a_reopen(self) -> None:
        async with self.opened() as log:
            reading = await self.reading(log)
            await log.append([Record(self.stream, "a", b"1"), Record(self.stream, "a", b"2")])
            await reading.take(2)
            await log.append([Record(self.stream, "a", b"end")])
            assert await reading.until(b"end") == []
        async with self.opened() as log:
            assert values(await (await self.reading(log)).take(3)) == [b"1", b"2", b"end"]

    async def test_a_consumer_that_falls_behind_and_catches_up_skips_and_repeats_nothing(self) -> None:
        async with self.opened() as log:
            reading = await self.reading(log)
            entries: list[Entry] = []

            async def consume(count: int, limit: int) -> None:
                entries.extend(await reading.take(count, limit))

            keeping_up = await asyncio.gather(self._produce(log, "0"), consume(_WAVE, 700))
            fallen_behind = await self._produce(log, "1")
            catching_up = await asyncio.gather(self._produce(log, "2"), consume(_WAVE, 97), consume_none())
            await consume(_WAVE, 1000)
            await log.append([Record(self.stream, "0", b"end")])
            assert await reading.until(b"end") == []
        written = keeping_up[0] + fallen_behind + catching_up[0]
        assert len(places(entries)) == len(entries)
        for key in {record.key for record in written}:
            assert values(e for e in entries if e.key == key) == [r.value for r in written if r.key == key]

    async def _produce(self, log: Log, wave: str) -> list[Record]:
        """Several appenders at once, each with keys and an order of its own."""
        batches = [
            [
                [Record(self.stream, f"{wave}/{who}", b"%d.%d" % (n, i)) for i in range(1 + n * 7 % 50)]
                for n in range(25)
            ]
            for who in range(_APPENDERS)
        ]

        async def appender(mine: list[list[Record]]) -> None:
            for batch in mine:
                await log.append(batch)

        await asyncio.gather(*[appender(mine) for mine in batches])
        return [record for mine in batches for batch in mine for record in batch]

    async def test_no_wake_is_missed_when_records_come_one_by_one(self) -> None:
        turns = 150
        async with self.opened() as log:
            reading = await self.reading(log)
            taken = asyncio.Semaphore(1)

            async def append() -> None:
                for n in range(turns):
                    await taken.acquire()
                    await log.append([Record(self.stream, "a", b"%d" % n)])

            async def consume() -> list[bytes]:
                found: list[bytes] = []
                while len(found) < turns:
                    found += values(await reading.some())
                    taken.release()
                return found

            async with asyncio.timeout(self.patience * 2):
                found, _ = await asyncio.gather(consume(), append())
        assert found == [b"%d" % n for n in range(turns)]

    # Tables

    async def test_a_table_replays_the_last_value_of_each_key_and_no_removed_one(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.table, "kept", b"1"), Record(self.table, "removed", b"1")])
            await log.append([Record(self.table, "kept", b"2"), Record(self.table, "removed", b"")])
            await log.append([Record(self.table, "back", b""), Record(self.table, "back", b"1")])
            await log.append([Record(self.table, "in one append", b"1"), Record(self.table, "in one append", b"")])
            await log.append([Record(self.table, "never there", b"")])
            assert await rows(log, self.table) == {"kept": b"2", "back": b"1"}
        async with self.opened() as log:
            assert await rows(log, self.table) == {"kept": b"2", "back": b"1"}

    async def test_overlapping_appends_to_one_row_leave_the_last_one(self) -> None:
        async with self.opened() as log:
            await asyncio.gather(*[log.append([Record(self.table, "row", b"%d" % n)]) for n in range(100)])
            assert await rows(log, self.table) == {"row": b"99"}

    async def test_a_replay_shows_one_instant_while_rows_change(self) -> None:
        many = 3_000
        async with self.opened() as log:
            await log.append([Record(self.table, f"{n:05}", b"old") for n in range(many)])
            replay = log.replay(self.table)
            found = list(await anext(replay))
            await log.append([Record(self.table, f"{n:05}", b"new" if n % 2 else b"") for n in range(many)])
            await log.append([Record(self.table, "zzz", b"new")])
            async for batch in replay:
                found += batch
            assert sorted({entry.value for entry in found}) == [b"old"]
            assert sorted(entry.key for entry in found) == [f"{n:05}" for n in range(many)]
            assert len(await rows(log, self.table)) == many // 2 + 1

    # Following a table

    async def test_a_follower_is_given_the_rows_that_are_there_and_then_every_change(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.table, key, b"1") for key in ("kept", "changed", "removed")])
            await log.append([Record(self.table, "gone before", b"1"), Record(self.table, "gone before", b"")])
        async with self.opened() as log:
            holder = Holder(await log.follow(self.table, lambda: None))
            await holder.catch_up()
            assert holder.rows == {"kept": b"1", "changed": b"1", "removed": b"1"}
            await log.append([Record(self.table, "changed", b"2"), Record(self.table, "removed", b"")])
            await log.append([Record(self.table, "new", b"1")])
            await holder.catch_up()
            assert holder.rows == {"kept": b"1", "changed": b"2", "new": b"1"} == await rows(log, self.table)

    async def test_a_write_that_was_answered_is_given_before_a_fetch_that_gives_nothing(self) -> None:
        # Before the first reading, in the midst of it, and at every step after it.
        async with self.opened() as log:
            await log.append([Record(self.table, f"{n:03}", b"old") for n in range(50)])
            holder = Holder(await log.follow(self.table, lambda: None))
            await log.append([Record(self.table, "early", b"1")])
            await holder.step(10)
            await log.append([Record(self.table, "000", b"new"), Record(self.table, "049", b"")])
            await holder.catch_up()
            assert holder.rows == await rows(log, self.table)
            for n in range(50):
                await log.append([Record(self.table, "row", b"%d" % n), Record(self.table, f"{n:03}", b"")])
                await holder.catch_up()
                assert holder.rows.get("row") == b"%d" % n
                assert f"{n:03}" not in holder.rows
            assert holder.rows == await rows(log, self.table) == {"early": b"1", "row": b"49"}

    async def test_no_value_that_was_replaced_is_given_after_the_one_that_replaced_it(self) -> None:
        turns, keys = 120, 400
        async with self.opened() as log:
            await log.append([Record(self.table, f"{key:03}", b"000") for key in range(keys)])
            holder = Holder(await log.follow(self.table, lambda: None))
            done = asyncio.Event()

            async def change() -> None:
                for turn in range(1, turns):
                    await log.append([Record(self.table, f"{key:03}", b"%03d" % turn) for key in range(keys)])
                done.set()

            async def hold() -> None:
                while not done.is_set():
                    await holder.step(37)
                    # An engine may answer at once: the others are to have their turn.
                    await asyncio.sleep(0)

            async with asyncio.timeout(self.patience * 2):
                await asyncio.gather(change(), hold())
            await holder.catch_up()
            assert holder.went_back == []
            assert holder.rows == await rows(log, self.table)

    async def test_no_wake_of_a_follower_is_missed(self) -> None:
        woken = asyncio.Event()
        async with self.opened() as log:
            holder = Holder(await log.follow(self.table, woken.set))
            await holder.catch_up()
            for n in range(50):
                woken.clear()
                assert not holder.follower.ready()
                await log.append([Record(self.table, "row", b"%d" % n), Record(self.stream, "a", b"1")])
                async with asyncio.timeout(self.patience):
                    await woken.wait()
                assert holder.follower.ready()
                await holder.catch_up()
                assert holder.rows == {"row": b"%d" % n}

    async def test_a_cancelled_fetch_of_a_follower_loses_nothing(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.table, f"{n:03}", b"1") for n in range(200)])
            holder = Holder(await log.follow(self.table, lambda: None))
            for n in range(20):
                fetch = asyncio.ensure_future(holder.step(20))
                await asyncio.sleep(0)
                fetch.cancel()
                await asyncio.wait([fetch])
                await log.append([Record(self.table, f"{n:03}", b"2")])
            await holder.catch_up()
            assert holder.rows == await rows(log, self.table)

    async def test_each_follower_is_given_everything(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.table, "before", b"1")])
            holders = [Holder(await log.follow(self.table, lambda: None)) for _ in range(2)]
            await holders[0].catch_up()
            await log.append([Record(self.table, "after", b"1")])
            for holder in holders:
                await holder.catch_up()
                assert holder.rows == {"before": b"1", "after": b"1"}

    # Read, bounds, trim

    async def test_read_gives_a_range_in_order_and_nothing_past_its_end(self) -> None:
        async with self.opened() as log:
            for start in range(0, 2_500, 250):
                await log.append([Record(self.stream, "a", b"%d" % n) for n in range(start, start + 250)])
            all_ = await everything(log, self.stream)
            assert values(all_) == [b"%d" % n for n in range(2_500)]
            partition = all_[0].partition
            for start, stop in ((0, 1), (249, 251), (1, 2_400), (2_499, 2_500), (700, 700), (9, 3)):
                wanted = all_[start:stop]
                stop_offset = all_[stop].offset if stop < len(all_) else all_[-1].offset + 1
                found = await listed(log.read(self.stream, partition, all_[start].offset, stop_offset))
                assert found == wanted, f"read of records {start} to {stop}"

    async def test_read_gives_nothing_for_a_range_that_is_not_there(self) -> None:
        async with self.opened() as log:
            await log.append([Record(self.stream, "a", b"1")])
            (entry,) = await everything(log, self.stream)
            beyond = log.read(self.stream, entry.partition, entry.offset + 1, entry.offset + 1_000)
            assert await listed(beyond) == []

    async def test_read_from_before_the_earliest_record_begins_at_the_earliest(self) -> None:
        async with self.opened() as log:
            place, (earliest, end) = await self._trimmed(log)
            found = await listed(log.read(self.stream, place.partition, 0, end))
            assert found[0].offset == earliest
            assert found == await everything(log, self.stream)

    async def test_bounds_are_the_earliest_offset_and_the_next(self) -> None:
        async with self.opened() as log:
            assert all(start == end for start, end in (await log.bounds(self.stream)).values())
            await log.append([Record(self.stream, "a", b"%d" % n) for n in range(3)])
            entries = await everything(log, self.stream)
            place = Place(self.stream, entries[0].partition)
            assert (await log.bounds(self.stream))[place] == (entries[0].offset, entries[-1].offset + 1)
        async with self.opened() as log:
            assert (await log.bounds(self.stream))[place] == (entries[0].offset, entries[-1].offset + 1)

    async def test_trim_drops_what_every_group_has_finished_and_says_where_the_stream_begins(self) -> None:
        async with self.opened() as log:
            place, (earliest, end) = await self._trimmed(log)
            assert 0 < earliest < end
            stored = await everything(log, self.stream)
            assert stored[0].offset == earliest
            assert (await log.bounds(self.stream))[place] == (earliest, end)

    async def _trimmed(self, log: Log) -> tuple[Place, tuple[int, int]]:
        """A stream of which a first part was finished and trimmed away, and its bounds."""
        entries = await self._batches(log)
        await (await self.reading(log)).take(len(entries))
        await log.append([], finish("group", entries[:60]))
        place = Place(self.stream, entries[0].partition)
        earliest = await log.trim(self.stream, place.partition, entries[60].offset)
        return place, (earliest, entries[-1].offset + 1)

    async def _batches(self, log: Log) -> list[Entry]:
        for start in range(0, 100, 10):
            await log.append([Record(self.stream, "a", b"%d" % n) for n in range(start, start + 10)])
        return await everything(log, self.stream)

    async def test_trim_stops_at_what_the_slowest_group_has_not_finished(self) -> None:
        async with self.opened() as log:
            entries = await self._batches(log)
            for group in ("fast", "slow"):
                await (await self.reading(log, group)).take(100)
            await log.append([], finish("fast", entries))
            await log.append([], finish("slow", entries[:55] + entries[56:]))
            earliest = await log.trim(self.stream, entries[0].partition, entries[-1].offset + 1)
            assert earliest <= entries[55].offset
        async with self.opened() as log:
            assert values(await everything(log, self.stream))[-45:] == values(entries[55:])
            assert values(await (await self.reading(log, "slow")).take(1)) == [b"55"]

    async def test_trim_stops_at_what_a_group_has_taken_and_not_yet_finished_anything_of(self) -> None:
        async with self.opened() as log:
            entries = await self._batches(log)
            for group in ("finishes", "hangs"):
                await (await self.reading(log, group)).take(100)
            await log.append([], finish("finishes", entries))
            end = entries[-1].offset + 1
            assert await log.trim(self.stream, entries[0].partition, end) <= entries[0].offset
        async with self.opened() as log:
            await log.trim(self.stream, entries[0].partition, end)
            assert values(await (await self.reading(log, "hangs")).take(100)) == values(entries)

    async def test_trim_with_a_time_drops_what_was_appended_before_it_and_nothing_younger(self) -> None:
        async with self.opened() as log:
            old = await self._batches(log)
            await self.later()
            await log.append([Record(self.stream, "a", b"young")])
            await log.append([Record(self.stream, "a", b"younger")])
            entries = await everything(log, self.stream)
            await (await self.reading(log)).take(len(entries))
            await log.append([], finish("group", entries))
            young = entries[len(old)]
            assert await log.trim(self.stream, young.partition, entries[-1].offset + 1, old[0].at) == old[0].offset
            assert await self._trim_all(log, young.partition, entries[-1].offset + 1, young.at) == young.offset
            assert values(await everything(log, self.stream)) == [b"young", b"younger"]

    async def test_trim_with_a_time_spares_what_is_old_and_not_finished(self) -> None:
        async with self.opened() as log:
            entries = await self._batches(log)
            await (await self.reading(log)).take(100)
            await log.append([], finish("group", entries[:35] + entries[36:]))
            earliest = await self._trim_all(log, entries[0].partition, entries[-1].offset + 1, entries[-1].at + 1)
            assert entries[0].offset < earliest <= entries[35].offset

    async def _trim_all(self, log: Log, partition: int, before: int, older_than: int | None = None) -> int:
        """Trim until there is no more to drop; where the stream begins then."""
        earliest = -1
        while (reached := await log.trim(self.stream, partition, before, older_than)) > earliest:
            earliest = reached
        return earliest

    async def test_space_grows_with_what_is_kept_and_is_there_again_after_a_trim(self) -> None:
        large = bytes(64 << 10)
        async with self.opened() as log:
            empty = await log.space()
            assert 0 <= empty.used < empty.used + empty.room <= empty.used + empty.disk
            for _ in range(40):
                await log.append([Record(self.stream, "a", large)])
            entries = await everything(log, self.stream)
            kept = await log.space()
            assert kept.used - empty.used >= 40 * len(large)
            await (await self.reading(log)).take(len(entries))
            await log.append([], finish("group", entries))
            await self._trim_all(log, entries[0].partition, entries[-1].offset + 1)
            trimmed = await log.space()
            assert trimmed.used < empty.used + 10 * len(large)
        async with self.opened() as log:
            assert (await log.space()).used < empty.used + 10 * len(large)

    async def test_what_is_held_without_use_is_given_back_by_trims(self) -> None:
        async with self.opened() as log:
            for _ in range(24):
                await log.append([Record(self.stream, "a", bytes(1 << 20))])
            entries = await everything(log, self.stream)
            await (await self.reading(log)).take(len(entries))
            await log.append([], finish("group", entries))
            await self._trim_all(log, entries[0].partition, entries[-1].offset + 1)
            excess = (await log.space()).excess
            while excess:
                await log.trim(self.stream, entries[0].partition, entries[-1].offset + 1)
                before, excess = excess, (await log.space()).excess
                assert excess < before, "a trim gave nothing back"
            assert set(values(await everything(log, self.stream))) <= {bytes(1 << 20)}

    async def test_no_offset_is_given_twice_though_everything_was_trimmed_and_the_log_reopened(self) -> None:
        async with self.opened() as log:
            entries = await self._batches(log)
            await (await self.reading(log)).take(100)
            await log.append([], finish("group", entries))
            await log.trim(self.stream, entries[0].partition, entries[-1].offset + 1)
            await log.trim(self.stream, entries[0].partition, entries[-1].offset + 1_000)
        async with self.opened() as log:
            reading = await self.reading(log)
            await log.append([Record(self.stream, "a", b"next")])
            (entry,) = await reading.take(1)
            assert entry.value == b"next"
            assert entry.offset > entries[-1].offset

    async def test_a_consumer_goes_on_reading_over_a_trim(self) -> None:
        async with self.opened() as log:
            entries = await self._batches(log)
            reading = await self.reading(log)
            await reading.take(65, limit=5)
            await log.append([], finish("group", entries[:65]))
            await log.trim(self.stream, entries[0].partition, entries[65].offset)
            assert values(await reading.take(35)) == values(entries[65:])

    # Close

    async def test_after_close_every_call_is_transient(self) -> None:
        log = await self.open_log()
        await log.append([Record(self.stream, "a", b"1"), Record(self.table, "row", b"1")])
        await self.close_log(log)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "append": lambda: log.append([Record(self.stream, "a", b"2")]),
            "consume": lambda: log.consume(self.stream, "group", lambda: None),
            "replay": lambda: listed(log.replay(self.table)),
            "follow": lambda: log.follow(self.table, lambda: None),
            "read": lambda: listed(log.read(self.stream, 0, 0, 1)),
            "bounds": lambda: log.bounds(self.stream),
            "progress": lambda: log.progress(self.stream, "group"),
            "trim": lambda: log.trim(self.stream, 0, 0),
            "space": log.space,
            "check": log.check,
        }
        assert {name: await raised(call) for name, call in calls.items()} == dict.fromkeys(calls, Transient)

    async def test_close_commits_what_was_appended_before_it(self) -> None:
        log = await self.open_log()
        appends = asyncio.gather(*[log.append([Record(self.stream, "a", b"%d" % n)]) for n in range(50)])
        await asyncio.gather(appends, self.close_log(log))
        async with self.opened() as log:
            assert values(await everything(log, self.stream)) == [b"%d" % n for n in range(50)]

    async def test_an_open_log_answers_when_it_is_asked(self) -> None:
        async with self.opened() as log:
            async with asyncio.timeout(self.patience):
                await log.check()


_APPENDERS = 6
_WAVE = _APPENDERS * sum(1 + n * 7 % 50 for n in range(25))


async def consume_none() -> None:
    """Nothing: a task more, so that the others take turns with it."""


def finish(group: str, entries: Iterable[Entry]) -> Finish:
    """What says that `group` has finished these entries."""
    offsets: dict[Place, list[int]] = {}
    for entry in entries:
        offsets.setdefault(Place(entry.stream, entry.partition), []).append(entry.offset)
    return Finish(group, offsets)


def has_finished(progress: Progress, offset: int) -> bool:
    """Whether an offset is finished by what a progress says."""
    return offset < progress.next or any(start <= offset < stop for start, stop in progress.beyond)


def values(entries: Iterable[Entry]) -> list[bytes]:
    """The values of entries, in their order."""
    return [entry.value for entry in entries]


def places(entries: Iterable[Entry]) -> set[tuple[int, int]]:
    """The partitions and offsets of entries."""
    return {(entry.partition, entry.offset) for entry in entries}


async def listed(batches: AsyncIterator[Sequence[Entry]]) -> list[Entry]:
    """Everything a finite reading gives, in one list."""
    found: list[Entry] = []
    async for batch in batches:
        found += batch
    return found


async def everything(log: Log, stream: str) -> list[Entry]:
    """Every record that a stream keeps."""
    found: list[Entry] = []
    for place, (start, stop) in (await log.bounds(stream)).items():
        found += await listed(log.read(stream, place.partition, start, stop))
    return found


async def rows(log: Log, table: str) -> Mapping[str, bytes]:
    """The live rows of a table; a key that comes twice is an error of the engine."""
    entries = await listed(log.replay(table))
    found = {entry.key: entry.value for entry in entries}
    assert len(found) == len(entries), "a replay gave a key twice"
    return found


async def raised(call: Callable[[], Awaitable[object]]) -> type[BaseException] | None:
    """The kind of howk's error that a call raises, None when it answers."""
    try:
        await call()
    except Transient as error:
        return type(error)
    return None
