"""The routes of an owner's commands from outside: every answer, and that a refused one leaves nothing in the log."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support import DEADLINE, Corridor, opened, running

from howk.domain.endpoints import endpoint_id
from howk.domain.records import RESULTS, Result, reader
from howk.testing.receiver import Receiver
from howk.web.app import App, Limits
from howk.web.guard import Guard
from howk.web.refusals import Refusals

URL = "http://127.0.0.1:9/in"
UNKNOWN = "wh_00000000000000000000000000"
ENDPOINTS = "/config/app/endpoints"
COMMANDS = ("enable", "pause", "release")
_NOTHING_AMISS: dict[str, Any] = {"breaker": "closed", "disabled": False, "disabled_reason": None, "paused": False}


def _app(corridor: Corridor, guard: Guard | None = None, aside: str = "", reason: str = "") -> App:
    async def readiness() -> str:
        return reason

    house, metrics = corridor.house, corridor.metrics
    return App(
        house.ingest,
        corridor.engines.state,
        guard or Guard((), loopback_only=True),
        Limits(request=1 << 20, batch=1 << 20, items=5),
        metrics,
        metrics.expose,
        readiness,
        Refusals(corridor.notes),
        aside=aside,
        configs=house.configs,
        command=house.command,
    )


def _client(app: App) -> httpx.AsyncClient:
    headers = {"content-type": "application/json"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8080", headers=headers)


@pytest.fixture
async def corridor(tmp_path: Path) -> AsyncIterator[Corridor]:
    """Nothing runs: what is asked for stays in the log."""
    async with opened(tmp_path) as found:
        await found.house.reconcile.recover()
        yield found


@pytest.fixture
async def door(corridor: Corridor) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(_app(corridor)) as client:
        yield client


async def _commands(corridor: Corridor) -> list[Result]:
    ((place, (start, stop)),) = (await corridor.engines.log.bounds(RESULTS)).items()
    batches = corridor.engines.log.read(RESULTS, place.partition, start, stop)
    return [reader(Result)(entry.value) async for batch in batches for entry in batch]


async def test_a_cancel_is_in_the_log_at_the_answer(corridor: Corridor, door: httpx.AsyncClient) -> None:
    webhook_id = await corridor.send(URL)
    answer = await door.post(f"/webhooks/{webhook_id}:cancel")
    assert (answer.status_code, answer.json()) == (202, {"webhook_id": webhook_id, "status": "cancelling"})
    (command,) = await _commands(corridor)
    assert (command.outcome, command.id, command.scope) == ("cancel", webhook_id, "app")


async def test_a_cancel_needs_no_body_and_no_content_type(corridor: Corridor, door: httpx.AsyncClient) -> None:
    webhook_id = await corridor.send(URL)
    del door.headers["content-type"]
    assert (await door.post(f"/webhooks/{webhook_id}:cancel")).status_code == 202


@pytest.mark.parametrize(
    ("status", "fields", "why"),
    [(200, {}, "it is delivered"), (404, {}, "it is dead (unrecoverable)")],
)
async def test_what_has_ended_is_refused_with_how_it_ended(
    tmp_path: Path, status: int, fields: dict[str, Any], why: str
) -> None:
    async with (
        Receiver(status=status) as receiver,
        running(tmp_path) as corridor,
        _client(_app(corridor)) as door,
    ):
        webhook_id = await corridor.send(receiver.url, **fields)
        await corridor.ended(webhook_id)
        before = await _commands(corridor)
        answer = await door.post(f"/webhooks/{webhook_id}:cancel")
        assert (answer.status_code, answer.json()["code"]) == (409, "already_ended")
        assert answer.json()["detail"].endswith(why)
        assert await _commands(corridor) == before


async def test_what_was_cancelled_is_refused_as_that(tmp_path: Path) -> None:
    async with Receiver(status=500) as receiver, running(tmp_path) as corridor, _client(_app(corridor)) as door:
        webhook_id = await corridor.send(receiver.url)
        await corridor.failed(webhook_id, attempts=1)
        assert (await door.post(f"/webhooks/{webhook_id}:cancel")).status_code == 202
        await corridor.ended(webhook_id)
        assert (await door.get(f"/webhooks/{webhook_id}/status")).json()["state"] == "cancelled"
        answer = await door.post(f"/webhooks/{webhook_id}:cancel")
        assert (answer.status_code, answer.json()["detail"]) == (409, "the webhook has ended already: it is cancelled")


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_to_an_endpoint_is_in_the_log_at_the_answer(
    corridor: Corridor, door: httpx.AsyncClient, name: str
) -> None:
    answer = await door.post(f"{ENDPOINTS}:{name}", json={"endpoint": "http://u:p@127.0.0.1:9/in?token=1#x"})
    id_ = endpoint_id("app", URL)
    assert (answer.status_code, answer.json()) == (202, {"endpoint_id": id_, "endpoint": URL, "command": name})
    (command,) = await _commands(corridor)
    assert (command.outcome, command.endpoint, command.scope, command.url) == (name, id_, "app", URL)


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "malformed", ""),
        (b"{", 400, "malformed", ""),
        (b"[]", 400, "malformed", ""),
        (b'"http://x/"', 400, "malformed", ""),
        (b'{"endpoint":"http://x/\xff"}', 400, "malformed", ""),
        (b'{"endpoint":"http://x/","endpoint":"http://y/"}', 400, "malformed", "endpoint"),
        (b'{"endpoint":"http://x/","endp\\u006fint":"http://y/"}', 400, "malformed", "endpoint"),
        (b'{"endpoint":' + b"[" * 5_000 + b"]" * 5_000 + b"}", 422, "invalid_field", "endpoint"),
        (b"{}", 422, "missing_field", "endpoint"),
        (b'{"endpoint":"http://x/","colour":1}', 422, "unknown_field", "colour"),
        (b'{"endpoint":7}', 422, "invalid_field", "endpoint"),
        (b'{"endpoint":null}', 422, "invalid_field", "endpoint"),
        (b'{"endpoint":""}', 422, "invalid_endpoint", "endpoint"),
        (b'{"endpoint":"ftp://x/"}', 422, "invalid_endpoint", "endpoint"),
        (b'{"endpoint":"http://x/\\nHost: y"}', 422, "invalid_endpoint", "endpoint"),
        (b'{"endpoint":"http://x/' + b"a" * 9_000 + b'"}', 422, "invalid_endpoint", "endpoint"),
        (b'{"endpoint":"http://x/' + b"a" * 70_000 + b'"}', 413, "request_too_large", ""),
    ],
    ids=range(17),
)
@pytest.mark.parametrize("name", COMMANDS)
async def test_a_bad_body_is_refused_by_name_and_leaves_nothing(
    corridor: Corridor, door: httpx.AsyncClient, name: str, body: bytes, status: int, code: str, field: str
) -> None:
    answer = await door.post(f"{ENDPOINTS}:{name}", content=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert answer.headers["content-type"] == "application/problem+json"
    if field:
        assert field in [error["field"] for error in problem["errors"]]
    assert await _commands(corridor) == []


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", f"/webhooks/{UNKNOWN}:cancel", 404, "not_found"),
        ("POST", "/webhooks/:cancel", 404, "not_found"),
        ("POST", "/webhooks/wh_mistyped:cancel", 404, "not_found"),
        ("POST", f"/webhooks/{UNKNOWN}:CANCEL", 404, "not_found"),
        ("POST", f"/webhooks/{UNKNOWN}:cancel/", 404, "not_found"),
        ("POST", f"/webhooks/{UNKNOWN}/:cancel", 404, "not_found"),
        ("GET", f"/webhooks/{UNKNOWN}:cancel", 405, "method_not_allowed"),
        ("DELETE", f"/webhooks/{UNKNOWN}:cancel", 405, "method_not_allowed"),
        ("GET", f"{ENDPOINTS}:pause", 405, "method_not_allowed"),
        ("PUT", f"{ENDPOINTS}:enable", 405, "method_not_allowed"),
        ("POST", ENDPOINTS, 405, "method_not_allowed"),
        ("POST", f"{ENDPOINTS}:stop", 404, "not_found"),
        ("POST", f"{ENDPOINTS}:", 404, "not_found"),
        ("POST", "/config//endpoints:pause", 422, "invalid_config_id"),
        ("POST", "/config/-/endpoints:pause", 422, "invalid_config_id"),
        ("POST", "/config/a%00b/endpoints:pause", 422, "invalid_config_id"),
        ("POST", f"{ENDPOINTS}/x:pause", 404, "not_found"),
    ],
)
async def test_what_is_no_command_is_refused_and_leaves_nothing(
    corridor: Corridor, door: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await door.request(method, path, json={"endpoint": URL})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert await _commands(corridor) == []


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 422, "missing_field"),
        ("?endpoint=", 422, "invalid_endpoint"),
        ("?endpoint=ftp://x/", 422, "invalid_endpoint"),
        ("?endpoint=http://x/&endpoint=http://y/", 400, "malformed"),
        ("?endpoint=http://x/&colour=1", 422, "unknown_field"),
        ("?endpoint=http://x/%ff", 400, "malformed"),
        ("?" + "&".join(["endpoint=a"] * 200), 400, "malformed"),
    ],
)
async def test_an_endpoint_that_is_not_named_can_not_be_shown(
    door: httpx.AsyncClient, query: str, status: int, code: str
) -> None:
    answer = await door.get(ENDPOINTS + query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def _shown(door: httpx.AsyncClient, url: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The endpoint once it is as wanted; settle is a moment behind."""
    async with asyncio.timeout(DEADLINE):
        while True:
            answer = await door.get(ENDPOINTS, params={"endpoint": url})
            assert answer.status_code == 200
            shown = answer.json()
            if wanted(shown):
                return shown
            # Nothing in the door waits for anything here.
            await asyncio.sleep(0)


async def test_an_endpoint_that_was_never_heard_of_is_well(door: httpx.AsyncClient) -> None:
    answer = await door.get(ENDPOINTS, params={"endpoint": "http://127.0.0.1:9/in?token=1"})
    wanted = {"endpoint_id": endpoint_id("app", URL), "endpoint": URL, **_NOTHING_AMISS, "next_probe_at": None}
    assert (answer.status_code, answer.json()) == (200, wanted)


async def test_an_endpoint_shows_why_what_is_for_it_is_held(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"circuit_breaker__failure_threshold": 2, "circuit_breaker__recovery_timeout": 60.0}
    async with (
        Receiver(status=500) as receiver,
        running(tmp_path, **settings) as corridor,
        _client(_app(corridor)) as door,
    ):
        url, endpoint = f"{receiver.url}/", {"endpoint": f"{receiver.url}/?any=query"}
        for _ in range(2):
            await corridor.failed(await corridor.send(receiver.url), attempts=1)
        shown = await _shown(door, receiver.url, lambda shown: shown["breaker"] == "open")
        assert (shown["endpoint"], shown["next_probe_at"]) == (url, "2026-09-21T14:14:20.000Z")
        await door.post(f"{ENDPOINTS}:pause", json=endpoint)
        shown = await _shown(door, receiver.url, lambda shown: shown["paused"])
        assert (shown["breaker"], shown["next_probe_at"]) == ("open", None)
        await door.post(f"{ENDPOINTS}:release", json=endpoint)
        shown = await _shown(door, receiver.url, lambda shown: shown["breaker"] == "closed")
        assert shown["paused"]
        await door.post(f"{ENDPOINTS}:enable", json=endpoint)
        await _shown(door, receiver.url, lambda shown: not shown["paused"])
        receiver.status = 410
        await corridor.ended(await corridor.send(receiver.url))
        shown = await _shown(door, receiver.url, lambda shown: shown["disabled"])
        assert shown["disabled_reason"] == "gone"
        await door.post(f"{ENDPOINTS}:enable", json=endpoint)
        await _shown(door, receiver.url, lambda shown: not shown["disabled"])


async def test_another_config_has_an_endpoint_of_its_own(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor, _client(_app(corridor)) as door:
        await door.post(f"{ENDPOINTS}:pause", json={"endpoint": URL})
        await _shown(door, URL, lambda shown: shown["paused"])
        other = (await door.get("/config/other/endpoints", params={"endpoint": URL})).json()
        assert not other["paused"]
        assert other["endpoint_id"] != endpoint_id("app", URL)


def _all(webhook_id: str) -> Sequence[tuple[str, str]]:
    posts = [("POST", f"/webhooks/{webhook_id}:cancel"), *(("POST", f"{ENDPOINTS}:{name}") for name in COMMANDS)]
    return [*posts, ("GET", f"{ENDPOINTS}?endpoint={URL}")]


async def test_no_command_is_taken_without_a_key_where_there_are_keys(corridor: Corridor) -> None:
    guard = Guard([sha256(b"hk_right").hexdigest()], loopback_only=False)
    webhook_id = await corridor.send(URL)
    async with _client(_app(corridor, guard)) as door:
        for headers in ({}, {"authorization": "Bearer hk_wrong"}):
            for method, path in _all(webhook_id):
                answer = await door.request(method, path, json={"endpoint": URL}, headers=headers)
                assert answer.status_code == 401
        assert await _commands(corridor) == []
        for method, path in _all(webhook_id):
            headers = {"authorization": "Bearer hk_right"}
            answer = await door.request(method, path, json={"endpoint": URL}, headers=headers)
            assert answer.is_success


async def test_a_web_page_of_another_site_and_a_plain_form_command_nothing(
    corridor: Corridor, door: httpx.AsyncClient
) -> None:
    webhook_id = await corridor.send(URL)
    for method, path in _all(webhook_id):
        for origin in ("http://evil.example", "null"):
            answer = await door.request(method, path, json={"endpoint": URL}, headers={"origin": origin})
            assert answer.status_code == 403
    form = {"content-type": "text/plain"}
    for name in COMMANDS:
        answer = await door.post(f"{ENDPOINTS}:{name}", content=b'{"endpoint":"http://x/"}', headers=form)
        assert answer.status_code == 415
    assert await _commands(corridor) == []


async def test_a_role_without_the_door_takes_no_commands(corridor: Corridor) -> None:
    webhook_id = await corridor.send(URL)
    async with _client(_app(corridor, aside="howk worker")) as door:
        for method, path in _all(webhook_id):
            assert (await door.request(method, path, json={"endpoint": URL})).status_code == 404
    assert await _commands(corridor) == []


async def test_what_may_just_not_be_known_yet_is_asked_for_again(corridor: Corridor) -> None:
    async with _client(_app(corridor, reason="hot state is being brought up to date from the log")) as door:
        for method, path in (_all(UNKNOWN)[0], _all(UNKNOWN)[-1]):
            answer = await door.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"]
        webhook_id = await corridor.send(URL)
        assert (await door.post(f"/webhooks/{webhook_id}:cancel")).status_code == 202


async def test_a_log_that_takes_nothing_is_told(corridor: Corridor, door: httpx.AsyncClient) -> None:
    webhook_id = await corridor.send(URL)
    await corridor.engines.log.close()
    for method, path in _all(webhook_id)[:-1]:
        answer = await door.request(method, path, json={"endpoint": URL})
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
