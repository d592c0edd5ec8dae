"""The wall clock is set back and forward by hours, while howk runs and between two runs: retries come after their own
delay, ids stay unique, and signatures carry the time that everybody else has."""

import time
from pathlib import Path

import pytest
from tests.e2e.harness import Howk, Receiver, Reply, Start, connected, envelope
from tests.e2e.wall_clock import WallClock

pytestmark = pytest.mark.e2e

HOURS = 5 * 3600.0
SETTINGS = {"HOWK_RETRY_BASE_DELAY": "2s", "HOWK_RETRY_JITTER": "0"}
LATE = 60.0
"""Seconds. Far above what a busy machine takes, and far below a step."""
STAMP = 60.0


def second_time(start: Start) -> Reply:
    return Reply(500 if start.attempt == 1 and start.target.startswith("/later") else 200)


@pytest.mark.parametrize("step", [-HOURS, HOURS], ids=["back", "forward"])
async def test_a_step_while_it_runs_delays_no_retry_and_repeats_nothing(tmp_path: Path, step: float) -> None:
    clock = WallClock(tmp_path / "clock")
    async with Receiver(second_time) as receiver, Howk(tmp_path, SETTINGS | clock.settings) as howk:
        early = await howk.enqueue(receiver.url("/good"), idempotency_key="key")
        waiting = [await howk.enqueue(receiver.url(f"/later/{number}")) for number in range(10)]
        # A busy machine may be late, and a retry made.
        await howk.reach(waiting, "failed", "delivered")
        clock.set(step)
        fresh = [await howk.enqueue(receiver.url("/good"), b"%d" % number) for number in range(10)]
        later = await howk.enqueue(receiver.url("/later"))
        async with connected(howk.port) as connection:
            body = envelope(receiver.url("/good"), b"{}", idempotency_key="key")
            again = await connection.request("POST", "/webhooks/e2e/enqueue", body)
            assert (again.status, again.json()["webhook_id"]) == (202, early)
            stats = (await connection.request("GET", "/stats")).json()
        ids = [early, *waiting, *fresh, later]
        await howk.reach(ids, "delivered")
        assert await howk.stop() == 0
    assert len(set(ids)) == len(ids)
    assert stats["last_24h"]["received"] <= len(ids)
    assert receiver.repeated() == {}
    for id_ in [*waiting, later]:
        first, second = receiver.of(id_)
        # A step forward makes them due; a step back changes nothing.
        assert second.at - first.at < LATE
        assert step > 0 or second.at - first.at > 1.0
    for start in receiver.starts[-10:]:
        stamped = int(start.headers["webhook-timestamp"])
        assert abs(stamped - (clock.now() - (time.monotonic() - start.at))) < STAMP


@pytest.mark.parametrize("lost", [False, True], ids=["hot state kept", "hot state lost"])
@pytest.mark.parametrize("step", [-HOURS, HOURS], ids=["back", "forward"])
async def test_a_step_between_two_runs_delays_no_retry_and_repeats_nothing(
    tmp_path: Path, step: float, lost: bool
) -> None:
    clock = WallClock(tmp_path / "clock")
    async with Receiver(second_time) as receiver, Howk(tmp_path, SETTINGS | clock.settings) as howk:
        done = await howk.enqueue(receiver.url("/good"))
        waiting = [await howk.enqueue(receiver.url(f"/later/{number}")) for number in range(10)]
        await howk.reach([done], "delivered")
        await howk.reach(waiting, "failed", "delivered")
        await howk.kill()
        if lost:
            for path in howk.data_dir.glob("hot.db*"):
                path.unlink()
        clock.set(step)
        await howk.start()
        began = time.monotonic()
        await howk.reach([done, *waiting], "delivered")
        assert time.monotonic() - began < LATE
        assert await howk.stop() == 0
    assert receiver.repeated() == {}
