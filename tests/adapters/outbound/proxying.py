"""Forward proxies for the tests of the outbound sender: one that does what it is asked, and one that says anything."""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.adapters.outbound.support import Behaviour, Server, Stage

from howk.domain.forward_proxy import ForwardProxy

OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"
Judge = Callable[[int, bytes], bytes]


class Proxy:
    """`asked` holds the heads it was sent, `carried` what went through its tunnels towards receivers."""

    def __init__(self) -> None:
        self.server: Server
        self.asked: list[bytes] = []
        self.carried = bytearray()
        self.tunnels: list[asyncio.StreamWriter] = []

    @property
    def targets(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.asked]

    def at(self, host: str = "127.0.0.1", authorization: bytes = b"") -> ForwardProxy:
        return ForwardProxy(host, self.server.port, authorization)


def opened(count: int, head: bytes) -> bytes:
    """Grants every tunnel."""
    return OPENED


async def forwarding(stage: Stage, judge: Judge = opened, *, delay: float = 0.0, **where: Any) -> Proxy:
    """A proxy that answers with what `judge` makes of the number of the connection and the head of its request, and
    opens the tunnel where that is a 200."""
    proxy = Proxy()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        proxy.asked.append(head)
        answer = judge(len(proxy.asked), head)
        if delay:
            await asyncio.sleep(delay)
        if b" 200 " not in answer:
            writer.write(answer)
            return
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        there, back = await asyncio.open_connection(host.strip("[]"), int(port))
        proxy.tunnels.append(writer)
        writer.write(answer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader, back, proxy.carried))
                group.create_task(_carry(there, writer, bytearray()))
        except* ConnectionError:
            pass
        finally:
            back.close()

    proxy.server = await stage.server(behave, **where)
    return proxy


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, carried: bytearray) -> None:
    try:
        while data := await reader.read(65_536):
            carried += data
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def saying(stage: Stage, *pieces: bytes, stays: bool = True) -> Proxy:
    """A proxy that says this to whatever it is asked, piece by piece, and then nothing."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.asked.append(await reader.readuntil(b"\r\n\r\n"))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if stays:
            await reader.read()

    return (proxy := await behaving(stage, behave))


async def behaving(stage: Stage, behave: Behaviour) -> Proxy:
    proxy = Proxy()
    proxy.server = await stage.server(behave)
    return proxy
