"""What the end-to-end tests stand on: howk as a process that can be killed, a client that keeps a ledger of what was
acknowledged, and a receiver that remembers every start. Nothing of howk is imported here: they meet over HTTP only.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Self

from httptools import HttpRequestParser

DEADLINE = 60.0
"""Seconds. Nothing takes as long on an idle machine; reached, it is a failure."""

_PAUSE = 0.02
Json = dict[str, Any]


async def until(condition: Callable[[], Awaitable[bool]], what: str, deadline: float = DEADLINE) -> None:
    """Asks until it is so."""
    last = time.monotonic() + deadline
    while not await condition():
        assert time.monotonic() < last, f"not within {deadline:g} s: {what}"
        await asyncio.sleep(_PAUSE)


class Response(NamedTuple):
    """What howk answered."""

    status: int
    body: bytes

    def json(self) -> Json:
        return json.loads(self.body)


class Connection:
    """A keep-alive HTTP/1.1 connection. Raises `OSError` or `IncompleteReadError` when howk goes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def request(self, method: str, path: str, body: bytes = b"") -> Response:
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await self._writer.drain()
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        answer = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Response(int(status_line.split(" ")[1]), answer)

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """A connection for the length of a block."""
    connection = await Connection.open(port)
    try:
        yield connection
    finally:
        await connection.close()


def clean_environment(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without any of howk's variables, for a process that runs in `home`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOWK_")}
    if path := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(part).absolute()) for part in path.split(os.pathsep))
    return environment | {"HOME": str(home)} | settings


class Howk:
    """`howk up` on a data directory of its own, started as often as wanted. `lines` are the log's, of all runs."""

    def __init__(self, home: Path, settings: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.data_dir = home / "data"
        self.settings = dict(settings or {})
        self.lines: list[Json] = []
        self.printed: list[str] = []
        self.port = 0
        self.up = asyncio.Event()
        self._doors = 0
        self._killed = False
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.running:
            await self.kill()
        assert kind or not self.complaints(), "\n".join(self.complaints())

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def command(self, *arguments: str) -> list[str]:
        where = ("--port", "0", "--data-dir", str(self.data_dir), "--log-format", "json")
        return [sys.executable, "-m", "howk", "up", *where, *arguments]

    async def start(self, *arguments: str, under: Sequence[str] = ()) -> None:
        """Start it and wait until it is ready. `under` is a command that runs it, such as a tracer."""
        await self.launch(*arguments, under=under)
        try:
            await self.opened()
            await self.ready()
        except BaseException as error:
            if self.running:
                await self.kill()
            error.add_note("howk said:\n" + "\n".join(str(line) for line in self.lines[-20:]))
            raise

    async def launch(self, *arguments: str, under: Sequence[str] = ()) -> None:
        """Start it and wait for nothing."""
        assert not self.running
        self._process = process = await asyncio.create_subprocess_exec(
            *under,
            *self.command(*arguments),
            cwd=self.home,
            env=clean_environment(self.home, self.settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._doors = len(self.said("started"))
        self._killed = False
        self._readers = [
            asyncio.create_task(self._each_line(process.stderr, self._note)),
            asyncio.create_task(self._each_line(process.stdout, self.printed.append)),
        ]

    async def opened(self) -> None:
        """Wait until its door is open."""
        started = await self.heard("started", self._doors + 1)
        self.port = int(started["message"].rpartition(":")[2])
        self.up.set()

    async def ready(self) -> None:
        """Wait until it says that it is ready."""
        async with connected(self.port) as connection:

            async def said() -> bool:
                return (await connection.request("GET", "/ready")).status == 200

            await until(said, "howk is ready")

    async def _each_line(self, stream: asyncio.StreamReader | None, act: Callable[[str], None]) -> None:
        assert stream is not None
        while line := await stream.readline():
            # What a kill has cut off was not said.
            if line.endswith(b"\n") or not self._killed:
                act(line.decode(errors="replace").rstrip("\n"))

    def _note(self, line: str) -> None:
        try:
            self.lines.append(json.loads(line))
        except ValueError:
            self.lines.append({"event": "", "message": line})

    def complaints(self) -> list[str]:
        """What it said that is no line of its log, such as a traceback."""
        return [line["message"] for line in self.lines if not line["event"] and not line["message"].startswith("howk:")]

    def said(self, event: str) -> list[Json]:
        """The log's lines of this event, of all runs."""
        return [line for line in self.lines if line["event"] == event]

    async def heard(self, event: str, times: int = 1) -> Json:
        """The line of an event, once it has been said so often."""

        async def enough() -> bool:
            if not self.running:
                # What it said last may be unread when its end is known.
                await asyncio.gather(*self._readers)
            assert self.running or len(self.said(event)) >= times, f"howk ended without saying {event}: {self.lines}"
            return len(self.said(event)) >= times

        await until(enough, f"howk says {event}")
        return self.said(event)[times - 1]

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self._process is not None
        if number == signal.SIGKILL:
            self._killed = True
            self.up.clear()
        self._process.send_signal(number)

    async def ended(self) -> int:
        """The exit code, once it has ended and everything it said is read."""
        assert self._process is not None
        async with asyncio.timeout(DEADLINE):
            code = await self._process.wait()
            await asyncio.gather(*self._readers)
        self.up.clear()
        return code

    async def kill(self) -> None:
        """SIGKILL."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def enqueue(self, endpoint: str, payload: bytes = b"{}", config: str = "e2e", **fields: object) -> str:
        """The id of a webhook that was accepted."""
        return await self.enqueue_body(envelope(endpoint, payload, **fields), config)

    async def enqueue_body(self, body: bytes, config: str = "e2e") -> str:
        """The same of a request's whole body."""
        async with connected(self.port) as connection:
            answer = await connection.request("POST", f"/webhooks/{config}/enqueue", body)
        assert answer.status == 202, answer
        return answer.json()["webhook_id"]

    async def enqueue_batch(self, items: Iterable[bytes], config: str = "e2e") -> list[str]:
        """The ids of a batch whose items, each an `envelope`, were all accepted."""
        async with connected(self.port) as connection:
            body = b'{"webhooks":[%b]}' % b",".join(items)
            answer = await connection.request("POST", f"/webhooks/{config}/enqueue/batch", body)
        assert answer.status == 202, answer
        assert answer.json()["failed"] == 0, answer
        return [item["webhook_id"] for item in answer.json()["webhooks"]]

    async def status(self, webhook_id: str) -> Json:
        """What howk says of a webhook."""
        return (await self.statuses([webhook_id]))[webhook_id]

    async def statuses(self, ids: Iterable[str], clients: int = 8) -> dict[str, Json]:
        """What howk says of webhooks; `{}` for one it does not know."""
        found: dict[str, Json] = {}
        left = list(ids)

        async def ask() -> None:
            async with connected(self.port) as connection:
                while left:
                    id_ = left.pop()
                    answer = await connection.request("GET", f"/webhooks/{id_}/status")
                    found[id_] = answer.json() if answer.status == 200 else {}

        await asyncio.gather(*[ask() for _ in range(min(clients, len(left)))])
        return found

    async def reach(self, ids: Iterable[str], *states: str) -> dict[str, Json]:
        """The statuses of webhooks once all are in one of these states."""
        open_ = list(ids)
        found: dict[str, Json] = {}

        async def reached() -> bool:
            found.update(await self.statuses(open_))
            open_[:] = [id_ for id_ in open_ if found[id_].get("state") not in states]
            return not open_

        try:
            await until(reached, f"webhooks are {' or '.join(states)}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {len(open_)} are not, such as {found[open_[0]]}") from None
        return found


def envelope(endpoint: str, payload: bytes, **fields: object) -> bytes:
    """A request's body; the payload is spliced in as it was written."""
    return json.dumps({"endpoint": endpoint, **fields}).encode()[:-1] + b', "payload": ' + payload + b"}"


class Start:
    """An attempt as the receiver saw it: `at` when its last byte had come, `answered` when an answer was written."""

    __slots__ = ("answered", "at", "attempt", "digest", "headers", "id", "status", "target")

    def __init__(self, target: str, headers: dict[str, str], body: bytes) -> None:
        self.target = target
        self.headers = headers
        self.id = headers.get("webhook-id", "")
        self.attempt = int(headers.get("x-webhook-attempt", "0"))
        self.digest = sha256(body).digest()
        self.at = time.monotonic()
        self.answered = 0.0
        self.status = 0

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.attempt


class Reply(NamedTuple):
    """How the receiver behaves: status 0 never answers."""

    status: int = 200
    after: float = 0.0


Behaviour = Callable[[Start], Reply]


def mostly_good(
    seed: int, *, failing: float = 0.2, slow: float = 0.05, delay: tuple[float, float] = (0.3, 1.0)
) -> Behaviour:
    """500 for a share of the attempts and slowness for another, the same for an attempt that is repeated."""

    def behave(start: Start) -> Reply:
        chance = Random(f"{seed}/{start.id}/{start.attempt}")
        status = 500 if chance.random() < failing else 200
        return Reply(status, chance.uniform(*delay) if chance.random() < slow else 0.0)

    return behave


class Receiver:
    """Takes webhooks, remembers each start, and answers as `behave` says. `bodies` keeps them where asked for."""

    def __init__(
        self,
        behave: Behaviour = lambda _: Reply(),
        *,
        keep_bodies: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.behave = behave
        self.host = host
        self.port = port
        self.starts: list[Start] = []
        self.bodies: list[bytes] | None = [] if keep_bodies else None
        self.delivered: set[str] = set()
        self._failed: dict[int, set[str]] = {}
        self.in_flight = 0
        self.on_answer: Callable[[Start], None] = lambda _: None
        self._links: set[_Link] = set()
        self._hanging: list[Callable[[Reply], None]] = []
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._place: socket.socket | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        assert self._place is not None
        self._place.close()

    async def open(self) -> None:
        """Listen, on the port of the last time."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Link(self), self.host, self.port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        if self._place is not None:
            self._place.close()

    async def close(self) -> None:
        """Listen no more and cut what is open. Calls are refused, and nobody else gets the port."""
        assert self._server is not None
        self._server.close()
        if self._place is not None:
            self._place.close()
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind((self.host, self.port))
        for link in list(self._links):
            link.transport.abort()
        await self.deserted()
        await self._server.wait_closed()

    def url(self, path: str = "/") -> str:
        return f"http://{self.host}:{self.port}{path}"

    async def deserted(self) -> None:
        """Returns when no connection is left, not even one that waits to be accepted."""
        # One turn of the loop accepts all that wait, two more make links of them; the next ones read what they sent.
        for _ in range(6):
            await asyncio.sleep(0)
        await self.wait_for(lambda: not self._links, "every connection ends")

    async def wait_for(self, condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
        """Returns when it is so, judged anew whenever something has come, gone or been answered."""
        try:
            async with asyncio.timeout(deadline):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not within {deadline:g} s: {what}; {len(self.starts)} starts came") from None

    def release(self, status: int = 200) -> None:
        """Answer what hangs."""
        hanging, self._hanging = self._hanging, []
        for answer in hanging:
            answer(Reply(status))

    def of(self, webhook_id: str) -> list[Start]:
        """The starts of one webhook."""
        return [start for start in self.starts if start.id == webhook_id]

    def failed_at(self, attempt: int) -> set[str]:
        """The webhooks whose attempt of this number was answered with a failure."""
        return self._failed.get(attempt, set())

    def repeated(self) -> dict[tuple[str, int], int]:
        """How many times too often each (id, attempt) was started, where it was."""
        counts = Counter(start.key for start in self.starts)
        return {key: count - 1 for key, count in counts.items() if count > 1}

    def joined(self, link: "_Link") -> None:
        self._links.add(link)

    def left(self, link: "_Link") -> None:
        self._links.discard(link)
        self._changed.set()

    def started(self, start: Start, body: bytes, answer: Callable[[Reply], None]) -> None:
        self.starts.append(start)
        if self.bodies is not None:
            self.bodies.append(body)
        self.in_flight += 1
        self._changed.set()
        reply = self.behave(start)
        if not reply.status:
            self._hanging.append(answer)
        elif reply.after:
            asyncio.get_running_loop().call_later(reply.after, answer, reply)
        else:
            answer(reply)

    def answered(self, start: Start, status: int) -> None:
        start.answered = time.monotonic()
        start.status = status
        if status < 300:
            self.delivered.add(start.id)
        else:
            self._failed.setdefault(start.attempt, set()).add(start.id)
        self._changed.set()
        self.on_answer(start)


class _Link(asyncio.Protocol):
    """One connection to the receiver. howk sends one request at a time on it."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._parser = HttpRequestParser(self)
        self._gone = False
        self._open = 0
        self._reset()

    def _reset(self) -> None:
        self._target = ""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._receiver.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._receiver.in_flight -= self._open
        self._receiver.left(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._target += url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        start = Start(self._target, self._headers, body)
        self._reset()
        self._open += 1
        self._receiver.started(start, body, lambda reply: self._answer(start, reply))

    def _answer(self, start: Start, reply: Reply) -> None:
        if self._gone or self.transport.is_closing():
            return
        self.transport.write(b"HTTP/1.1 %d Told\r\nContent-Length: 0\r\n\r\n" % reply.status)
        self._open -= 1
        self._receiver.in_flight -= 1
        self._receiver.answered(start, reply.status)


_ENDPOINTS = 400


class Load:
    """Clients that keep about `depth` first attempts under way, for as long as the block lasts, over every restart.

    The ledger holds what was acknowledged with 202, and nothing is sent twice: what was cut off is not retried.
    """

    def __init__(self, howk: Howk, receiver: Receiver, depth: int, clients: int = 16, **fields: object) -> None:
        self.ledger: dict[str, bytes] = {}
        self.sent: set[bytes] = set()
        self.refused: Counter[int] = Counter()
        self._howk = howk
        self._receiver = receiver
        self._fields = fields
        self._clients = clients
        self._number = 0
        self._answered: set[str] = set()
        self._ended = False
        self._places = asyncio.Semaphore(depth)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._receiver.on_answer = self._first_answer
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Post no more; what is being posted gets its answer, which the ledger would lack else. howk has to be up."""
        self._ended = True
        for _ in self._tasks:
            self._places.release()
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*self._tasks)

    def _first_answer(self, start: Start) -> None:
        if start.id not in self._answered:
            self._answered.add(start.id)
            self._places.release()

    async def _client(self) -> None:
        while not self._ended:
            await self._howk.up.wait()
            try:
                async with connected(self._howk.port) as connection:
                    await self._post_all(connection)
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(_PAUSE)

    async def _post_all(self, connection: Connection) -> None:
        while True:
            await self._places.acquire()
            if self._ended:
                return
            acknowledged = False
            try:
                acknowledged = await self._post(connection)
            finally:
                if not acknowledged:
                    self._places.release()

    async def _post(self, connection: Connection) -> bool:
        self._number += 1
        payload = b'{ "number": %d,\t"text": "%b" }' % (self._number, b"<&> \xc3\xa9" * (self._number % 40))
        self.sent.add(sha256(payload).digest())
        # Of many endpoints: the bound of one is not what is under test.
        body = envelope(self._receiver.url(f"/load/{self._number % _ENDPOINTS}"), payload, **self._fields)
        answer = await connection.request("POST", "/webhooks/load/enqueue", body)
        if answer.status == 202:
            self.ledger[answer.json()["webhook_id"]] = payload
            return True
        self.refused[answer.status] += 1
        return False
