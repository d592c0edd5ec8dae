"""What an owner asks of a delivery or an endpoint, raced against a success, a retry, a restart and a rebuild."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import Receiver as Answering
from tests.e2e.harness import Reply
from tests.support import Corridor, ManualClock, opened, running

from howk.domain.delivery import Status
from howk.domain.records import RESULTS, STATE, Result, reader
from howk.domain.settlement import EndpointCommand
from howk.flow.journal import MARK
from howk.flow.stage import each
from howk.ports.log import Entry
from howk.testing.receiver import Receiver

HOUR = 3_600_000
_SETTINGS: dict[str, Any] = {"retry__jitter": 0.0, "circuit_breaker__failure_threshold": 1_000}
_BRITTLE: dict[str, Any] = {
    "retry__jitter": 0.0,
    "circuit_breaker__failure_threshold": 2,
    "circuit_breaker__recovery_timeout": 86_400.0,
}


def _lose_hot_state(folder: Path) -> None:
    for path in folder.glob("hot.db*"):
        path.unlink()


def _between_runs(folder: Path, what: str) -> None:
    if what == "rebuild":
        _lose_hot_state(folder)


async def _rows(corridor: Corridor) -> list[Entry]:
    return [entry async for batch in corridor.engines.log.replay(STATE) for entry in batch]


async def _results(corridor: Corridor, outcome: str) -> list[Result]:
    ((place, (start, stop)),) = (await corridor.engines.log.bounds(RESULTS)).items()
    found: list[Result] = []

    async def keep(batch: Sequence[Entry]) -> None:
        found.extend(reader(Result)(entry.value) for entry in batch)

    await each(corridor.engines.log.read(RESULTS, place.partition, start, stop), keep)
    return [result for result in found if result.outcome == outcome]


async def _command(corridor: Corridor, name: EndpointCommand, url: str) -> None:
    """Asked and carried out."""
    await corridor.house.command.endpoint("app", url, name)
    await asyncio.wait_for(corridor.house.settle_stage.caught_up(), 20)


async def _cancel(corridor: Corridor, webhook_id: str) -> Status:
    before = await corridor.house.command.cancel(webhook_id)
    assert before is not None
    return before


async def _held(corridor: Corridor, webhook_id: str, reason: str) -> Status:
    return await corridor.until(webhook_id, lambda status: status.held_by == reason and status.gen > 0)


async def _cancelled(corridor: Corridor, webhook_id: str, attempts: int = 0) -> None:
    status = await corridor.ended(webhook_id)
    assert (status.state, status.attempts) == ("cancelled", attempts)


async def _nothing_left(corridor: Corridor) -> None:
    """No row of the table speaks of a delivery, and nothing waits."""
    await asyncio.wait_for(corridor.house.settle_stage.caught_up(), 20)
    assert [entry.key for entry in await _rows(corridor) if entry.key.startswith("wh_")] == []
    assert (await corridor.engines.state.statistics(corridor.clock.now())).waiting == 0


async def _opened_breaker(corridor: Corridor, receiver: Receiver) -> list[str]:
    """Two deliveries that failed and wait for a retry, behind a breaker that they have opened."""
    failed = [await corridor.send(receiver.url) for _ in range(2)]
    for webhook_id in failed:
        await corridor.failed(webhook_id, attempts=1)
    return failed


# Cancel


async def test_a_cancel_that_races_the_first_attempt_ends_unsent_or_delivered_once(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver:
        async with opened(tmp_path, clock, **_SETTINGS) as corridor:
            webhook_id = await corridor.send(receiver.url)
            assert (await _cancel(corridor, webhook_id)).state == "pending"
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            # The first attempt may be ahead of settle: then it was under way when the command was decided.
            status = await corridor.ended(webhook_id)
            assert (status.state, receiver.total) in {("cancelled", 0), ("delivered", 1)}
            await _nothing_left(corridor)


async def test_what_is_in_the_backlog_when_its_cancel_is_decided_is_never_sent(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver:
        async with opened(tmp_path, clock, **_SETTINGS) as corridor:
            webhook_id = await corridor.send(receiver.url)
            await _cancel(corridor, webhook_id)
            await corridor.house.reconcile.recover()
            settling = asyncio.ensure_future(corridor.house.settle_stage.run())
            await corridor.house.settle_stage.caught_up()
            settling.cancel()
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            await _cancelled(corridor, webhook_id)
            await _nothing_left(corridor)
        assert receiver.total == 0


def _told() -> Answering:
    """A receiver that answers when the test says so."""
    return Answering(lambda _: Reply(0))


async def test_an_attempt_under_way_that_succeeds_is_delivered(tmp_path: Path) -> None:
    async with _told() as receiver, running(tmp_path, **_SETTINGS) as corridor:
        webhook_id = await corridor.send(receiver.url())
        await receiver.wait_for(lambda: receiver.in_flight == 1, "it is under way")
        assert (await _cancel(corridor, webhook_id)).state == "delivering"
        receiver.release(200)
        assert (await corridor.ended(webhook_id)).state == "delivered"
        await _nothing_left(corridor)


async def test_an_attempt_under_way_that_fails_is_cancelled_without_a_retry(tmp_path: Path) -> None:
    clock = ManualClock()
    async with _told() as receiver:
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            webhook_id = await corridor.send(receiver.url())
            await receiver.wait_for(lambda: receiver.in_flight == 1, "it is under way")
            await _cancel(corridor, webhook_id)
            await asyncio.wait_for(corridor.house.settle_stage.caught_up(), 20)
            receiver.release(500)
            await _cancelled(corridor, webhook_id, attempts=1)
            clock.advance(HOUR)
            await _nothing_left(corridor)
            (result,) = await _results(corridor, "cancelled")
            assert result.id == webhook_id
        _lose_hot_state(tmp_path)
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            await _cancelled(corridor, webhook_id, attempts=1)
        assert len(receiver.starts) == 1


async def test_what_waits_for_a_retry_is_cancelled_at_once(tmp_path: Path) -> None:
    async with Receiver(status=500) as receiver, running(tmp_path, **_SETTINGS) as corridor:
        webhook_id = await corridor.send(receiver.url)
        await corridor.failed(webhook_id, attempts=1)
        assert (await _cancel(corridor, webhook_id)).state == "failed"
        await _cancelled(corridor, webhook_id, attempts=1)
        corridor.clock.advance(HOUR)
        await _nothing_left(corridor)
        assert receiver.total == 1


async def test_what_waits_for_its_time_is_cancelled_at_once(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path, **_SETTINGS) as corridor:
        due = datetime.fromtimestamp((corridor.clock.now() + HOUR) / 1000, UTC)
        webhook_id = await corridor.send(receiver.url, deliver_at=due)
        assert (await _cancel(corridor, webhook_id)).state == "deferred"
        await _cancelled(corridor, webhook_id)
        corridor.clock.advance(HOUR)
        await _nothing_left(corridor)
        assert receiver.total == 0


async def test_what_an_open_breaker_holds_is_cancelled_at_once(tmp_path: Path) -> None:
    async with Receiver(status=500) as receiver, running(tmp_path, **_BRITTLE) as corridor:
        await _opened_breaker(corridor, receiver)
        webhook_id, other = await corridor.send(receiver.url), await corridor.send(receiver.url)
        for held in (webhook_id, other):
            await _held(corridor, held, "breaker")
        await _cancel(corridor, webhook_id)
        await _cancelled(corridor, webhook_id)
        assert (await corridor.status(other)).held_by == "breaker"  # type: ignore[union-attr]
        assert receiver.total == 2


async def test_what_a_pause_holds_is_cancelled_at_once(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path, **_SETTINGS) as corridor:
        await _command(corridor, "pause", receiver.url)
        webhook_id = await corridor.send(receiver.url)
        await _held(corridor, webhook_id, "pause")
        await _cancel(corridor, webhook_id)
        await _cancelled(corridor, webhook_id)
        await _nothing_left(corridor)
        await _command(corridor, "enable", receiver.url)
        assert (await corridor.ended(await corridor.send(receiver.url))).state == "delivered"
        assert receiver.total == 1


async def test_what_waits_behind_another_of_its_key_is_cancelled_and_lets_the_next_go(tmp_path: Path) -> None:
    async with Receiver(status=500) as receiver, running(tmp_path, **_SETTINGS) as corridor:
        first, second, third = [await corridor.send(receiver.url, ordering_key="k") for _ in range(3)]
        await corridor.failed(first, attempts=1)
        await _cancel(corridor, second)
        # It has waited long enough in the room to be put aside.
        await corridor.taken()
        corridor.clock.advance(3_000)
        await _cancelled(corridor, second)
        receiver.status = 200
        await _cancel(corridor, first)
        await _cancelled(corridor, first, attempts=1)
        assert (await corridor.ended(third)).state == "delivered"
        assert [got.id for got in receiver.captured] == [first, third]
        await _nothing_left(corridor)


async def test_a_cancel_twice_is_one(tmp_path: Path) -> None:
    async with Receiver(status=500) as receiver, running(tmp_path, **_SETTINGS) as corridor:
        webhook_id = await corridor.send(receiver.url)
        await corridor.failed(webhook_id, attempts=1)
        await asyncio.gather(*(_cancel(corridor, webhook_id) for _ in range(5)))
        await _cancelled(corridor, webhook_id, attempts=1)
        await _nothing_left(corridor)
        assert len(await _results(corridor, "cancelled")) == 1
        assert (await _cancel(corridor, webhook_id)).state == "cancelled"
        assert len(await _results(corridor, "cancel")) == 5
        assert 'howk_deliveries_total{outcome="cancelled"} 1.0' in corridor.metrics.expose().decode()


async def test_a_cancel_that_comes_after_the_end_changes_nothing(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path, **_SETTINGS) as corridor:
        webhook_id = await corridor.send(receiver.url)
        await corridor.ended(webhook_id)
        assert (await _cancel(corridor, webhook_id)).state == "delivered"
        assert await _results(corridor, "cancel") == []
        assert await corridor.house.command.cancel("wh_00000000000000000000000000") is None


async def _each_kind(corridor: Corridor, receiver: Receiver) -> list[str]:
    """One that waits for a retry, one for its time, one held by a pause of another endpoint."""
    retry = await corridor.send(receiver.url)
    await corridor.failed(retry, attempts=1)
    due = datetime.fromtimestamp((corridor.clock.now() + HOUR) / 1000, UTC)
    later = await corridor.send(receiver.url, deliver_at=due)
    await _held(corridor, later, "deliver_at")
    await _command(corridor, "pause", f"{receiver.url}/paused")
    paused = await corridor.send(f"{receiver.url}/paused")
    await _held(corridor, paused, "pause")
    return [retry, later, paused]


@pytest.mark.parametrize("after", ["restart", "rebuild"])
async def test_what_was_asked_before_a_crash_is_carried_out_after_it(tmp_path: Path, after: str) -> None:
    clock = ManualClock()
    async with Receiver(status=500) as receiver:
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            ids = await _each_kind(corridor, receiver)
        async with opened(tmp_path, clock, **_SETTINGS) as corridor:
            for webhook_id in ids:
                await _cancel(corridor, webhook_id)
        _between_runs(tmp_path, after)
        receiver.status = 200
        clock.advance(2 * HOUR)
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            for webhook_id, attempts in zip(ids, (1, 0, 0), strict=True):
                await _cancelled(corridor, webhook_id, attempts)
            await _nothing_left(corridor)
        assert receiver.total == 1


@pytest.mark.parametrize("after", ["restart", "rebuild"])
async def test_what_was_decided_before_a_crash_is_carried_out_after_it(tmp_path: Path, after: str) -> None:
    clock = ManualClock()
    async with Receiver(status=500) as receiver:
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            ids = await _each_kind(corridor, receiver)
        async with opened(tmp_path, clock, **_SETTINGS) as corridor:
            # Settle alone: the mark is made, and nothing acts on it yet.
            await corridor.house.reconcile.recover()
            fresh = await corridor.send(receiver.url)
            ids.append(fresh)
            for webhook_id in ids:
                await _cancel(corridor, webhook_id)
            settling = asyncio.ensure_future(corridor.house.settle_stage.run())
            await corridor.house.settle_stage.caught_up()
            settling.cancel()
            assert len([entry for entry in await _rows(corridor) if entry.key.startswith(MARK)]) == 4
        _between_runs(tmp_path, after)
        receiver.status = 200
        clock.advance(2 * HOUR)
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            for webhook_id, attempts in zip(ids, (1, 0, 0, 0), strict=True):
                await _cancelled(corridor, webhook_id, attempts)
            await _nothing_left(corridor)
        assert receiver.total == 1


@pytest.mark.parametrize("after", ["restart", "rebuild"])
async def test_what_is_cancelled_stays_cancelled(tmp_path: Path, after: str) -> None:
    clock = ManualClock()
    async with Receiver(status=500) as receiver:
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            ids = await _each_kind(corridor, receiver)
            for webhook_id in ids:
                await _cancel(corridor, webhook_id)
            before = [await corridor.ended(webhook_id) for webhook_id in ids]
        _between_runs(tmp_path, after)
        clock.advance(2 * HOUR)
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            known = list(await corridor.engines.state.status(ids))
            assert [(s.state, s.attempts, s.ended_at) for s in known if s] == [
                (s.state, s.attempts, s.ended_at) for s in before
            ]
            await _nothing_left(corridor)
        assert receiver.total == 1


async def test_a_rebuild_knows_what_is_stopped_before_a_first_attempt_is_made(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver, Receiver() as paused:
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            await _command(corridor, "pause", paused.url)
        async with opened(tmp_path, clock, **_SETTINGS) as corridor:
            await corridor.house.reconcile.recover()
            cancelled, held = await corridor.send(receiver.url), await corridor.send(paused.url)
            await _cancel(corridor, cancelled)
            settling = asyncio.ensure_future(corridor.house.settle_stage.run())
            await corridor.house.settle_stage.caught_up()
            settling.cancel()
        _lose_hot_state(tmp_path)
        async with opened(tmp_path, clock, **_SETTINGS) as corridor:
            house = corridor.house
            begun: list[asyncio.Future[None]] = []
            await house.configs.catch_up()
            # As the service does: the others of the rebuild go on meanwhile.
            await house.reconcile.recover(
                on_stops=lambda: begun.append(asyncio.ensure_future(house.deliver_stage.run()))
            )
            begun.append(asyncio.ensure_future(house.settle_stage.run()))
            await _cancelled(corridor, cancelled)
            await _held(corridor, held, "pause")
            for task in begun:
                task.cancel()
        assert (receiver.total, paused.total) == (0, 0)


# Endpoints


@pytest.mark.parametrize("after", ["", "restart", "rebuild"])
async def test_a_pause_holds_what_is_new_and_what_falls_due_until_it_is_enabled(tmp_path: Path, after: str) -> None:
    clock = ManualClock()
    async with Receiver(fail_first_n=1) as receiver:
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            retry = await corridor.send(receiver.url)
            await corridor.failed(retry, attempts=1)
            await _command(corridor, "pause", receiver.url)
            receiver.fail_first_n = 0
            clock.advance(10_000)
            assert (await _held(corridor, retry, "pause")).attempts == 1
            new = [await corridor.send(receiver.url) for _ in range(20)]
            for webhook_id in new:
                await _held(corridor, webhook_id, "pause")
            if not after:
                await _let_go(corridor, receiver, [retry, *new])
        if after:
            _between_runs(tmp_path, after)
            async with running(tmp_path, clock, **_SETTINGS) as corridor:
                late = await corridor.send(receiver.url)
                await _held(corridor, late, "pause")
                assert receiver.total == 1
                await _let_go(corridor, receiver, [retry, *new, late])
        assert sorted(got.id for got in receiver.captured) == sorted([retry, retry, *new, *([late] if after else [])])


async def _let_go(corridor: Corridor, receiver: Receiver, ids: Sequence[str]) -> None:
    await _command(corridor, "enable", receiver.url)
    for webhook_id in ids:
        assert (await corridor.ended(webhook_id)).state == "delivered"
    await _nothing_left(corridor)
    assert await _rows(corridor) == []


@pytest.mark.parametrize("after", ["", "restart", "rebuild"])
async def test_a_410_ends_what_is_held_and_what_is_new_until_it_is_enabled(tmp_path: Path, after: str) -> None:
    clock = ManualClock()
    async with Receiver(status=500) as receiver:
        async with running(tmp_path, clock, **_BRITTLE) as corridor:
            await _opened_breaker(corridor, receiver)
            held = await corridor.send(receiver.url)
            await _held(corridor, held, "breaker")
            receiver.status = 410
            await _command(corridor, "release", receiver.url)
            gone = await corridor.ended(held)
            assert (gone.state, gone.reason_type) == ("dead", "endpoint_gone")
        if after:
            _between_runs(tmp_path, after)
        receiver.status = 200
        async with running(tmp_path, clock, **_BRITTLE) as corridor:
            new = await corridor.ended(await corridor.send(receiver.url))
            assert (new.state, new.reason_type, new.attempts) == ("dead", "endpoint_disabled", 0)
            await _command(corridor, "enable", receiver.url)
            assert (await corridor.ended(await corridor.send(receiver.url))).state == "delivered"
            assert receiver.total == 4


async def test_what_is_parked_when_its_endpoint_is_gone_ends_dead(tmp_path: Path) -> None:
    async with _told() as receiver, running(tmp_path, **_SETTINGS) as corridor:
        first = await corridor.send(receiver.url())
        await receiver.wait_for(lambda: receiver.in_flight == 1, "it is under way")
        await _command(corridor, "pause", receiver.url())
        parked = [await corridor.send(receiver.url()) for _ in range(10)]
        for webhook_id in parked:
            await _held(corridor, webhook_id, "pause")
        receiver.release(410)
        assert (await corridor.ended(first)).reason_type == "endpoint_gone"
        for webhook_id in parked:
            status = await corridor.ended(webhook_id)
            assert (status.state, status.reason_type, status.attempts) == ("dead", "endpoint_disabled", 0)
        assert len(receiver.starts) == 1
        await _nothing_left(corridor)


@pytest.mark.parametrize("after", ["", "restart", "rebuild"])
async def test_a_release_closes_the_breaker_and_what_was_held_goes_once(tmp_path: Path, after: str) -> None:
    clock = ManualClock()
    async with Receiver(status=500) as receiver:
        async with running(tmp_path, clock, **_BRITTLE) as corridor:
            await _opened_breaker(corridor, receiver)
            held = [await corridor.send(receiver.url) for _ in range(10)]
            for webhook_id in held:
                await _held(corridor, webhook_id, "breaker")
        receiver.status = 200
        if after:
            _between_runs(tmp_path, after)
        async with running(tmp_path, clock, **_BRITTLE) as corridor:
            assert [(await corridor.status(webhook_id)).held_by for webhook_id in held] == ["breaker"] * 10  # type: ignore[union-attr]
            await _command(corridor, "release", receiver.url)
            for webhook_id in held:
                assert (await corridor.ended(webhook_id)).state == "delivered"
            assert sorted(got.id for got in receiver.captured if got.status == 200) == sorted(held)
            _, circuit = await corridor.house.command.circuit("app", receiver.url)
            assert circuit is not None
            assert circuit.state == "closed"


async def test_a_pause_stays_after_a_release_and_a_breaker_after_an_enable(tmp_path: Path) -> None:
    async with Receiver(status=500) as receiver, running(tmp_path, **_BRITTLE) as corridor:
        await _opened_breaker(corridor, receiver)
        await _command(corridor, "pause", receiver.url)
        held = await corridor.send(receiver.url)
        await _held(corridor, held, "pause")
        await _command(corridor, "release", receiver.url)
        await _held(corridor, held, "pause")
        assert (await _held(corridor, await corridor.send(receiver.url), "pause")).attempts == 0
        await _command(corridor, "enable", receiver.url)
        assert (await corridor.failed(held, attempts=1)).held_by == ""


async def test_a_pause_twice_is_one_and_a_command_to_one_that_is_well_leaves_no_row(tmp_path: Path) -> None:
    async with running(tmp_path, **_SETTINGS) as corridor:
        url = "http://127.0.0.1:9/"
        for name in ("enable", "release"):
            await _command(corridor, name, url)
        assert await _rows(corridor) == []
        await _command(corridor, "pause", url)
        (row,) = await _rows(corridor)
        await _command(corridor, "pause", url)
        (again,) = await _rows(corridor)
        assert again.value == row.value
        await _command(corridor, "enable", url)
        assert await _rows(corridor) == []


@pytest.mark.parametrize("after", ["restart", "rebuild"])
async def test_a_pause_that_was_asked_before_a_crash_holds_after_it(tmp_path: Path, after: str) -> None:
    clock = ManualClock()
    async with Receiver() as receiver:
        async with opened(tmp_path, clock, **_SETTINGS) as corridor:
            await corridor.house.command.endpoint("app", receiver.url, "pause")
        _between_runs(tmp_path, after)
        async with running(tmp_path, clock, **_SETTINGS) as corridor:
            webhook_id = await corridor.send(receiver.url)
            await _held(corridor, webhook_id, "pause")
        assert receiver.total == 0
