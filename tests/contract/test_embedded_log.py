"""The embedded log against the suite, and what it promises beyond the port: damage, crashes, its own files."""

import asyncio
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.contract.embedded import change, image_of, killed_after, open_log, overwrite, start_child

from howk.adapters.embedded.directory import Directory, boot_id
from howk.adapters.embedded.log import EmbeddedLog
from howk.domain.errors import Permanent
from howk.domain.records import PENDING, RESULTS, SLOW, STATE
from howk.ports.log import Entry, Finish, Log, Place, Record
from howk.testing.clock import ManualClock
from howk.testing.log_suite import Holder, LogSuite, Reading, everything, finish, listed, rows, values

PATIENCE = 10.0


class TestEmbeddedLog(LogSuite):
    path: Path
    directory: Directory
    clock: ManualClock

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "data"
        self.clock = ManualClock()

    async def open_log(self) -> Log:
        self.directory = Directory.open(self.path)
        return EmbeddedLog.open(self.directory, self.clock)

    async def later(self) -> None:
        self.clock.advance(1)

    async def close_log(self, log: Log) -> None:
        await log.close()
        self.directory.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def reading(log: Log, stream: str = PENDING) -> Reading:
    found = Reading(PATIENCE)
    found.consumer = await log.consume(stream, "group", found.wake)
    return found


async def write_two_rows(path: Path) -> None:
    async with open_log(path) as log:
        await log.append([Record(PENDING, "a", value) for value in (b"zero", b"one", b"two")])
        await log.append([Record(PENDING, "a", b"three"), Record(STATE, "row", b"kept"), Record(STATE, "other", b"x")])


async def refusal(path: Path) -> str:
    """Why the directory can't be opened."""
    with pytest.raises(Permanent) as caught:
        async with open_log(path):
            pass
    return str(caught.value)


# Damage


async def test_of_a_damaged_row_the_whole_records_are_whole_and_reading_goes_on(path: Path) -> None:
    await write_two_rows(path)
    overwrite(path / "log.db", "log_pending", "body", b"one", b"oNe")
    async with open_log(path) as log:
        handed_out = await (await reading(log)).take(4)
        assert await everything(log, PENDING) == handed_out
    assert values(handed_out) == [b"zero", b"oNe", b"two", b"three"]
    assert [bool(entry.damage) for entry in handed_out] == [False, True, False, False]
    assert "checksum" in handed_out[1].damage


@pytest.mark.parametrize("spoiled", [b"\xc1\xa1a\xc4\x04zero", b"\x93\xa1\xff\xc4\x04zero", b"\x92\xa1a\xc4\x04zero"])
async def test_a_damaged_row_that_can_not_be_taken_apart_keeps_its_offsets_and_its_bytes(
    path: Path, spoiled: bytes
) -> None:
    await write_two_rows(path)
    overwrite(path / "log.db", "log_pending", "body", b"\x93\xa1a\xc4\x04zero", spoiled)
    async with open_log(path) as log:
        found = await (await reading(log)).take(4)
    assert [entry.offset for entry in found] == [0, 1, 2, 3]
    assert [bool(entry.damage) for entry in found] == [True, True, True, False]
    assert b"zero" in found[0].value
    assert b"two" in found[0].value
    assert found[3].value == b"three"


async def test_a_damaged_record_can_be_finished_like_any_other(path: Path) -> None:
    await write_two_rows(path)
    overwrite(path / "log.db", "log_pending", "body", b"one", b"oNe")
    async with open_log(path) as log:
        entries = await (await reading(log)).take(4)
        await log.append([], finish("group", entries))
    async with open_log(path) as log:
        assert not (await reading(log)).consumer.ready()


async def test_a_damaged_row_of_a_table_says_so_and_the_others_are_whole(path: Path) -> None:
    await write_two_rows(path)
    overwrite(path / "log.db", "log_state", "value", b"kept", b"keqt")
    async with open_log(path) as log:
        found = {entry.key: entry for entry in await listed(log.replay(STATE))}
    assert found["row"].value == b"keqt"
    assert "checksum" in found["row"].damage
    assert (found["other"].value, found["other"].damage) == (b"x", "")


# Refusals


async def test_a_missing_write_ahead_log_after_an_unclean_end_is_refused(path: Path) -> None:
    async with open_log(path) as log:
        await log.append([Record(PENDING, "a", b"1")])
        killed = image_of(path)
    async with open_log(killed) as log:
        assert values(await everything(log, PENDING)) == [b"1"]
        killed_again = image_of(killed)
    (killed_again / "log.db-wal").unlink()
    assert "log.db-wal is missing" in await refusal(killed_again)


async def test_a_clean_end_leaves_no_write_ahead_log_and_needs_none(path: Path) -> None:
    async with open_log(path) as log:
        await log.append([Record(PENDING, "a", b"1")])
    assert not (path / "log.db-wal").exists()
    async with open_log(path) as log:
        assert values(await everything(log, PENDING)) == [b"1"]


async def test_a_missing_log_is_refused(path: Path) -> None:
    await write_two_rows(path)
    (path / "log.db").unlink()
    assert "log.db is missing" in await refusal(path)
    assert not (path / "log.db").exists()


async def test_an_empty_log_is_refused(path: Path) -> None:
    await write_two_rows(path)
    os.truncate(path / "log.db", 0)
    assert "log.db is missing" in await refusal(path)


async def test_a_log_that_was_cut_off_is_refused(path: Path) -> None:
    await write_two_rows(path)
    os.truncate(path / "log.db", 8192 * 3)
    assert "can't be opened" in await refusal(path)


async def test_a_log_that_is_no_database_is_refused(path: Path) -> None:
    await write_two_rows(path)
    (path / "log.db").write_bytes(b"not a database" * 4096)
    assert "can't be opened" in await refusal(path)


async def test_a_log_behind_what_was_finished_is_refused_each_time(path: Path) -> None:
    async with open_log(path) as log:
        await log.append([Record(RESULTS, "a", b"%d" % n) for n in range(5)])
        await log.append([], finish("group", await everything(log, RESULTS)))
        killed = image_of(path)
    change(killed / "log.db", "DELETE FROM log_results")
    # That was the last connection: a process that dies leaves the write-ahead log behind.
    (killed / "log.db-wal").touch()
    first = await refusal(killed)
    assert "howk.results ends at offset 0, but group has finished it up to 5" in first
    assert await refusal(killed) == first


async def test_a_log_of_a_newer_format_is_refused_each_time_and_stays_as_it_is(path: Path) -> None:
    async with open_log(path) as log:
        await log.append([Record(PENDING, "a", b"1")])
        change(path / "log.db", "PRAGMA user_version = 99")
        killed = image_of(path)
    before = {name: (killed / name).read_bytes() for name in ("log.db", "log.db-wal", "run.json")}
    first = await refusal(killed)
    assert "newer howk (format 99, this one knows 2)" in first
    assert await refusal(killed) == first
    assert {name: (killed / name).read_bytes() for name in before} == before


async def test_a_second_open_is_refused_with_the_process_that_has_the_directory(path: Path) -> None:
    async with open_log(path):
        message = await refusal(path)
    assert f"process {os.getpid()}" in message
    assert "HOWK_DATA_DIR" in message
    async with open_log(path) as log:
        await log.check()


async def test_a_second_process_is_refused_with_the_process_that_has_the_directory(path: Path) -> None:
    async with open_log(path):
        with start_child("open", path) as child:
            said, _ = child.communicate(timeout=PATIENCE)
    assert f"process {os.getpid()}" in said


async def test_a_damaged_account_of_the_last_run_is_refused_and_the_directory_is_let_go(path: Path) -> None:
    await write_two_rows(path)
    kept = (path / "run.json").read_bytes()
    (path / "run.json").write_bytes(b"{")
    assert "run.json is damaged" in await refusal(path)
    (path / "run.json").write_bytes(kept)
    async with open_log(path) as log:
        assert len(await everything(log, PENDING)) == 4


def test_the_boot_of_the_machine_has_one_name(path: Path) -> None:
    directory = Directory.open(path)
    directory.close()
    assert directory.run.boot == boot_id() != ""


# Durability


async def test_what_a_consumer_is_woken_for_is_committed_already(path: Path) -> None:
    committed: list[int] = []
    async with open_log(path) as log:
        with closing(sqlite3.connect(path / "log.db")) as other:

            def wake() -> None:
                committed.append(other.execute("SELECT coalesce(sum(count), 0) FROM log_pending").fetchone()[0])

            await log.consume(PENDING, "group", wake)
            for _ in range(5):
                await log.append([Record(PENDING, "a", b"1")])
    assert committed == [1, 2, 3, 4, 5]


def test_what_was_answered_survives_kill_9_and_no_append_is_there_by_half(path: Path) -> None:
    accepted: set[str] = set()
    settled: set[str] = set()
    for round_ in range(5):
        for said in killed_after(40 + 30 * round_, "append", path, f"r{round_}"):
            what, *names = said.split()
            (accepted if what == "accepted" else settled).update(names)
        asyncio.run(check_after_crash(path, accepted, settled))


def test_kill_9_in_the_midst_of_trims_takes_nothing_that_was_not_finished(path: Path) -> None:
    accepted: set[str] = set()
    trims = 0
    for round_ in range(5):
        for said in killed_after(150 + 37 * round_, "trim", path, f"r{round_}"):
            what, *names = said.split()
            trims += what == "trimmed"
            accepted.update(names)
        asyncio.run(check_after_trims(path, accepted))
        with closing(sqlite3.connect(path / "log.db")) as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert trims > 50
    assert (path / "log.db").stat().st_size < 64 << 20


async def check_after_trims(path: Path, accepted: set[str]) -> None:
    async with open_log(path) as log:
        pending, results = [await everything(log, stream) for stream in (PENDING, RESULTS)]
        (progress,) = (await log.progress(PENDING, "room")).values()
        ((first, end),) = (await log.bounds(PENDING)).values()
    assert first <= progress.next
    assert [entry.offset for entry in pending] == list(range(first, end))
    assert {len(entry.value) for entry in pending if not entry.damage} <= {300_000}
    unfinished = {entry.key for entry in pending if entry.offset >= progress.next}
    assert accepted <= unfinished | keys(results)
    assert unfinished.isdisjoint(keys(results))
    assert len(results) == progress.next


async def check_after_crash(path: Path, accepted: set[str], settled: set[str]) -> None:
    async with open_log(path) as log:
        pending, slow, results = [await everything(log, stream) for stream in (PENDING, SLOW, RESULTS)]
        state = await rows(log, STATE)
        (progress,) = (await log.progress(PENDING, "room")).values()
    assert [entry for entry in (*pending, *slow, *results) if entry.damage] == []
    assert accepted <= keys(pending)
    assert settled <= keys(results)
    assert keys(pending) == keys(slow)
    assert keys(results) == set(state)
    assert len(keys(pending)) == len(pending)
    assert len(keys(results)) == len(results)
    finished = {entry.key for entry in pending if entry.offset < progress.next}
    assert finished | {e.key for e in pending if any(a <= e.offset < b for a, b in progress.beyond)} == keys(results)


def keys(entries: list[Entry]) -> set[str]:
    return {entry.key for entry in entries}


# Bounds and time


@pytest.mark.parametrize("seen", ["at the start", "while it is read"])
async def test_a_log_whose_tree_leads_elsewhere_is_refused_in_words(path: Path, seen: str) -> None:
    """One bit is enough for it, and each row that is found is whole."""
    # The last page is looked at when the log is opened, the others when they are read.
    which = {"at the start": -1, "while it is read": 1}[seen]
    async with open_log(path) as log:
        for many, stream in ((40, PENDING), (20, RESULTS)):
            for _ in range(many):
                await log.append([Record(stream, "a", bytes(3_000))])
    with closing(sqlite3.connect(path / "log.db")) as file:
        (size,) = file.execute("PRAGMA page_size").fetchone()
        roots = dict(file.execute("SELECT name, rootpage FROM sqlite_master WHERE name LIKE 'log_%'"))
    stored = bytearray((path / "log.db").read_bytes())
    pending, results = (places(stored, size, roots[f"log_{stream}"]) for stream in ("pending", "results"))
    stored[pending[which] : pending[which] + 4] = stored[results[0] : results[0] + 4]
    (path / "log.db").write_bytes(stored)
    with pytest.raises(Permanent, match=r"out of order .* from a backup"):
        async with open_log(path) as log:
            await everything(log, PENDING)


def places(stored: bytes, size: int, root: int) -> list[int]:
    """Where a root page of SQLite names the pages below it, in order."""
    page = (root - 1) * size
    assert stored[page] == 5, "its table has no more than one page"
    cells = int.from_bytes(stored[page + 3 : page + 5], "big")
    left = [int.from_bytes(stored[page + 12 + 2 * n : page + 14 + 2 * n], "big") for n in range(cells)]
    return [*(page + place for place in left), page + 8]


async def test_a_few_trims_let_the_file_shrink(path: Path) -> None:
    async with open_log(path) as log:
        for _ in range(24):
            await log.append([Record(PENDING, "a", bytes(1 << 20))])
        entries = await (await reading(log)).take(24)
        await log.append([], finish("group", entries))
        for _ in range(40):
            await log.trim(PENDING, 0, 24)
        assert (await log.space()).excess == 0
    assert (path / "log.db").stat().st_size < 12 << 20


async def test_what_goes_for_its_age_alone_goes_in_smaller_parts_than_what_makes_room(path: Path) -> None:
    clock = ManualClock(1_000)
    record = bytes(64 << 10)
    async with open_log(path, clock) as log:
        for _ in range(40):
            await log.append([Record(PENDING, "a", record)])
        entries = await (await reading(log)).take(40)
        await log.append([], finish("group", entries))
        clock.advance(1)
        old = await log.trim(PENDING, 0, 40, clock.now())
        full = await log.trim(PENDING, 0, 40)
        # Nobody waits for the room of the first, and what the door brings waits for the writer meanwhile.
        assert 0 < old * len(record) <= 256 << 10
        assert (full - old) * len(record) > 1 << 20


async def test_an_entry_carries_the_time_of_its_append(path: Path) -> None:
    clock = ManualClock(1_000)
    async with open_log(path, clock) as log:
        await log.append([Record(PENDING, "a", b"1")])
        clock.advance(500)
        await log.append([Record(PENDING, "a", b"2")])
        handed_out = await (await reading(log)).take(2)
        assert await everything(log, PENDING) == handed_out
    assert [entry.at for entry in handed_out] == [1_000, 1_500]


async def test_a_consumer_that_does_not_fetch_holds_a_bounded_number_of_records(path: Path) -> None:
    many = 20_000
    records = [Record(PENDING, "a", b"value %d" % n) for n in range(many)]
    alone = sys.getrefcount(records[0].value)
    async with open_log(path) as log:
        slow = await reading(log)
        for start in range(0, many, 200):
            await log.append(records[start : start + 200])
        assert sum(sys.getrefcount(record.value) > alone for record in records) < many / 4
        assert slow.consumer.backlog() == many
        assert values(await slow.take(many)) == [record.value for record in records]


async def test_one_fetch_of_large_records_is_bounded_in_bytes(path: Path) -> None:
    mebibyte = bytes(1 << 20)
    async with open_log(path) as log:
        for _ in range(4):
            await log.append([Record(PENDING, "a", mebibyte)] * 10)
        late = await reading(log)
        batch = await late.some(500)
        assert 1 <= len(batch) <= 32
        assert len(await late.take(40 - len(batch))) == 40 - len(batch)


async def test_a_directory_from_before_a_stream_was_there_opens_and_takes_it(path: Path) -> None:
    async with open_log(path) as log:
        await log.append([Record("howk.pending", "k", b"old")])
    change(path / "log.db", "DROP TABLE log_keys")
    async with open_log(path) as log:
        assert dict(await log.bounds("howk.keys")) == {Place("howk.keys", 0): (0, 0)}
        await log.append([Record("howk.keys", "k", b"new")])
        assert dict(await log.bounds("howk.keys")) == {Place("howk.keys", 0): (0, 1)}
        assert dict(await log.bounds("howk.pending")) == {Place("howk.pending", 0): (0, 1)}


async def test_a_directory_from_before_a_table_was_there_opens_and_takes_it(path: Path) -> None:
    async with open_log(path) as log:
        await log.append([Record(STATE, "row", b"old")])
    change(path / "log.db", "DROP TABLE log_control")
    async with open_log(path) as log:
        assert await rows(log, "howk.control") == {}
        await log.append([Record("howk.control", "row", b"new")])
    async with open_log(path) as log:
        assert await rows(log, "howk.control") == {"row": b"new"}
        assert await rows(log, STATE) == {"row": b"old"}


async def test_a_row_that_was_read_before_its_commit_was_told_is_not_followed_by_an_older_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(path) as log:
        holder = Holder(await log.follow(STATE, lambda: None))
        await log.append([Record(STATE, "row", b"1")])
        loop = asyncio.get_running_loop()
        tell = loop.call_soon_threadsafe
        held: list[Callable[[], object]] = []

        def hold(callback: Callable[..., object], *arguments: Any, context: Any = None) -> object:
            if threading.current_thread().name != "howk-log":
                return tell(callback, *arguments, context=context)
            return held.append(lambda: tell(callback, *arguments))

        monkeypatch.setattr(loop, "call_soon_threadsafe", hold)
        append = asyncio.ensure_future(log.append([Record(STATE, "row", b"2")]))
        async with asyncio.timeout(PATIENCE):
            while not held:
                await asyncio.sleep(0)
            step = asyncio.ensure_future(holder.step())
            for _ in range(5):
                # There is one reading thread: with its answer the step before has read as far as it gets.
                await log.bounds(PENDING)
            monkeypatch.undo()
            for told in held:
                told()
            await step
            assert holder.rows == {"row": b"2"}
            await holder.step()
        assert holder.went_back == []
        await append


async def test_rows_that_are_missing_between_others_are_refused_when_they_are_met(path: Path) -> None:
    async with open_log(path) as log:
        for number in range(5):
            await log.append([Record(PENDING, "a", b"%d" % number)])
    change(path / "log.db", "DELETE FROM log_pending WHERE base IN (2, 3)")
    async with open_log(path) as log:
        with pytest.raises(Permanent, match="holds nothing from offset 2 to 3"):
            await everything(log, PENDING)


async def test_progress_that_fails_its_checksum_is_refused(path: Path) -> None:
    async with open_log(path) as log:
        await log.append([Record(PENDING, "a", b"1")] * 3)
        await log.append([], Finish("room", {Place(PENDING, 0): [0]}))
    change(path / "log.db", "UPDATE progress SET next = 2")
    assert "fails its checksum" in await refusal(path)
    change(path / "log.db", "UPDATE progress SET next = 1")
    async with open_log(path) as log:
        assert (await log.progress(PENDING, "room"))[Place(PENDING, 0)].next == 1


async def test_a_log_of_another_run_is_refused_and_stays_as_it_is(path: Path) -> None:
    async with open_log(path) as log:
        await log.append([Record(PENDING, "a", b"1")])
        early = image_of(path)
    async with open_log(path) as log:
        await log.append([Record(PENDING, "b", b"2")])
    async with open_log(path) as log:
        await log.append([Record(PENDING, "c", b"3")])
    for name in ("log.db", "log.db-wal"):
        shutil.copy(early / name, path / name)
    before = (path / "log.db").read_bytes()
    assert "not those of the last run" in await refusal(path)
    assert (path / "log.db").read_bytes() == before


async def test_a_log_that_was_opened_and_no_more_is_the_one_of_the_run_before(path: Path) -> None:
    async with open_log(path) as log:
        await log.append([Record(PENDING, "a", b"1")])
    said = (path / "run.json").read_bytes()
    async with open_log(path):
        killed = image_of(path)
    # As if it had been killed before the directory said that it was opened.
    (killed / "run.json").write_bytes(said)
    async with open_log(killed) as log:
        assert values(await everything(log, PENDING)) == [b"1"]


async def test_a_key_of_a_table_that_is_no_text_any_more_is_read_as_damaged(path: Path) -> None:
    async with open_log(path) as log:
        await log.append([Record(STATE, "row", b"1"), Record(STATE, "other", b"2")])
    change(path / "log.db", "UPDATE log_state SET key = CAST(? AS TEXT) WHERE key = 'row'", b"r\xf1w")
    async with open_log(path) as log:
        found = [entry async for batch in log.replay(STATE) for entry in batch]
    assert sorted((bool(entry.damage), entry.value) for entry in found) == [(False, b"2"), (True, b"1")]


async def test_large_rows_of_a_table_are_handed_out_few_at_a_time(path: Path) -> None:
    """Or what waits with large payloads would be in memory all at once when it is rebuilt."""
    async with open_log(path) as log:
        await log.append([Record(STATE, f"k{n:02}", bytes(2 << 20)) for n in range(24)])
        pages = [[entry.key for entry in batch] async for batch in log.replay(STATE)]
    assert max(map(len, pages)) <= 8
    assert [key for page in pages for key in page] == [f"k{n:02}" for n in range(24)]
