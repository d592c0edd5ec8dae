"""What a receiver may do to a sender, as coroutines over one connection. Each ends by itself when the sender goes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from tests.hostile.scene import NAME, PAUSE, Behaviour, Link, Sealed

Then = Literal["stay", "close", "reset", "half-close"]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FORGED = b"HTTP/1.1 200 Forged\r\nContent-Length: 6\r\n\r\nforged"
TLS_ALERT_VERSION = b"\x15\x03\x01\x00\x02\x02\x46"
# A ServerHello that chooses TLS 1.0: type, length, version, random, no session, TLS_RSA_WITH_AES_128_CBC_SHA.
_HELLO = b"\x02\x00\x00\x26\x03\x01" + b"r" * 32 + b"\x00\x00\x2f\x00"
TLS_1_0 = b"\x16\x03\x01\x00\x2a" + _HELLO
GARBAGE = bytes(range(255, 0, -1)) * 8


def answer(head: str, body: bytes = b"", status: str = "200 OK") -> bytes:
    lines = "".join(f"{line}\r\n" for line in head.split("|") if line)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def chunked(body: bytes, status: str = "200 OK") -> bytes:
    return answer("Transfer-Encoding: chunked", body, status)


async def _then(link: Link, then: Then) -> None:
    if then == "reset":
        link.reset()
    elif then == "half-close":
        link.half_close()
    if then in ("stay", "half-close"):
        await link.stay()


def at_once(*pieces: bytes, then: Then) -> Behaviour:
    """Before anything is read."""

    async def behave(link: Link) -> None:
        await link.send(*pieces)
        await _then(link, then)

    return behave


def midway(*pieces: bytes, then: Then) -> Behaviour:
    """When a part of the request has come, and nothing more is read of it."""

    async def behave(link: Link) -> None:
        await link.some()
        await link.send(*pieces)
        if then == "stay":
            await link.hang()
        await _then(link, then)

    return behave


def says(*pieces: bytes, then: Then = "stay") -> Behaviour:
    """To each whole request."""

    async def behave(link: Link) -> None:
        while True:
            await link.request()
            await link.send(*pieces)
            if then != "stay":
                return await _then(link, then)

    return behave


def floods(start: bytes, piece: bytes) -> Behaviour:
    """Without end."""

    async def behave(link: Link) -> None:
        await link.request()
        await link.send(start)
        while True:
            await link.send(piece)

    return behave


def sends(start: bytes, piece: bytes, times: int) -> Behaviour:
    """So many pieces, and then waits for the next request."""

    async def behave(link: Link) -> None:
        await link.request()
        await link.send(start)
        for _ in range(times):
            await link.send(piece)
        await link.stay()

    return behave


def drips(start: bytes, piece: bytes) -> Behaviour:
    """A piece at a time, for as long as the sender stays."""

    async def behave(link: Link) -> None:
        await link.request()
        await link.send(start)
        while True:
            await link.send(piece)
            await asyncio.sleep(PAUSE)

    return behave


def silent() -> Behaviour:
    async def behave(link: Link) -> None:
        await link.stay()

    return behave


def deaf() -> Behaviour:
    """Accepts, and reads not even the request."""

    async def behave(link: Link) -> None:
        await link.hang()

    return behave


def keeps_then(then: Then) -> Behaviour:
    """Answers, keeps the connection, reads the next request and leaves with no word; later connections are well."""

    async def behave(link: Link) -> None:
        while True:
            await link.request()
            await link.send(OK)
            if link.number == 1:
                await link.some()
                return await _then(link, then)

    return behave


def always_leaves_the_second() -> Behaviour:
    """As `keeps_then`, and the connection that replaces the first is not answered at all."""

    async def behave(link: Link) -> None:
        await link.request()
        if link.number == 1:
            await link.send(OK)
            await link.some()

    return behave


def pushes(*pieces: bytes) -> Behaviour:
    """Answers, then says more on the connection that is kept; later connections are well."""

    async def behave(link: Link) -> None:
        while True:
            await link.request()
            await link.send(OK, *(pieces if link.number == 1 else ()))

    return behave


def raw_handshake(*pieces: bytes, then: Then) -> Behaviour:
    """What comes in place of a handshake, after the sender's first words."""
    return midway(*pieces, then=then)


def drips_handshake() -> Behaviour:
    async def behave(link: Link) -> None:
        await link.some()
        for byte in b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc" + bytes(16_000):
            await link.send(bytes([byte]))
            await asyncio.sleep(PAUSE)

    return behave


def sealed(act: Callable[[Link, Sealed], Awaitable[None]]) -> Behaviour:
    """What follows a good handshake."""

    async def behave(link: Link) -> None:
        inside = Sealed(link, link.authority.server(NAME))
        await inside.handshake()
        await act(link, inside)

    return behave
