"""The door from outside: every answer of the routes, and that a refusal changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support import Corridor, opened, running

from howk.domain.errors import Full, OverShare, Transient
from howk.domain.records import PENDING
from howk.runtime.dependencies import dependencies
from howk.testing.receiver import Receiver
from howk.web.app import App, Limits
from howk.web.guard import Guard
from howk.web.health import Dependency, examine
from howk.web.problems import problem_of
from howk.web.refusals import Refusals

ENQUEUE = "/webhooks/app/enqueue"
BATCH = "/webhooks/app/enqueue/batch"


def _app(corridor: Corridor, guard: Guard, reason: str = "") -> App:
    async def readiness() -> str:
        return reason

    limits = Limits(request=4_096, batch=16_384, items=5)
    house = corridor.house
    return App(
        house.ingest,
        corridor.engines.state,
        guard,
        limits,
        corridor.metrics,
        corridor.metrics.expose,
        readiness,
        Refusals(corridor.notes),
    )


def _client(app: App, host: str = "127.0.0.1:8080") -> httpx.AsyncClient:
    headers = {"content-type": "application/json", "host": host}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://howk", headers=headers)


@pytest.fixture
async def corridor(tmp_path: Path) -> AsyncIterator[Corridor]:
    async with running(tmp_path, api__max_payload_size=1_000) as found:
        yield found


@pytest.fixture
async def door(corridor: Corridor) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(_app(corridor, Guard((), loopback_only=True))) as client:
        yield client


async def _accepted(corridor: Corridor) -> int:
    ((_, stop),) = (await corridor.engines.log.bounds(PENDING)).values()
    return stop


async def test_an_accepted_webhook_is_in_the_log_and_its_status_is_known_at_the_answer(
    corridor: Corridor, door: httpx.AsyncClient
) -> None:
    async with Receiver() as receiver:
        answer = await door.post(ENQUEUE, json={"endpoint": receiver.url, "payload": {"a": 1}})
        assert answer.status_code == 202
        webhook_id = answer.json()["webhook_id"]
        assert answer.json() == {"webhook_id": webhook_id, "status": "pending"}
        assert await _accepted(corridor) == 1
        status = await door.get(f"/webhooks/{webhook_id}/status")
        assert status.status_code == 200
        assert status.json()["config_id"] == "app"
        await corridor.ended(webhook_id)
        assert (await door.get(f"/webhooks/{webhook_id}/status")).json()["state"] == "delivered"


_URL = '"endpoint":"http://192.0.2.1:9/"'
_REFUSED: list[tuple[bytes, int, str, str]] = [
    (b"", 400, "malformed", ""),
    (b"{", 400, "malformed", ""),
    (b"[]", 400, "malformed", ""),
    (b'"x"', 400, "malformed", ""),
    (b'{"endpoint":"http://x/","payload":"\xff"}', 400, "malformed", ""),
    (b'{"endpoint":"http://x/","payload":1,"payload":2}', 400, "malformed", "payload"),
    (b'{"endpoint":"http://x/","payload":1,"endp\\u006fint":"http://y/"}', 400, "malformed", "endpoint"),
    (b'{"endpoint":"http://x/","payload":1,"headers":{"A":"1","A":"2"}}', 400, "malformed", "A"),
    (b'{"endpoint":"http://x/","payload":' + b"[" * 1_500 + b"]" * 1_500 + b"}", 400, "malformed", ""),
    (b'{"payload":1}', 422, "missing_field", "endpoint"),
    (b'{"endpoint":"http://x/","payload":1,"colour":2}', 422, "unknown_field", "colour"),
    (b'{"endpoint":7,"payload":1}', 422, "invalid_field", "endpoint"),
    (b'{"endpoint":"ftp://x/","payload":1}', 422, "invalid_endpoint", "endpoint"),
    (b'{"endpoint":"http://x/"}', 422, "invalid_payload", "payload"),
    (b'{"endpoint":"http://x/","payload":1,"payload_base64":""}', 422, "invalid_payload", "payload"),
    (b'{"endpoint":"http://x/","payload_base64":"*","content_type":"a/b"}', 422, "invalid_payload", "payload_base64"),
    (b'{"endpoint":"http://x/","payload_base64":"AA=="}', 422, "invalid_content_type", "content_type"),
    (
        b'{"endpoint":"http://x/","payload":1,"content_type":"a/b\\r\\nX: y"}',
        422,
        "invalid_content_type",
        "content_type",
    ),
    (b'{"endpoint":"http://x/","payload":1,"headers":{"Host":"y"}}', 422, "invalid_headers", "headers.Host"),
    (b'{"endpoint":"http://x/","payload":1,"headers":{"A":"b\\r\\nC: d"}}', 422, "invalid_headers", "headers.A"),
    (b'{"endpoint":"http://x/","payload":1,"headers":{"A":"1","a":"2"}}', 422, "invalid_headers", "headers"),
    (
        b'{"endpoint":"http://x/","payload":1,"signing_secret":"whsec_*"}',
        422,
        "invalid_signing_secret",
        "signing_secret",
    ),
    *[
        (b'{"endpoint":"http://x/","payload":1,"signing":%b}' % signing, status, code, field)
        for signing, status, code, field in (
            (b"{}", 422, "invalid_signing", "signing.secrets"),
            (b'{"secrets":[]}', 422, "invalid_signing", "signing.secrets"),
            (b'{"profile":"stripe","secrets":["s"]}', 422, "invalid_signing", "signing.profile"),
            (b'{"secrets":["s","whsec_*"]}', 422, "invalid_signing", "signing.secrets[1]"),
            (b'{"secrets":["s"],"ed25519_key":"whsk_*"}', 422, "invalid_signing", "signing.ed25519_key"),
            (b'{"profile":"harborhook","secrets":["s","t"]}', 422, "invalid_signing", "signing.secrets"),
            (b'{"secrets":["s"]},"signing_secret":"t"', 422, "invalid_signing", "signing_secret"),
            (b'{"secrets":"s"}', 422, "invalid_field", "signing.secrets"),
            (b'{"secrets":[1]}', 422, "invalid_field", "signing.secrets[0]"),
            (b'{"secret":["s"]}', 422, "unknown_field", "signing.secret"),
            (b"7", 422, "invalid_field", "signing"),
            (b'{"secrets":["s"],"secrets":["t"]}', 400, "malformed", "secrets"),
            (b'{"secrets":["s"]},"signing":{"secrets":["t"]}', 400, "malformed", "signing"),
        )
    ],
    (b'{"endpoint":"http://x/","payload":1,"max_attempts":0}', 422, "invalid_max_attempts", "max_attempts"),
    (b'{"endpoint":"http://x/","payload":1,"require_script":true}', 422, "script_required", "require_script"),
    *[
        (b'{"endpoint":"http://x/","payload":1,%b}' % fields, 422, code, field)
        for fields, code, field in (
            (b'"deliver_at":"2030-01-01T00:00:00"', "invalid_field", "deliver_at"),
            (b'"deliver_at":"tomorrow"', "invalid_field", "deliver_at"),
            (b'"deliver_at":1893456000', "invalid_field", "deliver_at"),
            (b'"deliver_at":"2026-10-21T14:13:20.001Z"', "invalid_deliver_at", "deliver_at"),
            (b'"deliver_at":"9999-12-31T23:59:59-23:59"', "invalid_deliver_at", "deliver_at"),
            (b'"max_age":"soon"', "invalid_max_age", "max_age"),
            (b'"max_age":0', "invalid_max_age", "max_age"),
            (b'"max_age":-5', "invalid_max_age", "max_age"),
            (b'"max_age":"367d"', "invalid_max_age", "max_age"),
            (b'"max_age":1e999', "invalid_field", "max_age"),
            (b'"max_age":true', "invalid_field", "max_age"),
            (b'"retry":[]', "invalid_field", "retry"),
            (b'"retry":{"colour":1}', "unknown_field", "retry.colour"),
            (b'"retry":{"type":"random"}', "invalid_field", "retry.type"),
            (b'"retry":{"base_delay":"1ms"}', "invalid_retry", "retry.base_delay"),
            (b'"retry":{"base_delay":"2h","max_delay":"1h"}', "invalid_retry", "retry.base_delay"),
            (b'"retry":{"jitter":1.5}', "invalid_retry", "retry.jitter"),
            (b'"retry":{"delays":["1h"]}', "invalid_retry", "retry.delays"),
            (b'"retry":{"type":"schedule","delays":[]}', "invalid_retry", "retry.delays"),
            (b'"retry":{"type":"schedule","delays":["1h",{}]}', "invalid_field", "retry.delays[1]"),
            (b'"retry":{"type":"schedule","delays":["1h","never"]}', "invalid_retry", "retry.delays[1]"),
            (b'"retry":{"on_status":[200]}', "invalid_retry", "retry.on_status"),
            (b'"retry":{"on_status":["404"]}', "invalid_field", "retry.on_status[0]"),
            (b'"retry":{"max_attempts":0}', "invalid_max_attempts", "retry.max_attempts"),
            (b'"max_attempts":3,"retry":{"max_attempts":3}', "invalid_max_attempts", "retry.max_attempts"),
        )
    ],
    (b'{"endpoint":"http://x/","payload":1,"retry":{"jitter":0,"jitter":1}}', 400, "malformed", "jitter"),
    (b'{"endpoint":"http://x/","payload":1,"max_age":"1h","max_age":"2h"}', 400, "malformed", "max_age"),
    (b'{"endpoint":"http://10.0.0.1/","payload":1}', 422, "blocked_address", "endpoint"),
    (b'{"endpoint":"http://0xA9FEA9FE/","payload":1}', 422, "blocked_address", "endpoint"),
    (b'{"endpoint":"http://[::ffff:10.0.0.1]/","payload":1}', 422, "blocked_address", "endpoint"),
    (b'{"endpoint":"http://x/","payload":"' + b"x" * 1_000 + b'"}', 413, "payload_too_large", "payload"),
    (b'{"endpoint":"http://x/","payload":"' + b"x" * 5_000 + b'"}', 413, "request_too_large", ""),
    *[
        (b'{"endpoint":"http://x/","payload":1,"ordering_key":%b}' % value, status, code, "ordering_key")
        for value, status, code in (
            (b'""', 422, "invalid_ordering_key"),
            (b'"' + b"k" * 257 + b'"', 422, "invalid_ordering_key"),
            (b'"a\\nb"', 422, "invalid_ordering_key"),
            (b'"a\\u0000b"', 422, "invalid_ordering_key"),
            (b'"a\x7fb"', 422, "invalid_ordering_key"),
            (b"7", 422, "invalid_field"),
            (b'["a"]', 422, "invalid_field"),
            (b'"a","ordering_key":"b"', 400, "malformed"),
        )
    ],
    (b'{"endpoint":"http://x/","payload":1,"ordering_key":"\\ud800"}', 400, "malformed", ""),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), _REFUSED, ids=range(len(_REFUSED)))
async def test_a_bad_request_is_refused_by_name_and_changes_nothing(
    corridor: Corridor, door: httpx.AsyncClient, body: bytes, status: int, code: str, field: str
) -> None:
    answer = await door.post(ENQUEUE, content=body)
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "detail"} < set(problem)
    if field:
        assert field in [error["field"] for error in problem["errors"]]
    assert await _accepted(corridor) == 0


@pytest.mark.parametrize("key", ["k", "=/ cart 42", "k" * 256, "Größe 8½"])
async def test_an_ordering_key_is_any_printable_text(corridor: Corridor, door: httpx.AsyncClient, key: str) -> None:
    async with Receiver() as receiver:
        body = {"endpoint": receiver.url, "payload": 1, "ordering_key": key}
        answer = await door.post(ENQUEUE, json=body)
        assert answer.status_code == 202
        assert (await corridor.ended(answer.json()["webhook_id"])).state == "delivered"


async def test_fields_that_are_null_are_as_if_they_were_left_out(door: httpx.AsyncClient) -> None:
    fields = (
        "headers",
        "signing_secret",
        "signing",
        "max_attempts",
        "idempotency_key",
        "retry",
        "content_type",
        "deliver_at",
        "max_age",
        "ordering_key",
    )
    body: dict[str, Any] = {"endpoint": "http://127.0.0.1:9/", "payload": None, **dict.fromkeys(fields)}
    assert (await door.post(ENQUEUE, json=body)).status_code == 202


@pytest.mark.parametrize("secret", ["whsec_hunter2!", "whsk_hunter2", "hunter2" * 200])
@pytest.mark.parametrize("form", ['"signing_secret":%s', '"signing":{"secrets":[%s]}', '"signing":{"ed25519_key":%s}'])
async def test_a_refusal_never_repeats_a_secret(door: httpx.AsyncClient, form: str, secret: str) -> None:
    body = '{"endpoint":"http://x/","payload":1,' + form % json.dumps(secret) + "}"
    answer = await door.post(ENQUEUE, content=body)
    assert answer.status_code == 422
    assert "hunter2" not in answer.text
    answer = await door.post(BATCH, content='{"webhooks":[' + body + "]}")
    assert answer.status_code == 422
    assert "hunter2" not in answer.text


async def test_signing_fields_that_are_null_are_as_if_they_were_left_out(
    corridor: Corridor, door: httpx.AsyncClient
) -> None:
    signing = {"profile": None, "secrets": ["s"], "ed25519_key": None}
    body = {"endpoint": "http://127.0.0.1:9/", "payload": 1, "signing": signing}
    assert (await door.post(ENQUEUE, json=body)).status_code == 202
    assert await _accepted(corridor) == 1


async def test_what_has_a_time_ahead_is_shown_as_deferred_until_then(
    corridor: Corridor, door: httpx.AsyncClient
) -> None:
    body = {
        "endpoint": "http://127.0.0.1:9/",
        "payload": {"a": 1},
        "deliver_at": "2026-10-21T16:13:20+02:00",
        "max_age": "1h",
        "retry": {"type": "schedule", "delays": ["5s", 60, "1h30m"], "on_status": [404], "jitter": 0},
    }
    answer = await door.post(ENQUEUE, json=body)
    assert answer.status_code == 202
    status = (await door.get(f"/webhooks/{answer.json()['webhook_id']}/status")).json()
    assert (status["state"], status["held_by"], status["attempts"]) == ("deferred", "deliver_at", 0)
    assert (status["next_retry_at"], status["max_attempts"]) == ("2026-10-21T14:13:20.000Z", 4)
    assert status["last_attempt_at"] is None
    assert await _accepted(corridor) == 0


async def test_a_batch_answers_for_each_item_in_its_place(corridor: Corridor, door: httpx.AsyncClient) -> None:
    good = {"endpoint": "http://127.0.0.1:9/", "payload": 1}
    answer = await door.post(BATCH, json={"webhooks": [good, {"payload": 1}, good, {**good, "max_attempts": -1}]})
    assert answer.status_code == 202
    found = answer.json()
    assert (found["accepted"], found["failed"]) == (2, 2)
    assert [item["index"] for item in found["webhooks"]] == [0, 1, 2, 3]
    assert [item.get("code") for item in found["webhooks"]] == [None, "missing_field", None, "invalid_max_attempts"]
    assert await _accepted(corridor) == 2


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"webhooks":[]}', 422, "invalid_batch"),
        (b'{"webhooks":[1,2,3,4,5,6]}', 422, "invalid_batch"),
        (b'{"webhooks":[{}],"webhooks":[{}]}', 400, "malformed"),
        (b'{"webhooks":{}}', 422, "invalid_field"),
        (b'{"webhooks":[{}],"more":1}', 422, "unknown_field"),
        (b"[]", 400, "malformed"),
    ],
)
async def test_a_bad_batch_is_refused_whole(
    corridor: Corridor, door: httpx.AsyncClient, body: bytes, status: int, code: str
) -> None:
    answer = await door.post(BATCH, content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert await _accepted(corridor) == 0


async def test_a_batch_of_which_nothing_is_accepted_gets_422(corridor: Corridor, door: httpx.AsyncClient) -> None:
    answer = await door.post(BATCH, content=b'{"webhooks":[{},{"payload":1}]}')
    assert (answer.status_code, answer.json()["accepted"], answer.json()["failed"]) == (422, 0, 2)
    assert await _accepted(corridor) == 0


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_what_a_web_page_can_post_without_asking_is_refused(
    corridor: Corridor, door: httpx.AsyncClient, media: str
) -> None:
    body = b'{"endpoint":"http://127.0.0.1:9/","payload":1}'
    answer = await door.post(ENQUEUE, content=body, headers={"content-type": media})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert await _accepted(corridor) == 0


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8080", "10.0.0.1", ""]
)
async def test_a_name_that_is_not_this_machines_is_refused(door: httpx.AsyncClient, host: str) -> None:
    answer = await door.get("/health", headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1", "[::1]:8080", "LOCALHOST"])
async def test_the_machines_own_names_are_answered(door: httpx.AsyncClient, host: str) -> None:
    assert (await door.get("/health", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example"])
async def test_another_sites_page_is_refused(door: httpx.AsyncClient, origin: str) -> None:
    answer = await door.get("/health", headers={"origin": origin})
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")


async def test_with_keys_only_their_bearers_come_in_and_health_stays_open(corridor: Corridor) -> None:
    guard = Guard([sha256(b"hk_right").hexdigest()], loopback_only=False)
    async with _client(_app(corridor, guard), host="howk.example") as door:
        body = {"endpoint": "http://127.0.0.1:9/", "payload": 1}
        for authorization in ({}, {"authorization": "Bearer hk_wrong"}, {"authorization": "Basic hk_right"}):
            answer = await door.post(ENQUEUE, json=body, headers=authorization)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            status = await door.get("/webhooks/wh_00000000000000000000000000/status", headers=authorization)
            assert status.status_code == 401
        assert await _accepted(corridor) == 0
        assert (await door.get("/health")).status_code == 200
        answer = await door.post(ENQUEUE, json=body, headers={"authorization": "Bearer hk_right"})
        assert answer.status_code == 202


async def test_a_key_that_comes_too_often_is_told_when_to_come_back_and_others_are_not(corridor: Corridor) -> None:
    hashes = [sha256(key).hexdigest() for key in (b"hk_one", b"hk_two")]
    guard = Guard(hashes, loopback_only=False, rate=2, now=corridor.clock.monotonic)
    body = {"endpoint": "http://127.0.0.1:9/", "payload": 1}
    one, two = ({"authorization": f"Bearer hk_{name}"} for name in ("one", "two"))
    async with _client(_app(corridor, guard)) as door:
        answers = [await door.post(ENQUEUE, json=body, headers=one) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert answers[2].json()["code"] == "rate_limited"
        assert answers[2].headers["retry-after"] == "1"
        assert (await door.post(ENQUEUE, json=body, headers=two)).status_code == 202
        assert (await door.get("/health")).status_code == 200
        corridor.clock.advance(500)
        again = [(await door.post(ENQUEUE, json=body, headers=one)).status_code for _ in range(2)]
        assert again == [202, 429]
    assert await _accepted(corridor) == 4


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", ENQUEUE, 405, "method_not_allowed"),
        ("POST", "/webhooks/wh_00000000000000000000000000/status", 405, "method_not_allowed"),
        ("GET", "/webhooks/wh_00000000000000000000000000/status", 404, "not_found"),
        ("GET", "/webhooks/' OR 1=1 --/status", 404, "not_found"),
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/webhooks/app", 404, "not_found"),
        ("POST", "/webhooks/..%2f/enqueue", 404, "not_found"),
        ("POST", "/webhooks/app/enqueue", 415, "unsupported_media_type"),
    ],
)
async def test_routes_that_are_not_there_say_so(
    door: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await door.request(method, path, headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("config", ["a/b", "%20", "-a", "x" * 129])
async def test_a_config_id_has_a_form(corridor: Corridor, door: httpx.AsyncClient, config: str) -> None:
    answer = await door.post(f"/webhooks/{config}/enqueue", json={"endpoint": "http://127.0.0.1:9/", "payload": 1})
    assert answer.status_code in (404, 422)
    assert await _accepted(corridor) == 0


async def test_ready_says_why_it_is_not(corridor: Corridor) -> None:
    guard = Guard((), loopback_only=True)
    async with _client(_app(corridor, guard, reason="hot state is being rebuilt")) as door:
        answer = await door.get("/ready")
        assert (answer.status_code, answer.json()["detail"]) == (503, "hot state is being rebuilt")
        assert (await door.get("/health")).status_code == 200


async def test_metrics_move_with_what_happens(corridor: Corridor, door: httpx.AsyncClient) -> None:
    async with Receiver(fail_first_n=1) as receiver:
        answer = await door.post(ENQUEUE, json={"endpoint": receiver.url, "payload": 1})
        webhook_id = answer.json()["webhook_id"]
        await corridor.failed(webhook_id, attempts=1)
        corridor.clock.advance(100_000)
        await corridor.ended(webhook_id)
        await door.post(ENQUEUE, content=b"{")
        text = (await door.get("/metrics")).text
    for line in (
        'howk_webhooks_received_total{route="/webhooks/{config_id}/enqueue"} 1.0',
        'howk_attempts_total{outcome="failed"} 1.0',
        'howk_attempts_total{outcome="delivered"} 1.0',
        'howk_deliveries_total{outcome="delivered"} 1.0',
        'howk_retries_total{reason="http"} 1.0',
        "howk_delivery_duration_seconds_count 2.0",
        "howk_end_to_end_seconds_count 1.0",
        'howk_http_requests_total{route="refused",status="400"} 1.0',
    ):
        assert line in text, text


@pytest.mark.parametrize(
    ("error", "status", "code", "wait"),
    [
        (Full("the log is full", 10.0, "log_full"), 503, "log_full", b"10"),
        (Full("busy"), 503, "unavailable", b"1"),
        (Transient("busy", 0.0), 503, "unavailable", b"1"),
        (OverShare("send less", 4.2), 429, "over_share", b"5"),
    ],
)
def test_what_has_no_room_says_which_bound_it_met_and_when_to_come_again(
    error: Transient, status: int, code: str, wait: bytes
) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.code, problem.detail) == (status, code, str(error))
    assert problem.headers == ((b"retry-after", wait),)


async def test_a_full_log_closes_the_door_and_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path, retention__max_log_size=8 << 20) as corridor:
        await corridor.house.reconcile.recover()
        large = b'"%b"' % (b"x" * 900_000)
        while not corridor.house.retain.fullness.closed:
            webhook_id = await corridor.send("http://127.0.0.1:9/", large)
            await corridor.house.retain.turn()
        async with _client(_app(corridor, Guard((), loopback_only=True))) as door:
            before = await _accepted(corridor)
            body = {"endpoint": "http://127.0.0.1:9/", "payload": 1}
            for path, posted in ((ENQUEUE, body), (BATCH, {"webhooks": [body]})):
                answer = await door.post(path, json=posted)
                assert (answer.status_code, answer.json()["code"]) == (503, "log_full")
                assert answer.headers["retry-after"] == "10"
            keyed = await door.post(ENQUEUE, json=body, headers={"idempotency-key": "k"})
            assert keyed.status_code == 503
            assert (await door.post(ENQUEUE, json={"payload": 1})).status_code == 422
            assert await _accepted(corridor) == before
            assert (await door.get(f"/webhooks/{webhook_id}/status")).status_code == 200


async def test_health_names_each_dependency_that_was_asked_and_what_is_wrong_with_it(corridor: Corridor) -> None:
    async def deaf() -> str:
        return await asyncio.Future[str]()

    ours = dependencies(corridor.engines)
    found = await examine((*ours, Dependency("deaf", deaf)), within=2.0)
    assert [(finding.name, finding.error) for finding in found.dependencies] == [
        ("log", None),
        ("log_room", None),
        ("hot_state", None),
        ("deaf", "no answer within 2 s"),
    ]
    house, metrics = corridor.house, corridor.metrics
    guard = Guard((), loopback_only=True)
    app = App(
        house.ingest,
        corridor.engines.state,
        guard,
        Limits(1, 1, 1),
        metrics,
        metrics.expose,
        _never,
        Refusals(corridor.notes),
        ours,
    )
    async with _client(app) as door:
        answer = await door.get("/health/dependencies")
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
        assert all(finding["latency_ms"] >= 0 for finding in answer.json()["dependencies"])
        await corridor.engines.state.rebuild()
        await corridor.engines.log.close()
        answer = await door.get("/health/dependencies")
        assert (answer.status_code, answer.json()["status"]) == (503, "failing")
        failing = {each["name"] for each in answer.json()["dependencies"] if not each["ok"] and each["error"]}
        assert failing == {"log", "hot_state"}
        assert (await door.post("/health/dependencies")).status_code == 405


async def _never() -> str:
    return "this test does not ask"


async def test_a_log_that_cannot_write_gets_503_with_when_to_come_back(
    corridor: Corridor, door: httpx.AsyncClient
) -> None:
    await corridor.engines.log.close()
    answer = await door.post(ENQUEUE, json={"endpoint": "http://127.0.0.1:9/", "payload": 1})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_bug_is_answered_as_a_problem_without_its_insides_and_the_door_goes_on(corridor: Corridor) -> None:
    def broken() -> bytes:
        raise LookupError("s3cr3t")

    async def readiness() -> str:
        return ""

    house, guard = corridor.house, Guard((), loopback_only=True)
    limits = Limits(request=4_096, batch=16_384, items=5)
    refusals = Refusals(corridor.notes)
    app = App(house.ingest, corridor.engines.state, guard, limits, corridor.metrics, broken, readiness, refusals)
    async with _client(app) as door:
        answer = await door.get("/metrics")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert answer.headers["content-type"] == "application/problem+json"
        assert (await door.get("/health")).status_code == 200
    told = [message for event, message in corridor.notes.lines if event == "internal"]
    assert len(told) == 1
    assert "LookupError" in told[0]
    assert " in broken" in told[0]
    for text in (answer.text, told[0]):
        assert "s3cr3t" not in text
    assert "Traceback" not in answer.text
    assert "app.py" not in answer.text
    assert 'howk_http_requests_total{route="failed",status="500"} 1.0' in corridor.metrics.expose().decode()


async def test_refusals_are_told_a_few_a_second_and_hold_nothing_of_the_request(
    corridor: Corridor, door: httpx.AsyncClient
) -> None:
    for _ in range(100):
        await door.post("/webhooks/canary/enqueue?canary=1", content=b'{"canary":1}', headers={"x-own": "canary"})
    told = [message for event, message in corridor.notes.lines if event == "refused"]
    # The calls may be spread over a few seconds of the clock.
    assert 10 <= len(told) <= 60
    assert not any("canary" in message for message in told)
    text = corridor.metrics.expose().decode()
    assert 'howk_http_requests_total{route="refused",status="422"} 100.0' in text
