"""What a crash between any two steps leaves behind, and that the next start makes it whole."""

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.contract.embedded import image_of
from tests.support import Corridor, ManualClock, Notes, opened, running

from howk.domain.breaker import BreakerPolicy
from howk.domain.delivery import LIMIT, Status, cancelled_result, put_aside
from howk.domain.errors import Transient
from howk.domain.records import PENDING, RESULTS, SLOW, DeadLetter, Delivery, Result, encode, reader
from howk.domain.retry import RetryPolicy
from howk.domain.settlement import Rules, undecodable
from howk.flow import journal
from howk.flow.journal import Journal
from howk.flow.projection import judge, judge_results
from howk.flow.settle import records_of
from howk.flow.stage import Emission, Emit, Lane, Stage
from howk.ports.log import Consumer, Entry, Finish, Log, Place, Progress, Record
from howk.ports.state import Effect
from howk.ports.telemetry import STAGE_RETRIES
from howk.runtime.observability import Metrics
from howk.testing.receiver import Receiver

_NO_JITTER = {"retry__jitter": 0.0}
_RULES = Rules(RetryPolicy(jitter=0.0), BreakerPolicy(1_000, 1.0, 60_000, 1, 1, 1))


def _lose_hot_state(folder: Path) -> None:
    for path in folder.glob("hot.db*"):
        path.unlink()


async def _entries(corridor: Corridor, stream: str) -> list[Entry]:
    ((place, (start, stop)),) = (await corridor.engines.log.bounds(stream)).items()
    return [entry async for batch in corridor.engines.log.read(stream, place.partition, start, stop) for entry in batch]


async def _known(corridor: Corridor, ids: Sequence[str]) -> list[Status | None]:
    return list(await corridor.engines.state.status(ids))


async def test_hot_state_that_was_lost_is_rebuilt_to_what_it_was(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as good, Receiver(status=500) as bad, Receiver(status=404) as gone:
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            delivered = await corridor.send(good.url)
            await corridor.ended(delivered)
            refused = await corridor.send(gone.url)
            await corridor.ended(refused)
            exhausted = await corridor.send(bad.url, max_attempts=1)
            await corridor.ended(exhausted)
            waiting = await corridor.send(bad.url)
            await corridor.failed(waiting, attempts=1)
            clock.advance(10_000)
            await corridor.failed(waiting, attempts=2)
        async with opened(tmp_path, clock, **_NO_JITTER) as corridor:
            ids = [delivered, refused, exhausted, waiting, await corridor.send(good.url)]
            before = await _known(corridor, ids)
        _lose_hot_state(tmp_path)
        async with opened(tmp_path, clock, **_NO_JITTER) as corridor:
            assert not (await corridor.engines.state.condition()).valid
            await corridor.house.reconcile.recover()
            assert (await corridor.engines.state.condition()).valid
            assert await _known(corridor, ids) == before
        bad.status = 200
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            clock.advance(20_000)
            assert (await corridor.ended(waiting)).attempts == 3
            assert (await corridor.ended(ids[-1])).attempts == 1
        assert [got.attempt for got in bad.captured if got.id == waiting] == [1, 2, 3]
        assert good.total == 2
        assert gone.total == 1


async def test_a_kill_between_settles_append_and_hot_state_is_caught_up(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver(fail_first_n=1) as receiver:
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            await corridor.failed(await corridor.send(receiver.url), attempts=1)
        async with opened(tmp_path, clock, **_NO_JITTER) as corridor:
            webhook_id = await corridor.send(receiver.url)
            stage = asyncio.ensure_future(corridor.house.deliver_stage.run())
            await corridor.house.deliver_stage.caught_up()
            stage.cancel()
            # What settle would append, without what it does after.
            fresh = [entry for entry in await _entries(corridor, RESULTS) if webhook_id.encode() in entry.value]
            judged = await judge(fresh, corridor.engines.state, _RULES)
            records = [record for item in judged.items for record in records_of(item)]
            assert records
            finish = Finish("settle", {Place(RESULTS, 0): [entry.offset for entry in fresh]})
            await corridor.engines.log.append(records, finish)
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            assert (await corridor.failed(webhook_id, attempts=1)).next_retry_at == clock.now() + 10_000
            clock.advance(10_000)
            assert (await corridor.ended(webhook_id)).attempts == 2
        assert [got.attempt for got in receiver.captured if got.id == webhook_id] == [1, 2]


async def test_a_kill_between_schedules_append_and_its_release_sends_the_retry_once(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver(fail_first_n=1) as receiver:
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            webhook_id = await corridor.send(receiver.url)
            await corridor.failed(webhook_id, attempts=1)
        clock.advance(10_000)
        async with opened(tmp_path, clock, **_NO_JITTER) as corridor:
            claims = await corridor.engines.state.claim(clock.now(), 10, 30.0)
            (claim,) = claims.due
            await corridor.engines.log.append([journal.slow(reader(Delivery)(claim.record), claim.record)])
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            assert (await corridor.ended(webhook_id)).attempts == 2
            await corridor.house.deliver_stage.caught_up()
            assert len(await _entries(corridor, SLOW)) == 1
        assert [got.attempt for got in receiver.captured] == [1, 2]


async def test_a_kill_before_schedules_append_claims_the_retry_again(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver(fail_first_n=1) as receiver:
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            webhook_id = await corridor.send(receiver.url)
            await corridor.failed(webhook_id, attempts=1)
        clock.advance(10_000)
        async with opened(tmp_path, clock, **_NO_JITTER) as corridor:
            assert (await corridor.engines.state.claim(clock.now(), 10, 3_600.0)).due
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            assert (await corridor.ended(webhook_id)).attempts == 2


async def test_a_kill_after_the_append_and_before_the_status_still_delivers_and_shows(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver:
        async with opened(tmp_path, clock) as corridor:
            webhook_id = await corridor.send(receiver.url)
            (entry,) = await _entries(corridor, PENDING)
        _lose_hot_state(tmp_path)
        async with opened(tmp_path, clock) as corridor:
            await corridor.engines.log.append([Record(PENDING, entry.key, entry.value.replace(b"wh_", b"wx_"))])
            await corridor.house.reconcile.recover()
            statuses = await _known(corridor, [webhook_id, webhook_id.replace("wh_", "wx_")])
            assert [status and status.state for status in statuses] == ["pending", "pending"]


async def test_a_late_success_of_an_old_gen_stays_the_end_through_a_rebuild(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver(fail_first_n=1) as receiver:
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            webhook_id = await corridor.send(receiver.url)
            await corridor.failed(webhook_id, attempts=1)
        clock.advance(10_000)
        async with opened(tmp_path, clock, **_NO_JITTER) as corridor:
            (claim,) = (await corridor.engines.state.claim(clock.now(), 10, 30.0)).due
            await corridor.engines.log.append([journal.slow(reader(Delivery)(claim.record), claim.record)])
            await corridor.engines.state.release([claim])
            late = Result(v=1, id=webhook_id, scope="app", outcome="delivered", at=clock.now(), status_code=200)
            await corridor.engines.log.append([journal.outcome(late)])
            settling = asyncio.ensure_future(corridor.house.settle_stage.run())
            await corridor.house.settle_stage.caught_up()
            settling.cancel()
            assert (await corridor.ended(webhook_id)).state == "delivered"
        _lose_hot_state(tmp_path)
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            assert (await corridor.ended(webhook_id)).state == "delivered"
            await corridor.house.deliver_stage.caught_up()
        assert [got.attempt for got in receiver.captured] == [1]


async def test_a_waiting_row_nobody_can_read_becomes_a_dead_letter_at_the_rebuild(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as corridor:
        await corridor.engines.log.append([Record("howk.state", "wh_x", b'{"v":1,"half')])
    _lose_hot_state(tmp_path)
    async with opened(tmp_path, clock) as corridor:
        await corridor.house.reconcile.recover()
        status = await corridor.status("wh_x")
        assert status is not None
        assert (status.state, status.reason_type) == ("dead", "undecodable")
        (letter,) = [reader(DeadLetter)(entry.value) for entry in await _entries(corridor, "howk.deadletter")]
        assert (letter.id, letter.source) == ("wh_x", "howk.state/wh_x")
        assert [row async for batch in corridor.engines.log.replay("howk.state") for row in batch] == []


class _Faulty:
    """A log whose first appends fail, before or after they happened: both are allowed to."""

    def __init__(self, log: Log, failures: int, *, after: bool) -> None:
        self._log = log
        self._failures = failures
        self._after = after
        self.capabilities = log.capabilities
        self.consume = log.consume

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        if self._failures:
            self._failures -= 1
            if self._after:
                await self._log.append(records, finish)
            raise Transient("the disk is full: free some space", retry_after=0.001)
        await self._log.append(records, finish)


class _Echo:
    """A room that answers each record with one result, and fails its first calls when told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.durable: list[int] = []

    async def take(self, batch: Sequence[Entry], emit: Emit) -> None:
        if self.failures:
            self.failures -= 1
            raise Transient("hot state is away", retry_after=0.001)
        for entry in batch:
            emit(Emission(entry, [Record(RESULTS, entry.key, entry.value)]))

    async def refuse(self, entry: Entry, error: str, emit: Emit) -> None:
        emit(Emission(entry, []))

    async def settled(self, emissions: Sequence[Emission]) -> None:
        self.durable.extend(emission.entry.offset for emission in emissions)


@pytest.mark.parametrize("after", [False, True])
async def test_a_stage_keeps_what_it_could_not_append_until_it_can(tmp_path: Path, after: bool) -> None:
    async with opened(tmp_path) as corridor:
        log = corridor.engines.log
        await log.append([Record(PENDING, "k", b"%d" % i) for i in range(10)])
        metrics, notes, room = Metrics(), Notes(), _Echo(failures=2)
        faulty = Journal(_Faulty(log, 3, after=after), metrics)  # pyright: ignore[reportArgumentType]
        stage = Stage("echo", room, (Lane(PENDING),), faulty, 4, metrics, notes)
        task = asyncio.ensure_future(stage.run())
        await _until(lambda: len(room.durable) == 10)
        task.cancel()
        assert room.durable == list(range(10))
        assert {entry.value for entry in await _entries(corridor, RESULTS)} == {b"%d" % i for i in range(10)}
        assert [event for event, _ in notes.lines] == ["stage_retry"] * 5
        assert f'{STAGE_RETRIES.name}{{stage="echo"}} 5.0' in metrics.expose().decode()


class _Unsteady:
    """A log some of whose calls fail once, and whose consumers fail or are late as told."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.fails = {"bounds", "progress"}
        self.fetch_fails: set[str] = set()
        self.fetch_waits: dict[str, asyncio.Event] = {}
        self.capabilities = log.capabilities
        self.append = log.append

    async def bounds(self, stream: str) -> Mapping[Place, tuple[int, int]]:
        self._fail(self.fails, "bounds")
        return await self._log.bounds(stream)

    async def progress(self, stream: str, group: str) -> Mapping[Place, Progress]:
        self._fail(self.fails, "progress")
        return await self._log.progress(stream, group)

    async def consume(self, stream: str, group: str, wake: Callable[[], None]) -> Consumer:
        return _UnsteadyConsumer(await self._log.consume(stream, group, wake), self, stream)

    def _fail(self, fails: set[str], name: str) -> None:
        if name in fails:
            fails.remove(name)
            raise Transient("the log is away", retry_after=0.001)

    async def before_fetch(self, stream: str) -> None:
        self._fail(self.fetch_fails, stream)
        if stream in self.fetch_waits:
            await self.fetch_waits[stream].wait()


class _UnsteadyConsumer:
    def __init__(self, consumer: Consumer, log: _Unsteady, stream: str) -> None:
        self._consumer = consumer
        self._log = log
        self._stream = stream
        self.ready = consumer.ready
        self.backlog = consumer.backlog

    async def fetch(self, limit: int) -> Sequence[Entry]:
        await self._log.before_fetch(self._stream)
        return await self._consumer.fetch(limit)


def _unsteady(corridor: Corridor, room: _Echo) -> tuple[_Unsteady, Stage]:
    log, metrics = _Unsteady(corridor.engines.log), Metrics()
    journal = Journal(log, metrics)  # pyright: ignore[reportArgumentType]
    return log, Stage("echo", room, (Lane(PENDING), Lane(SLOW)), journal, 100, metrics, Notes())


async def test_who_waits_for_a_stage_to_catch_up_outlasts_a_log_that_is_away(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        await corridor.engines.log.append([Record(PENDING, "k", b"1")])
        room = _Echo()
        log, stage = _unsteady(corridor, room)
        task = asyncio.ensure_future(stage.run())
        async with asyncio.timeout(20):
            await stage.caught_up()
        task.cancel()
        assert room.durable == [0]
        assert log.fails == set()


async def test_a_stage_has_caught_up_only_when_its_room_was_told_of_what_is_durable(tmp_path: Path) -> None:
    """What builds on settle begins then: a retry that was made would be claimed again, and an order not be known."""
    told, durable = asyncio.Event(), asyncio.Event()

    class Slow(_Echo):
        async def settled(self, emissions: Sequence[Emission]) -> None:
            durable.set()
            await told.wait()
            await super().settled(emissions)

    async with opened(tmp_path) as corridor:
        await corridor.engines.log.append([Record(PENDING, "k", b"1")])
        metrics, room = Metrics(), Slow()
        journal_ = Journal(corridor.engines.log, metrics)
        stage = Stage("echo", room, (Lane(PENDING),), journal_, 100, metrics, Notes(), one_at_a_time=True)
        task = asyncio.ensure_future(stage.run())
        await durable.wait()
        waiting = asyncio.ensure_future(stage.caught_up())
        for _ in range(20):
            # Asked after it has asked, and so answered after it was answered.
            progress = await corridor.engines.log.progress(PENDING, "echo")
            assert progress[Place(PENDING, 0)].next == 1
        assert not waiting.done()
        told.set()
        async with asyncio.timeout(20):
            await waiting
        task.cancel()
        assert room.durable == [0]


class _Late:
    """A log that says how far a group has come when it is let, as it is by then."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.asked = 0
        self.let = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def progress(self, stream: str, group: str) -> Mapping[Place, Progress]:
        self.asked += 1
        await self.let.wait()
        return await self._log.progress(stream, group)


async def test_the_end_of_an_earlier_write_is_not_taken_for_that_of_the_one_under_way(tmp_path: Path) -> None:
    class Slow(_Echo):
        def __init__(self) -> None:
            super().__init__()
            self.begun = [asyncio.Event(), asyncio.Event()]
            self.told = [asyncio.Event(), asyncio.Event()]

        async def settled(self, emissions: Sequence[Emission]) -> None:
            (emission,) = emissions
            self.begun[emission.entry.offset].set()
            await self.told[emission.entry.offset].wait()
            await super().settled(emissions)

    async with opened(tmp_path) as corridor, asyncio.timeout(20):
        log, metrics, room = _Late(corridor.engines.log), Metrics(), Slow()
        front = Journal(log, metrics)  # pyright: ignore[reportArgumentType]
        stage = Stage("echo", room, (Lane(PENDING),), front, 1, metrics, Notes(), one_at_a_time=True)
        await log.append([Record(PENDING, "k", b"%d" % n) for n in range(2)])
        task = asyncio.ensure_future(stage.run())
        await room.begun[0].wait()
        waiting = [asyncio.ensure_future(stage.caught_up()) for _ in range(2)]
        await _until(lambda: log.asked == 2)
        room.told[0].set()
        await room.begun[1].wait()
        log.let.set()
        for _ in range(20):
            await corridor.engines.log.progress(PENDING, "echo")
        assert not any(each.done() for each in waiting)
        room.told[1].set()
        await asyncio.gather(*waiting)
        task.cancel()
        assert room.durable == [0, 1]


async def test_progress_without_a_record_is_durable_soon_however_much_comes(tmp_path: Path) -> None:
    """Or what is owed would grow for as long as it comes, and nothing that was finished could ever be dropped."""

    class Silent(_Echo):
        async def take(self, batch: Sequence[Entry], emit: Emit) -> None:
            for entry in batch:
                emit(Emission(entry, ()))

    async with opened(tmp_path) as corridor, asyncio.timeout(20):
        log, metrics, room = corridor.engines.log, Metrics(), Silent()
        stage = Stage("echo", room, (Lane(PENDING),), Journal(log, metrics), 8, metrics, Notes(), lazy_finish=True)
        task = asyncio.ensure_future(stage.run())
        place, written = Place(PENDING, 0), 0
        # The next comes as soon as the room was told of the one before, so that there is never a pause.
        while written < 10 or not (await log.progress(PENDING, "echo"))[place].next:
            await log.append([Record(PENDING, "k", b"%d" % written)])
            written += 1
            await _until(lambda so_far=written: len(room.durable) == so_far)
        task.cancel()


async def test_what_one_lane_has_given_is_not_lost_when_the_next_can_not_be_read(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        records = [Record(stream, "k", b"%d" % n) for stream in (PENDING, SLOW) for n in range(4)]
        await corridor.engines.log.append(records)
        room = _Echo()
        log, stage = _unsteady(corridor, room)
        log.fetch_fails.add(SLOW)
        task = asyncio.ensure_future(stage.run())
        await _until(lambda: len(room.durable) == len(records))
        task.cancel()
        assert log.fetch_fails == set()


async def test_what_is_read_while_a_stage_closes_is_left_for_the_next_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        await corridor.engines.log.append([Record(PENDING, "k", b"1")])
        room = _Echo()
        log, stage = _unsteady(corridor, room)
        gate = log.fetch_waits[PENDING] = asyncio.Event()
        task = asyncio.ensure_future(stage.run())
        for _ in range(50):
            await asyncio.sleep(0.001)
        stage.close()
        await stage.drained()
        gate.set()
        for _ in range(50):
            await asyncio.sleep(0.001)
        task.cancel()
        assert room.durable == []
        assert [entry.value for entry in await _entries(corridor, RESULTS)] == []


async def test_a_mark_goes_with_a_delivery_that_is_not_known_any_more_when_it_ends(tmp_path: Path) -> None:
    """As of one whose cancel was decided and whose attempt ended before a kill."""
    result = Result(v=1, id="wh_x", scope="app", outcome="delivered", at=1, created_at=1)
    async with opened(tmp_path) as corridor:
        entry = Entry(RESULTS, 0, 0, "app/wh_x", encode(result), 1)
        (item,) = (await judge([entry], corridor.engines.state, _RULES)).items
        assert records_of(item) == [journal.marks_no_more("wh_x")]


async def test_a_cancelled_delivery_that_can_not_be_read_ends_in_the_gen_it_was_at(tmp_path: Path) -> None:
    """The bytes don't tell it, and an end of an earlier one would not stand in a rebuild."""
    clock = ManualClock()
    async with opened(tmp_path, clock) as corridor:
        await corridor.engines.state.apply([Effect(Status(id="wh_x", scope="app", state="failed", gen=3))], {})
        await corridor.engines.state.apply((), {}, (), ["wh_x"])
        lost = replace(undecodable(f"{SLOW}/0/0", "", b"?", clock.now(), "torn"), id="wh_x", scope="app")
        (item,) = (
            await judge_results([Entry(RESULTS, 0, 0, "app/wh_x", b"", 1)], [lost], corridor.engines.state, _RULES)
        ).items
        ends = [reader(Result)(record.value) for record in records_of(item) if record.stream == RESULTS]
        assert [(end.outcome, end.gen, end.settled) for end in ends] == [("cancelled", 3, True)]


async def test_a_cancel_that_settle_had_not_seen_at_a_kill_stands_over_the_failure_that_came_after_it(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with Receiver(status=500) as receiver:
        async with opened(tmp_path / "data", clock) as corridor:
            await corridor.house.reconcile.recover()
            webhook_id = await corridor.send(receiver.url)
            await corridor.house.command.cancel(webhook_id)
            stage = asyncio.ensure_future(corridor.house.deliver_stage.run())
            await corridor.house.deliver_stage.caught_up()
            stage.cancel()
            killed = image_of(tmp_path / "data")
        async with opened(killed, clock) as corridor:
            await corridor.house.reconcile.recover()
            assert [status and status.state for status in await _known(corridor, [webhook_id])] == ["pending"]
        async with running(killed, clock) as corridor:
            status = await corridor.ended(webhook_id)
            assert (status.state, status.attempts) == ("cancelled", 1)


@pytest.mark.parametrize("marked", [False, True])
async def test_a_cancel_stands_over_a_hold_that_settle_had_finished_and_hot_state_not_at_a_kill(
    tmp_path: Path, marked: bool
) -> None:
    """Only the process knew of the delivery. `marked`: hot state was told of the cancel before."""
    data, clock = tmp_path / "data", ManualClock()
    async with Receiver() as receiver:
        async with opened(data, clock) as corridor:
            stage = corridor.house.settle_stage
            await corridor.house.reconcile.recover()
            webhook_id = await corridor.send(receiver.url)
            (first,) = [reader(Delivery)(entry.value) for entry in await _entries(corridor, PENDING)]
            await corridor.house.command.cancel(webhook_id)
            settling = [asyncio.ensure_future(stage.run())] if marked else []
            if marked:
                await stage.caught_up()
            behind = image_of(data).rename(tmp_path / "behind")
            await corridor.engines.log.append([journal.outcome(put_aside(first, LIMIT, "", clock.now()))])
            settling += [] if marked else [asyncio.ensure_future(stage.run())]
            await stage.caught_up()
            (told,) = await _known(corridor, [webhook_id])
            assert told is not None
            assert told.state == "cancelled"
            killed = image_of(data)
            settling[0].cancel()
        _lose_hot_state(killed)
        for path in behind.glob("hot.db*"):
            shutil.copy(path, killed)
        async with opened(killed, clock) as corridor:
            assert (await corridor.engines.state.condition()).valid
            await corridor.house.reconcile.recover()
            assert await _known(corridor, [webhook_id]) == [told]
        async with running(killed, clock) as corridor:
            await corridor.house.deliver_stage.caught_up()
            assert (await corridor.engines.state.statistics(clock.now())).waiting == 0
        assert receiver.total == 0


async def test_a_rebuild_knows_an_end_that_was_settles_last_act_before_a_kill(tmp_path: Path) -> None:
    """The row is gone in that act, and the record that says why is not finished yet."""
    clock = ManualClock()
    async with Receiver(status=500) as receiver:
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            webhook_id = await corridor.send(receiver.url)
            await corridor.failed(webhook_id, attempts=1)
        async with opened(tmp_path, clock) as corridor:
            now = clock.now()
            failed = Result(
                v=1, id=webhook_id, scope="app", outcome="failed", at=now, gen=1, attempt=2, max_attempts=20
            )
            end = journal.outcome(cancelled_result(failed))
            await corridor.engines.log.append([journal.waits_no_more(webhook_id), end])
        _lose_hot_state(tmp_path)
        async with opened(tmp_path, clock) as corridor:
            for _ in range(2):
                await corridor.house.reconcile.recover()
                (status,) = await _known(corridor, [webhook_id])
                assert status is not None
                assert (status.state, status.gen, status.attempts) == ("cancelled", 1, 2)
        async with running(tmp_path, clock) as corridor:
            await corridor.house.settle_stage.caught_up()
            assert await _known(corridor, [webhook_id]) == [status]


async def test_who_waits_for_a_stage_to_catch_up_waits_until_its_room_knows(tmp_path: Path) -> None:
    """Or a start would let first attempts go by what hot state said before."""
    async with opened(tmp_path) as corridor:
        log = corridor.engines.log
        await log.append([Record(PENDING, "k", b"%d" % i) for i in range(10)])
        told = asyncio.Event()

        class Late(_Echo):
            async def settled(self, emissions: Sequence[Emission]) -> None:
                await told.wait()
                await super().settled(emissions)

        metrics, room = Metrics(), Late()
        stage = Stage("late", room, (Lane(PENDING),), Journal(log, metrics), 100, metrics, Notes())
        running_stage = asyncio.ensure_future(stage.run())
        async with asyncio.timeout(10):
            while (await log.progress(PENDING, "late"))[Place(PENDING, 0)].next < 10:
                await asyncio.sleep(0)
        # Everything is durable, and whoever asks can see that.
        waits = asyncio.ensure_future(stage.caught_up())
        for _ in range(10):
            await log.progress(PENDING, "late")
        assert not waits.done()
        told.set()
        await asyncio.wait_for(waits, 10)
        assert room.durable == list(range(10))
        running_stage.cancel()


async def test_a_rebuild_keeps_a_cancelled_end_over_a_success_that_came_in_before_settle_could_write_it(
    tmp_path: Path,
) -> None:
    """Two records of one delivery, as after an append of unknown end: a failure of one after a cancel ended it, and
    the success of the other stands before what says so."""
    data, clock = tmp_path / "data", ManualClock()
    async with opened(data, clock) as corridor:
        await corridor.house.reconcile.recover()
        webhook_id = await corridor.send("http://127.0.0.1:9/")
        (first,) = [reader(Delivery)(entry.value) for entry in await _entries(corridor, PENDING)]
        await corridor.house.command.cancel(webhook_id)
        failed = replace(put_aside(first, "", "", clock.now()), v=1, outcome="failed")
        success = Result(v=1, id=webhook_id, scope="app", outcome="delivered", at=clock.now(), max_attempts=20)
        outcomes = [journal.outcome(failed), journal.outcome(success)]
        await corridor.engines.log.append(outcomes, Finish("deliver", {Place(PENDING, 0): [0]}))
        settling = asyncio.ensure_future(corridor.house.settle_stage.run())
        await corridor.house.settle_stage.caught_up()
        killed = [image_of(data).rename(tmp_path / "before settle has read what it wrote")]
        before = await _known(corridor, [webhook_id])
        await corridor.house.settle_stage.caught_up()
        killed.append(image_of(data))
        settling.cancel()
    assert [status and status.state for status in before] == ["cancelled"]
    for folder in killed:
        _lose_hot_state(folder)
        async with opened(folder, clock) as corridor:
            await corridor.house.reconcile.recover()
            assert await _known(corridor, [webhook_id]) == before, folder.name


async def test_a_start_that_has_to_be_made_again_after_its_rebuild_does_not_begin_another(tmp_path: Path) -> None:
    """First attempts have begun by then: they would go out to endpoints whose pause was forgotten for the moment."""
    clock = ManualClock()
    async with Receiver() as receiver:
        async with running(tmp_path, clock) as corridor:
            await corridor.ended(await corridor.send(receiver.url))
            await corridor.house.settle_stage.caught_up()
        async with opened(tmp_path, clock) as corridor:
            for _ in range(2):
                await corridor.house.reconcile.recover(from_beginning=True)
            assert [event for event, _ in corridor.notes.lines] == ["rebuild_started", "rebuild_finished"]
            # What has become of it since is another matter.
            await corridor.engines.state.rebuild()
            await corridor.house.reconcile.recover()
            assert (await corridor.engines.state.condition()).valid


async def test_a_stage_never_has_more_in_hand_than_its_window(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        await corridor.engines.log.append([Record(PENDING, "k", b"%d" % i) for i in range(50)])
        held: list[Callable[[], None]] = []

        class Slow(_Echo):
            async def take(self, batch: Sequence[Entry], emit: Emit) -> None:
                for entry in batch:
                    held.append(lambda entry=entry: emit(Emission(entry, [])))

        metrics, room = Metrics(), Slow()
        stage = Stage("slow", room, (Lane(PENDING),), Journal(corridor.engines.log, metrics), 8, metrics, Notes())
        task = asyncio.ensure_future(stage.run())
        released = 0
        while released < 50:
            await _until(lambda released=released: len(held) > released)
            assert len(held) - released <= 8
            held[released]()
            released += 1
        await asyncio.wait_for(stage.drained(), 10)
        task.cancel()
        assert sorted(room.durable) == list(range(50))


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)
