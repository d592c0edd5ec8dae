"""The document of the door: whole, consistent in itself, and what the routes really answer."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.json import decode, encode
from tests.support import Corridor, opened

from howk.domain.delivery import Status
from howk.ports.state import Effect
from howk.runtime.dependencies import dependencies
from howk.web import app as door_module
from howk.web import words
from howk.web.app import App, Limits
from howk.web.guard import Guard
from howk.web.openapi import ROUTES, Route, document
from howk.web.refusals import Refusals

DOCUMENT = json.loads(document())
SCHEMAS = DOCUMENT["components"]["schemas"]
GOOD = {"endpoint": "http://127.0.0.1:9/", "payload": {"a": 1}, "headers": {"A": "b"}, "max_attempts": 3}


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _route(method: str, path: str) -> Route:
    for route in ROUTES:
        if route.method == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", route.path), path):
            return route
    raise AssertionError(f"{method} {path} is not in the document")


def _check(answer: httpx.Response) -> None:
    """The answer is one the document knows."""
    bodies = _route(answer.request.method, answer.request.url.path).answers[answer.status_code]
    if not bodies:
        assert answer.content == b""
        return
    media = answer.headers["content-type"].partition(";")[0]
    assert media in bodies, (answer.status_code, media)
    if bodies[media] is not None:
        decode(answer.content, type=bodies[media])


@pytest.fixture
async def corridor(tmp_path: Path) -> Any:
    async with opened(tmp_path) as found:
        await found.house.reconcile.recover()
        yield found


@pytest.fixture
def client(corridor: Corridor) -> Callable[..., httpx.AsyncClient]:
    def client(reason: str = "", **guarded: Any) -> httpx.AsyncClient:
        async def readiness() -> str:
            return reason

        house, engines, metrics = corridor.house, corridor.engines, corridor.metrics
        guard = Guard(guarded.pop("keys", ()), loopback_only=True, **guarded)
        limits = Limits(2_000, 5_000, 5)
        asked, refusals = dependencies(engines), Refusals(corridor.notes)
        app = App(
            house.ingest,
            engines.state,
            guard,
            limits,
            metrics,
            metrics.expose,
            readiness,
            refusals,
            asked,
            "",
            house.configs,
            house.command,
        )
        headers = {"content-type": "application/json"}
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8080", headers=headers)

    return client


def test_the_document_is_consistent_in_itself() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    for reference in _references(DOCUMENT):
        found: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    operations = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == len(ROUTES)
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            named = [each["name"] for each in operation.get("parameters", []) if each["in"] == "path"]
            assert named == re.findall(r"\{(\w+)\}", path)
            assert all(response["description"] for response in operation["responses"].values())


def test_every_route_of_the_reference_is_in_the_document_and_the_reverse() -> None:
    reference = (Path(__file__).parents[2] / "docs" / "reference" / "http.md").read_text()
    section = reference.partition("## Routes")[2].partition("##")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = set(re.findall(r"`(?:[A-Z]+ )?(/[^` ]*)`", "\n".join(rows)))
    assert listed == set(DOCUMENT["paths"])


def test_every_field_that_is_built_is_offered() -> None:
    offered = set(DOCUMENT["components"]["schemas"]["Webhook"]["properties"])
    known = {"endpoint", "payload", "headers", "signing", "deliver_at", "retry", "idempotency_key", "ordering_key"}
    assert known <= offered


def test_what_a_query_has_to_name_is_in_the_document() -> None:
    (named,) = [
        parameter
        for parameter in DOCUMENT["paths"]["/config/{config_id}/endpoints"]["get"]["parameters"]
        if parameter["in"] == "query"
    ]
    assert (named["name"], named["required"]) == ("endpoint", True)


async def test_the_door_serves_it(client: Callable[..., httpx.AsyncClient]) -> None:
    async with client() as door:
        answer = await door.get("/openapi.json")
        assert (answer.status_code, answer.json()) == (200, DOCUMENT)
        _check(answer)


async def test_every_documented_route_exists_and_takes_no_other_method(
    client: Callable[..., httpx.AsyncClient],
) -> None:
    async with client() as door:
        for route in ROUTES:
            path = re.sub(r"\{\w+\}", "wh_00000000000000000000000000", route.path)
            answer = await door.request(route.method, path)
            _check(answer)
            assert answer.status_code != 404 or answer.json()["detail"].startswith(("no webhook", "no config"))
            other = "GET" if route.method == "POST" else "POST"
            refused = await door.request(other, path)
            assert refused.status_code == 405
            assert route.method in refused.headers["allow"]


SUCCESSES: dict[tuple[str, str], tuple[str, Any]] = {
    ("POST", "/webhooks/{config_id}/enqueue"): ("/webhooks/app/enqueue", GOOD),
    ("POST", "/webhooks/{config_id}/enqueue/batch"): ("/webhooks/app/enqueue/batch", {"webhooks": [GOOD, {}]}),
    ("GET", "/webhooks/{webhook_id}/status"): ("/webhooks/{accepted}/status", None),
    ("PUT", "/config/{config_id}"): ("/config/app", {"timeout": "5s"}),
    ("GET", "/config/{config_id}"): ("/config/app", None),
    ("DELETE", "/config/{config_id}"): ("/config/app", None),
    ("POST", "/webhooks/{webhook_id}:cancel"): ("/webhooks/{accepted}:cancel", None),
    ("POST", "/config/{config_id}/endpoints:pause"): (
        "/config/app/endpoints:pause",
        {"endpoint": "https://example.com"},
    ),
    ("POST", "/config/{config_id}/endpoints:release"): (
        "/config/app/endpoints:release",
        {"endpoint": "https://example.com"},
    ),
    ("POST", "/config/{config_id}/endpoints:enable"): (
        "/config/app/endpoints:enable",
        {"endpoint": "https://example.com"},
    ),
    ("GET", "/config/{config_id}/endpoints"): ("/config/app/endpoints?endpoint=https%3A%2F%2Fexample.com", None),
    ("GET", "/stats"): ("/stats", None),
    ("GET", "/health"): ("/health", None),
    ("GET", "/healthz"): ("/healthz", None),
    ("GET", "/ready"): ("/ready", None),
    ("GET", "/health/dependencies"): ("/health/dependencies", None),
    ("GET", "/metrics"): ("/metrics", None),
    ("GET", "/openapi.json"): ("/openapi.json", None),
    ("GET", "/docs"): ("/docs", None),
}
"""For every route a request that succeeds: a path, where `{accepted}` is the id of a webhook, and a body."""


async def test_the_success_of_every_route_is_as_the_document_has_it(client: Callable[..., httpx.AsyncClient]) -> None:
    assert set(SUCCESSES) == {(route.method, route.path) for route in ROUTES}
    async with client() as door:
        accepted = (await door.post("/webhooks/app/enqueue", json=GOOD)).json()["webhook_id"]
        for (method, _), (path, body) in SUCCESSES.items():
            answer = await door.request(method, path.replace("{accepted}", accepted), json=body)
            assert answer.is_success, (method, path, answer.text)
            _check(answer)


async def test_a_repeat_is_as_the_document_has_it(client: Callable[..., httpx.AsyncClient], corridor: Corridor) -> None:
    await corridor.house.recall.turn()
    async with client() as door:
        for _ in range(2):
            single = await door.post("/webhooks/app/enqueue", json={**GOOD, "idempotency_key": "one"})
            batch = await door.post(
                "/webhooks/app/enqueue/batch", json={"webhooks": [{**GOOD, "idempotency_key": "two"}]}
            )
            _check(single)
            _check(batch)
    assert batch.json()["webhooks"][0]["replayed"] is True
    responses = DOCUMENT["paths"]["/webhooks/{config_id}/enqueue"]["post"]["responses"]
    assert set(responses["202"]["headers"]) == {"Idempotent-Replayed"}
    assert (
        single.headers["idempotent-replayed"] == responses["202"]["headers"]["Idempotent-Replayed"]["schema"]["const"]
    )


def test_the_door_answers_no_path_that_the_document_does_not_have() -> None:
    tree = ast.parse(Path(door_module.__file__).read_text("utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    paths = {text for text in texts if re.fullmatch(r"/[a-z][\w./{}-]*", text)}
    assert "/webhooks/" in paths
    for path in paths:
        assert any(known == path or (path.endswith("/") and known.startswith(path)) for known in DOCUMENT["paths"]), (
            path
        )


def test_every_example_is_of_the_type_it_stands_beside() -> None:
    types = {getattr(kind, "__name__", ""): kind for route in ROUTES for kind in _types_of(route)}
    found = {name: schema["examples"] for name, schema in SCHEMAS.items() if "examples" in schema}
    assert found.keys() == words.EXAMPLES.keys()
    for name, examples in found.items():
        for example in examples:
            decode(encode(example), type=types[name], strict=True)


def _types_of(route: Route) -> Iterator[Any]:
    if route.takes is not None:
        yield route.takes
    for bodies in route.answers.values():
        yield from bodies.values()


def test_words_are_only_of_what_the_document_has() -> None:
    for name, fields in words.FIELDS.items():
        assert fields.keys() <= SCHEMAS[name]["properties"].keys(), name
    assert words.SCHEMAS.keys() <= SCHEMAS.keys()
    used = {
        each["name"] for path in DOCUMENT["paths"].values() for each in path[next(iter(path))].get("parameters", [])
    }
    assert words.PARAMETERS.keys() <= used


async def test_answers_are_as_the_document_has_them(client: Callable[..., httpx.AsyncClient]) -> None:
    enqueue, batch = "/webhooks/app/enqueue", "/webhooks/app/enqueue/batch"
    async with client() as door:
        answers = [
            await door.post(enqueue, json=GOOD),
            await door.post(enqueue, content=b"{"),
            await door.post(enqueue, json={"payload": 1}),
            await door.post(enqueue, json={**GOOD, "payload": "x" * 3_000}),
            await door.post(enqueue, json=GOOD, headers={"content-type": "text/plain"}),
            await door.post(enqueue, json=GOOD, headers={"host": "evil.example"}),
            await door.post(enqueue, json=GOOD, headers={"origin": "http://evil.example"}),
            await door.post(batch, json={"webhooks": [GOOD, {"payload": 1}]}),
            await door.post(batch, json={"webhooks": [{"payload": 1}]}),
            await door.post(batch, json={"webhooks": []}),
            await door.get("/webhooks/wh_00000000000000000000000000/status"),
        ]
        found = [answer.status_code for answer in answers]
        assert found == [202, 400, 422, 413, 415, 421, 403, 202, 422, 422, 404]
        answers.append(await door.get(f"/webhooks/{answers[0].json()['webhook_id']}/status"))
        assert answers[-1].status_code == 200
        for answer in answers:
            _check(answer)


async def test_answers_about_configs_are_as_the_document_has_them(client: Callable[..., httpx.AsyncClient]) -> None:
    everything = {
        "signing": {"secrets": ["s"]},
        "headers": {"A": "b", "Authorization": "c"},
        "retry": {"type": "schedule", "delays": [1, "1h"], "on_status": [404]},
        "timeout": "5s",
        "rate_limit": {"per_second": 5},
        "max_in_flight": 3,
        "ordering": {"policy": "skip", "after": 2},
    }
    async with client() as door:
        answers = [
            await door.put("/config/app", json=everything),
            await door.get("/config/app"),
            await door.put("/config/app", json={}),
            await door.get("/config/app"),
            await door.put("/config/app", json={"timeout": 0}),
            await door.put("/config/app", content=b"["),
            await door.put("/config/app", json={"headers": {"A": "b" * 3_000}}),
            await door.delete("/config/app"),
            await door.delete("/config/app"),
            await door.get("/config/app"),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 422, 400, 413, 204, 404, 404]
        for answer in answers:
            _check(answer)


async def test_answers_to_commands_are_as_the_document_has_them(
    client: Callable[..., httpx.AsyncClient], corridor: Corridor
) -> None:
    endpoint = {"endpoint": "http://127.0.0.1:9/"}
    async with client() as door:
        webhook_id = (await door.post("/webhooks/app/enqueue", json=GOOD)).json()["webhook_id"]
        ended = Status(id="wh_00000000000000000000000001", scope="app", state="dead", ended_at=corridor.clock.now())
        await corridor.engines.state.apply([Effect(ended)], {})
        answers = [
            await door.post(f"/webhooks/{webhook_id}:cancel"),
            await door.post(f"/webhooks/{ended.id}:cancel"),
            await door.post("/webhooks/wh_00000000000000000000000000:cancel"),
            await door.get("/config/app/endpoints", params=endpoint),
            await door.get("/config/app/endpoints"),
            await door.get("/config/app/endpoints?endpoint=%ff"),
        ]
        assert [answer.status_code for answer in answers] == [202, 409, 404, 200, 422, 400]
        for verb in ("enable", "pause", "release"):
            path = f"/config/app/endpoints:{verb}"
            commanded = [
                await door.post(path, json=endpoint),
                await door.post(path, json={"endpoint": "ftp://x"}),
                await door.post(path, content=b"{"),
                await door.post(path, json={"endpoint": "x" * 3_000}),
                await door.post(path, json=endpoint, headers={"content-type": "text/plain"}),
            ]
            assert [answer.status_code for answer in commanded] == [202, 422, 400, 413, 415]
            answers += commanded
        for answer in answers:
            _check(answer)


async def test_refusals_of_the_guard_and_of_what_is_not_ready_are_as_the_document_has_them(
    client: Callable[..., httpx.AsyncClient], corridor: Corridor
) -> None:
    keys = [sha256(b"hk_right").hexdigest()]
    async with client("it starts", keys=keys, rate=1, now=corridor.clock.monotonic) as door:
        right = {"authorization": "Bearer hk_right"}
        answers = [
            await door.post("/webhooks/app/enqueue", json=GOOD),
            await door.post("/webhooks/app/enqueue", json=GOOD, headers=right),
            await door.post("/webhooks/app/enqueue", json=GOOD, headers=right),
            await door.get("/ready"),
        ]
        await corridor.engines.log.close()
        answers.append(await door.get("/health/dependencies"))
        corridor.clock.advance(2_000)
        answers.append(await door.post("/webhooks/app/enqueue", json=GOOD, headers=right))
        assert [answer.status_code for answer in answers] == [401, 202, 429, 503, 503, 503]
        for answer in answers:
            _check(answer)
            declared = DOCUMENT["paths"][_route(answer.request.method, answer.request.url.path).path]
            responses = declared[answer.request.method.lower()]["responses"]
            assert str(answer.status_code) in responses
