"""The receiver at the other end, for tests and for `howk receiver`: it takes webhooks, checks their
signatures, remembers the last of them and misbehaves as told. An ASGI app, and the server that runs it inside
a test's own loop. It sees what any receiver sees; howk's rooms and records are unknown here.
"""

import asyncio
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

import uvicorn
from msgspec import json

from howk.domain import ed25519
from howk.domain.signing import secret_bytes, verify_harborhook, verify_howk, verify_standard, verify_v1a

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CAPTURED = 10_000
UNCHECKED = "unchecked"
GOOD = "good"

_REMEMBERED_IDS = 100_000
_KEEP_ALIVE = 75
_CLOSING = 5.0
_BODILESS = (204, 304)


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came in.

    `attempt` is what the sender says (0 when it says nothing), `at` is Unix milliseconds, header names are in
    lower case. `status` is the answer meant for it, 0 for none; `verdict` is `good`, `unchecked` (no secret is
    set) or why the signatures are bad.
    """

    id: str
    attempt: int
    at: int
    target: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    status: int
    verdict: str

    def header(self, name: str) -> str:
        """The first value of a header, "" when it is not there."""
        return _header(self.headers, name)


Wanted = int | Callable[[Sequence[Received]], bool]


class _Connection(Protocol):
    transport: asyncio.Transport


class Receiver:
    """`async with Receiver() as receiver:` listens at `receiver.url`; POST any path, GET / for counts.

    Per webhook id the first `fail_first_n` requests get 500, the others `status` with `answer_headers`; with
    `hang` nothing is answered until the client or the receiver goes. Where `secrets` are set, each signature
    header that one of them can check must be good for one, and there must be such a header; else it gets 401. A
    public key (`whpk_…`) checks the Ed25519 signatures of `webhook-signature`, any other secret all the rest. All of
    these may be changed while it runs. `keep` bounds what is captured; `now` is the clock, in Unix seconds.
    `on_received` is called with each request before its answer.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        status: int = 200,
        fail_first_n: int = 0,
        hang: bool = False,
        delay_ms: int = 0,
        secrets: Sequence[str] = (),
        answer_headers: Mapping[str, str] | None = None,
        keep: int = CAPTURED,
        now: Callable[[], float] = time.time,
        on_received: Callable[[Received], None] | None = None,
    ) -> None:
        for secret in secrets:
            _check_form(secret)
        self.host = host
        self.port = port
        self.status = status
        self.fail_first_n = fail_first_n
        self.hang = hang
        self.delay_ms = delay_ms
        self.secrets = tuple(secrets)
        self.answer_headers = dict(answer_headers or {})
        self.captured: deque[Received] = deque(maxlen=keep)
        self.total = 0
        self._now = now
        self._on_received = on_received
        self._seen: dict[str, int] = {}
        self._statuses: Counter[int] = Counter()
        self._arrived = asyncio.Condition()
        self._server: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def wait_for(self, wanted: Wanted, timeout: float = 10.0) -> list[Received]:
        """What is captured, once `wanted` requests have come in all or the predicate holds of the captured.

        Raises `TimeoutError` after `timeout` seconds, and says what had come by then.
        """
        try:
            async with asyncio.timeout(timeout), self._arrived:
                await self._arrived.wait_for(lambda: self._has(wanted))
        except TimeoutError:
            came = ", ".join(f"{status or 'no answer'}: {n}" for status, n in sorted(self._statuses.items()))
            what = f"{wanted} webhooks" if isinstance(wanted, int) else "the webhooks wanted"
            raise TimeoutError(f"{what} did not come in {timeout:g} s; {self.total} came ({came})") from None
        return list(self.captured)

    def _has(self, wanted: Wanted) -> bool:
        return self.total >= wanted if isinstance(wanted, int) else wanted(self.captured)

    def counts(self) -> dict[str, object]:
        """What GET / answers."""
        return {
            "received": self.total,
            "webhooks": len(self._seen),
            "answered": {str(status): count for status, count in sorted(self._statuses.items())},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"a receiver speaks HTTP, not {scope['type']}")
        if scope["method"] == "GET":
            await _answer(send, 200, json.encode(self.counts()))
        elif scope["method"] == "POST":
            await self._take(scope, receive, send)
        else:
            await _answer(send, 405, b'{"detail":"a webhook is POSTed"}', {"allow": "GET, POST"})

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        received, detail = self._judge(scope, body)
        self.total += 1
        self._statuses[received.status] += 1
        self.captured.append(received)
        async with self._arrived:
            self._arrived.notify_all()
        if self._on_received is not None:
            self._on_received(received)
        if not received.status or (self.delay_ms and await _gone(receive, self.delay_ms / 1000)):
            await _gone(receive)
            return
        await _answer(send, received.status, json.encode({"detail": detail}), self.answer_headers)

    def _judge(self, scope: Scope, body: bytes) -> tuple[Received, str]:
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        webhook_id = _header(headers, "webhook-id") or _header(headers, "x-webhook-id")
        attempt = _header(headers, "x-webhook-attempt")
        query: bytes = scope.get("query_string", b"")
        target: bytes = scope.get("raw_path") or scope["path"].encode()
        now = self._now()
        verdict = self._verdict(headers, body, now)
        status, detail = self._decide(verdict, self._count(webhook_id))
        received = Received(
            id=webhook_id,
            attempt=int(attempt) if attempt.isascii() and attempt.isdigit() and len(attempt) < 10 else 0,
            at=int(now * 1000),
            target=(target + b"?" + query if query else target).decode("latin-1"),
            headers=headers,
            body=body,
            status=status,
            verdict=verdict,
        )
        return received, detail

    def _count(self, webhook_id: str) -> int:
        seen = self._seen.pop(webhook_id, 0) + 1
        self._seen[webhook_id] = seen
        if len(self._seen) > _REMEMBERED_IDS:
            del self._seen[next(iter(self._seen))]
        return seen

    def _decide(self, verdict: str, seen: int) -> tuple[int, str]:
        if self.hang:
            return 0, ""
        if verdict not in (UNCHECKED, GOOD):
            return 401, f"bad signature: {verdict}"
        if seen <= self.fail_first_n:
            return 500, f"this is request {seen} of this webhook and the first {self.fail_first_n} fail"
        return self.status, "received"

    def _verdict(self, raw: Sequence[tuple[bytes, bytes]], body: bytes, now: float) -> str:
        if not self.secrets:
            return UNCHECKED
        headers = {name.decode("latin-1"): value.decode("utf-8", "surrogateescape") for name, value in raw}
        verdicts = [
            [check(secret, headers, body, now) for secret in self.secrets if (check := checks.get(_kind(secret)))]
            for name, checks in _CHECKS.items()
            if name in headers
        ]
        bad = [wrong[0] for wrong in verdicts if wrong and all(wrong)]
        if bad:
            return bad[0]
        return GOOD if any(verdicts) else "there is none"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen; `port` is the real one afterwards. Raises `OSError` when the address is taken."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self.port), family=family, backlog=1024)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE,
        )
        config.load()
        # `serve` would need a task and take the signals of the process: its two halves need neither.
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        self._server = server

    async def close(self) -> None:
        """Stop listening and cut every connection, answered or not."""
        server, self._server = self._server, None
        if server is None:
            return
        for listening in server.servers:
            listening.close()
        connections = cast("set[_Connection]", server.server_state.connections)
        for connection in list(connections):
            connection.transport.abort()
        async with asyncio.timeout(_CLOSING):
            # They end within a few turns of the loop, and uvicorn has no event for it.
            while connections or server.server_state.tasks:  # noqa: ASYNC110
                await asyncio.sleep(0)
        for listening in server.servers:
            await listening.wait_closed()


async def serve(receiver: Receiver, started: Callable[[Receiver], None]) -> None:
    """Run until SIGINT or SIGTERM; `started` is called once it listens."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        async with receiver:
            started(receiver)
            await stop.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _kind(secret: str) -> str:
    return "public" if secret.startswith(ed25519.PUBLIC_PREFIX) else "shared"


_CHECKS = {
    "webhook-signature": {"shared": verify_standard, "public": verify_v1a},
    "x-webhook-signature": {"shared": verify_howk},
    "x-harborhook-signature": {"shared": verify_harborhook},
}
"""By header, which check each kind of secret allows."""


def _check_form(secret: str) -> None:
    if _kind(secret) == "public":
        ed25519.public_key(secret)
    elif secret.startswith(ed25519.PRIVATE_PREFIX):
        raise ValueError("whsk_ stands before a private key, which stays with the sender: give the public one, whpk_")
    else:
        secret_bytes(secret)


def _header(headers: Sequence[tuple[bytes, bytes]], name: str) -> str:
    wanted = name.lower().encode()
    return next((value.decode("utf-8", "surrogateescape") for key, value in headers if key == wanted), "")


async def _body(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _gone(receive: Receive, within: float | None = None) -> bool:
    """Whether the client goes; waits for it at most `within` seconds."""
    try:
        async with asyncio.timeout(within):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


async def _answer(send: Send, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    lines = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    if status in _BODILESS:
        body = b""
    else:
        lines += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
