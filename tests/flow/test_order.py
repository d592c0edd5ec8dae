"""Deliveries with an ordering key: one after the other for each endpoint and key, across retries, restarts and the loss
of hot state; other keys and endpoints do not wait."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import Receiver as Answering
from tests.e2e.harness import Reply
from tests.support import Corridor, ManualClock, opened, running

from howk.domain.config_defaults import ConfigRequest, OrderingAsked
from howk.domain.delivery import Status, turn_of
from howk.domain.records import PENDING, Delivery, Result, reader
from howk.flow.stage import Emission
from howk.ports.log import Entry
from howk.ports.state import Ask, Effect
from howk.testing.receiver import Received, Receiver

_RULES: dict[str, Any] = {"retry__jitter": 0.0}
read_delivery = reader(Delivery)
read_result = reader(Result)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def _send(corridor: Corridor, url: str, count: int, key: str = "k") -> list[str]:
    return [await corridor.send(url, ordering_key=key) for _ in range(count)]


def _first_successes(captured: Sequence[Received]) -> list[str]:
    return list(dict.fromkeys([got.id for got in captured if got.status == 200]))


async def test_deliveries_of_one_key_go_one_after_the_other(tmp_path: Path) -> None:
    under_way: set[str] = set()
    most = 0

    def watch(got: Received) -> None:
        nonlocal most
        under_way.add(got.id)
        most = max(most, len(under_way))

    async with Receiver(delay_ms=3, on_received=watch) as receiver, running(tmp_path, **_RULES) as corridor:
        ids = await _send(corridor, receiver.url, 30)
        for position, id_ in enumerate(ids):
            assert (await corridor.ended(id_)).state == "delivered"
            under_way.discard(id_)
            assert _first_successes(receiver.captured)[: position + 1] == ids[: position + 1]
        assert [got.id for got in receiver.captured] == ids


async def test_while_one_fails_those_behind_it_wait_and_other_keys_and_endpoints_do_not(tmp_path: Path) -> None:
    async with (
        Receiver(fail_first_n=0) as receiver,
        Receiver() as other,
        running(tmp_path, **_RULES) as corridor,
    ):
        receiver.status = 503
        first = (await _send(corridor, receiver.url, 1))[0]
        await corridor.failed(first, attempts=1)
        receiver.status = 200
        behind = await _send(corridor, receiver.url, 3)
        free = await _send(corridor, receiver.url, 1, key="another")
        free += await _send(corridor, other.url, 1)
        free.append(await corridor.send(receiver.url))
        for id_ in free:
            assert (await corridor.ended(id_)).state == "delivered"
        # They wait in the room first, and are put aside then.
        await corridor.taken()
        corridor.clock.advance(2_500)
        for id_ in behind:
            held = await corridor.until(id_, lambda s: s.state == "deferred")
            assert (held.held_by, held.attempts) == ("order", 0)
        corridor.clock.advance(7_500)
        for id_ in [first, *behind]:
            assert (await corridor.ended(id_)).state == "delivered"
        assert [got.id for got in receiver.captured if got.id in behind] == behind


async def test_what_comes_back_does_not_wait_for_those_after_it_that_wait_in_the_room(tmp_path: Path) -> None:
    """Or each would wait until these are put aside, and a key whose deliveries come faster would never catch up."""
    async with Receiver(status=503) as receiver, running(tmp_path, **_RULES) as corridor:
        ids = await _send(corridor, receiver.url, 4)
        await corridor.failed(ids[0], attempts=1)
        await corridor.taken()
        corridor.clock.advance(2_500)
        for id_ in ids[1:]:
            await corridor.until(id_, lambda s: s.held_by == "order")
        corridor.clock.advance(7_400)
        ids += await _send(corridor, receiver.url, 3)
        await corridor.taken()
        receiver.status = 200
        corridor.clock.advance(100)
        for id_ in ids:
            assert (await corridor.ended(id_)).state == "delivered"
        assert [got.id for got in receiver.captured] == [ids[0], *ids]


async def test_those_behind_a_delivery_that_dies_go_on(tmp_path: Path) -> None:
    async with Receiver(status=404) as receiver, running(tmp_path, **_RULES) as corridor:
        ids = await _send(corridor, receiver.url, 5)
        for id_ in ids:
            assert (await corridor.ended(id_)).state == "dead"
        assert [got.id for got in receiver.captured] == ids


async def test_with_skip_the_next_goes_after_so_many_failed_attempts_and_the_first_is_retried_all_the_same(
    tmp_path: Path,
) -> None:
    async with Receiver(status=503) as receiver, running(tmp_path, **_RULES) as corridor:
        await corridor.house.configs.put("app", ConfigRequest(ordering=OrderingAsked(policy="skip", after=2)))
        first = (await _send(corridor, receiver.url, 1))[0]
        await corridor.failed(first, attempts=1)
        second = (await _send(corridor, receiver.url, 1))[0]
        await corridor.taken()
        corridor.clock.advance(2_500)
        await corridor.until(second, lambda s: s.held_by == "order")
        corridor.clock.advance(7_500)
        await corridor.failed(first, attempts=2)
        receiver.status = 200
        assert (await corridor.ended(second)).state == "delivered"
        third = (await _send(corridor, receiver.url, 1))[0]
        assert (await corridor.ended(third)).state == "delivered"
        corridor.clock.advance(20_000)
        assert (await corridor.ended(first)).attempts == 3


@pytest.mark.parametrize("lost", [False, True], ids=["stopped", "hot state lost"])
@pytest.mark.parametrize("parked", [False, True], ids=["in the room", "put aside"])
async def test_the_order_holds_across_a_restart(tmp_path: Path, lost: bool, parked: bool) -> None:
    clock = ManualClock()
    async with Receiver(status=503) as receiver:
        async with running(tmp_path, clock, **_RULES) as corridor:
            ids = await _send(corridor, receiver.url, 8)
            await corridor.failed(ids[0], attempts=1)
            if parked:
                await corridor.taken()
                clock.advance(2_500)
                for id_ in ids[1:]:
                    await corridor.until(id_, lambda s: s.held_by == "order")
        if lost:
            (tmp_path / "hot.db").unlink()
        async with running(tmp_path, clock, **_RULES) as corridor:
            ids += await _send(corridor, receiver.url, 3)
            await asyncio.sleep(0.05)
            assert receiver.total == 1
            receiver.status = 200
            clock.advance(10_000)
            # One that was put aside may come back behind those in the room that wait for it, until these are put aside.
            await corridor.delivered_in_time(ids)
        assert _first_successes(receiver.captured) == ids


async def test_a_delivery_with_a_time_takes_its_place_when_it_is_due(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver, running(tmp_path, clock, **_RULES) as corridor:
        at = datetime.fromtimestamp(clock.now() / 1000 + 60, UTC)
        later = await corridor.send(receiver.url, ordering_key="k", deliver_at=at)
        now = await _send(corridor, receiver.url, 3)
        for id_ in now:
            assert (await corridor.ended(id_)).state == "delivered"
        clock.advance(60_000)
        assert (await corridor.ended(later)).state == "delivered"
        assert [got.id for got in receiver.captured] == [*now, later]


async def test_a_cancelled_delivery_gives_its_turn_on(tmp_path: Path) -> None:
    async with Receiver(status=503) as receiver, running(tmp_path, **_RULES) as corridor:
        first, second = await _send(corridor, receiver.url, 2)
        await corridor.failed(first, attempts=1)
        receiver.status = 200
        await corridor.house.command.cancel(first)
        assert (await corridor.ended(first)).state == "cancelled"
        assert (await corridor.ended(second)).state == "delivered"
        assert [got.id for got in receiver.captured] == [first, second]


async def test_keyed_deliveries_to_a_failing_endpoint_go_out_in_their_order_once_it_is_well(tmp_path: Path) -> None:
    async with Receiver(status=503) as receiver, running(tmp_path, **_RULES) as corridor:
        for _ in range(5):
            await corridor.failed(await corridor.send(receiver.url), attempts=1)
        keys = {key: await _send(corridor, receiver.url, 10, key) for key in ("a", "b", "c")}
        for ids in keys.values():
            for id_ in ids:
                await corridor.until(id_, lambda s: s.state == "deferred")
        receiver.status = 200
        corridor.clock.advance(5 * 60_000)
        async with asyncio.timeout(30):
            while len(_first_successes(receiver.captured)) < 35:
                corridor.clock.advance(1_000)
                await asyncio.sleep(0.02)
        successes = _first_successes(receiver.captured)
        for ids in keys.values():
            assert [id_ for id_ in successes if id_ in set(ids)] == ids


async def _entries(corridor: Corridor, count: int) -> list[Entry]:
    """What deliver is given of the fresh lane."""
    consumer = await corridor.engines.log.consume(PENDING, "deliver", lambda: None)
    entries: list[Entry] = []
    while len(entries) < count:
        entries += await consumer.fetch(count)
    return entries


async def test_what_comes_into_the_room_while_it_stops_passes_nothing_that_was_given_back(tmp_path: Path) -> None:
    async with Receiver() as receiver, opened(tmp_path, **_RULES) as corridor:
        deliver, emitted = corridor.house.deliver, list[Emission]()
        await corridor.house.reconcile.recover()
        await _send(corridor, receiver.url, 2)
        first, second = await _entries(corridor, 2)
        await deliver.take([first], emitted.append)
        deliver.stop()
        await deliver.take([second], emitted.append)
        deliver.open_turns()
        await deliver.turn()
        assert [(each.entry.offset, each.finished) for each in emitted] == [(0, False), (1, False)]
        assert corridor.engines.sender.in_flight() == 0


async def test_none_is_put_aside_before_it_has_entered_its_turn_so_that_none_behind_it_passes(tmp_path: Path) -> None:
    async with Receiver(hang=True) as receiver, opened(tmp_path, **_RULES) as corridor:
        deliver, state, now = corridor.house.deliver, corridor.engines.state, corridor.clock.now()
        await corridor.house.reconcile.recover()
        ids = await _send(corridor, receiver.url, 3)
        emitted: list[Emission] = []
        entries = await _entries(corridor, len(ids))
        await deliver.take(entries, emitted.append)
        corridor.clock.advance(2_500)
        await deliver.turn()
        # Hot state does not know every turn yet: nobody can enter, and so nobody leaves the room.
        assert emitted == []
        deliver.open_turns()
        await deliver.turn()
        held = [read_result(emission.records[0].value) for emission in emitted]
        assert [(result.id, result.held_by) for result in held] == [(id_, "order") for id_ in ids[1:]]
        # The first ends before it is settled that the others are held.
        await state.apply([Effect(Status(id=ids[0], scope="app", state="delivered", ended_at=now))], {})
        turn = turn_of(read_delivery(entries[0].value))
        (passage,) = await state.gate([Ask("wh_later", 1, 0, "app", 1, 3, now, turn=turn, rank=9)], now)
        assert passage.verdict == "wait"
        corridor.engines.sender.abort()


async def test_what_has_waited_for_its_turn_goes_under_the_limits_that_its_config_sets_by_then(tmp_path: Path) -> None:
    async with Answering(lambda _: Reply(0)) as receiver, opened(tmp_path, **_RULES) as corridor:
        deliver, sender = corridor.house.deliver, corridor.engines.sender
        await corridor.house.reconcile.recover()
        await corridor.house.configs.catch_up()
        deliver.open_turns()
        emitted: list[Emission] = []
        first, _ = await _send(corridor, receiver.url(), 2)
        await deliver.take(await _entries(corridor, 2), emitted.append)
        await _answered(receiver)
        await _until(lambda: len(emitted) == 1)
        await corridor.house.configs.put("app", ConfigRequest(max_in_flight=1))
        for _ in range(3):
            await corridor.send(receiver.url())
        await deliver.take((await _entries(corridor, 5))[2:], emitted.append)
        ended = Status(id=first, scope="app", state="delivered", ended_at=corridor.clock.now())
        await corridor.engines.state.apply([Effect(ended)], {})
        corridor.clock.advance(300)
        for count in range(2, 6):
            await deliver.turn()
            assert sender.in_flight() == 1
            await _answered(receiver)
            await _until(lambda count=count: len(emitted) == count)
        assert len(receiver.starts) == 5


async def _answered(receiver: Answering) -> None:
    """The one call that is under way gets its answer."""
    await receiver.wait_for(lambda: receiver.in_flight == 1, "one is under way")
    receiver.release()
