"""Defaults of a config as processes keep them: what was answered holds after a SIGKILL at that very moment, on every
way into the door, and its secrets are in no file and no log line."""

import hmac
import json
import sqlite3
from base64 import b64encode
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from tests.e2e.harness import Howk, Receiver, Response, Start, connected, envelope

pytestmark = pytest.mark.e2e

KILLS = 5
TOKEN = "hunter2 of a config"
SECRET = "the secret of a config, 24+"


async def _ask(howk: Howk, method: str, config: str, body: dict[str, Any] | None = None) -> Response:
    async with connected(howk.port) as connection:
        return await connection.request(method, f"/config/{config}", json.dumps(body).encode() if body else b"")


def _set(number: int) -> dict[str, Any]:
    return {
        "signing": {"profile": "standard", "secrets": [f"{SECRET} {number}"]},
        "headers": {"X-Number": str(number), "Authorization": TOKEN},
        "retry": {"max_attempts": number + 1},
    }


def _signature(start: Start, secret: str, body: bytes) -> str:
    signed = f"{start.id}.{start.headers['webhook-timestamp']}.".encode() + body
    return "v1," + b64encode(hmac.digest(secret.encode(), signed, sha256)).decode()


async def test_what_was_answered_holds_after_a_kill_at_that_moment(tmp_path: Path) -> None:
    async with Receiver() as receiver, Howk(tmp_path) as howk:
        for number in range(1, KILLS + 1):
            assert (await _ask(howk, "PUT", "gone", _set(number))).status == 200
            assert (await _ask(howk, "DELETE", "gone")).status == 204
            put = await _ask(howk, "PUT", "shop", _set(number))
            await howk.kill()
            assert put.status == 200
            await howk.start()
            assert (await _ask(howk, "GET", "shop")).body == put.body
            assert (await _ask(howk, "GET", "gone")).status == 404

            bare = await howk.enqueue(receiver.url(), config="gone")
            set_ = await howk.enqueue(receiver.url(), b'{"a":1}', config="shop")
            await howk.reach([bare, set_], "delivered")
            (start,) = receiver.of(set_)
            assert start.headers["webhook-signature"] == _signature(start, f"{SECRET} {number}", b'{"a":1}')
            assert (start.headers["x-number"], start.headers["authorization"]) == (str(number), TOKEN)
            assert (await howk.status(set_))["max_attempts"] == number + 1
            (start,) = receiver.of(bare)
            assert "webhook-signature" not in start.headers
        assert await howk.stop() == 0
    kept = [path for path in howk.data_dir.rglob("*") if path.is_file()]
    assert any(b"X-Number" in path.read_bytes() for path in kept)
    for secret in (TOKEN, SECRET):
        assert secret.encode() not in b"".join(path.read_bytes() for path in kept)
        assert secret not in json.dumps(howk.lines)


async def test_the_way_beside_asgi_and_the_one_through_it_act_on_it_alike(tmp_path: Path) -> None:
    async with Receiver() as receiver, Howk(tmp_path) as howk:
        assert (await _ask(howk, "PUT", "shop", _set(3))).status == 200
        body = envelope(receiver.url(), b"1")
        whole = await howk.enqueue_body(body, "shop")
        (batched,) = await howk.enqueue_batch([body], "shop")
        async with connected(howk.port) as connection:
            # A query is what keeps a request from the short way.
            answer = await connection.request("POST", "/webhooks/shop/enqueue?long=way", body)
        ids = [whole, batched, answer.json()["webhook_id"]]
        await howk.reach(ids, "delivered")
        for id_ in ids:
            (start,) = receiver.of(id_)
            assert start.headers["x-number"] == "3"


async def test_a_config_of_a_newer_version_refuses_the_start_in_words(tmp_path: Path) -> None:
    async with Howk(tmp_path) as howk:
        assert (await _ask(howk, "PUT", "shop", _set(1))).status == 200
        assert await howk.stop() == 0
        newer = b'{"v":9,"scope":"shop"}'
        with closing(sqlite3.connect(howk.data_dir / "log.db", isolation_level=None)) as connection:
            connection.execute("UPDATE log_control SET value = ?, sum = ?", (newer, crc32(newer)))
        await howk.launch()
        assert await howk.ended() == 1
        assert "run the newer version" in howk.lines[-1]["message"]
        assert len(howk.said("started")) == 1
