"""Receivers that compress what nobody asked them to: the status decides, and what they said is kept as its bytes."""

import asyncio
import gzip
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support import Corridor, running

from howk.domain.records import DEADLETTER, DeadLetter, reader

_read_dead = reader(DeadLetter)

GZIP = gzip.compress(b'{"error": "no"}', mtime=0)


@asynccontextmanager
async def answering(raw: bytes) -> AsyncIterator[str]:
    """A receiver that says this to every request; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
            await reader.readexactly(int(length[16:]))
            writer.write(raw)
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


def answer(status: int, coding: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} So\r\nContent-Encoding: {coding}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


async def dead_letter(corridor: Corridor) -> DeadLetter:
    log = corridor.engines.log
    (place, (start, stop)) = next(iter((await log.bounds(DEADLETTER)).items()))
    (letter,) = [e async for batch in log.read(DEADLETTER, place.partition, start, stop) for e in batch]
    return _read_dead(letter.value)


@pytest.mark.parametrize(
    ("coding", "body"),
    [("gzip", GZIP), ("deflate", zlib.compress(b"no")), ("br", b"\x0b\x02\x80hello\x03")],
    ids=["gzip", "deflate", "br"],
)
async def test_what_a_receiver_compressed_is_kept_in_base64_as_it_came(
    tmp_path: Path, coding: str, body: bytes
) -> None:
    async with answering(answer(500, coding, body)) as url, running(tmp_path) as corridor:
        status = await corridor.ended(await corridor.send(url, max_attempts=1))
        assert (status.state, status.last_status_code, status.last_error) == ("dead", 500, "HTTP 500")
        response = (await dead_letter(corridor)).response
    assert response is not None
    assert (response.body, b64decode(response.body_base64), response.truncated) == ("", body, False)
    assert response.headers["content-encoding"] == coding


async def test_a_bomb_is_kept_small(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(50_000_000), mtime=0)
    async with (
        answering(answer(422, "gzip", bomb)) as url,
        running(tmp_path, delivery__response_capture=1024) as corridor,
    ):
        status = await corridor.ended(await corridor.send(url))
        assert (status.state, status.reason_type) == ("dead", "unrecoverable")
        response = (await dead_letter(corridor)).response
    assert response is not None
    assert (b64decode(response.body_base64), response.truncated) == (bomb[:1024], True)


@pytest.mark.parametrize("body", [GZIP, b"not gzip at all"], ids=["gzip", "no gzip"])
async def test_a_2xx_is_delivered_whatever_its_body_is(tmp_path: Path, body: bytes) -> None:
    async with answering(answer(200, "gzip", body)) as url, running(tmp_path) as corridor:
        status = await corridor.ended(await corridor.send(url))
        assert (status.state, status.attempts, status.last_status_code) == ("delivered", 1, 200)
