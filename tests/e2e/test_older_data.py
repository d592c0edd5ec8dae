"""Data directories that other versions left: those of older ones (`tests/fixtures/make.py`) are gone on from, with
every status, byte, key and hold; those of a newer one are refused in words and left as they are."""

import asyncio
import base64
import json
import os
import sys
import tarfile
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
from tests.e2e.damage import contents, edited, erase, write
from tests.e2e.harness import Howk, Json, Receiver, Reply, connected, until
from tests.e2e.wall_clock import WallClock

pytestmark = pytest.mark.e2e

FIXTURES = Path(__file__).parents[1] / "fixtures"
LATER = 3 * 3600.0
"""Seconds after a fixture was made, by howk's clock: every retry and every time that was asked for has come."""
SETTINGS = {
    # Where the last process was killed and its probes were, howk does not have to wait for.
    "HOWK_CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "200ms",
    "HOWK_CIRCUIT_BREAKER_PROBE_INTERVAL": "200ms",
}


def unpack(name: str, into: Path) -> Json:
    """The directory of a fixture; what is expected of it."""
    with tarfile.open(FIXTURES / f"{name}.tar.gz") as archive:
        archive.extractall(into, filter="data")
    return json.loads((into / "expected.json").read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="the fixtures' receivers have loopback addresses of Linux")
@pytest.mark.parametrize("name", ["before-holding", "holding"])
async def test_a_directory_of_an_older_version_is_gone_on_from(tmp_path: Path, name: str) -> None:
    expected = unpack(name, tmp_path / "data")
    clock = WallClock(tmp_path / "clock")
    clock.set(expected["at"] + LATER - time.time())
    howk = Howk(tmp_path, SETTINGS | clock.settings)
    webhooks: dict[str, Json] = expected["webhooks"]
    async with Receiver(host=expected["host"], port=expected["port"], keep_bodies=True) as receiver, howk:
        await check_keys(howk, expected["keyed"])
        then: dict[str, list[str]] = {}
        for id_, webhook in webhooks.items():
            then.setdefault(webhook["then"], []).append(id_)
        statuses: dict[str, Json] = {}
        for state, ids in then.items():
            statuses |= await howk.reach(ids, state)
        held = then.get("deferred", [])
        if held:
            assert {statuses[id_]["held_by"] for id_ in held} == {"pause"}
            await enable(howk, receiver.url("/paused"))
            await howk.reach(held, "delivered")
        assert howk.said("undecodable") == []
        assert await howk.stop() == 0
    assert receiver.bodies is not None
    bodies = {start.id: body for start, body in zip(receiver.starts, receiver.bodies, strict=True)}
    unfinished = [id_ for id_, was in webhooks.items() if was["before"] not in ("delivered", "dead", "cancelled")]
    due = {id_ for id_ in unfinished if webhooks[id_]["then"] != "cancelled"}
    assert bodies.keys() == due
    assert {id_: sha256(body) for id_, body in bodies.items() if body != base64.b64decode(webhooks[id_]["body"])} == {}
    assert receiver.repeated() == {}
    for start in receiver.starts:
        assert start.attempt == (2 if webhooks[start.id]["before"] == "failed" else 1)
        if webhooks[start.id]["path"] in ("/paused", "/ordered"):
            assert start.headers["x-of-config"] == "yes"


async def check_keys(howk: Howk, keyed: list[Json]) -> None:
    """A repeat of each request is answered with what the older version answered."""
    async with connected(howk.port) as connection:
        for known in keyed:
            answer = await connection.request("POST", "/webhooks/app/enqueue", known["body"].encode())
            assert (answer.status, answer.json()["webhook_id"]) == (202, known["id"])


async def enable(howk: Howk, endpoint: str) -> None:
    async with connected(howk.port) as connection:
        body = json.dumps({"endpoint": endpoint}).encode()
        assert (await connection.request("POST", "/config/app/endpoints:enable", body)).status == 202


SWEEP = pytest.mark.skipif("CI" not in os.environ, reason="one of a kind is enough but for CI")
NEWER = b'{"v":99,"what":"nobody knows yet"}'


async def work_of_each_kind(howk: Howk, receiver: Receiver) -> list[str]:
    """One that is delivered, one that is dead, and two that wait."""
    done = await howk.enqueue(receiver.url("/good"), idempotency_key="key")
    dead = await howk.enqueue(receiver.url("/bad"), max_attempts=1)
    waiting = [await howk.enqueue(receiver.url(f"/later/{number}")) for number in range(2)]
    await howk.reach([done], "delivered")
    await howk.reach([dead], "dead")
    await howk.reach(waiting, "failed")
    return waiting


@pytest.mark.parametrize(
    ("stream", "key", "lost"),
    [
        pytest.param("howk.pending", "app/key", False, marks=SWEEP),
        pytest.param("howk.slow", "app/key", False, marks=SWEEP),
        ("howk.results", "app/key", False),
        pytest.param("howk.keys", "app/key", False, marks=SWEEP),
        ("howk.control", "config/other", False),
        pytest.param("howk.state", "ep_00000000000000000000000000", False, marks=SWEEP),
        ("howk.state", "wh_01M81RSFQ8C2WDR7QPB4G6N5TE", True),
        ("howk.deadletter", "app/key", True),
    ],
)
async def test_a_record_of_a_newer_version_stops_what_meets_it_and_is_left_to_that_version(
    tmp_path: Path, stream: str, key: str, lost: bool
) -> None:
    behave = {"/good": 200, "/bad": 500}
    clock = WallClock(tmp_path / "clock")
    # None of the retries comes while the newer record is there.
    settings = {"HOWK_RETRY_BASE_DELAY": "1h", "HOWK_RETRY_JITTER": "0", "HOWK_DELIVERY_DRAIN": "1s"}
    async with (
        Receiver(lambda start: Reply(behave.get(start.target, 500 if start.attempt == 1 else 200))) as receiver,
        Howk(tmp_path, settings | clock.settings) as howk,
    ):
        waiting = await work_of_each_kind(howk, receiver)
        assert await howk.stop() == 0
        write(howk.data_dir, stream, key, NEWER)
        before = contents(howk.data_dir)
        if lost:
            for path in howk.data_dir.glob("hot.db*"):
                path.unlink()
        await howk.launch()
        assert "newer howk" in await refusal(howk)
        after = contents(howk.data_dir)
        assert after[stream] == before[stream] if stream != "howk.results" else after[stream][: len(before[stream])]
        assert after["howk.deadletter"] == before["howk.deadletter"]
        # The version that wrote it has taken it.
        erase(howk.data_dir, stream, key)
        clock.set(3600.0)
        await howk.start()
        await howk.reach(waiting, "delivered")
    assert receiver.repeated() == {}


async def refusal(howk: Howk) -> str:
    """Why it ended, or why it is not ready; it is stopped then."""

    async def said() -> bool:
        return not howk.running or len(howk.said("started")) > 1

    async def stopped() -> bool:
        if not howk.running:
            return True
        with suppress(OSError, asyncio.IncompleteReadError):
            async with connected(howk.port) as connection:
                answer = await connection.request("GET", "/ready")
                return answer.status == 503 and "newer" in answer.json()["detail"]
        return False

    await until(said, "it opens its door or ends")
    if howk.running:
        await howk.opened()
        await until(stopped, "it is not ready for what is newer")
    if howk.running:
        await howk.stop()
        return "newer howk"
    await howk.ended()
    return " ".join(line["message"] for line in howk.lines if line["message"].startswith("howk:"))


async def test_a_directory_of_a_newer_format_is_refused_in_words_and_stays_as_it_is(tmp_path: Path) -> None:
    async with Receiver() as receiver, Howk(tmp_path) as howk:
        webhook_id = await howk.enqueue(receiver.url())
        await howk.reach([webhook_id], "delivered")
        assert await howk.stop() == 0
        with edited(howk.data_dir / "log.db") as connection:
            connection.execute("PRAGMA user_version = 99")
        before = (howk.data_dir / "log.db").read_bytes()
        for _ in range(2):
            await howk.launch()
            assert await howk.ended() == 1
            assert "newer howk (format 99" in howk.lines[-1]["message"]
        assert (howk.data_dir / "log.db").read_bytes() == before
        with edited(howk.data_dir / "log.db") as connection:
            connection.execute("PRAGMA user_version = 1")
        await howk.start()
        assert (await howk.status(webhook_id))["state"] == "delivered"
