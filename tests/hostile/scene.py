"""Where hostile receivers stand: sockets on loopback, one connection of theirs as a `Link`, names that resolve as a
test wants, and a count of everything that could be left behind.
"""

import asyncio
import errno
import gc
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from tests.adapters.outbound.support import PATIENCE
from tests.authority import Authority

Behaviour = Callable[["Link"], Awaitable[None]]
Lookup = tuple[str, ...] | int | None
"""What a lookup finds: addresses, the code of its failure (EAI_…), or None for one that hangs."""

NAME = "hostile.example"
# A byte of a slow receiver; many of them are shorter than any deadline of the tests.
PAUSE = 0.02
_SMALL_WINDOW = 8 << 10
_WORDS = {
    socket.EAI_NONAME: "Name or service not known",
    socket.EAI_AGAIN: "Temporary failure in name resolution",
}


def is_whole(request: bytes) -> bool:
    head, found, body = request.partition(b"\r\n\r\n")
    if not found:
        return False
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return len(body) >= int(length.partition(b":")[2])


class Link:
    """One connection of a receiver. `number` counts them from 1."""

    def __init__(self, number: int, authority: Authority, reader: asyncio.StreamReader, writer: Any) -> None:
        self.number = number
        self.authority = authority
        self.sent = 0
        self._reader = reader
        self._writer = writer

    async def some(self) -> bytes:
        return await self._reader.read(65_536)

    async def request(self) -> bytes:
        """A whole one. Raises ConnectionError when the sender goes."""
        got = b""
        while not is_whole(got):
            more = await self.some()
            if not more:
                raise ConnectionError
            got += more
        return got

    async def send(self, *pieces: bytes) -> None:
        """Each piece on its own."""
        for piece in pieces:
            self._writer.write(piece)
            self.sent += len(piece)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def stay(self) -> None:
        """Until the sender goes."""
        while await self.some():
            pass

    async def hang(self) -> None:
        """Reads nothing, and closes nothing before the scene ends."""
        self._writer.transport.pause_reading()
        await asyncio.sleep(PATIENCE)

    def half_close(self) -> None:
        self._writer.write_eof()

    def reset(self) -> None:
        peer = self._writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class Sealed:
    """TLS by hand over a link, so that a behaviour may also write what is none."""

    def __init__(self, link: Link, context: ssl.SSLContext) -> None:
        self._link = link
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def _done(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                await self.flush()
                more = await self._link.some()
                if not more:
                    raise ConnectionError from None
                self._incoming.write(more)
                continue
            await self.flush()
            return done

    async def flush(self) -> None:
        """Sends what TLS has to say."""
        if self._outgoing.pending:
            await self._link.send(self._outgoing.read())

    async def handshake(self) -> None:
        await self._done(self._tls.do_handshake)

    async def request(self) -> bytes:
        got = b""
        while not is_whole(got):
            got += await self._done(lambda: self._tls.read(65_536))
        return got

    async def send(self, data: bytes) -> None:
        await self._done(lambda: self._tls.write(data))


class Names:
    """Every lookup of a name under `.example`, in place of the system's. The last answer is given again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[Lookup]] = {}
        self.asked: list[str] = []
        self._go = threading.Event()
        self._system = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def begin(self) -> None:
        """Of what hangs from now on, nothing is released yet."""
        self._go = threading.Event()

    def release(self) -> None:
        """Ends the lookups that hang."""
        self._go.set()

    def _look_up(self, host: Any, *args: Any, **kwargs: Any) -> Any:
        if not str(host).endswith(".example"):
            return self._system(host, *args, **kwargs)
        self.asked.append(host)
        answers = self.known.get(host, [socket.EAI_NONAME])
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if found is None:
            self._go.wait(PATIENCE)
            found = socket.EAI_AGAIN
        if isinstance(found, int):
            raise socket.gaierror(found, _WORDS[found])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]


class Left(NamedTuple):
    """What exists now and has to be gone later."""

    files: int
    tasks: int
    timers: int

    def is_within(self, before: "Left") -> bool:
        return all(now <= then for now, then in zip(self, before, strict=True))


def existing() -> Left:
    """Open files, tasks, and timers of asyncio's own loop that are still to fire."""
    now = asyncio.get_running_loop().time()
    handles = [each for each in gc.get_objects() if isinstance(each, asyncio.TimerHandle)]
    timers = sum(not handle.cancelled() and handle.when() > now for handle in handles)
    return Left(_open_files(), len(asyncio.all_tasks()), timers)


def _open_files() -> int:
    return len(os.listdir("/dev/fd"))


class Scene:
    """The receivers of one test. `connections` counts what they accepted, `trapped` what nobody was to call,
    `most_sent` is the most bytes that one connection took."""

    def __init__(self, authority: Authority, names: Names) -> None:
        self.authority = authority
        self.names = names
        self.connections = 0
        self.trapped = 0
        self.most_sent = 0
        self._servers: list[asyncio.Server] = []
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self, host: str, lookups: Sequence[Lookup], place: Callable[["Scene"], Awaitable[int]]) -> int:
        """A receiver in its place, and its name known; its port."""
        self.names.known[host] = list(lookups)
        return await place(self)

    async def serve(
        self, behave: Behaviour, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> int:
        """A receiver that behaves so on each connection, with a small window; its port."""

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            link = Link(self.connections, self.authority, reader, writer)
            try:
                await behave(link)
            except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            except RuntimeError:
                # What uvloop says to who writes to a transport that is gone.
                assert writer.transport.is_closing()
            finally:
                self._tasks.discard(task)
                self.most_sent = max(self.most_sent, link.sent)
                writer.close()

        listening = self._bound(host, port)
        self._servers.append(await asyncio.start_server(accepted, sock=listening, ssl=tls))
        return listening.getsockname()[1]

    async def trap(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Where no connection may come."""

        async def caught(link: Link) -> None:
            self.trapped += 1
            self.connections -= 1
            link.reset()

        return await self.serve(caught, host=host, port=port)

    def vacant(self) -> int:
        """A port that refuses."""
        taken = self._bound("127.0.0.1", 0)
        self._sockets.append(taken)
        return taken.getsockname()[1]

    def full(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """A port that neither takes nor refuses: its queue is full."""
        listening = self._bound(host, port)
        listening.listen(0)
        self._sockets.append(listening)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
            self._sockets.append(filler)
        return listening.getsockname()[1]

    async def end(self) -> None:
        self.names.release()
        for server in self._servers:
            server.close()
        for each in self._sockets:
            each.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE)

    def _bound(self, host: str, port: int) -> socket.socket:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_WINDOW)
        try:
            listening.bind((host, port))
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRNOTAVAIL:
                pytest.skip(f"this machine has no {host}")
            raise
        listening.setblocking(False)
        return listening


@asynccontextmanager
async def set_up(authority: Authority, names: Names, *, strict: bool = True) -> AsyncGenerator[Scene]:
    """A scene, and nothing that is left of it: no file, no task, no timer, and nothing said to the loop's handler."""
    names.begin()
    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    await _warmed_up()
    before = existing()
    scene = Scene(authority, names)
    try:
        yield scene
    finally:
        await scene.end()
    if strict:
        await _gone(before)
    assert reported == []


async def _warmed_up() -> None:
    """uvloop opens a file of its own with the first connection, and keeps it."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await reader.read()
    writer.close()
    server.close()
    await asyncio.sleep(0)


async def _gone(before: Left) -> None:
    # No timeout of asyncio's: its timer would be counted.
    last = time.monotonic() + PATIENCE
    while not (now := existing()).is_within(before):
        assert time.monotonic() < last, f"left behind: {now} where there was {before}"
        await asyncio.sleep(0)
