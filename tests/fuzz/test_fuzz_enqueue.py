"""The body of an enqueue under fuzzing, single and in batches: by the short way of a connection and by ASGI the same
answer comes, never a 5xx; a 4xx has a code and leaves the log as it was; what is accepted stands in it byte for byte.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvloop
from tests.fuzz.bodies import ASKED, Asked
from tests.fuzz.driver import fuzz
from tests.support import Corridor, opened
from tests.web.serving import Answer, Wire, post, serving

from howk.domain.records import DEADLETTER, KEYS, PENDING, RESULTS, SLOW, Delivery, Result, reader
from howk.web.app import App, Limits
from howk.web.guard import Guard
from howk.web.refusals import Refusals

_STREAMS = (PENDING, SLOW, RESULTS, KEYS, DEADLETTER)
_LIMITS = Limits(request=300_000, batch=1_000_000, items=3)
_read_delivery, _read_result = reader(Delivery), reader(Result)


class Door:
    """A house with its door open, and both ways in."""

    def __init__(self, runner: asyncio.Runner, corridor: Corridor, app: App, wire: Wire) -> None:
        self._runner = runner
        self._corridor = corridor
        self._app = app
        self._wire = wire

    def check(self, asked: Asked) -> None:
        """Every promise, for one request."""
        self._runner.run(self._checked(asked))

    async def _checked(self, asked: Asked) -> None:
        # Configs of their own, so that neither is the other's repeat.
        short = await self._effect(self._by_wire(asked, "a"), asked)
        long = await self._effect(self._by_asgi(asked, "b"), asked)
        assert short == long

    async def _by_wire(self, asked: Asked, config: str) -> Answer:
        keys = [] if asked.key is None else [b"Idempotency-Key: " + asked.key]
        self._wire.write(post(asked.body, _path(asked, config), *keys))
        return await self._wire.answer()

    async def _by_asgi(self, asked: Asked, config: str) -> Answer:
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        headers += [] if asked.key is None else [(b"idempotency-key", asked.key)]
        pieces = asked.pieces
        sent: list[Any] = []

        async def receive() -> Any:
            body = pieces.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": _path(asked, config), "headers": headers}
        await self._app(scope, receive, send)
        start, content = sent
        named = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], named, content["body"])

    async def _effect(self, answering: Any, asked: Asked) -> "Told":
        before = await self._ends()
        answer = await answering
        after = await self._ends()
        told = _told(answer, asked)
        ids = [] if answer.status != 202 else _ids(answer, asked)
        if not ids:
            assert before == after, "something was appended for a request that was refused"
        appended = await self._appended(before, after)
        fresh = [id_ for id_ in ids if id_ in appended]
        assert len(appended) == len(fresh)
        for id_ in fresh:
            _stands_as_asked(appended[id_], asked.body)
        return told

    async def _ends(self) -> dict[str, int]:
        log = self._corridor.engines.log
        return {stream: sum(stop for _, stop in (await log.bounds(stream)).values()) for stream in _STREAMS}

    async def _appended(self, before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, Delivery]:
        """The deliveries that came into the log in between, by id."""
        log = self._corridor.engines.log
        found: dict[str, Delivery] = {}
        for stream in (PENDING, SLOW, RESULTS):
            if before[stream] == after[stream]:
                continue
            (place,) = await log.bounds(stream)
            async for batch in log.read(stream, place.partition, before[stream], after[stream]):
                for entry in batch:
                    delivery = _read_result(entry.value).delivery if stream == RESULTS else _read_delivery(entry.value)
                    assert delivery is not None
                    found[delivery.targets[0].id] = delivery
        return found


class Told(NamedTuple):
    """What both ways have to say alike: the status, the code, and what is said of each item."""

    status: int
    code: str
    items: tuple[str, ...] = ()


def _path(asked: Asked, config: str) -> str:
    return f"/webhooks/{config}/enqueue" + "/batch" * asked.is_batch


def _told(answer: Answer, asked: Asked) -> Told:
    body = answer.json()
    if answer.status == 202 or (asked.is_batch and "webhooks" in body):
        assert answer.status in (202, 422)
        items = body["webhooks"] if asked.is_batch else [body]
        if asked.is_batch:
            assert [item["index"] for item in items] == list(range(len(items)))
            assert (answer.status == 202) == any("webhook_id" in item for item in items)
        return Told(answer.status, "", tuple([item.get("status") or item["code"] + item["detail"] for item in items]))
    assert 400 <= answer.status < 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == answer.status
    assert body["code"]
    assert body["detail"]
    return Told(answer.status, body["code"] + body["detail"])


def _ids(answer: Answer, asked: Asked) -> list[str]:
    body = answer.json()
    return [item["webhook_id"] for item in (body["webhooks"] if asked.is_batch else [body]) if "webhook_id" in item]


def _stands_as_asked(delivery: Delivery, body: bytes) -> None:
    """The payload is a piece of the body as it came, and what another reader takes for the payload of an item."""
    payload = bytes(delivery.payload) if not delivery.payload_base64 else b""
    assert payload in body
    try:
        read = json.loads(body, parse_int=str, parse_float=str)
    except RecursionError:
        return
    items = read.get("webhooks", [read])
    if delivery.payload_base64:
        assert delivery.payload_base64 in [item.get("payload_base64") for item in items if isinstance(item, dict)]
    elif not delivery.payload_base64 and payload:
        given = [item["payload"] for item in items if isinstance(item, dict) and "payload" in item]
        assert json.loads(payload, parse_int=str, parse_float=str) in given


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()
        yield runner.run(_opened(runner, stack, tmp_path))
        runner.run(stack.aclose())


async def _opened(runner: asyncio.Runner, stack: AsyncExitStack, folder: Path) -> Door:
    corridor = await stack.enter_async_context(opened(folder))
    house, metrics = corridor.house, corridor.metrics
    await house.reconcile.recover()
    await house.recall.turn()
    await house.configs.catch_up()

    async def ready() -> str:
        return ""

    app = App(
        house.ingest,
        corridor.engines.state,
        Guard((), loopback_only=True),
        _LIMITS,
        metrics,
        metrics.expose,
        ready,
        Refusals(corridor.notes),
    )
    serving_ = await stack.enter_async_context(serving(app))
    wire = await stack.enter_async_context(Wire.open(serving_.port))
    return Door(runner, corridor, app, wire)


def test_no_body_breaks_the_door_or_is_taken_otherwise_than_it_came(door: Door) -> None:
    fuzz(door.check, ASKED)
