"""Holding back, with the clock in the test's hands: what meets a closed gate is put aside once, at no cost in attempts,
and goes out when its endpoint is well; a burst to a healthy one is never put aside."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from tests.support import Corridor, ManualClock, opened, running

from howk.domain.config_defaults import ConfigRequest, RateLimitAsked
from howk.domain.delivery import Status
from howk.domain.records import PENDING, SLOW, STATE
from howk.flow.ingest import Enqueue
from howk.testing.receiver import Receiver

_RULES: dict[str, Any] = {"retry__jitter": 0.0}
_MINUTE = 60_000


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def _held(corridor: Corridor, ids: list[str], by: str) -> list[Status]:
    return [await corridor.until(i, lambda s: s.state == "deferred" and s.held_by == by) for i in ids]


def _said(corridor: Corridor) -> list[str]:
    return [event for event, _ in corridor.notes.lines if event != "key_generated"]


async def _open_breaker(corridor: Corridor, url: str) -> list[str]:
    """Five failures; the breaker is open, and the five wait for their retry."""
    ids = [await corridor.send(url) for _ in range(5)]
    for id_ in ids:
        await corridor.failed(id_, attempts=1)
    return ids


async def test_five_failures_open_the_breaker_and_what_comes_then_is_held_without_an_attempt(tmp_path: Path) -> None:
    async with Receiver(status=503) as receiver, running(tmp_path, **_RULES) as corridor:
        await _open_breaker(corridor, receiver.url)
        late = [await corridor.send(receiver.url) for _ in range(20)]
        for status in await _held(corridor, late, "breaker"):
            assert (status.attempts, status.next_retry_at, status.last_error) == (0, 0, "")
        assert receiver.total == 5
        assert _said(corridor) == ["breaker_opened"]


async def test_a_retry_that_falls_due_while_the_breaker_is_open_is_held_and_keeps_its_attempts(tmp_path: Path) -> None:
    async with Receiver(status=503) as receiver, running(tmp_path, **_RULES) as corridor:
        ids = await _open_breaker(corridor, receiver.url)
        corridor.clock.advance(10_000)
        for status in await _held(corridor, ids, "breaker"):
            assert (status.attempts, status.last_status_code) == (1, 503)
        assert receiver.total == 5


async def test_one_probe_at_a_time_tries_the_endpoint_and_a_failed_one_waits_for_the_next(tmp_path: Path) -> None:
    async with Receiver(status=503) as receiver, running(tmp_path, **_RULES) as corridor:
        await _open_breaker(corridor, receiver.url)
        late = [await corridor.send(receiver.url) for _ in range(20)]
        await _held(corridor, late, "breaker")
        for probes in (1, 2, 3):
            corridor.clock.advance(5 * _MINUTE if probes == 1 else _MINUTE)
            await _until(lambda probes=probes: receiver.total == 5 + probes)
            # The probe is settled when it waits for its own retry.
            await corridor.until(receiver.captured[-1].id, lambda s: s.state == "failed")
        corridor.clock.advance(_MINUTE - 1)
        await asyncio.sleep(0.05)
        assert receiver.total == 8
        assert len({got.id for got in receiver.captured}) == 8


async def test_two_good_probes_close_the_breaker_and_everything_that_was_held_is_delivered_once(tmp_path: Path) -> None:
    async with Receiver(status=503) as receiver, running(tmp_path, **_RULES) as corridor:
        early = await _open_breaker(corridor, receiver.url)
        late = [await corridor.send(receiver.url) for _ in range(60)]
        await _held(corridor, late, "breaker")
        receiver.status = 200
        corridor.clock.advance(5 * _MINUTE)
        # The ramp gives 20 a second at first, and the clock stands still between steps.
        await corridor.delivered_in_time(early + late)
        assert sorted(got.id for got in receiver.captured if got.status == 200) == sorted(early + late)
        assert [got.attempt for got in receiver.captured if got.id in late] == [1] * 60
        assert _said(corridor) == ["breaker_opened", "breaker_closed"]
        assert (await corridor.engines.state.statistics(corridor.clock.now())).waiting == 0


@pytest.mark.parametrize("lost", [False, True], ids=["killed", "hot state lost"])
async def test_an_open_breaker_and_its_holds_survive(tmp_path: Path, lost: bool) -> None:
    clock = ManualClock()
    async with Receiver(status=503) as receiver:
        async with running(tmp_path, clock, **_RULES) as corridor:
            await _open_breaker(corridor, receiver.url)
            late = [await corridor.send(receiver.url) for _ in range(20)]
            before = await _held(corridor, late, "breaker")
        if lost:
            (tmp_path / "hot.db").unlink()
        async with running(tmp_path, clock, **_RULES) as corridor:
            assert await _held(corridor, late, "breaker") == before
            another = await corridor.send(receiver.url)
            await _held(corridor, [another], "breaker")
            assert receiver.total == 5
            receiver.status = 200
            clock.advance(5 * _MINUTE)
            await corridor.delivered_in_time([*late, another])


async def test_an_open_breaker_that_sees_no_traffic_is_forgotten_in_the_end(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver(status=503) as receiver, running(tmp_path, clock, **_RULES) as corridor:
        for _ in range(5):
            await corridor.ended(await corridor.send(receiver.url, max_attempts=1))

        async def rows() -> int:
            await corridor.house.settle_stage.caught_up()
            return len([row async for batch in corridor.engines.log.replay(STATE, "ep_") for row in batch])

        assert await rows() == 1
        clock.advance(24 * 60 * _MINUTE)
        await asyncio.sleep(0.05)
        assert _said(corridor) == ["breaker_opened"]
        clock.advance(10 * _MINUTE)
        await _until(lambda: _said(corridor) == ["breaker_opened", "breaker_closed"])
        assert await rows() == 0


async def test_a_breaker_is_of_one_endpoint_of_one_config(tmp_path: Path) -> None:
    async with Receiver(status=503) as bad, Receiver() as good, running(tmp_path, **_RULES) as corridor:
        await _open_breaker(corridor, bad.url)
        await _held(corridor, [await corridor.send(bad.url)], "breaker")
        assert (await corridor.ended(await corridor.send(good.url))).state == "delivered"
        other_path = await corridor.send(f"{bad.url}/other")
        assert (await corridor.failed(other_path, attempts=1)).last_status_code == 503


async def test_answers_that_are_not_the_endpoints_failure_open_no_breaker(tmp_path: Path) -> None:
    async with Receiver(status=404) as receiver, running(tmp_path, **_RULES) as corridor:
        for _ in range(20):
            assert (await corridor.ended(await corridor.send(receiver.url))).reason_type == "unrecoverable"
        assert receiver.total == 20


async def test_a_hold_ends_as_expired_when_its_time_is_over(tmp_path: Path) -> None:
    async with Receiver(status=503) as receiver, running(tmp_path, **_RULES) as corridor:
        await _open_breaker(corridor, receiver.url)
        held = await corridor.send(receiver.url, max_age=120)
        await _held(corridor, [held], "breaker")
        corridor.clock.advance(120_000)
        status = await corridor.ended(held)
        assert (status.state, status.reason_type, status.attempts) == ("dead", "expired", 0)
        assert receiver.total == 5


async def test_a_burst_of_500_to_one_healthy_endpoint_parks_none(tmp_path: Path) -> None:
    async with Receiver(delay_ms=2) as receiver, running(tmp_path, **_RULES) as corridor:
        ids = [await corridor.send(receiver.url) for _ in range(500)]
        for id_ in ids:
            assert (await corridor.ended(id_)).state == "delivered"
        assert sorted(got.id for got in receiver.captured) == sorted(ids)
        results = (await corridor.engines.log.bounds("howk.results")).values()
        assert [stop - start for start, stop in results] == [500]


async def test_what_an_endpoint_that_hangs_can_not_take_is_put_aside_and_delivered_later(tmp_path: Path) -> None:
    async with Receiver(hang=True) as receiver, running(tmp_path, delivery__timeout=30.0, **_RULES) as corridor:
        ids = [await corridor.send(receiver.url) for _ in range(12)]
        # It begins with four calls at once.
        await receiver.wait_for(4)
        await corridor.taken()
        corridor.clock.advance(2_500)
        held = [id_ for id_ in ids if id_ not in {got.id for got in receiver.captured}]
        await _held(corridor, held, "limit")
        assert receiver.total == 4


async def test_a_rate_is_kept_and_what_is_far_above_it_waits_in_the_queue_of_its_endpoint(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path, **_RULES) as corridor:
        limit = ConfigRequest(rate_limit=RateLimitAsked(per_second=2, burst=3))
        await corridor.house.configs.put("app", limit)
        ids = [await corridor.send(receiver.url) for _ in range(20)]
        # Three at once, four in the next two seconds, the others are put aside.
        await _until(lambda: receiver.total == 3)
        await corridor.taken()
        corridor.clock.advance(2_000)
        await _until(lambda: receiver.total == 7)
        gone = {got.id for got in receiver.captured}
        await _held(corridor, [id_ for id_ in ids if id_ not in gone], "limit")
        since = corridor.clock.monotonic()

        def keeps_the_rate() -> None:
            assert receiver.total <= 7 + 2 * (corridor.clock.monotonic() - since) + 3

        await corridor.delivered_in_time(ids, keeps_the_rate)
        assert len({got.id for got in receiver.captured}) == receiver.total == 20


async def test_a_delivery_that_is_given_back_at_the_stop_goes_at_the_next_start(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver:
        async with running(tmp_path, clock, **_RULES) as corridor:
            await corridor.house.configs.put("app", ConfigRequest(rate_limit=RateLimitAsked(per_second=1, burst=1)))
            ids = [await corridor.send(receiver.url) for _ in range(3)]
            await _until(lambda: receiver.total == 1)
            await corridor.ended(receiver.captured[0].id)
        async with running(tmp_path, clock, **_RULES) as corridor:
            await corridor.delivered_in_time(ids)
        assert receiver.total == 3


async def test_a_kill_between_settles_append_and_hot_state_leaves_the_breaker_as_the_log_says(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver(status=503) as receiver:
        async with running(tmp_path, clock, **_RULES) as corridor:
            await _open_breaker(corridor, receiver.url)
            state = await corridor.engines.state.condition()
        # Hot state falls behind by the results that opened the breaker: what it had is not written down there at all.
        assert state.watermark == {0: 5}
        async with opened(tmp_path, clock, **_RULES) as corridor:
            await corridor.house.reconcile.recover()
            claims = await corridor.engines.state.claim(clock.now(), 10, 30.0)
            assert claims.open_breakers == 1


async def test_a_sender_over_its_share_takes_the_slow_lane_while_the_fresh_one_is_crowded(tmp_path: Path) -> None:
    async with (
        Receiver(hang=True) as receiver,
        running(tmp_path, delivery__max_in_flight=1, delivery__fresh_rate=100.0, **_RULES) as corridor,
    ):
        ingest, log = corridor.house.ingest, corridor.engines.log

        async def entered(scope: str, **fields: Any) -> tuple[int, int]:
            """How many of 500 came into the fresh and into the slow lane."""
            before = [next(iter((await log.bounds(lane)).values()))[1] for lane in (PENDING, SLOW)]
            await ingest.accept(scope, [Enqueue(endpoint=receiver.url, payload=Raw(b"1"), **fields)] * 500, "test")
            after = [next(iter((await log.bounds(lane)).values()))[1] for lane in (PENDING, SLOW)]
            return after[0] - before[0], after[1] - before[1]

        for _ in range(12):
            assert await entered("greedy") == (500, 0)
        await _until(lambda: corridor.house.deliver_stage.backlog()[PENDING] > 5_000)
        corridor.clock.advance(1_000)
        assert await entered("greedy") == (100, 400)
        assert await entered("greedy") == (0, 500)
        assert await entered("modest") == (100, 400)
        assert await entered("greedy", ordering_key="k") == (500, 0)
        corridor.clock.advance(1_000)
        assert await entered("greedy") == (100, 400)


async def test_what_took_the_slow_lane_is_delivered_and_known_after_a_loss_of_hot_state(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver(hang=True) as receiver:
        async with running(tmp_path, clock, delivery__max_in_flight=1, delivery__fresh_rate=1.0, **_RULES) as corridor:
            hook = Enqueue(endpoint=receiver.url, payload=Raw(b"1"))
            for _ in range(12):
                await corridor.house.ingest.accept("app", [hook] * 500, "test")
            await _until(lambda: corridor.house.deliver_stage.backlog()[PENDING] > 5_000)
            clock.advance(1_000)
            crowded = (await corridor.house.ingest.accept("app", [hook] * 50, "test"))[1:]
        (tmp_path / "hot.db").unlink()
        receiver.hang = False
        async with opened(tmp_path, clock, **_RULES) as corridor:
            await corridor.house.reconcile.recover()
            found = await corridor.engines.state.status([str(id_) for id_ in crowded])
            assert {status.state for status in found if status} == {"pending"}
            assert None not in found
        async with running(tmp_path, clock, **_RULES) as corridor:
            for id_ in crowded:
                assert (await corridor.ended(str(id_))).state == "delivered"


async def test_a_domain_is_not_called_more_often_at_once_than_its_cap_over_all_its_endpoints(tmp_path: Path) -> None:
    async with (
        Receiver(hang=True) as receiver,
        running(tmp_path, concurrency__max_inflight_per_domain=3, **_RULES) as corridor,
    ):
        ids = [await corridor.send(f"{receiver.url}/{n}") for n in range(10)]
        await receiver.wait_for(3)
        await corridor.taken()
        corridor.clock.advance(2_500)
        called = {got.id for got in receiver.captured}
        await _held(corridor, [id_ for id_ in ids if id_ not in called], "limit")
        assert receiver.total == 3
