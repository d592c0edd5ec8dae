"""One request and its answer over HTTP/1.1, with receivers that follow the rules, stretch them, or break them."""

import asyncio
import gzip
import zlib

import pytest
from tests.adapters.outbound.support import OK, Stage, request, send, send_one, until

from howk.adapters.outbound.connection import Pool
from howk.ports.sender import Origin


async def test_the_request_is_these_bytes_and_no_others(stage: Stage) -> None:
    server = await stage.answering(OK)
    call = server.call(b"\x00\r\n{}", target=b"/a/b?c=%20d", head=b"webhook-id: wh_1\r\nX-A: b c\r\n")
    await send_one(stage.sender(), call)
    assert server.requests == [
        b"POST /a/b?c=%20d HTTP/1.1\r\n"
        b"Host: 127.0.0.1:" + str(server.port).encode() + b"\r\n"
        b"webhook-id: wh_1\r\n"
        b"X-A: b c\r\n"
        b"Content-Length: 5\r\n"
        b"\r\n"
        b"\x00\r\n{}"
    ]


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (Origin("http", "a.example", 80), b"a.example"),
        (Origin("http", "a.example", 443), b"a.example:443"),
        (Origin("https", "a.example", 443), b"a.example"),
        (Origin("https", "a.example", 80), b"a.example:80"),
        (Origin("http", "2606:4700::1", 80), b"[2606:4700::1]"),
        (Origin("http", "2606:4700::1", 8080), b"[2606:4700::1]:8080"),
    ],
)
def test_host_has_brackets_and_a_port_where_they_are_needed(origin: Origin, host: bytes) -> None:
    assert Pool(origin).preamble == b" HTTP/1.1\r\nHost: " + host + b"\r\n"


async def test_an_empty_body_is_sent_with_its_length(stage: Stage) -> None:
    server = await stage.answering(OK)
    await send_one(stage.sender(), server.call(b""))
    assert server.requests[0].endswith(b"\r\nContent-Length: 0\r\n\r\n")


async def test_a_large_body_arrives_whole(stage: Stage) -> None:
    server = await stage.answering(OK)
    body = bytes(range(256)) * 8192
    answer = await send_one(stage.sender(), server.call(body))
    assert answer.status == 200
    assert server.requests[0].endswith(body)


async def test_the_answer_is_given_as_it_came(stage: Stage) -> None:
    server = await stage.answering(
        b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nSet-Cookie: a\r\nSET-COOKIE: b\r\nContent-Length: 5\r\n\r\nl\xffter"
    )
    answer = await send_one(stage.sender(), server.call())
    assert (answer.status, answer.failure, answer.error) == (503, "", "")
    assert list(answer.headers) == [
        (b"retry-after", b"7"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
        (b"content-length", b"5"),
    ]
    assert (answer.body, answer.truncated) == (b"l\xffter", False)


async def test_the_call_comes_back_with_its_answer_and_its_context(stage: Stage) -> None:
    server = await stage.answering(OK)
    contexts: list[object] = []
    done = asyncio.Event()
    context = object()
    stage.sender().send([server.call(context=context)], lambda call, _: (contexts.append(call.context), done.set()))
    await done.wait()
    assert contexts == [context]


async def test_the_first_call_has_phases_and_the_next_only_those_it_went_through(stage: Stage) -> None:
    server = await stage.answering(OK)
    sender = stage.sender()
    first, second = [(await send_one(sender, server.call())).timings for _ in range(2)]
    assert first.connect > 0
    assert first.tls == second.connect == second.dns == 0
    for timings in (first, second):
        assert 0 < timings.first_byte <= timings.total


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n1\r\n!\r\n0\r\nX-T: 1\r\n\r\n", b"ok!"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    ],
    ids=["chunked", "100", "102 and 103", "204", "304", "redirect", "1.0 keep-alive", "upgrade offered"],
)
async def test_an_answer_with_an_end_keeps_the_connection(stage: Stage, raw: bytes, body: bytes) -> None:
    server = await stage.answering(raw)
    sender = stage.sender()
    answers = [await send_one(sender, server.call()) for _ in range(3)]
    assert [(answer.failure, answer.body, answer.truncated) for answer in answers] == [("", body, False)] * 3
    assert {answer.status for answer in answers} <= {200, 204, 302, 304}
    assert server.connections == 1
    assert (sender.dials, sender.reuses) == (1, 2)


async def test_headers_of_interim_answers_and_trailers_are_not_those_of_the_answer(stage: Stage) -> None:
    server = await stage.answering(
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )
    answer = await send_one(stage.sender(), server.call())
    assert list(answer.headers) == [(b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsome",
        OK + b"surplus",
        OK + b"HTTP/1.1 2",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + OK,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\noksurplus",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=[
        "close",
        "1.0",
        "second answer",
        "surplus",
        "part of an answer",
        "surplus after interim",
        "surplus after close",
        "keep-alive of a second",
    ],
)
async def test_a_connection_not_fit_for_another_call_is_closed(stage: Stage, raw: bytes) -> None:
    server = await stage.answering(raw)
    sender = stage.sender()
    for _ in range(2):
        answer = await send_one(sender, server.call())
        assert (answer.status, answer.body, answer.truncated) == (200, b"ok", False)
        await until(lambda: not sender.open_connections)
    assert server.connections == 2
    assert sender.stale_retries == 0


async def test_a_body_without_a_length_ends_with_the_stream(stage: Stage) -> None:
    server = await stage.answering(b"HTTP/1.1 200 OK\r\n\r\nto the end", close=True)
    answer = await send_one(stage.sender(), server.call())
    assert (answer.status, answer.body, answer.truncated) == (200, b"to the end", False)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\npart",
        b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n9\r\npart",
        b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nno chunk",
    ],
    ids=["length", "chunked", "malformed chunk"],
)
async def test_an_answer_whose_body_breaks_off_counts_by_its_status(stage: Stage, raw: bytes) -> None:
    server = await stage.answering(raw, close=True)
    answer = await send_one(stage.sender(), server.call())
    assert (answer.status, answer.failure, answer.body, answer.truncated) == (500, "", b"part", True)


async def test_an_answer_whose_body_never_ends_counts_by_its_status_at_the_deadline(stage: Stage) -> None:
    server = await stage.answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")
    answer = await send_one(stage.sender(), server.call(timeout=0.2))
    assert (answer.status, answer.failure, answer.body, answer.truncated) == (200, "", b"part", True)
    assert answer.timings.total >= 0.2


async def test_an_answer_to_half_a_request_is_taken_and_ends_the_connection(stage: Stage) -> None:
    async def refuse_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await hold.wait()

    hold = asyncio.Event()
    server = await stage.server(refuse_early)
    sender = stage.sender()
    for turn in (1, 2):
        answer = await send_one(sender, server.call(b"x" * 16_000_000))
        assert (answer.status, answer.failure) == (413, "")
        assert server.connections == turn
    hold.set()


async def test_an_answer_to_half_a_request_is_taken_though_the_receiver_hangs_up(stage: Stage) -> None:
    async def refuse_and_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    server = await stage.server(refuse_and_go)
    answer = await send_one(stage.sender(), server.call(b"x" * 16_000_000))
    assert (answer.status, answer.failure) == (413, "")


BOMB = gzip.compress(bytes(50_000_000), mtime=0)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"gzip", gzip.compress(b'{"error": "no"}', mtime=0)),
        (b"deflate", zlib.compress(b'{"error": "no"}')),
        (b"br", b"\x0b\x02\x80hello\x03"),
        (b"gzip", b"not gzip at all"),
        (b"gzip, gzip", gzip.compress(gzip.compress(b"twice", mtime=0), mtime=0)),
        (b"gzip", BOMB),
    ],
    ids=["gzip", "deflate", "br", "no gzip", "twice", "bomb"],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_compressed_answer_is_kept_as_it_came(stage: Stage, coding: bytes, body: bytes, chunked: bool) -> None:
    framed = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    if chunked:
        framed = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    server = await stage.answering(b"HTTP/1.1 500 No\r\nContent-Encoding: %b\r\n%b" % (coding, framed))
    sender = stage.sender(capture=1000)
    for _ in range(2):
        answer = await send_one(sender, server.call())
        assert (answer.status, answer.failure, answer.body) == (500, "", body[:1000])
        assert (answer.size, answer.truncated) == (len(body), len(body) > 1000)
        assert (b"content-encoding", coding) in answer.headers
    assert server.connections == 1
    assert b"accept-encoding" not in server.requests[0].lower()


async def test_the_body_is_kept_up_to_the_cap_and_the_rest_read_to_keep_the_connection(stage: Stage) -> None:
    body = bytes(range(256)) * 1000
    server = await stage.answering(b"HTTP/1.1 200 OK\r\nContent-Length: 256000\r\n\r\n" + body)
    sender = stage.sender(capture=1000)
    for _ in range(2):
        answer = await send_one(sender, server.call())
        assert (answer.body, answer.truncated) == (body[:1000], True)
    assert server.connections == 1


async def test_a_body_of_exactly_the_cap_is_not_truncated(stage: Stage) -> None:
    server = await stage.answering(OK)
    answer = await send_one(stage.sender(capture=2), server.call())
    assert (answer.body, answer.truncated) == (b"ok", False)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"Content-Length: 1000000000000", b"x" * 10_000),
        (b"Transfer-Encoding: chunked", b"400\r\n" + b"x" * 1024 + b"\r\n"),
        (b"X: no length", b"x" * 10_000),
    ],
    ids=["length", "chunked", "stream"],
)
async def test_a_giant_body_is_cut_at_the_bound(stage: Stage, head: bytes, piece: bytes) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        while True:
            writer.write(piece)
            await writer.drain()

    server = await stage.server(flood)
    sender = stage.sender(capture=100, drain_limit=100_000, max_header=1000)
    answer = await send_one(sender, server.call())
    assert (answer.status, answer.body, answer.truncated) == (200, b"x" * 100, True)
    await until(lambda: not sender.open_connections)


@pytest.mark.parametrize(
    "piece", [b"2;" + b"e" * 20_000, b"0\r\nT: " + b"t" * 20_000], ids=["chunk extension", "trailer"]
)
async def test_framing_without_end_is_cut_at_the_bound_of_headers(stage: Stage, piece: bytes) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + piece)
        while True:
            await writer.drain()
            writer.write(piece[-1:] * 20_000)

    server = await stage.server(flood)
    answer = await send_one(stage.sender(), server.call())
    assert (answer.status, answer.truncated) == (200, True)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Filler: " + b"x" * 1000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 1000),
        (b"HTTP/1.1 200 ", b"O" * 1000),
        (b"\r\n", b"\r\n" * 500),
    ],
    ids=["many headers", "one header", "status line", "empty lines"],
)
async def test_headers_without_end_are_refused(stage: Stage, start: bytes, piece: bytes) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(start)
        while True:
            writer.write(piece)
            await writer.drain()

    server = await stage.server(flood)
    answer = await send_one(stage.sender(), server.call())
    assert (answer.status, answer.failure) == (0, "protocol")
    assert "headers of the answer are larger than 65536" in answer.error


async def test_large_headers_are_refused_though_they_came_in_one_piece(stage: Stage) -> None:
    server = await stage.answering(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2000 + b"\r\nContent-Length: 0\r\n\r\n")
    sender = stage.sender(max_header=1000)
    assert (await send_one(sender, server.call())).failure == "protocol"


async def test_interim_answers_without_end_are_refused(stage: Stage) -> None:
    server = await stage.answering(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
    answer = await send_one(stage.sender(), server.call())
    assert (answer.failure, answer.error) == ("protocol", "more than 16 interim answers")


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX y: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"<html>",
    ],
)
async def test_what_is_not_an_answer_is_a_protocol_failure(stage: Stage, raw: bytes) -> None:
    server = await stage.answering(raw)
    answer = await send_one(stage.sender(), server.call())
    assert (answer.status, answer.failure) == (0, "protocol")
    assert answer.error


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\nContent-"], ids=["nothing", "half the headers"])
async def test_a_new_connection_closed_before_the_answer_is_a_reset(stage: Stage, raw: bytes) -> None:
    server = await stage.answering(raw, close=True)
    answer = await send_one(stage.sender(), server.call())
    assert (answer.status, answer.failure) == (0, "reset")
    assert server.connections == 1


async def test_a_connection_reset_hard_is_a_reset(stage: Stage) -> None:
    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.transport.abort()

    server = await stage.server(slam)
    answer = await send_one(stage.sender(), server.call(b"x" * 100_000))
    assert (answer.status, answer.failure) == (0, "reset")


async def test_a_receiver_that_never_answers_is_a_timeout(stage: Stage) -> None:
    server = await stage.silent()
    sender = stage.sender()
    answer = await send_one(sender, server.call(timeout=0.2))
    assert (answer.status, answer.failure, answer.error) == (0, "timeout", "no answer within 0.2 s")
    assert answer.timings.total >= 0.2
    assert answer.timings.first_byte == 0
    await until(lambda: not sender.open_connections)


async def test_a_receiver_that_answers_a_byte_at_a_time_is_bound_by_the_timeout(stage: Stage) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        for position in range(10_000):
            writer.write((b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000)[position : position + 1])
            await asyncio.sleep(0.01)

    server = await stage.server(drip)
    answer = await send_one(stage.sender(), server.call(timeout=0.2))
    assert (answer.status, answer.failure) == (0, "timeout")
    assert answer.timings.first_byte > 0


async def test_an_answer_a_byte_at_a_time_is_read(stage: Stage) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await request(reader):
            for position in range(len(OK)):
                writer.write(OK[position : position + 1])
                await writer.drain()
                await asyncio.sleep(0)

    server = await stage.server(drip)
    sender = stage.sender()
    for _ in range(2):
        answer = await send_one(sender, server.call())
        assert (answer.status, answer.body, answer.truncated) == (200, b"ok", False)
    assert server.connections == 1


async def test_each_call_has_its_own_deadline(stage: Stage) -> None:
    server = await stage.silent()
    timeouts = [0.3, 0.1, 0.4, 0.2]
    answers = await send(stage.sender(), [server.call(timeout=timeout) for timeout in timeouts])
    assert [answer.error for answer in answers] == [f"no answer within {timeout} s" for timeout in sorted(timeouts)]


@pytest.mark.parametrize(
    ("target", "head"),
    [
        (b"/a b", b""),
        (b"/a\r\nX: y", b""),
        (b"/\xc3\xa4", b""),
        (b"", b""),
        (b"http://other/", b""),
        (b"/", b"X: y"),
        (b"/", b"X: y\r\n\r\n"),
        (b"/", b"\r\nX: y\r\n"),
        (b"/", b"X: y\r\n\r\nPOST / HTTP/1.1\r\n"),
        (b"/", b"X: y\nZ: z\r\n"),
        (b"/", b"X: y\rZ: z\r\n"),
    ],
)
async def test_a_request_that_would_break_out_of_its_lines_is_not_sent(
    stage: Stage, target: bytes, head: bytes
) -> None:
    server = await stage.answering(OK)
    answer = await send_one(stage.sender(), server.call(target=target, head=head))
    assert (answer.status, answer.failure) == (0, "invalid_endpoint")
    assert server.connections == 0


@pytest.mark.parametrize(
    "origin",
    [
        Origin("ftp", "127.0.0.1", 21),
        Origin("http", "", 80),
        Origin("http", "a\r\nX: y", 80),
        Origin("http", "a b", 80),
        Origin("http", "fe80::1%lo", 80),
        Origin("http", "a", 0),
        Origin("http", "a", 65536),
    ],
)
async def test_an_origin_that_is_none_is_not_dialled(stage: Stage, origin: Origin) -> None:
    server = await stage.answering(OK)
    sender = stage.sender()
    answer = await send_one(sender, server.call(origin=origin))
    assert (answer.status, answer.failure) == (0, "invalid_endpoint")
    assert sender.dials == 0
