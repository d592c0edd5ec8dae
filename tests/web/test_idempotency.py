"""Idempotency keys at the door: where a key may stand, what a repeat is told, what is refused."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.support import Corridor, opened, running

from howk.domain.records import PENDING
from howk.web.app import App, Limits
from howk.web.guard import Guard
from howk.web.refusals import Refusals

ENQUEUE = "/webhooks/app/enqueue"
BATCH = "/webhooks/app/enqueue/batch"
BODY = b'{"endpoint":"http://127.0.0.1:9/","payload":1}'


def _client(corridor: Corridor) -> httpx.AsyncClient:
    async def readiness() -> str:
        return ""

    guard, limits = Guard((), loopback_only=True), Limits(request=4_096, batch=16_384, items=5)
    metrics = corridor.metrics
    state, refusals = corridor.engines.state, Refusals(corridor.notes)
    app = App(corridor.house.ingest, state, guard, limits, metrics, metrics.expose, readiness, refusals)
    headers = {"content-type": "application/json", "host": "127.0.0.1:8080"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://howk", headers=headers)


@pytest.fixture
async def corridor(tmp_path: Path) -> AsyncIterator[Corridor]:
    async with running(tmp_path) as found:
        yield found


@pytest.fixture
async def door(corridor: Corridor) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(corridor) as client:
        yield client


async def _accepted(corridor: Corridor) -> int:
    ((_, stop),) = (await corridor.engines.log.bounds(PENDING)).values()
    return stop


async def test_a_repeat_with_the_header_gets_the_first_answer_marked_as_one(
    corridor: Corridor, door: httpx.AsyncClient
) -> None:
    first, again = [await door.post(ENQUEUE, content=BODY, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert await _accepted(corridor) == 1


async def test_a_key_in_the_body_is_the_same_as_one_in_the_header(corridor: Corridor, door: httpx.AsyncClient) -> None:
    body = BODY[:-1] + b',"idempotency_key":"k"}'
    answers = [await door.post(ENQUEUE, content=body), await door.post(ENQUEUE, content=body)]
    answers.append(await door.post(ENQUEUE, content=body, headers={"Idempotency-Key": "k"}))
    assert len({answer.content for answer in answers}) == 1
    assert await _accepted(corridor) == 1


@pytest.mark.parametrize(
    "other", [BODY.replace(b":1}", b":2}"), BODY + b"\n", BODY.replace(b'"payload":1', b'"payload": 1')]
)
async def test_a_body_that_differs_in_one_byte_is_another_request(
    corridor: Corridor, door: httpx.AsyncClient, other: bytes
) -> None:
    await door.post(ENQUEUE, content=BODY, headers={"Idempotency-Key": "k"})
    answer = await door.post(ENQUEUE, content=other, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert await _accepted(corridor) == 1


async def test_two_keys_that_differ_are_refused(corridor: Corridor, door: httpx.AsyncClient) -> None:
    body = BODY[:-1] + b',"idempotency_key":"k"}'
    answer = await door.post(ENQUEUE, content=body, headers={"Idempotency-Key": "K"})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_mismatch")
    assert await _accepted(corridor) == 0


@pytest.mark.parametrize("key", [b"", b"a b", b"x" * 256, "ä".encode(), b"\xff"])
async def test_a_header_that_is_no_key_is_refused(corridor: Corridor, door: httpx.AsyncClient, key: bytes) -> None:
    answer = await door.post(ENQUEUE, content=BODY, headers={b"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_idempotency_key")
    assert await _accepted(corridor) == 0


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        (b'""', 422, "invalid_idempotency_key"),
        (b'"a b"', 422, "invalid_idempotency_key"),
        (b'"\\u0000"', 422, "invalid_idempotency_key"),
        (b'"\\ud83d\\ude00"', 422, "invalid_idempotency_key"),
        (b'"' + b"x" * 256 + b'"', 422, "invalid_idempotency_key"),
        (b"7", 422, "invalid_field"),
        (b"{}", 422, "invalid_field"),
        (b'"a","idempotency_key":"b"', 400, "malformed"),
        (b'"a","idempotency_key":null', 400, "malformed"),
    ],
)
async def test_a_field_that_is_no_key_is_refused(
    corridor: Corridor, door: httpx.AsyncClient, key: bytes, status: int, code: str
) -> None:
    answer = await door.post(ENQUEUE, content=BODY[:-1] + b',"idempotency_key":' + key + b"}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert await _accepted(corridor) == 0


async def test_a_batch_says_of_each_item_whether_it_was_accepted_before(
    corridor: Corridor, door: httpx.AsyncClient
) -> None:
    keyed = BODY[:-1] + b',"idempotency_key":"k"}'
    first = (await door.post(ENQUEUE, content=keyed)).json()["webhook_id"]
    other = keyed.replace(b":1,", b":2,")
    batch = b'{"webhooks":[%b]}' % b" , ".join([keyed, BODY, other, b"{}"])
    answer = await door.post(BATCH, content=batch)
    assert (answer.status_code, answer.json()["accepted"], answer.json()["failed"]) == (202, 2, 2)
    again, fresh, reused, missing = answer.json()["webhooks"]
    assert again == {"index": 0, "webhook_id": first, "status": "pending", "replayed": True}
    assert set(fresh) == {"index", "webhook_id", "status"}
    assert (reused["code"], missing["code"]) == ("idempotency_key_reused", "missing_field")
    assert await _accepted(corridor) == 2


async def test_a_batch_that_is_sent_again_is_answered_as_it_was(corridor: Corridor, door: httpx.AsyncClient) -> None:
    batch = b'{"webhooks":[%b]}' % b",".join([BODY[:-1] + b',"idempotency_key":"k%d"}' % n for n in range(5)])
    first, again = [(await door.post(BATCH, content=batch)).json()["webhooks"] for _ in range(2)]
    assert again == [item | {"replayed": True} for item in first]
    assert await _accepted(corridor) == 5


async def test_one_key_for_a_whole_batch_is_refused(corridor: Corridor, door: httpx.AsyncClient) -> None:
    answer = await door.post(BATCH, content=b'{"webhooks":[%b]}' % BODY, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_idempotency_key")
    assert await _accepted(corridor) == 0


async def test_before_the_keys_are_read_a_keyed_request_is_told_when_to_come_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor, _client(corridor) as door:
        answer = await door.post(ENQUEUE, content=BODY, headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await door.post(ENQUEUE, content=BODY)).status_code == 202
