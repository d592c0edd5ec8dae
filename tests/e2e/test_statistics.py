"""The windows of `GET /stats` on a real process: what was counted before a stop or a SIGKILL still is, once."""

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.e2e.harness import Howk, Json, Receiver, Reply, Start, connected, envelope, until

pytestmark = pytest.mark.e2e

PENDING = 50
DELIVERED = 400
SETTINGS = {
    "HOWK_RETRY_BASE_DELAY": "1h",
    "HOWK_DELIVERY_MAX_IN_FLIGHT": str(PENDING // 2),
    "HOWK_DELIVERY_TIMEOUT": "10m",
}


def behave(start: Start) -> Reply:
    match start.target:
        case "/fails":
            return Reply(500)
        case "/gone":
            return Reply(404)
        case path if path.startswith("/hangs"):
            return Reply(0)
        case _:
            return Reply()


def soon() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


async def stats(howk: Howk) -> Json:
    async with connected(howk.port) as connection:
        answer = await connection.request("GET", "/stats")
    assert answer.status == 200, answer
    return answer.json()


async def counted(howk: Howk, wanted: Json) -> None:
    found: list[Json] = []

    async def as_wanted() -> bool:
        found[:] = [await stats(howk)]
        return found[0] == {"last_1h": wanted, "last_24h": wanted}

    try:
        await until(as_wanted, "the windows are as wanted")
    except AssertionError as error:
        raise AssertionError(f"{error}: {found} and not {wanted}") from None


async def test_the_windows_survive_a_stop_and_a_kill_and_count_nothing_twice(tmp_path: Path) -> None:
    async with Receiver(behave) as receiver, Howk(tmp_path, SETTINGS) as howk:
        good = await howk.enqueue_batch([envelope(receiver.url("/good"), b"%d" % n) for n in range(DELIVERED)])
        await howk.reach(good, "delivered")
        await howk.reach([await howk.enqueue(receiver.url("/fails"))], "failed")
        await howk.reach([await howk.enqueue(receiver.url("/gone"))], "dead")
        await howk.reach([await howk.enqueue(receiver.url("/good"), deliver_at=soon())], "deferred")
        ended = {"delivered": DELIVERED, "failed": 1, "exhausted": 1, "deferred": 1, "unique_endpoints": 3}
        wanted = {"received": DELIVERED + 3, **ended}
        await counted(howk, wanted)
        assert await howk.stop() == 0
        await howk.start()
        await counted(howk, wanted)
        # Some of them in flight, the others pending: none has had an outcome at any of the kills.
        await howk.enqueue_batch([envelope(receiver.url(f"/hangs/{n}"), b"%d" % n) for n in range(PENDING)])
        wanted["received"] += PENDING
        for _ in range(3):
            await counted(howk, wanted)
            howk.signal(signal.SIGKILL)
            await howk.ended()
            await howk.start()
        await counted(howk, wanted)
