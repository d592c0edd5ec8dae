"""What the tests of the outbound sender share: raw servers whose behaviour is a coroutine, and a stage that ends with
nothing left over: no connection, no task, no unreported exception.
"""

import asyncio
import gc
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from howk.adapters.outbound.options import SenderOptions
from howk.adapters.outbound.resolve import Resolve
from howk.adapters.outbound.sender import OutboundSender
from howk.domain.addresses import AddressPolicy
from howk.ports.sender import Answer, Call, Origin

LOOPBACK = AddressPolicy.of(allow_loopback=True)
# Long enough that a test which meets it has failed.
PATIENCE = 20.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PLAIN_TLS = ssl.create_default_context()

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def request(reader: asyncio.StreamReader) -> bytes:
    """One whole request, as it came; b"" at the end of the stream."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head + await reader.readexactly(int(length.partition(b":")[2]))


class Server:
    """A listening socket; `connections` counts what it accepted, `requests` holds what `answering` read."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.port = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        self.changed = asyncio.Condition()

    @property
    def origin(self) -> Origin:
        return Origin("http", "127.0.0.1", self.port)

    def call(self, body: bytes = b"{}", *, timeout: float = PATIENCE, **values: Any) -> Call:
        fields = {"origin": self.origin, "target": b"/hook", "head": b"", **values}
        return Call(body=body, timeout=timeout, **fields)

    async def received(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE), self.changed:
            await self.changed.wait_for(lambda: len(self.requests) >= count)

    async def note(self, raw: bytes) -> None:
        async with self.changed:
            self.requests.append(raw)
            self.changed.notify_all()


class Stage:
    """Makes senders and servers, and takes them down again."""

    def __init__(self) -> None:
        self.senders: list[OutboundSender] = []
        self.servers: list[tuple[asyncio.Server, Server]] = []
        self.reported: list[dict[str, Any]] = []

    def sender(self, resolve: Resolve | None = None, **options: Any) -> OutboundSender:
        fields = {"policy": LOOPBACK, "tls": PLAIN_TLS, **options}
        sender = OutboundSender(SenderOptions(**fields), resolve)
        self.senders.append(sender)
        return sender

    async def server(
        self, behave: Behaviour, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> Server:
        server = Server()

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server.connections += 1
            task = asyncio.current_task()
            assert task is not None
            server.tasks.add(task)
            try:
                await behave(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                server.tasks.discard(task)
                writer.close()

        listening = await asyncio.start_server(accepted, host, port, ssl=tls)
        server.port = listening.sockets[0].getsockname()[1]
        self.servers.append((listening, server))
        return server

    async def answering(self, *answers: bytes, close: bool = False, **where: Any) -> Server:
        """Answers the requests of each connection with `answers` in turn, the last one again and again."""

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            turn = 0
            while raw := await request(reader):
                await server.note(raw)
                writer.write(answers[min(turn, len(answers) - 1)])
                await writer.drain()
                turn += 1
                if close:
                    return

        server = await self.server(behave, **where)
        return server

    async def silent(self) -> Server:
        """Reads requests and answers none."""

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while raw := await request(reader):
                await server.note(raw)

        server = await self.server(behave)
        return server

    async def end(self) -> None:
        for sender in self.senders:
            await sender.close()
            assert sender.open_connections == 0
            assert sender.in_flight() == 0
            assert sender.origins == 0
        for listening, server in self.servers:
            listening.close()
            for task in list(server.tasks):
                task.cancel()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=PATIENCE)
            assert not unfinished


@asynccontextmanager
async def staged() -> AsyncGenerator[Stage, None]:
    stage = Stage()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: stage.reported.append(context))
    try:
        yield stage
    finally:
        await stage.end()
    gc.collect()
    assert stage.reported == []


class Answers:
    """An `answered` that keeps what came, and lets a test wait for it."""

    def __init__(self) -> None:
        self.came: list[tuple[Call, Answer]] = []
        self._changed = asyncio.Event()

    def __call__(self, call: Call, answer: Answer) -> None:
        self.came.append((call, answer))
        self._changed.set()

    async def all(self, count: int) -> list[Answer]:
        async with asyncio.timeout(PATIENCE):
            while len(self.came) < count:
                self._changed.clear()
                await self._changed.wait()
        assert len(self.came) == count
        return [answer for _, answer in self.came]


async def send(sender: OutboundSender, calls: Sequence[Call]) -> list[Answer]:
    answers = Answers()
    sender.send(calls, answers)
    return await answers.all(len(calls))


async def send_one(sender: OutboundSender, call: Call) -> Answer:
    (answer,) = await send(sender, [call])
    return answer


def resolving(*addresses: str) -> Resolve:
    """A resolver that finds these addresses for every name."""

    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


def secure(server: Server, host: str = "hooks.example") -> Origin:
    return Origin("https", host, server.port)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until something that sends no event is so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)
