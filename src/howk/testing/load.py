"""Load for a running howk: clients that POST webhooks over kept connections, and a sink that takes what comes of them,
both as thin as can be, since they share the machine with what is measured. `figures` says what became of it all.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self, cast
from urllib.parse import urlsplit

from msgspec import json

SMALLEST = 25
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_ID = re.compile(rb"\r\nwebhook-id: *([^\r]+)", re.IGNORECASE)
_ACCEPTED = re.compile(rb'"webhook_id" ?: ?"([^"]+)"')
_MOST_OF_A_REFUSAL = 500
_TICK = 0.002
_LOOK = 0.1


class Refused(NamedTuple):
    """A request that got another answer than 202, or none (status 0)."""

    status: int
    detail: str


class Figures(NamedTuple):
    """What a run came to. Rates are a second, latencies from the request to the receiver in milliseconds."""

    accepted: int
    accepted_per_second: float
    delivered_per_second: float
    p50: float
    p99: float
    lost: Sequence[str]
    repeated: int


def figures(sent: Mapping[str, float], answered: float, arrivals: Mapping[str, Sequence[float]]) -> Figures:
    """`sent` has the moment of the request by accepted id, `answered` is when the last answer came, `arrivals` the
    moments at which the receiver got each id; all in seconds of one clock."""
    first = min(sent.values(), default=0.0)
    arrived = {id_: arrivals[id_][0] for id_ in sent if id_ in arrivals}
    latencies = sorted(max(0.0, at - sent[id_]) for id_, at in arrived.items())
    return Figures(
        accepted=len(sent),
        accepted_per_second=_rate(len(sent), answered - first),
        delivered_per_second=_rate(len(arrived), max(arrived.values(), default=first) - first),
        p50=_share(latencies, 0.5) * 1000,
        p99=_share(latencies, 0.99) * 1000,
        lost=[id_ for id_ in sent if id_ not in arrivals],
        repeated=sum(len(arrivals[id_]) - 1 for id_ in arrived),
    )


def _rate(number: int, seconds: float) -> float:
    return number / seconds if seconds > 0 else 0.0


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def webhook(endpoint: str, size: int) -> bytes:
    """A request's body whose payload has `size` bytes, at least `SMALLEST`."""
    return json.encode({"endpoint": endpoint, "payload": {"type": "bench", "pad": "x" * max(0, size - SMALLEST)}})


class Sink:
    """`async with Sink(host) as sink:` takes webhooks at `sink.url` and answers 200 at once."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.url = ""
        self.arrivals: dict[str, list[float]] = {}
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Taking(self.arrivals, self._open), self.host, 0, backlog=1024)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://[{self.host}]:{port}/" if ":" in self.host else f"http://{self.host}:{port}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for transport in list(self._open):
            transport.abort()
        await self._server.wait_closed()


class _Messages(asyncio.Protocol):
    """Messages with a Content-Length, cut from the stream. `take` gets a head and a body."""

    def __init__(self) -> None:
        self._buffer = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[: end + 2]
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            self.take(head, body)

    def take(self, head: bytes, body: bytes) -> None:
        """A whole message came."""
        raise NotImplementedError


class _Taking(_Messages):
    def __init__(self, arrivals: dict[str, list[float]], open_: set[asyncio.Transport]) -> None:
        super().__init__()
        self._arrivals = arrivals
        self._open = open_

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._open.add(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self.transport)

    def take(self, head: bytes, body: bytes) -> None:
        found = _ID.search(head)
        if found:
            self._arrivals.setdefault(found[1].decode("latin-1"), []).append(time.perf_counter())
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


class Load:
    """One run of `number` webhooks; `rate` is how many are begun a second, 0 for as many as the connections carry.

    `sent` has the moment of each accepted webhook's request by id.
    """

    def __init__(self, url: str, body: bytes, headers: Mapping[str, str], number: int, rate: float = 0.0) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        lines = {"Host": parts.netloc, "Content-Type": "application/json", **headers, "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.request = f"POST {parts.path.rstrip('/')}/webhooks/bench/enqueue HTTP/1.1\r\n{head}\r\n".encode() + body
        self.sent: dict[str, float] = {}
        self.refused: list[Refused] = []
        self.refusals = 0
        self.last_answer = 0.0
        self._left = number
        self._under_way = 0
        self._rate = rate
        self._idle: list[_Client] = []
        self._done = asyncio.Event()

    async def run(self, connections: int, progress: Callable[[int], None] = lambda _: None) -> None:
        """Returns when every request is answered. Raises `OSError` when no connection can be made."""
        loop = asyncio.get_running_loop()
        clients = [
            (await loop.create_connection(lambda: _Client(self), self._host, self._port, ssl=self._tls))[1]
            for _ in range(connections)
        ]
        self._idle = list(clients)
        began = time.perf_counter()
        begun = 0
        try:
            while not self._done.is_set():
                due = int((time.perf_counter() - began) * self._rate) + 1 - begun if self._rate else len(self._idle)
                while due > 0 and self._idle and self._left:
                    self._begin(self._idle.pop())
                    due, begun = due - 1, begun + 1
                progress(len(self.sent) + self.refusals)
                await _within(self._done, _TICK if self._rate else _LOOK)
        finally:
            for client in clients:
                client.transport.abort()

    def _begin(self, client: "_Client") -> None:
        self._left -= 1
        self._under_way += 1
        client.begin(self.request)

    def answered(self, client: "_Client", status: int, body: bytes) -> None:
        """An answer came, or with status 0 none will."""
        self._under_way -= 1
        self.last_answer = time.perf_counter()
        found = _ACCEPTED.search(body) if status == 202 else None
        if found:
            self.sent[found[1].decode()] = client.began
        else:
            self.refusals += 1
            if not self.refused:
                self.refused.append(Refused(status, body[:_MOST_OF_A_REFUSAL].decode("utf-8", "replace")))
        if not status:
            self._gone()
        elif self._left and not self._rate:
            self._begin(client)
        else:
            self._idle.append(client)
        if not self._left and not self._under_way:
            self._done.set()

    def _gone(self) -> None:
        # One connection less: when none is left, what was not begun never will be.
        if not self._under_way and not self._idle:
            self.refusals += self._left
            self._left = 0


class _Client(_Messages):
    def __init__(self, load: Load) -> None:
        super().__init__()
        self._load = load
        self._waits = False
        self.began = 0.0

    def begin(self, request: bytes) -> None:
        """Send a request; the connection is idle."""
        self.began = time.perf_counter()
        self._waits = True
        if self.transport.is_closing():
            asyncio.get_running_loop().call_soon(self.connection_lost, None)
        else:
            self.transport.write(request)

    def take(self, head: bytes, body: bytes) -> None:
        self._waits = False
        self._load.answered(self, int(head[9:12]), body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waits:
            self._waits = False
            self._load.answered(self, 0, b"the connection was closed before the answer")


async def arrived(sink: Sink, ids: Mapping[str, object], patience: float, progress: Callable[[int], None]) -> None:
    """Returns when the sink has all of these, or nothing new for `patience` seconds."""
    last, since = -1, time.perf_counter()
    while True:
        number = sum(id_ in sink.arrivals for id_ in ids)
        progress(number)
        now = time.perf_counter()
        if number != last:
            last, since = number, now
        if number >= len(ids) or now - since > patience:
            return
        await asyncio.sleep(_LOOK)


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
