"""The HTTP door as plain ASGI: routes, limits and the two hot paths; no framework stands before a room.

Everything that can be known of a request before its body is read is checked before. Times go out as RFC 3339.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from msgspec import Raw
from msgspec.json import encode

from howk._version import __version__
from howk.domain.budget import CROWDED
from howk.domain.delivery import ENDED, Status
from howk.domain.errors import Full, HowkError, Rejected, Transient
from howk.domain.idempotency import body_hash
from howk.domain.ids import is_delivery_id
from howk.flow.command import Command
from howk.flow.configs import Configs
from howk.flow.ingest import Enqueue, Ingest, New
from howk.flow.ingest import Request as Keyed
from howk.flow.keyed import Accepted, Answer
from howk.ports.state import HotState
from howk.ports.telemetry import REQUESTS, Meter
from howk.web.bodies import Bodies, Bound, check_body
from howk.web.commands import ENDPOINT_VERBS, Cancelling, EndpointCommanded, already_ended, endpoint_shown
from howk.web.configs import shown
from howk.web.envelope import read_batch, read_config, read_endpoint, read_endpoint_query, read_enqueue, read_item
from howk.web.guard import Guard
from howk.web.health import Dependency, examine
from howk.web.keys import bad_key, one_key
from howk.web.large import A_TURN, LargeBodies, Visit
from howk.web.messages import JSON, PLAIN, Gone, Receive, Reply, Request, Send, send_reply
from howk.web.openapi import StatsAnswer, document
from howk.web.page import PAGE_HEADERS, page
from howk.web.problems import Problem, problem_of, too_little_memory
from howk.web.refusals import Refusals
from howk.web.times import rfc3339

_T = TypeVar("_T")

_PROBLEM = (b"content-type", b"application/problem+json")
_MOST_UNDER_WAY = 4_096
_CROWDED_UNDER_WAY = round(_MOST_UNDER_WAY * CROWDED)
_MAX_SMALL = 64 << 10
_CANCEL = ":cancel"
_ENQUEUE = "/webhooks/{config_id}/enqueue"
_ASIDE = frozenset({"/health", "/healthz", "/health/dependencies", "/ready", "/metrics"})
_REPLAYED = (b"idempotent-replayed", b"true")
_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class Limits(NamedTuple):
    """Bytes of a request, bytes of a batch request, and items in a batch."""

    request: int
    batch: int
    items: int


class App:
    """The ASGI application. `readiness` says why the process is not ready, "" when it is; `dependencies` are what it
    stands on; `now` is wall time in milliseconds. Without `configs` or `command` it has no routes of theirs."""

    def __init__(
        self,
        ingest: Ingest,
        state: HotState,
        guard: Guard,
        limits: Limits,
        meter: Meter,
        expose: Callable[[], bytes],
        readiness: Callable[[], Awaitable[str]],
        refusals: Refusals,
        dependencies: Sequence[Dependency] = (),
        aside: str = "",
        configs: Configs | None = None,
        command: Command | None = None,
        now: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        large: LargeBodies | None = None,
    ) -> None:
        self._ingest = ingest
        self._state = state
        self._guard = guard
        self._limits = limits
        self._meter = meter
        self._expose = expose
        self._readiness = readiness
        self._refusals = refusals
        self._dependencies = tuple(dependencies)
        self._aside = aside
        self._configs = configs
        self._now = now
        self._command = command
        self._large = large if large is not None else LargeBodies()
        self._bodies = Bodies()
        self._single = Bound(limits.request, "api.max_request_size")
        self._under_way = 0

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            query = scope.get("query_string", b"")
            headers = dict(scope["headers"])
            reply = await self.respond(Request(scope["method"], scope["path"], headers, receive, query=query))
        except Gone:
            return
        await send_reply(send, reply)

    async def respond(self, request: Request) -> Reply:
        """The answer to a request, whatever it is, counted. Raises `Gone` where nobody is left to get it."""
        self._under_way += 1
        return await self._alone(self._answer(request), request.method)

    async def begin(self, request: Request) -> "New | Reply | Coroutine[Any, Any, Reply]":
        """The part of a single enqueue that comes before its append; its body is whole and not large. What is `New` is
        for `end`, a reply is a refusal, and the rest goes on alone. Waits for nothing."""
        self._under_way += 1
        goes_on = False
        try:
            found = await self._caught(self._begin(request), request.method)
            goes_on = not isinstance(found, Reply)
        finally:
            if not goes_on:
                self._under_way -= 1
        return self._counted(found) if isinstance(found, Reply) else found

    async def end(self, begun: Sequence[New]) -> list[Reply]:
        """The answers to enqueues that had begun, once they are durable, counted."""
        try:
            failed = await self._caught(self._ingest.accept_together(begun, _ENQUEUE), "POST")
        finally:
            self._under_way -= len(begun)
        replies = [failed or Reply(202, _accepted(new.id), _ENQUEUE, PLAIN) for new in begun]
        self._counted(replies[0], len(replies))
        return replies

    def drop(self, begun: Sequence[New]) -> None:
        """Enqueues that had begun and will not be ended: nothing was taken of them."""
        self._under_way -= len(begun)

    async def _begin(self, request: Request) -> "New | Coroutine[Any, Any, Reply]":
        self._insist_on_room()
        self._let_in(request)
        self._guard.check_key(request.headers)
        config_id = request.path.split("/")[2]
        self._check_share(config_id, None)
        check_body(request, self._single)
        item = read_enqueue(request.body)
        header = request.headers.get(b"idempotency-key")
        if header is not None or item.idempotency_key is not None:
            return self._alone(self._enqueue_keyed(config_id, header, item, request.body), request.method)
        return self._ingest.prepare(config_id, item)

    async def _alone(self, answer: Coroutine[Any, Any, Reply], method: str) -> Reply:
        """The end of a request that is counted as under way already."""
        try:
            return self._counted(await self._caught(answer, method))
        finally:
            self._under_way -= 1

    async def _caught(self, act: Coroutine[Any, Any, _T], method: str) -> _T | Reply:
        """What comes of it, or what it raised as an answer, which is not counted. Raises `Gone` alone."""
        try:
            return await act
        except Gone:
            raise
        except Problem as problem:
            return self._refusal(problem, method)
        except HowkError as error:
            return self._refusal(problem_of(error), method)
        except MemoryError:
            return self._refusal(too_little_memory(), method)
        except Exception as error:  # noqa: BLE001 - one request must not end the others, nor show its insides
            problem = self._refusals.failed(method, error)
            return Reply(problem.status, problem.body(), "failed", [_PROBLEM])

    def _counted(self, reply: Reply, number: int = 1) -> Reply:
        self._meter.count(REQUESTS, number, reply.route, str(reply.status))
        return reply

    def _insist_on_room(self) -> None:
        if self._under_way > _MOST_UNDER_WAY:
            raise Full(f"{_MOST_UNDER_WAY} requests are under way: try again in a moment")

    def refuse(self, problem: Problem, method: str = "") -> Reply:
        """A problem as an answer, counted and told; also for what a connection refuses before there is a request."""
        return self._counted(self._refusal(problem, method))

    def _refusal(self, problem: Problem, method: str) -> Reply:
        self._refusals.refused(method, problem)
        return Reply(problem.status, problem.body(), "refused", [_PROBLEM, *problem.headers])

    def _let_in(self, request: Request) -> None:
        self._guard.check_host(request.headers)
        if self._aside and request.path not in _ASIDE:
            raise Problem(
                404,
                "not_found",
                f"this is {self._aside}, which serves health and metrics only: the role api takes webhooks",
            )

    async def _answer(self, request: Request) -> Reply:
        self._insist_on_room()
        self._let_in(request)
        path = request.path
        if path.startswith("/webhooks/"):
            self._guard.check_key(request.headers)
            return await self._webhooks(request, path.split("/")[2:])
        if path.startswith("/config/"):
            self._guard.check_key(request.headers)
            return await self._of_config(request, path.split("/")[2:])
        if path == "/stats":
            _allow(request, "GET", "HEAD")
            self._guard.check_key(request.headers)
            return await self._stats()
        if path in ("/health", "/healthz"):
            _allow(request, "GET", "HEAD")
            return _json(200, {"status": "ok", "version": __version__}, "/health")
        if path == "/ready":
            _allow(request, "GET", "HEAD")
            return await self._ready()
        if path == "/health/dependencies":
            _allow(request, "GET", "HEAD")
            health = await examine(self._dependencies)
            return _json(200 if health.status == "ok" else 503, health, path)
        if path == "/openapi.json":
            _allow(request, "GET", "HEAD")
            return Reply(200, document(), path, PLAIN)
        if path == "/docs":
            _allow(request, "GET", "HEAD")
            return Reply(200, page(), path, PAGE_HEADERS)
        if path == "/metrics":
            _allow(request, "GET")
            return Reply(200, self._expose(), "/metrics", [_TEXT])
        raise _no_route(request)

    async def _webhooks(self, request: Request, parts: list[str]) -> Reply:
        match parts:
            case [config_id, "enqueue"]:
                _allow(request, "POST")
                with self._large.visit() as visit:
                    return await self._enqueue(request, config_id, visit)
            case [config_id, "enqueue", "batch"]:
                _allow(request, "POST")
                with self._large.visit() as visit:
                    return await self._enqueue_batch(request, config_id, visit)
            case [webhook_id, "status"]:
                _allow(request, "GET", "HEAD")
                return await self._status(webhook_id)
            case [named] if named.endswith(_CANCEL) and self._command is not None:
                _allow(request, "POST")
                return await self._cancel(named.removesuffix(_CANCEL), self._command)
            case _:
                raise _no_route(request)

    async def _of_config(self, request: Request, parts: list[str]) -> Reply:
        match parts:
            case [config_id] if config_id and self._configs is not None:
                return await self._config(request, config_id, self._configs)
            case [config_id, "endpoints"] if self._command is not None:
                _allow(request, "GET", "HEAD")
                return await self._endpoint(request, config_id, self._command)
            case [config_id, verb] if verb in ENDPOINT_VERBS and self._command is not None:
                _allow(request, "POST")
                return await self._endpoint_command(request, config_id, verb, self._command)
            case _:
                raise _no_route(request)

    async def _enqueue(self, request: Request, config_id: str, visit: Visit) -> Reply:
        self._check_share(config_id, visit)
        header = request.headers.get(b"idempotency-key")
        body = await self._bodies.read(request, self._single, visit)
        item = read_enqueue(body)
        if header is not None or item.idempotency_key is not None:
            return await self._enqueue_keyed(config_id, header, item, body)
        new = self._ingest.prepare(config_id, item)
        await self._ingest.accept_together((new,), _ENQUEUE)
        return Reply(202, _accepted(new.id), _ENQUEUE, PLAIN)

    async def _enqueue_keyed(self, config_id: str, header: bytes | None, item: Enqueue, body: bytes) -> Reply:
        keyed = Keyed(item, one_key(header, item.idempotency_key), body_hash(body))
        answer = (await self._ingest.accept_keyed(config_id, (keyed,), _ENQUEUE))[0]
        if not isinstance(answer, Accepted):
            raise answer
        return Reply(202, _accepted(answer.id), _ENQUEUE, [JSON, _REPLAYED] if answer.replayed else PLAIN)

    async def _enqueue_batch(self, request: Request, config_id: str, visit: Visit) -> Reply:
        if b"idempotency-key" in request.headers:
            raise bad_key("invalid_idempotency_key", "in a batch each webhook has a key of its own: idempotency_key")
        self._check_share(config_id, visit)
        body = await self._bodies.read(request, Bound(self._limits.batch, "api.max_batch_size"), visit)
        raws = read_batch(body, self._limits.items)
        items = [read_item(raw) for raw in raws] if len(body) <= A_TURN else await _read_items(raws, visit)
        route = "/webhooks/{config_id}/enqueue/batch"
        good = [item for item in items if not isinstance(item, Rejected)]
        if any(item.idempotency_key is not None for item in good):
            requests = [
                Keyed(item, item.idempotency_key, body_hash(bytes(raw)) if item.idempotency_key is not None else "")
                for item, raw in zip(items, raws, strict=True)
                if not isinstance(item, Rejected)
            ]
            answers = iter(await self._ingest.accept_keyed(config_id, requests, route))
        else:
            answers = iter(await self._ingest.accept(config_id, good, route))
        outcomes = [item if isinstance(item, Rejected) else next(answers) for item in items]
        accepted = sum([isinstance(outcome, str | Accepted) for outcome in outcomes])
        summary = {
            "accepted": accepted,
            "failed": len(outcomes) - accepted,
            "webhooks": [_item(index, outcome) for index, outcome in enumerate(outcomes)],
        }
        return _json(202 if accepted else 422, summary, route)

    def _small(self, why: str) -> Bound:
        return Bound(min(self._limits.request, _MAX_SMALL), why)

    def _check_share(self, config_id: str, visit: Visit | None) -> None:
        """Near a bound of the door, whoever brought most lately has to wait, before its body is read."""
        crowded = self._under_way > _CROWDED_UNDER_WAY or self._bodies.crowded
        if crowded or (visit is not None and self._large.crowded):
            self._ingest.check_share(config_id)

    async def _status(self, webhook_id: str) -> Reply:
        found = (await self._state.status((webhook_id,)))[0] if is_delivery_id(webhook_id) else None
        if found is None:
            raise _no_webhook()
        return _json(200, view(found), "/webhooks/{webhook_id}/status")

    async def _config(self, request: Request, config_id: str, configs: Configs) -> Reply:
        route = "/config/{config_id}"
        _allow(request, "GET", "HEAD", "PUT", "DELETE")
        if request.method == "PUT":
            body = await self._bodies.read(request, self._small("a config is never larger"))
            return _json(200, shown(await configs.put(config_id, read_config(body))), route)
        if request.method == "DELETE":
            if not await configs.remove(config_id):
                raise _no_config()
            return Reply(204, b"", route)
        found = configs.defaults(config_id)
        if found is None:
            raise _no_config()
        return _json(200, shown(found), route)

    async def _stats(self) -> Reply:
        found = await self._state.statistics(self._now())
        return _json(200, StatsAnswer(found.last_1h, found.last_24h), "/stats")

    async def _cancel(self, webhook_id: str, command: Command) -> Reply:
        before = await command.cancel(webhook_id) if is_delivery_id(webhook_id) else None
        if before is None:
            await self._insist_on_all_being_known()
            raise _no_webhook()
        if before.state in ENDED:
            raise already_ended(before)
        return _json(202, Cancelling(webhook_id), "/webhooks/{webhook_id}:cancel")

    async def _endpoint_command(self, request: Request, config_id: str, verb: str, command: Command) -> Reply:
        body = await self._bodies.read(request, self._small("a URL is never larger"))
        name = ENDPOINT_VERBS[verb]
        named = await command.endpoint(config_id, read_endpoint(body), name)
        return _json(202, EndpointCommanded(*named, name), f"/config/{{config_id}}/{verb}")

    async def _endpoint(self, request: Request, config_id: str, command: Command) -> Reply:
        named, circuit = await command.circuit(config_id, read_endpoint_query(request.query))
        if circuit is None:
            await self._insist_on_all_being_known()
        return _json(200, endpoint_shown(named, circuit), "/config/{config_id}/endpoints")

    async def _insist_on_all_being_known(self) -> None:
        """What is not known may just not be known yet: hot state is behind the log at a start."""
        if reason := await self._readiness():
            raise Transient(reason)

    async def _ready(self) -> Reply:
        reason = await self._readiness()
        if reason:
            raise Problem(503, "not_ready", reason, headers=[(b"retry-after", b"1")])
        return _json(200, {"status": "ready"}, "/ready")


async def _read_items(raws: Sequence[Raw], visit: Visit) -> list[Enqueue | Rejected]:
    """The items of a large batch, a few in each turn of the loop."""
    items: list[Enqueue | Rejected] = []
    for raw in raws:
        await visit.turn(memoryview(raw).nbytes)
        items.append(read_item(raw))
    return items


def view(status: Status) -> dict[str, object]:
    """A status as its owner sees it."""
    return {
        "webhook_id": status.id,
        "config_id": status.scope,
        "state": status.state,
        "attempts": status.attempts,
        "max_attempts": status.max_attempts,
        "last_attempt_at": _time(status.last_attempt_at),
        "last_status_code": status.last_status_code or None,
        "last_error": status.last_error or None,
        "next_retry_at": _time(status.next_retry_at),
        "held_by": status.held_by or None,
        "delivered_at": _time(status.delivered_at),
        "reason_type": status.reason_type or None,
    }


def _time(milliseconds: int) -> str | None:
    return rfc3339(milliseconds) if milliseconds else None


def _accepted(webhook_id: str) -> bytes:
    return b'{"webhook_id":"%b","status":"pending"}' % webhook_id.encode()


def _item(index: int, outcome: str | Answer) -> dict[str, object]:
    if isinstance(outcome, str):
        return {"index": index, "webhook_id": outcome, "status": "pending"}
    if isinstance(outcome, Accepted):
        again = {"replayed": True} if outcome.replayed else {}
        return {"index": index, "webhook_id": outcome.id, "status": "pending", **again}
    return {"index": index, "code": problem_of(outcome).code, "detail": str(outcome)}


def _json(status: int, body: object, route: str) -> Reply:
    return Reply(status, encode(body), route, PLAIN)


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        allowed = ", ".join(methods)
        raise Problem(
            405,
            "method_not_allowed",
            f"this route takes {allowed}",
            headers=[(b"allow", allowed.encode())],
        )


def _no_route(request: Request) -> Problem:
    return Problem(404, "not_found", f"there is no route {request.method} {request.path[:200]}")


def _no_webhook() -> Problem:
    return Problem(404, "not_found", "no webhook has this id, or it ended too long ago (ttl.status_ttl)")


def _no_config() -> Problem:
    return Problem(404, "not_found", "no config of this id sets anything")
