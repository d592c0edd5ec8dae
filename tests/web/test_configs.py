"""The routes of a config from outside: what they show, that no secret is shown, and that a refusal changes nothing."""

import json
import re
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support import Corridor, running

from howk.domain.records import CONTROL
from howk.testing.log_suite import rows
from howk.web.app import App, Limits
from howk.web.guard import Guard
from howk.web.refusals import Refusals

CONFIG = "/config/app"


def _app(corridor: Corridor, guard: Guard, aside: str = "") -> App:
    async def readiness() -> str:
        return ""

    house, metrics = corridor.house, corridor.metrics
    limits = Limits(request=1 << 20, batch=1 << 20, items=5)
    state, refusals = corridor.engines.state, Refusals(corridor.notes)
    return App(
        house.ingest,
        state,
        guard,
        limits,
        metrics,
        metrics.expose,
        readiness,
        refusals,
        aside=aside,
        configs=house.configs,
    )


def _client(app: App) -> httpx.AsyncClient:
    headers = {"content-type": "application/json"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8080", headers=headers)


@pytest.fixture
async def corridor(tmp_path: Path) -> AsyncIterator[Corridor]:
    async with running(tmp_path) as found:
        yield found


@pytest.fixture
async def door(corridor: Corridor) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(_app(corridor, Guard((), loopback_only=True))) as client:
        yield client


async def test_a_config_is_shown_as_it_is_kept_and_its_secrets_are_counted(door: httpx.AsyncClient) -> None:
    body = {
        "signing": {"secrets": ["hunter2", "hunter2 of last year"]},
        "headers": {"X-Shop": "1", "Authorization": "Bearer hunter2"},
        "retry": {"type": "schedule", "delays": ["5s", 60, "1h30m"], "jitter": 0, "on_status": [404]},
        "timeout": "2500ms",
        "rate_limit": {"per_second": 0.5},
        "max_in_flight": 8,
        "ordering": {"policy": "skip", "after": 3},
    }
    put = await door.put(CONFIG, json=body)
    assert put.status_code == 200
    assert put.json() == {
        "config_id": "app",
        "updated_at": "2026-09-21T14:13:20.000Z",
        "signing": {"profile": "default", "secrets": 2, "ed25519_key": False},
        "headers": {"X-Shop": "1", "Authorization": "(redacted)"},
        "retry": {
            "type": "schedule",
            "max_delay": 86_400.0,
            "jitter": 0.0,
            "delays": [5.0, 60.0, 5_400.0],
            "max_attempts": 4,
            "on_status": [404],
        },
        "timeout": 2.5,
        "rate_limit": {"per_second": 0.5, "burst": 1.0},
        "max_in_flight": 8,
        "ordering": {"policy": "skip", "after": 3},
    }
    got = await door.get(CONFIG)
    assert (got.status_code, got.content) == (200, put.content)
    assert (await door.head(CONFIG)).status_code == 200
    assert "hunter2" not in put.text


async def test_a_put_replaces_the_whole_and_what_is_null_is_left_out(door: httpx.AsyncClient) -> None:
    await door.put(CONFIG, json={"signing": {"secrets": ["s"]}, "max_in_flight": 3})
    names = ("signing", "headers", "retry", "timeout", "rate_limit", "max_in_flight", "ordering")
    for body in (dict.fromkeys(names), {}, {"max_in_flight": None}):
        answer = await door.put(CONFIG, json=body)
        assert answer.status_code == 200
        shown = answer.json()
        assert shown.pop("headers") == {}
        assert shown.pop("ordering") == {"policy": "block"}
        assert {shown[name] for name in names if name in shown} == {None}


async def test_what_is_shown_of_everything_but_secrets_can_be_put_again(door: httpx.AsyncClient) -> None:
    for retry in ({"type": "linear", "base_delay": "90s"}, {"max_attempts": 2}, {"type": "schedule", "delays": [1, 2]}):
        set_ = {"headers": {"A": "b"}, "retry": retry, "timeout": 5, "rate_limit": {"per_second": 2}}
        first = (await door.put(CONFIG, json=set_)).json()
        again = {name: value for name, value in first.items() if name not in ("config_id", "updated_at")}
        assert (await door.put(CONFIG, json=again)).json() == first


async def test_a_config_that_is_removed_is_gone_and_a_second_removal_is_told(door: httpx.AsyncClient) -> None:
    await door.put(CONFIG, json={})
    answer = await door.delete(CONFIG)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers
    for method in ("DELETE", "GET"):
        answer = await door.request(method, CONFIG)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


_REFUSED: list[tuple[bytes, int, str, str]] = [
    (b"", 400, "malformed", ""),
    (b"{", 400, "malformed", ""),
    (b"[]", 400, "malformed", ""),
    (b"null", 400, "malformed", ""),
    (b'{"headers":{"A":"\xff"}}', 400, "malformed", ""),
    (b"[" * 5_000, 400, "malformed", ""),
    (b'{"headers":' + b"[" * 5_000, 422, "invalid_field", "headers"),
    *[
        (body, 400, "malformed", field)
        for body, field in (
            (b'{"timeout":1,"timeout":2}', "timeout"),
            (b'{"headers":{"A":"1","A":"2"}}', "A"),
            (b'{"signing":{"secrets":["a"],"secrets":["hunter2"]}}', "secrets"),
            (b'{"retry":{"jitter":0,"jitter":1}}', "jitter"),
            (b'{"rate_limit":{"per_second":1,"per_second":2}}', "per_second"),
            (b'{"ordering":{"policy":"block","p\\u006flicy":"skip","after":1}}', "policy"),
        )
    ],
    *[
        (body, 422, code, field)
        for body, code, field in (
            (b'{"colour":1}', "unknown_field", "colour"),
            (b'{"signing":7}', "invalid_field", "signing"),
            (b'{"signing":{}}', "invalid_signing", "signing.secrets"),
            (b'{"signing":{"profile":"hunter2","secrets":["s"]}}', "invalid_signing", "signing.profile"),
            (b'{"signing":{"secrets":["whsec_hunter2!"]}}', "invalid_signing", "signing.secrets[0]"),
            (b'{"signing":{"secrets":2}}', "invalid_field", "signing.secrets"),
            (b'{"headers":{"Host":"x"}}', "invalid_headers", "headers.Host"),
            (b'{"headers":{"Webhook-Id":"x"}}', "invalid_headers", "headers.Webhook-Id"),
            (b'{"headers":{"A":"b\\r\\nC: d"}}', "invalid_headers", "headers.A"),
            (b'{"headers":{"Authorization":"(redacted)"}}', "invalid_headers", "headers.Authorization"),
            (b'{"headers":{"A":1}}', "invalid_field", "headers[...]"),
            (b'{"retry":{"type":"random"}}', "invalid_field", "retry.type"),
            (b'{"retry":{"base_delay":"1ms"}}', "invalid_retry", "retry.base_delay"),
            (b'{"retry":{"max_attempts":0}}', "invalid_max_attempts", "retry.max_attempts"),
            (b'{"timeout":"soon"}', "invalid_timeout", "timeout"),
            (b'{"timeout":301}', "invalid_timeout", "timeout"),
            (b'{"timeout":true}', "invalid_field", "timeout"),
            (b'{"timeout":1e999}', "invalid_field", "timeout"),
            (b'{"rate_limit":5}', "invalid_field", "rate_limit"),
            (b'{"rate_limit":{}}', "missing_field", "rate_limit.per_second"),
            (b'{"rate_limit":{"per_second":0}}', "invalid_rate_limit", "rate_limit.per_second"),
            (b'{"rate_limit":{"per_second":1,"burst":0}}', "invalid_rate_limit", "rate_limit.burst"),
            (b'{"rate_limit":{"per_second":1,"per_minute":1}}', "unknown_field", "rate_limit.per_minute"),
            (b'{"max_in_flight":0}', "invalid_max_in_flight", "max_in_flight"),
            (b'{"max_in_flight":1.5}', "invalid_field", "max_in_flight"),
            (b'{"max_in_flight":99999999999999999999}', "invalid_max_in_flight", "max_in_flight"),
            (b'{"ordering":{"policy":"fifo"}}', "invalid_field", "ordering.policy"),
            (b'{"ordering":{"policy":"skip"}}', "invalid_ordering", "ordering.after"),
            (b'{"ordering":{"policy":"block","after":1}}', "invalid_ordering", "ordering.after"),
        )
    ],
    (b'{"headers":{"A":"' + b"x" * 70_000 + b'"}}', 413, "request_too_large", ""),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), _REFUSED, ids=range(len(_REFUSED)))
async def test_a_bad_config_is_refused_by_name_and_changes_nothing(
    corridor: Corridor, door: httpx.AsyncClient, body: bytes, status: int, code: str, field: str
) -> None:
    before = await door.put(CONFIG, json={"max_in_flight": 3})
    kept = await rows(corridor.engines.log, CONTROL)
    corridor.clock.advance(1_000)
    answer = await door.put(CONFIG, content=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert [field] == [error["field"] for error in problem.get("errors", [])] or not field
    assert "hunter2" not in answer.text
    assert (await door.get(CONFIG)).content == before.content
    assert await rows(corridor.engines.log, CONTROL) == kept


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("PUT", "/config/-", 422, "invalid_config_id"),
        ("PUT", "/config/" + "a" * 129, 422, "invalid_config_id"),
        ("PUT", "/config/a%00b", 422, "invalid_config_id"),
        ("PUT", "/config/", 404, "not_found"),
        ("PUT", "/config", 404, "not_found"),
        ("PUT", "/config/a/b", 404, "not_found"),
        ("POST", CONFIG, 405, "method_not_allowed"),
        ("PATCH", CONFIG, 405, "method_not_allowed"),
        ("GET", "/config/%ff", 404, "not_found"),
        ("DELETE", "/config/unknown", 404, "not_found"),
    ],
)
async def test_what_is_no_config_is_refused(
    corridor: Corridor, door: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await door.request(method, path, content=b"{}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert await rows(corridor.engines.log, CONTROL) == {}


async def test_no_config_is_set_or_shown_without_a_key_where_there_are_keys(corridor: Corridor) -> None:
    guard = Guard([sha256(b"hk_right").hexdigest()], loopback_only=False)
    right = {"authorization": "Bearer hk_right"}
    async with _client(_app(corridor, guard)) as door:
        assert (await door.put(CONFIG, json={"max_in_flight": 3}, headers=right)).status_code == 200
        for headers in ({}, {"authorization": "Bearer hk_wrong"}):
            for method in ("GET", "PUT", "DELETE"):
                assert (await door.request(method, CONFIG, content=b"{}", headers=headers)).status_code == 401
        assert (await door.get(CONFIG, headers=right)).json()["max_in_flight"] == 3


async def test_a_web_page_of_another_site_and_a_plain_form_set_nothing(
    corridor: Corridor, door: httpx.AsyncClient
) -> None:
    assert (await door.put(CONFIG, json={}, headers={"origin": "http://evil.example"})).status_code == 403
    assert (await door.put(CONFIG, content=b"{}", headers={"content-type": "text/plain"})).status_code == 415
    assert await rows(corridor.engines.log, CONTROL) == {}


async def test_a_role_without_the_door_has_no_configs(corridor: Corridor) -> None:
    async with _client(_app(corridor, Guard((), loopback_only=True), aside="howk worker")) as door:
        for method in ("GET", "PUT", "DELETE"):
            assert (await door.request(method, CONFIG, content=b"{}")).status_code == 404


async def test_a_log_that_takes_nothing_is_told_and_the_config_stays_as_it_was(
    corridor: Corridor, door: httpx.AsyncClient
) -> None:
    before = await door.put(CONFIG, json={"max_in_flight": 3})
    await corridor.engines.log.close()
    for method in ("PUT", "DELETE"):
        answer = await door.request(method, CONFIG, content=b"{}")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"]
    assert (await door.get(CONFIG)).content == before.content


async def test_a_config_is_used_by_the_very_next_request(corridor: Corridor, door: httpx.AsyncClient) -> None:
    webhook = {"endpoint": "http://127.0.0.1:9/", "payload": json.loads("1")}
    for attempts in range(1, 6):
        set_: dict[str, Any] = {"retry": {"max_attempts": attempts}}
        assert (await door.put(CONFIG, json=set_)).status_code == 200
        webhook_id = (await door.post("/webhooks/app/enqueue", json=webhook)).json()["webhook_id"]
        status = (await door.get(f"/webhooks/{webhook_id}/status")).json()
        assert status["max_attempts"] == attempts


async def test_the_commands_of_the_page_on_configs_do_what_it_says(corridor: Corridor, door: httpx.AsyncClient) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "config-defaults.md").read_text()
    set_, webhook = re.findall(r"-d '(.*?)'", page, re.DOTALL)
    assert (await door.put("/config/shop", content=set_)).status_code == 200
    answer = await door.post("/webhooks/shop/enqueue", content=webhook)
    assert answer.status_code == 202
    status = (await door.get(f"/webhooks/{answer.json()['webhook_id']}/status")).json()
    assert status["max_attempts"] == 5
