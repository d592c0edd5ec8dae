"""`GET /stats` from outside: what it answers, to whom, and what it says while it can't know."""

from hashlib import sha256
from pathlib import Path

import httpx
from tests.support import NOW, Corridor, ManualClock, running

from howk.domain.windows import DAY, HOUR
from howk.testing.receiver import Receiver
from howk.web.app import App, Limits
from howk.web.guard import Guard
from howk.web.refusals import Refusals

NOTHING = dict.fromkeys(("received", "delivered", "failed", "exhausted", "deferred", "unique_endpoints"), 0)


def _door(corridor: Corridor, *keys: str) -> httpx.AsyncClient:
    async def readiness() -> str:
        return ""

    house, metrics = corridor.house, corridor.metrics
    app = App(
        house.ingest,
        corridor.engines.state,
        Guard(keys, loopback_only=True),
        Limits(4_096, 16_384, 5),
        metrics,
        metrics.expose,
        readiness,
        Refusals(corridor.notes),
        now=corridor.clock.now,
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8080")


async def test_the_door_answers_with_both_windows_as_they_are_at_that_second(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    async with Receiver() as receiver, running(tmp_path, clock) as corridor, _door(corridor) as door:
        assert (await door.get("/stats")).json() == {"last_1h": NOTHING, "last_24h": NOTHING}
        sent = await door.post("/webhooks/app/enqueue", json={"endpoint": receiver.url, "payload": 1})
        await corridor.ended(sent.json()["webhook_id"])
        once = NOTHING | {"received": 1, "delivered": 1, "unique_endpoints": 1}
        seen = [(await door.get("/stats")).json()]
        for seconds in (HOUR - 1, 2, DAY - HOUR - 2, 2):
            clock.advance(seconds * 1_000)
            seen.append((await door.get("/stats")).json())
    assert [(two["last_1h"] == once, two["last_24h"] == once) for two in seen] == [
        (True, True),
        (True, True),
        (False, True),
        (False, True),
        (False, False),
    ]
    assert seen[-1] == {"last_1h": NOTHING, "last_24h": NOTHING}


async def test_where_keys_are_set_statistics_need_one(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor, _door(corridor, sha256(b"hk_right").hexdigest()) as door:
        found = [await door.get("/stats", headers=headers) for headers in ({}, {"authorization": "Bearer hk_right"})]
        assert [answer.status_code for answer in found] == [401, 200]


async def test_while_hot_state_is_rebuilt_there_are_no_statistics(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor, _door(corridor) as door:
        rebuild = await corridor.engines.state.rebuild()
        answer = await door.get("/stats")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        await rebuild.seal({})
        assert (await door.get("/stats")).status_code == 200
