"""Commands as processes keep them: a cancel and a pause hold after a SIGKILL at the very moment of their answer."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.e2e.harness import Howk, Receiver, Reply, Response, connected

pytestmark = pytest.mark.e2e

KILLS = 3
_SETTINGS = {
    "HOWK_RETRY_BASE_DELAY": "1s",
    "HOWK_RETRY_MAX_DELAY": "1s",
    "HOWK_RETRY_JITTER": "0",
    "HOWK_CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1000",
}


async def _post(howk: Howk, path: str, body: bytes = b"") -> Response:
    async with connected(howk.port) as connection:
        return await connection.request("POST", path, body)


async def test_a_cancel_holds_after_a_kill_at_the_moment_of_its_answer(tmp_path: Path) -> None:
    async with Receiver(lambda _: Reply(500)) as receiver, Howk(tmp_path, _SETTINGS) as howk:
        for _ in range(KILLS):
            cancelled, other = [await howk.enqueue(receiver.url()) for _ in range(2)]
            await howk.reach([cancelled, other], "failed")
            answer = await _post(howk, f"/webhooks/{cancelled}:cancel")
            await howk.kill()
            # What it had sent is read to its end.
            await receiver.deserted()
            made = len(receiver.of(cancelled))
            assert (answer.status, answer.json()["status"]) == (202, "cancelling")
            await howk.start()
            await howk.reach([cancelled], "cancelled")
            tried = len(receiver.of(other))
            await receiver.wait_for(lambda id_=other, n=tried: len(receiver.of(id_)) > n + 1, "the other is retried")
            # A retry that was due when it was asked for may have been under way.
            assert len(receiver.of(cancelled)) <= made + 1
            again = await _post(howk, f"/webhooks/{cancelled}:cancel")
            assert (again.status, again.json()["code"]) == (409, "already_ended")


async def test_a_pause_holds_after_a_kill_at_the_moment_of_its_answer(tmp_path: Path) -> None:
    async with Receiver() as receiver, Howk(tmp_path, _SETTINGS) as howk:
        for number in range(KILLS):
            url = receiver.url(f"/{number}")
            body = json.dumps({"endpoint": url}).encode()
            answer = await _post(howk, "/config/e2e/endpoints:pause", body)
            await howk.kill()
            assert answer.status == 202
            await howk.start()
            async with connected(howk.port) as connection:
                shown = await connection.request("GET", f"/config/e2e/endpoints?endpoint={quote(url, safe='')}")
            assert (shown.status, shown.json()["paused"]) == (200, True)
            held = [await howk.enqueue(url) for _ in range(10)]
            found = await howk.reach(held, "deferred")
            assert {status["held_by"] for status in found.values()} == {"pause"}
            elsewhere = await howk.enqueue(receiver.url("/elsewhere"))
            await howk.reach([elsewhere], "delivered")
            assert not any(receiver.of(id_) for id_ in held)
            assert (await _post(howk, "/config/e2e/endpoints:enable", body)).status == 202
            await howk.reach(held, "delivered")
            assert [len(receiver.of(id_)) for id_ in held] == [1] * 10
