"""Deliveries with a time, an age and a policy of their own, and what a crash between the steps leaves of them."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from msgspec import Raw
from tests.support import Corridor, ManualClock, opened, running

from howk.domain.breaker import BreakerPolicy
from howk.domain.delivery import Status
from howk.domain.records import DEADLETTER, PENDING, RESULTS, SLOW, STATE, DeadLetter, Delivery, Waiting, reader
from howk.domain.retry import RetryPolicy
from howk.domain.settlement import Rules
from howk.domain.timing import RetryAsked
from howk.flow import journal
from howk.flow.ingest import Enqueue
from howk.flow.projection import judge
from howk.flow.settle import records_of
from howk.ports.log import Entry, Finish, Place, Record
from howk.testing.receiver import Receiver

HOUR = 3_600_000
DAY = 24 * HOUR
_NO_JITTER: dict[str, Any] = {"retry__jitter": 0.0}
_RULES = Rules(RetryPolicy(jitter=0.0), BreakerPolicy(1_000, 1.0, 60_000, 1, 1, 1))


def at(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


async def _entries(corridor: Corridor, stream: str) -> list[Entry]:
    ((place, (start, stop)),) = (await corridor.engines.log.bounds(stream)).items()
    return [entry async for batch in corridor.engines.log.read(stream, place.partition, start, stop) for entry in batch]


async def _rows(corridor: Corridor) -> list[Entry]:
    return [entry async for batch in corridor.engines.log.replay(STATE) for entry in batch]


async def _laid_by(corridor: Corridor, webhook_id: str) -> Status:
    """Settled and waiting for its time."""
    return await corridor.until(webhook_id, lambda status: status.state == "deferred" and status.gen == 1)


def _lose_hot_state(folder: Path) -> None:
    for path in folder.glob("hot.db*"):
        path.unlink()


# A time ahead


async def test_a_delivery_with_a_time_ahead_waits_for_it_and_uses_up_no_attempt(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path) as corridor:
        due = corridor.clock.now() + HOUR
        webhook_id = await corridor.send(receiver.url, b'{ "a" : 1.0 }', deliver_at=at(due), max_attempts=1)
        shown = await corridor.status(webhook_id)
        assert shown is not None
        assert (shown.state, shown.held_by, shown.next_retry_at, shown.attempts) == ("deferred", "deliver_at", due, 0)
        waiting = await _laid_by(corridor, webhook_id)
        assert (waiting.held_by, waiting.next_retry_at, waiting.attempts) == ("deliver_at", due, 0)
        corridor.clock.advance(HOUR - 1)
        await corridor.ended(await corridor.send(receiver.url))
        assert [got.id for got in receiver.captured if got.id == webhook_id] == []
        corridor.clock.advance(1)
        status = await corridor.ended(webhook_id)
        assert (status.state, status.attempts, status.held_by) == ("delivered", 1, "")
        (got,) = [got for got in receiver.captured if got.id == webhook_id]
        assert (got.attempt, got.body) == (1, b'{ "a" : 1.0 }')
        assert await _rows(corridor) == []
        assert len(await _entries(corridor, PENDING)) == 1


async def test_how_long_a_delivery_took_counts_from_the_time_it_was_asked_for(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path) as corridor:
        webhook_id = await corridor.send(receiver.url, deliver_at=at(corridor.clock.now() + DAY))
        await _laid_by(corridor, webhook_id)
        corridor.clock.advance(DAY)
        await corridor.ended(webhook_id)
        text = corridor.metrics.expose().decode()
        assert "howk_end_to_end_seconds_sum 0.0" in text
        assert "howk_retries_total{" not in text


async def test_a_time_that_has_passed_is_at_once(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path) as corridor:
        webhook_id = await corridor.send(receiver.url, deliver_at=at(corridor.clock.now() - DAY))
        assert (await corridor.ended(webhook_id)).state == "delivered"


async def test_what_is_due_now_and_what_is_due_later_are_accepted_together(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path) as corridor:
        later = at(corridor.clock.now() + HOUR)
        requests = [
            Enqueue(endpoint=receiver.url, payload=Raw(b"{}"), deliver_at=later if n % 2 else None) for n in range(40)
        ]
        ids = [id_ for id_ in await corridor.house.ingest.accept("app", requests, "test") if isinstance(id_, str)]
        for webhook_id in ids[::2]:
            assert (await corridor.ended(webhook_id)).state == "delivered"
        for webhook_id in ids[1::2]:
            await _laid_by(corridor, webhook_id)
        assert sorted(got.id for got in receiver.captured) == sorted(ids[::2])
        corridor.clock.advance(HOUR)
        for webhook_id in ids[1::2]:
            assert (await corridor.ended(webhook_id)).attempts == 1
        assert sorted(got.id for got in receiver.captured) == sorted(ids)


async def test_retries_after_a_time_ahead_count_from_the_first_attempt(tmp_path: Path) -> None:
    async with Receiver(fail_first_n=1) as receiver, running(tmp_path, **_NO_JITTER) as corridor:
        webhook_id = await corridor.send(receiver.url, deliver_at=at(corridor.clock.now() + HOUR), max_age="20s")
        await _laid_by(corridor, webhook_id)
        corridor.clock.advance(HOUR)
        waiting = await corridor.failed(webhook_id, attempts=1)
        assert (waiting.next_retry_at, waiting.held_by) == (corridor.clock.now() + 10_000, "")
        corridor.clock.advance(10_000)
        assert (await corridor.ended(webhook_id)).attempts == 2


# Policies


async def test_a_ladder_of_a_year_is_climbed_at_its_times(tmp_path: Path) -> None:
    asked = RetryAsked(type="schedule", delays=("1m", "7d", *["30d"] * 11), jitter=0)
    async with Receiver(fail_first_n=13) as receiver, running(tmp_path) as corridor:
        began = corridor.clock.now()
        webhook_id = await corridor.send(receiver.url, retry=asked, max_age="366d")
        due = began
        for attempt, delay in enumerate([60_000, 7 * DAY, *[30 * DAY] * 11], start=1):
            due += delay
            waiting = await corridor.failed(webhook_id, attempts=attempt)
            assert waiting.next_retry_at == due
            corridor.clock.advance(delay)
        status = await corridor.ended(webhook_id)
        assert (status.state, status.attempts, status.max_attempts) == ("delivered", 14, 14)
        assert status.delivered_at - began > 337 * DAY
        assert [got.attempt for got in receiver.captured] == list(range(1, 15))


async def test_a_policy_of_its_own_is_kept_and_the_others_have_the_deployments(tmp_path: Path) -> None:
    async with Receiver(status=500) as receiver, running(tmp_path, **_NO_JITTER) as corridor:
        began = corridor.clock.now()
        own = await corridor.send(receiver.url, retry=RetryAsked(type="linear", base_delay="3s", max_attempts=3))
        plain = await corridor.send(receiver.url)
        same = await corridor.send(receiver.url, retry=RetryAsked(base_delay="10s"))
        assert (await corridor.failed(own, attempts=1)).next_retry_at == began + 3_000
        assert (await corridor.failed(plain, attempts=1)).next_retry_at == began + 10_000
        assert (await corridor.failed(same, attempts=1)).next_retry_at == began + 10_000
        kept = {entry.key: reader(Waiting)(entry.value).delivery.retry for entry in await _rows(corridor)}
        assert kept == {own: RetryPolicy(3_000, DAY, 0.0, "linear"), plain: None, same: None}
        corridor.clock.advance(3_000)
        assert (await corridor.failed(own, attempts=2)).next_retry_at == began + 9_000
        corridor.clock.advance(6_000)
        assert (await corridor.ended(own)).reason_type == "exhausted"


async def test_a_status_the_policy_names_is_retried_and_any_other_still_ends(tmp_path: Path) -> None:
    asked = RetryAsked(on_status=(302, 404, 410))
    async with Receiver(status=404) as receiver, running(tmp_path, **_NO_JITTER) as corridor:
        webhook_id = await corridor.send(receiver.url, retry=asked)
        assert (await corridor.failed(webhook_id, attempts=1)).last_status_code == 404
        receiver.status = 410
        corridor.clock.advance(10_000)
        assert (await corridor.failed(webhook_id, attempts=2)).last_status_code == 410
        receiver.status = 302
        corridor.clock.advance(20_000)
        assert (await corridor.failed(webhook_id, attempts=3)).last_status_code == 302
        receiver.status = 409
        corridor.clock.advance(40_000)
        status = await corridor.ended(webhook_id)
        assert (status.reason_type, status.attempts) == ("unrecoverable", 4)
        receiver.status = 404
        assert (await corridor.ended(await corridor.send(receiver.url))).reason_type == "unrecoverable"


async def test_a_date_to_come_back_at_is_honoured(tmp_path: Path) -> None:
    clock = ManualClock()
    date = format_datetime(at(clock.now() + 100_000), usegmt=True)
    async with (
        Receiver(status=503, answer_headers={"Retry-After": date}) as receiver,
        running(tmp_path, clock, **_NO_JITTER) as corridor,
    ):
        status = await corridor.failed(await corridor.send(receiver.url), attempts=1)
        assert status.next_retry_at == clock.now() + 100_000


# Ages


async def test_a_delivery_whose_next_retry_lies_past_its_age_has_expired_at_once(tmp_path: Path) -> None:
    async with Receiver(status=500) as receiver, running(tmp_path, **_NO_JITTER) as corridor:
        webhook_id = await corridor.send(receiver.url, b'"kept"', max_age="15s")
        await corridor.failed(webhook_id, attempts=1)
        corridor.clock.advance(10_000)
        status = await corridor.ended(webhook_id)
        assert (status.state, status.reason_type, status.attempts) == ("dead", "expired", 2)
        assert (status.last_status_code, status.ended_at) == (500, corridor.clock.now())
        letter = reader(DeadLetter)((await _entries(corridor, DEADLETTER))[0].value)
        assert (letter.reason, letter.attempts) == ("expired", 2)
        assert letter.delivery is not None
        assert letter.delivery.body == b'"kept"'
        assert await _rows(corridor) == []
        assert 'howk_dlq_total{reason="expired"} 1.0' in corridor.metrics.expose().decode()


async def test_an_attempt_that_was_due_in_time_is_made_however_late(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver(fail_first_n=1) as receiver:
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            webhook_id = await corridor.send(receiver.url, max_age=15)
            later = await corridor.send(receiver.url, max_age=15, deliver_at=at(clock.now() + 5_000))
            await corridor.failed(webhook_id, attempts=1)
            await _laid_by(corridor, later)
        async with opened(tmp_path, clock) as corridor:
            unsent = await corridor.send(receiver.url, max_age=15)
        clock.advance(DAY)
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            assert (await corridor.ended(webhook_id)).state == "delivered"
            # Their first attempts fail, and there is no time for another.
            assert [(await corridor.ended(id_)).reason_type for id_ in (later, unsent)] == ["expired", "expired"]


async def test_the_deployments_age_counts_from_the_acceptance_or_the_time_asked_for(tmp_path: Path) -> None:
    async with opened(tmp_path, delivery__max_age=100.0) as corridor:
        now = corridor.clock.now()
        await corridor.send("http://127.0.0.1:9/")
        await corridor.send("http://127.0.0.1:9/", deliver_at=at(now + HOUR))
        (first,) = [reader(Delivery)(entry.value) for entry in await _entries(corridor, PENDING)]
        assert (first.expires_at, first.deliver_at) == (now + 100_000, 0)
        (result,) = await _entries(corridor, RESULTS)
        assert b'"expires_at":%d' % (now + HOUR + 100_000) in result.value


# What a crash leaves


async def test_a_kill_after_the_doors_append_still_lays_by_and_delivers_once(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver:
        async with opened(tmp_path, clock) as corridor:
            webhook_id = await corridor.send(receiver.url, deliver_at=at(clock.now() + HOUR))
        _lose_hot_state(tmp_path)
        async with running(tmp_path, clock) as corridor:
            assert (await _laid_by(corridor, webhook_id)).next_retry_at == clock.now() + HOUR
            clock.advance(HOUR)
            assert (await corridor.ended(webhook_id)).attempts == 1
        assert [got.id for got in receiver.captured] == [webhook_id]


async def test_a_time_that_passed_while_howk_was_down_is_met_at_the_start(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver:
        async with opened(tmp_path, clock) as corridor:
            unsettled = await corridor.send(receiver.url, deliver_at=at(clock.now() + HOUR))
        clock.advance(DAY)
        async with running(tmp_path, clock) as corridor:
            assert (await corridor.ended(unsettled)).state == "delivered"
        assert [got.id for got in receiver.captured] == [unsettled]


async def test_a_kill_between_settles_append_and_hot_state_lays_by_at_the_next_start(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver:
        async with running(tmp_path, clock) as corridor:
            await corridor.ended(await corridor.send(receiver.url))
        async with opened(tmp_path, clock) as corridor:
            webhook_id = await corridor.send(receiver.url, deliver_at=at(clock.now() + HOUR))
            fresh = [entry for entry in await _entries(corridor, RESULTS) if webhook_id.encode() in entry.value]
            await _append_as_settle(corridor, fresh)
        async with running(tmp_path, clock) as corridor:
            waiting = await _laid_by(corridor, webhook_id)
            assert (waiting.held_by, waiting.next_retry_at) == ("deliver_at", clock.now() + HOUR)
            clock.advance(HOUR)
            assert (await corridor.ended(webhook_id)).attempts == 1
        assert [got.attempt for got in receiver.captured if got.id == webhook_id] == [1]


async def _append_as_settle(corridor: Corridor, fresh: Sequence[Entry]) -> None:
    """What settle would append, without what it does after."""
    judged = await judge(fresh, corridor.engines.state, _RULES)
    records = [record for item in judged.items for record in records_of(item)]
    assert records
    # With what it owes: progress that had no record of its own goes with the next append.
    finish = Finish("settle", {Place(RESULTS, 0): range(fresh[-1].offset + 1)})
    await corridor.engines.log.append(records, finish)


async def test_a_kill_between_schedules_append_and_its_release_sends_it_once(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver:
        async with running(tmp_path, clock) as corridor:
            webhook_id = await corridor.send(receiver.url, deliver_at=at(clock.now() + HOUR))
            await _laid_by(corridor, webhook_id)
        clock.advance(HOUR)
        async with opened(tmp_path, clock) as corridor:
            (claim,) = (await corridor.engines.state.claim(clock.now(), 10, 30.0)).due
            await corridor.engines.log.append([journal.slow(reader(Delivery)(claim.record), claim.record)])
        async with running(tmp_path, clock) as corridor:
            assert (await corridor.ended(webhook_id)).attempts == 1
            await corridor.house.deliver_stage.caught_up()
            assert len(await _entries(corridor, SLOW)) == 1
        assert [got.attempt for got in receiver.captured] == [1]


async def test_lost_hot_state_is_rebuilt_with_what_is_laid_by_and_what_has_expired(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver(status=500) as receiver:
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            later = await corridor.send(receiver.url, deliver_at=at(clock.now() + HOUR))
            await _laid_by(corridor, later)
            own = await corridor.send(receiver.url, retry=RetryAsked(type="fixed", base_delay="2h"))
            await corridor.failed(own, attempts=1)
            expired = await corridor.send(receiver.url, max_age=5)
            await corridor.ended(expired)
        async with opened(tmp_path, clock, **_NO_JITTER) as corridor:
            before = list(await corridor.engines.state.status([later, own, expired]))
        _lose_hot_state(tmp_path)
        async with opened(tmp_path, clock, **_NO_JITTER) as corridor:
            await corridor.house.reconcile.recover()
            assert list(await corridor.engines.state.status([later, own, expired])) == before
            assert [status and status.state for status in before] == ["deferred", "failed", "dead"]
            assert (await corridor.engines.state.claim(clock.now() + HOUR - 1, 10, 0.0)).due == []
        receiver.status = 200
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            clock.advance(HOUR)
            assert (await corridor.ended(later)).attempts == 1
            clock.advance(HOUR)
            assert (await corridor.ended(own)).attempts == 2


async def test_a_request_to_lay_by_that_is_in_the_log_twice_is_sent_once(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver, running(tmp_path, clock) as corridor:
        webhook_id = await corridor.send(receiver.url, deliver_at=at(clock.now() + HOUR))
        await _laid_by(corridor, webhook_id)
        (entry,) = await _entries(corridor, RESULTS)
        again = [Record(RESULTS, entry.key, entry.value)]
        await corridor.engines.log.append(again)
        clock.advance(HOUR)
        await corridor.ended(webhook_id)
        await corridor.engines.log.append(again)
        await asyncio.wait_for(corridor.house.settle_stage.caught_up(), 10)
        assert (await corridor.ended(webhook_id)).state == "delivered"
        assert [got.attempt for got in receiver.captured] == [1]
        assert await _rows(corridor) == []
