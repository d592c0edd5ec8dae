"""Retention with the clock in the test's hands: what is finished goes when it is old or room is needed, what is not
stays whatever happens, and a rebuild after it knows all that has not ended."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from tests.support import NOW, Corridor, ManualClock, opened, running, serving

from howk.domain.config_defaults import ConfigRequest
from howk.domain.errors import Full, OverShare
from howk.domain.records import DEADLETTER, PENDING, RESULTS, SLOW, STATE
from howk.flow.ingest import Enqueue
from howk.ports.log import Finish, Place
from howk.ports.telemetry import TRIMMED
from howk.testing.receiver import Receiver

DAY = 86_400_000
_STREAMS = (PENDING, SLOW, RESULTS, DEADLETTER)
_NO_JITTER: dict[str, Any] = {"retry__jitter": 0.0}
_SMALL: dict[str, Any] = {"retention__max_log_size": 8 << 20, **_NO_JITTER}
_LARGE = b'"%b"' % (b"x" * 600_000)


async def _kept(corridor: Corridor) -> dict[str, int]:
    """How many records each stream keeps."""
    bounds = [await corridor.engines.log.bounds(stream) for stream in _STREAMS]
    return {place.stream: end - first for each in bounds for place, (first, end) in each.items()}


async def _retain(corridor: Corridor) -> None:
    """Turns until there is nothing more to drop."""
    before: dict[str, int] = {}
    while before != (now := await _kept(corridor)):
        before = now
        corridor.clock.advance(5_000)
        await corridor.house.retain.turn()


async def _idle(corridor: Corridor) -> None:
    """Everything that came in is settled."""
    await corridor.house.deliver_stage.caught_up()
    await corridor.house.settle_stage.caught_up()


def _lose_hot_state(folder: Path) -> None:
    for path in folder.glob("hot.db*"):
        path.unlink()


def _said(corridor: Corridor) -> list[str]:
    return [event for event, _ in corridor.notes.lines if event != "key_generated"]


# By time


async def test_what_is_finished_is_dropped_once_it_is_old_enough_and_not_before(tmp_path: Path) -> None:
    ages = {"retention__pending": 3_600, "retention__results": 7_200, "retention__deadletter": 10_800}
    async with Receiver() as good, Receiver(status=404) as gone, running(tmp_path, **ages) as corridor:
        for receiver in (good, gone, good, gone):
            await corridor.ended(await corridor.send(receiver.url))
        await _idle(corridor)
        assert await _kept(corridor) == {PENDING: 4, SLOW: 0, RESULTS: 4, DEADLETTER: 2}
        left: list[dict[str, int]] = []
        for minutes in (55, 10, 55, 60):
            corridor.clock.advance(minutes * 60_000)
            await _retain(corridor)
            left.append(await _kept(corridor))
        # The newest row of a stream stays: the next offset is known by it.
        assert left == [
            {PENDING: 4, SLOW: 0, RESULTS: 4, DEADLETTER: 2},
            {PENDING: 1, SLOW: 0, RESULTS: 4, DEADLETTER: 2},
            {PENDING: 1, SLOW: 0, RESULTS: 1, DEADLETTER: 2},
            {PENDING: 1, SLOW: 0, RESULTS: 1, DEADLETTER: 1},
        ]
        shown = corridor.metrics.expose().decode()
        assert f'{TRIMMED.name}{{stream="{PENDING}"}} 3' in shown
        assert _said(corridor) == []


async def test_what_has_not_been_taken_stays_however_old_it_is(tmp_path: Path) -> None:
    async with Receiver() as receiver, opened(tmp_path) as corridor:
        await corridor.house.reconcile.recover()
        ids = [await corridor.send(receiver.url) for _ in range(5)]
        corridor.clock.advance(10 * DAY)
        await _retain(corridor)
        assert (await _kept(corridor))[PENDING] == 5
        async with serving(corridor.house):
            for id_ in ids:
                assert (await corridor.ended(id_)).state == "delivered"


async def test_a_call_that_hangs_keeps_what_stands_behind_it_until_it_ends(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver(hang=True) as hangs, Receiver() as good:
        async with running(tmp_path, clock) as corridor:
            hanging = await corridor.send(hangs.url)
            await hangs.wait_for(1)
            for _ in range(5):
                await corridor.ended(await corridor.send(good.url))
            clock.advance(10 * DAY)
            await _retain(corridor)
            assert (await _kept(corridor))[PENDING] == 6
        hangs.hang = False
        async with running(tmp_path, clock) as corridor:
            assert (await corridor.ended(hanging)).state == "delivered"
            await _retain(corridor)
            assert (await _kept(corridor))[PENDING] == 1


@contextlib.asynccontextmanager
async def _delivering(corridor: Corridor) -> AsyncGenerator[None]:
    """The stage of deliver without that of settle."""
    task = asyncio.ensure_future(corridor.house.deliver_stage.run())
    yield
    await corridor.house.deliver_stage.caught_up()
    task.cancel()


_LONG_KNOWN: dict[str, Any] = {"ttl__status_ttl": 60 * 86_400}


async def _delivered_and_not_settled(corridor: Corridor, receiver: Receiver, many: int) -> list[str]:
    await corridor.house.reconcile.recover()
    async with _delivering(corridor):
        ids = [await corridor.send(receiver.url) for _ in range(many)]
        await receiver.wait_for(many)
    return ids


async def test_results_that_settle_has_not_finished_stay(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver:
        async with opened(tmp_path, clock, **_LONG_KNOWN) as corridor:
            ids = await _delivered_and_not_settled(corridor, receiver, 4)
            clock.advance(10 * DAY)
            await _retain(corridor)
            kept = await _kept(corridor)
            assert (kept[PENDING], kept[RESULTS]) == (1, 4)
        async with running(tmp_path, clock, **_LONG_KNOWN) as corridor:
            for id_ in ids:
                assert (await corridor.ended(id_)).attempts == 1
        assert receiver.total == 4


async def test_results_stay_that_hot_state_does_not_hold_yet(tmp_path: Path) -> None:
    # Settle was killed between its append and hot state.
    clock = ManualClock()
    async with Receiver() as receiver:
        async with opened(tmp_path, clock, **_LONG_KNOWN) as corridor:
            ids = await _delivered_and_not_settled(corridor, receiver, 4)
            await corridor.engines.log.append([], Finish("settle", {Place(RESULTS, 0): range(4)}))
            clock.advance(10 * DAY)
            await _retain(corridor)
            assert (await _kept(corridor))[RESULTS] == 4
        async with running(tmp_path, clock, **_LONG_KNOWN) as corridor:
            for id_ in ids:
                assert (await corridor.ended(id_)).state == "delivered"


async def test_nothing_is_dropped_while_hot_state_is_rebuilt(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver, running(tmp_path, clock) as corridor:
        for _ in range(3):
            await corridor.ended(await corridor.send(receiver.url))
        await _idle(corridor)
        rebuild = await corridor.engines.state.rebuild()
        clock.advance(10 * DAY)
        await _retain(corridor)
        assert (await _kept(corridor)) == {PENDING: 3, SLOW: 0, RESULTS: 3, DEADLETTER: 0}
        await rebuild.seal({0: 3})
        await _retain(corridor)
        assert (await _kept(corridor)) == {PENDING: 1, SLOW: 0, RESULTS: 1, DEADLETTER: 0}


# What a rebuild knows afterwards

_PATIENT: dict[str, Any] = {
    "retry__jitter": 0.0,
    "retry__base_delay": 20 * 86_400,
    "retry__max_delay": 20 * 86_400,
    "delivery__max_age": 90 * 86_400,
    "scheduler__poll_interval": 0.01,
}


async def _unended(corridor: Corridor, good: Receiver, bad: Receiver, paused: Receiver) -> dict[str, str]:
    """One of each kind that can stay unended for weeks, by its state and what it waits for."""
    await corridor.house.command.endpoint("app", paused.url, "pause")
    await _idle(corridor)
    retry = await corridor.send(bad.url)
    await corridor.failed(retry, attempts=1)
    behind = await corridor.send(bad.url + "/o", ordering_key="k")
    await corridor.failed(behind, attempts=1)
    ordered = await corridor.send(bad.url + "/o", ordering_key="k")
    in_a_month = datetime.fromtimestamp(corridor.clock.now() / 1000 + 2_500_000, UTC)
    later = await corridor.send(good.url, deliver_at=in_a_month)
    held = await corridor.send(paused.url)
    # What waits in memory for its turn is put aside after 2 seconds.
    await bad.wait_for(2)
    await corridor.taken()
    corridor.clock.advance(2_500)
    found = {retry: "failed", behind: "failed", ordered: "order", later: "deliver_at", held: "pause"}
    for id_, wanted in found.items():
        await corridor.until(id_, lambda s, wanted=wanted: s.gen > 0 and wanted in (s.state, s.held_by))
    return found


@pytest.mark.parametrize("lost", [False, True])
async def test_what_waits_for_weeks_is_known_and_goes_out_though_its_records_are_dropped(
    tmp_path: Path, *, lost: bool
) -> None:
    clock = ManualClock(NOW)
    async with Receiver() as good, Receiver(status=500) as bad, Receiver() as paused, Receiver(status=404) as gone:
        async with running(tmp_path, clock, **_PATIENT) as corridor:
            ids = list(await _unended(corridor, good, bad, paused))
            for _ in range(3):
                await corridor.ended(await corridor.send(good.url))
            clock.advance(8 * DAY)
            young = [await corridor.send(good.url), await corridor.send(gone.url)]
            for id_ in young:
                await corridor.ended(id_)
            await _idle(corridor)
            await _retain(corridor)
            kept = await _kept(corridor)
            assert kept[PENDING] == kept[RESULTS] == 2
            before = [await corridor.status(id_) for id_ in ids + young]
        if lost:
            _lose_hot_state(tmp_path)
        bad.status = 200
        async with running(tmp_path, clock, **_PATIENT) as corridor:
            assert [await corridor.status(id_) for id_ in ids + young] == before
            await corridor.house.command.endpoint("app", paused.url, "enable")
            clock.advance(23 * DAY)
            for id_ in ids:
                assert (await corridor.ended(id_)).state == "delivered"
        assert [got.attempt for got in bad.captured if got.attempt > 1] == [2, 2]
        assert good.total == 5


async def test_tables_hold_only_what_waits_however_often_it_was_put_aside(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    values = {**_NO_JITTER, "retry__max_delay": 10.0, "circuit_breaker__failure_threshold": 1_000}
    async with Receiver(status=500) as bad, running(tmp_path, clock, **values) as corridor:
        webhook_id = await corridor.send(bad.url, b'"%b"' % (b"x" * 10_000), max_attempts=30)
        for attempt in range(1, 21):
            await corridor.failed(webhook_id, attempts=attempt)
            corridor.clock.advance(10_000 if attempt < 20 else 0)
        rows = [entry async for batch in corridor.engines.log.replay(STATE) for entry in batch]
        assert [entry.key for entry in rows] == [webhook_id]
        bad.status = 200
        clock.advance(400_000)
        await corridor.ended(webhook_id)
        await _idle(corridor)
        assert [entry.key async for batch in corridor.engines.log.replay(STATE, "wh_") for entry in batch] == []


# By size


async def test_history_gives_way_before_anybody_is_sent_away_and_dead_letters_last(tmp_path: Path) -> None:
    async with Receiver() as good, Receiver(status=404) as gone, running(tmp_path, **_SMALL) as corridor:
        dead = await corridor.send(gone.url, _LARGE)
        await corridor.ended(dead)
        for _ in range(40):
            await corridor.ended(await corridor.send(good.url, _LARGE))
            await corridor.house.retain.turn()
        await _idle(corridor)
        await _retain(corridor)
        kept = await _kept(corridor)
        assert kept[PENDING] < 20
        assert (kept[RESULTS], kept[DEADLETTER]) == (41, 1)
        assert corridor.house.retain.fullness.fill < 0.8
        assert set(_said(corridor)) == {"history_shortened"}


async def _fill(corridor: Corridor, receiver: Receiver) -> list[str]:
    """Send until the door is closed; the ids."""
    ids: list[str] = []
    while not corridor.house.retain.fullness.closed:
        assert len(ids) < 40, "the door stays open"
        ids.append(await corridor.send(receiver.url, _LARGE))
        await corridor.house.retain.turn()
    return ids


async def test_a_log_full_of_what_has_not_ended_closes_the_door_and_opens_it_by_itself(tmp_path: Path) -> None:
    async with Receiver() as receiver, opened(tmp_path, **_SMALL) as corridor:
        await corridor.house.reconcile.recover()
        ids = await _fill(corridor, receiver)
        with pytest.raises(Full) as refused:
            await corridor.send(receiver.url)
        assert (refused.value.code, refused.value.retry_after) == ("log_full", 10)
        assert "docs/retention.md" in str(refused.value)
        assert len(ids) >= 8
        async with serving(corridor.house):
            for id_ in ids:
                assert (await corridor.ended(id_)).state == "delivered"
            await _idle(corridor)
            await _retain(corridor)
            assert (await corridor.ended(await corridor.send(receiver.url, _LARGE))).state == "delivered"
        assert _said(corridor)[:3] == ["history_shortened", "log_filling", "door_closed"]
        assert "door_opened" in _said(corridor)
        assert receiver.total == len(ids) + 1


async def test_commands_and_configs_are_taken_while_the_door_is_closed(tmp_path: Path) -> None:
    async with Receiver() as receiver, opened(tmp_path, **_SMALL) as corridor:
        await corridor.house.reconcile.recover()
        ids = await _fill(corridor, receiver)
        assert await corridor.house.command.cancel(ids[0]) is not None
        await corridor.house.configs.put("app", ConfigRequest())


async def test_from_four_fifths_on_who_brings_most_is_sent_away_and_others_come_in(tmp_path: Path) -> None:
    async with Receiver() as receiver, opened(tmp_path, **_SMALL) as corridor:
        await corridor.house.reconcile.recover()

        async def send(scope: str, payload: bytes = _LARGE) -> None:
            await corridor.house.ingest.accept(scope, [Enqueue(endpoint=receiver.url, payload=Raw(payload))], "test")

        await send("light", b"{}")
        while corridor.house.retain.fullness.fill < 0.8:
            await send("heavy")
            await corridor.house.retain.turn()
        with pytest.raises(OverShare) as refused:
            await send("heavy")
        assert (refused.value.code, 0 < refused.value.retry_after <= 5) == ("over_share", True)
        before = await _kept(corridor)
        for scope in ("light", "new"):
            await send(scope, b"{}")
        assert (await _kept(corridor))[PENDING] == before[PENDING] + 2
        corridor.clock.advance(10_000)
        await send("heavy", b"{}")
        assert "log_filling" in _said(corridor)


async def test_what_comes_before_the_log_is_measured_again_passes_no_bound(tmp_path: Path) -> None:
    async with Receiver() as receiver, opened(tmp_path, **_SMALL) as corridor:
        await corridor.house.reconcile.recover()
        await corridor.house.retain.turn()

        async def send(scope: str, payload: bytes = _LARGE) -> None:
            await corridor.house.ingest.accept(scope, [Enqueue(endpoint=receiver.url, payload=Raw(payload))], "test")

        async def send_many(scope: str) -> None:
            for _ in range(40):
                await send(scope)

        await send("light", b"{}")
        with pytest.raises(OverShare) as over:
            await send_many("heavy")
        await send("light", b"{}")
        assert corridor.house.retain.fullness.fill < 0.1
        # Alone it would not be over its share.
        corridor.clock.advance(20_000)
        with pytest.raises(Full) as full:
            await send_many("heavy")
        assert (over.value.code, full.value.code, full.value.retry_after) == ("over_share", "log_full", 1)
        before = await _kept(corridor)
        with pytest.raises(Full):
            await send("light", b"{}")
        assert await _kept(corridor) == before
        await corridor.house.retain.turn()
        assert 0.9 < corridor.house.retain.fullness.fill < 1.2


async def test_a_log_that_fills_fast_is_measured_again_soon(tmp_path: Path) -> None:
    async with Receiver() as receiver, opened(tmp_path, **_SMALL) as corridor:
        await corridor.house.reconcile.recover()
        assert await corridor.house.retain.turn() == 1.0
        await corridor.send(receiver.url, _LARGE)
        assert await corridor.house.retain.turn() == 0.1
        assert corridor.house.retain.fullness.fill < 0.5
        assert await corridor.house.retain.turn() == 1.0
