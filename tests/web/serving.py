"""The door on a real socket, and a client that writes raw bytes to it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Self

from howk.web.app import App
from howk.web.connection import Bounds
from howk.web.server import Server

PATIENCE = 15.0
BOUNDS = Bounds(read_timeout=10, write_timeout=10, keep_alive=75, connections=100)


class Answer(NamedTuple):
    """One answer as its bytes say it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, port: int, **options: Any) -> AsyncIterator[Self]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    def write(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def line(self) -> bytes:
        """The next bytes up to a blank line."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> Answer:
        head = (await self.line()).decode("latin-1")
        status, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        async with asyncio.timeout(PATIENCE):
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(status.split()[1]), headers, body)

    async def rest(self) -> bytes:
        """Whatever comes until the server closes."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def silent(self, seconds: float = 0.02) -> bool:
        """Whether nothing comes for so long; also the pace of a slow client."""
        try:
            async with asyncio.timeout(seconds):
                return not await self.reader.read(1) and False
        except TimeoutError:
            return True
        except ConnectionError:
            return False


class Serving(NamedTuple):
    """A server that runs."""

    server: Server
    port: int
    done: "asyncio.Task[None]"


@contextlib.asynccontextmanager
async def serving(app: App, bounds: Bounds = BOUNDS, **options: Any) -> AsyncIterator[Serving]:
    """The app behind the real server."""
    server = Server(app, bounds, grace=5, **options)
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setblocking(False)
        task = asyncio.get_running_loop().create_task(server.serve(sockets=[door]))
        try:
            yield Serving(server, door.getsockname()[1], task)
        finally:
            server.should_exit = True
            await task


def post(body: bytes, path: str = "/webhooks/app/enqueue", *headers: bytes, version: bytes = b"1.1") -> bytes:
    """A whole request."""
    lines = [
        b"POST %b HTTP/%b" % (path.encode(), version),
        b"Host: 127.0.0.1",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(path: str, *headers: bytes) -> bytes:
    """A whole request."""
    return b"\r\n".join([b"GET %b HTTP/1.1" % path.encode(), b"Host: 127.0.0.1", *headers, b"", b""])
