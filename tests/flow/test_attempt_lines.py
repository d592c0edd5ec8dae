"""One line an attempt: all that is known of it, and nothing that is secret."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support import Corridor, running

from howk.domain.records import PENDING
from howk.ports.log import Record
from howk.ports.telemetry import Attempt
from howk.runtime.lines import Lines
from howk.testing.receiver import Receiver


async def _line(corridor: Corridor, count: int = 1) -> list[Attempt]:
    """The lines, once there are so many."""
    async with asyncio.timeout(20):
        while len(corridor.notes.tried) < count:
            await asyncio.sleep(0)
    return corridor.notes.tried


async def test_an_attempt_that_failed_is_told_with_every_id_and_figure(tmp_path: Path) -> None:
    async with Receiver(status=503) as receiver, running(tmp_path) as corridor:
        webhook_id = await corridor.send(f"{receiver.url}/hook?token=1", b'"12345"', max_attempts=2)
        await corridor.failed(webhook_id, attempts=1)
        (first,) = await _line(corridor)
        assert (first.webhook_id, first.config_id) == (webhook_id, "app")
        assert (first.attempt, first.max_attempts, first.series, first.gen) == (1, 2, 1, 0)
        assert (first.endpoint, first.payload_bytes) == (f"{receiver.url}/hook", 7)
        assert (first.outcome, first.next_state, first.status_code) == ("failed", "failed", 503)
        assert (first.error, first.reason) == ("HTTP 503", "")
        assert first.at == corridor.clock.now()
        assert first.answer_bytes > 0
        assert 0 < first.connect_ms <= first.duration_ms
        assert 0 < first.first_byte_ms <= first.duration_ms
        corridor.clock.advance(100_000)
        await corridor.ended(webhook_id)
        second = (await _line(corridor, 2))[1]
        assert (second.attempt, second.gen, second.next_state) == (2, 1, "dead")


async def test_what_was_never_sent_is_told_too(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        await corridor.engines.log.append([Record(PENDING, "app/x", b"\x00 not json")])
        await corridor.ended("howk.pending/0/0")
        (told,) = await _line(corridor)
        assert (told.outcome, told.source, told.next_state) == ("undecodable", "howk.pending/0/0", "dead")
        text = corridor.metrics.expose().decode()
        assert 'howk_attempts_total{outcome="undecodable"} 1.0' in text


async def test_a_delivered_attempt_has_no_line_where_nobody_wants_it(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path) as corridor:
        await corridor.ended(await corridor.send(receiver.url))
        await corridor.house.settle_stage.caught_up()
        assert corridor.notes.tried == []


@asynccontextmanager
async def _echoing() -> AsyncIterator[str]:
    """A receiver that answers with the headers it got where a status line belongs."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + head.replace(b"\r\n", b" ") + b"\r\n\r\n" + head)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_no_secret_is_in_a_line_whatever_the_receiver_sends_back(tmp_path: Path) -> None:
    secret = "whsec_" + b64encode(b"signing-canary-0123").decode()
    canaries = ("header-canary", "user-canary", "query-canary", "payload-canary", secret[6:], "signing-canary")
    headers = {"Authorization": "Bearer header-canary", "X-Own": "header-canary"}
    log = (tmp_path / "lines").open("w+")
    lines = Lines(log, form="json", least="debug")
    async with _echoing() as echo, Receiver(status=500) as receiver, running(tmp_path / "data") as corridor:
        echoed = {"X-Echo": "header-canary user-canary"}
        receiver.answer_headers = echoed
        for url in (echo, receiver.url):
            whole = url.replace("http://", "http://me:user-canary@") + "/hook?token=query-canary"
            webhook_id = await corridor.send(whole, b'"payload-canary"', headers=headers, signing_secret=secret)
            await corridor.failed(webhook_id, attempts=1)
        lines.attempts(await _line(corridor, 2))
    log.seek(0)
    written = log.read()
    log.close()
    assert [json.loads(line)["outcome"] for line in written.splitlines()] == ["failed", "failed"]
    assert [canary for canary in canaries if canary in written] == []
