"""The windows of the last hour and day as the corridor fills them: what counts as what, when, and what a restart, a
kill and the loss of hot state leave of them."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Raw
from tests.support import NOW, Corridor, ManualClock, opened, running

from howk.domain.windows import DAY, HOUR, Window
from howk.flow.ingest import Enqueue, Request
from howk.testing.receiver import Receiver

_NO_JITTER = {"retry__jitter": 0.0}
_AHEAD = datetime.fromtimestamp(NOW / 1000 + 7 * DAY, UTC)


async def windows(corridor: Corridor) -> tuple[Window, Window]:
    found = await corridor.engines.state.statistics(corridor.clock.now())
    return found.last_1h, found.last_24h


async def one_of_each(corridor: Corridor, good: Receiver, bad: Receiver, gone: Receiver) -> Window:
    """Delivered, waiting for a retry, dead and put aside; what that counts as."""
    await corridor.ended(await corridor.send(good.url))
    await corridor.ended(await corridor.send(gone.url))
    await corridor.failed(await corridor.send(bad.url), attempts=1)
    # Its endpoint is not called, and so none that is counted.
    held = await corridor.send("http://127.0.0.1:9/", deliver_at=_AHEAD)
    await corridor.until(held, lambda status: status.gen == 1)
    return Window(received=4, delivered=1, failed=1, exhausted=1, deferred=1, unique_endpoints=3)


async def test_what_happens_is_in_the_windows_until_an_hour_and_a_day_have_passed(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    async with (
        Receiver() as good,
        Receiver(status=500) as bad,
        Receiver(status=404) as gone,
        running(tmp_path, clock, **_NO_JITTER, retry__base_delay=9 * DAY, retry__max_delay=9 * DAY) as corridor,
    ):
        assert await windows(corridor) == (Window(), Window())
        counted = await one_of_each(corridor, good, bad, gone)
        found: list[tuple[Window, Window]] = []
        for since_the_last in (HOUR - 1, 2, DAY - HOUR - 2, 2):
            clock.advance(since_the_last * 1_000)
            found.append(await windows(corridor))
        assert found == [(counted, counted), (Window(), counted), (Window(), counted), (Window(), Window())]


async def test_an_attempt_counts_at_its_own_time_and_its_delivery_is_received_once(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    async with Receiver(fail_first_n=2) as receiver, running(tmp_path, clock, **_NO_JITTER) as corridor:
        webhook_id = await corridor.send(receiver.url)
        await corridor.failed(webhook_id, attempts=1)
        clock.advance((HOUR - 5) * 1_000)
        await corridor.failed(webhook_id, attempts=2)
        clock.advance(HOUR * 1_000 // 2)
        await corridor.ended(webhook_id)
        day = Window(received=1, delivered=1, failed=2, unique_endpoints=1)
        assert await windows(corridor) == (Window(delivered=1, failed=1, unique_endpoints=1), day)


async def test_the_last_of_its_attempts_counts_as_exhausted_and_not_as_failed(tmp_path: Path) -> None:
    async with Receiver(status=500) as bad, running(tmp_path) as corridor:
        await corridor.ended(await corridor.send(bad.url, max_attempts=1))
        assert (await windows(corridor))[0] == Window(received=1, exhausted=1, unique_endpoints=1)


async def test_a_repeat_of_an_idempotency_key_is_not_received_again(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path) as corridor:
        request = Request(Enqueue(endpoint=receiver.url, payload=Raw(b"{}")), "key", "a" * 64)
        for _ in range(3):
            await corridor.house.ingest.accept_keyed("app", [request, request], "test")
        await corridor.house.deliver_stage.caught_up()
        assert (await windows(corridor))[0].received == 1


async def test_a_restart_and_a_kill_leave_the_windows_as_they_were(tmp_path: Path) -> None:
    clock, data, killed = ManualClock(NOW), tmp_path / "data", tmp_path / "killed"
    async with Receiver() as good, Receiver(status=500) as bad, Receiver(status=404) as gone:
        async with running(data, clock, **_NO_JITTER) as corridor:
            counted = await one_of_each(corridor, good, bad, gone)
            # What a process that is killed at this instant leaves behind.
            shutil.copytree(data, killed)
        for folder in (data, killed):
            async with running(folder, clock, **_NO_JITTER) as corridor:
                assert (await windows(corridor))[0] == counted


async def test_what_is_not_settled_at_a_kill_is_received_once(tmp_path: Path) -> None:
    clock, data, killed = ManualClock(NOW), tmp_path / "data", tmp_path / "killed"
    async with Receiver() as receiver:
        async with opened(data, clock) as corridor:
            await corridor.house.reconcile.recover()
            ids = [await corridor.send(receiver.url) for _ in range(3)]
            ids.append(await corridor.send(receiver.url, deliver_at=_AHEAD))
            assert (await windows(corridor))[0] == Window(received=4)
            shutil.copytree(data, killed)
        for folder in (data, killed):
            async with opened(folder, clock) as corridor:
                for _ in range(2):
                    await corridor.house.reconcile.recover()
                # The one with a time ahead is a result that settle has not seen.
                assert (await windows(corridor))[0] == Window(received=4)
                assert [status and status.state for status in await corridor.engines.state.status(ids)] == [
                    *["pending"] * 3,
                    "deferred",
                ]
            async with running(folder, clock) as corridor:
                for id_ in ids[:3]:
                    await corridor.ended(id_)
                assert (await windows(corridor))[0] == Window(4, 3, deferred=1, unique_endpoints=1)


async def test_the_windows_are_counted_again_where_hot_state_was_lost(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    async with Receiver() as good, Receiver(status=500) as bad, Receiver(status=404) as gone:
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            await one_of_each(corridor, good, bad, gone)
            clock.advance(2 * HOUR * 1_000)
            await one_of_each(corridor, good, bad, gone)
        async with opened(tmp_path, clock, **_NO_JITTER) as corridor:
            await corridor.house.reconcile.recover()
            pending = await corridor.send(good.url)
            before = await windows(corridor)
            assert (before[0].received, before[1].received) == (5, 9)
        for path in tmp_path.glob("hot.db*"):
            path.unlink()
        async with opened(tmp_path, clock, **_NO_JITTER) as corridor:
            await corridor.house.reconcile.recover()
            assert await windows(corridor) == before
        async with running(tmp_path, clock, **_NO_JITTER) as corridor:
            await corridor.ended(pending)
            hour, day = await windows(corridor)
            assert (hour.received, day.received) == (5, 9)
            assert hour.delivered == before[0].delivered + 1


async def test_counts_are_dropped_when_their_time_is_over(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    async with Receiver() as receiver, running(tmp_path, clock, ttl__stats_ttl=600) as corridor:
        await corridor.ended(await corridor.send(receiver.url))
        clock.advance(700_000)
        await corridor.ended(await corridor.send(receiver.url))
        hour, _ = await windows(corridor)
        assert (hour.received, hour.delivered) == (1, 1)
