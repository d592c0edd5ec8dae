"""The door's connections from outside, in raw bytes: order, endings, deadlines and bounds."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from pathlib import Path

import pytest
from tests.support import Corridor, opened
from tests.web.serving import BOUNDS, Answer, Serving, Wire, get, post, serving

from howk.domain.records import PENDING, Delivery, reader
from howk.web.app import App, Limits
from howk.web.guard import Guard
from howk.web.refusals import Refusals

_read_delivery = reader(Delivery)

GOOD = b'{"endpoint":"http://127.0.0.1:9/","payload":1}'
CHUNKED_HEAD = (
    b"POST /webhooks/app/enqueue HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


class Slow:
    """A readiness that can be held up, so that a request stays under way as long as a test wants."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.asked = asyncio.Event()

    async def __call__(self) -> str:
        self.asked.set()
        await self.let_go.wait()
        return ""


@pytest.fixture
async def corridor(tmp_path: Path) -> AsyncIterator[Corridor]:
    async with opened(tmp_path) as found:
        await found.house.reconcile.recover()
        yield found


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def app(corridor: Corridor, slow: Slow) -> App:
    limits = Limits(request=300_000, batch=1_000_000, items=50)
    guard = Guard((), loopback_only=True)
    metrics = corridor.metrics
    return App(
        corridor.house.ingest,
        corridor.engines.state,
        guard,
        limits,
        metrics,
        metrics.expose,
        slow,
        Refusals(corridor.notes),
    )


@pytest.fixture
async def door(app: App) -> AsyncIterator[Serving]:
    async with serving(app) as found:
        yield found


@pytest.fixture
async def wire(door: Serving) -> AsyncIterator[Wire]:
    async with Wire.open(door.port) as found:
        yield found


async def _accepted(corridor: Corridor) -> int:
    ((_, stop),) = (await corridor.engines.log.bounds(PENDING)).values()
    return stop


def chunks(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def _is_accepted(answer: Answer) -> bool:
    return answer.status == 202 and answer.json()["status"] == "pending"


async def test_a_connection_is_kept_for_hot_and_other_routes_alike(wire: Wire) -> None:
    for _ in range(3):
        wire.write(post(GOOD))
        answer = await wire.answer()
        assert _is_accepted(answer)
        assert not answer.closes
        assert answer.headers["content-type"] == "application/json"
        assert "date" in answer.headers
        wire.write(get("/health"))
        assert (await wire.answer()).status == 200


async def test_both_ways_answer_with_the_same_headers(wire: Wire) -> None:
    whole = post(GOOD)
    wire.write(whole)
    short = await wire.answer()
    wire.write(whole[:-5])
    assert await wire.silent()
    wire.write(whole[-5:])
    long = await wire.answer()
    assert _is_accepted(short)
    assert _is_accepted(long)
    assert [*short.headers] == [*long.headers]


@pytest.mark.parametrize("cut", [1, 20, 60, 100, -30, -1])
async def test_a_request_may_come_in_pieces(wire: Wire, cut: int) -> None:
    whole = post(GOOD)
    wire.write(whole[:cut])
    assert await wire.silent()
    wire.write(whole[cut:], whole)
    assert _is_accepted(await wire.answer())
    assert _is_accepted(await wire.answer())


async def test_requests_written_at_once_are_answered_in_their_order(wire: Wire, corridor: Corridor) -> None:
    wire.write(
        post(b'{"webhooks":[%b,%b]}' % (GOOD, GOOD), "/webhooks/app/enqueue/batch"),
        get("/health"),
        post(b"{"),
        post(GOOD),
        get("/nowhere"),
        post(GOOD),
    )
    answers = [await wire.answer() for _ in range(6)]
    assert [answer.status for answer in answers] == [202, 200, 400, 202, 404, 202]
    assert answers[0].json()["accepted"] == 2
    assert await _accepted(corridor) == 4


async def test_a_slow_answer_holds_back_the_faster_ones_behind_it(wire: Wire, slow: Slow) -> None:
    wire.write(get("/ready"), post(GOOD), get("/health"))
    await slow.asked.wait()
    assert await wire.silent()
    slow.let_go.set()
    assert [(await wire.answer()).status for _ in range(3)] == [200, 202, 200]


async def test_a_flood_of_requests_written_at_once_is_answered_whole(wire: Wire, corridor: Corridor) -> None:
    count = 3_000
    wire.write(post(GOOD) * count)
    for _ in range(count):
        assert (await wire.answer()).status == 202
    assert await _accepted(corridor) == count


@pytest.mark.parametrize(
    ("request_", "status"),
    [(post(GOOD, "/webhooks/app/enqueue", b"Connection: close"), 202), (get("/health", b"Connection: close"), 200)],
    ids=["hot", "other"],
)
async def test_connection_close_is_honoured(wire: Wire, request_: bytes, status: int) -> None:
    wire.write(request_, post(GOOD))
    answer = await wire.answer()
    assert (answer.status, answer.closes) == (status, True)
    assert await wire.rest() == b""


async def test_http_1_0_is_answered_and_closed(wire: Wire) -> None:
    wire.write(post(GOOD, version=b"1.0"))
    answer = await wire.answer()
    assert (answer.status, answer.closes) == (202, True)
    assert await wire.rest() == b""


async def test_a_client_that_expects_it_is_told_to_continue(wire: Wire) -> None:
    whole = post(GOOD, "/webhooks/app/enqueue", b"Expect: 100-continue")
    wire.write(whole[: -len(GOOD)])
    assert await wire.line() == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.write(GOOD)
    assert _is_accepted(await wire.answer())


async def test_a_client_whose_request_is_refused_is_not_told_to_continue(wire: Wire) -> None:
    head = post(b"", "/webhooks/app/enqueue", b"Expect: 100-continue", b"Content-Encoding: gzip")
    wire.write(head)
    assert (await wire.answer()).status == 415


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_chunked_body_arrives_whole_at_once_or_in_pieces(wire: Wire, size: int) -> None:
    body = chunks(GOOD, size)
    wire.write(CHUNKED_HEAD, body, CHUNKED_HEAD, body[:9])
    assert _is_accepted(await wire.answer())
    assert await wire.silent()
    wire.write(body[9:], get("/health"))
    assert _is_accepted(await wire.answer())
    assert (await wire.answer()).status == 200


async def test_a_trailer_can_not_say_what_a_header_says(wire: Wire) -> None:
    head = CHUNKED_HEAD.replace(b"application/json", b"text/plain")
    wire.write(head, b"%x\r\n%b\r\n0\r\nContent-Type: application/json\r\n\r\n" % (len(GOOD), GOOD))
    assert (await wire.answer()).status == 415


async def test_a_large_body_is_taken_and_one_that_is_too_large_refused(wire: Wire) -> None:
    large = b'{"endpoint":"http://127.0.0.1:9/","payload":"%b"}'
    wire.write(post(large % (b"x" * 280_000)))
    assert _is_accepted(await wire.answer())
    wire.write(post(large % (b"x" * 300_001)))
    answer = await wire.answer()
    assert (answer.status, answer.json()["code"]) == (413, "request_too_large")
    wire.write(post(GOOD))
    assert _is_accepted(await wire.answer())


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"CONNECT 127.0.0.1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=range(9),
)
async def test_what_is_not_http_is_refused_after_what_was(wire: Wire, slow: Slow, garbage: bytes) -> None:
    wire.write(post(GOOD), get("/ready"), garbage)
    slow.let_go.set()
    assert _is_accepted(await wire.answer())
    assert (await wire.answer()).status == 200
    answer = await wire.answer()
    assert (answer.status, answer.closes) == (400, True)
    assert answer.headers["content-type"] == "application/problem+json"
    assert await wire.rest() == b""


async def test_a_chunked_body_that_breaks_off_badly_is_refused_in_its_turn(wire: Wire, corridor: Corridor) -> None:
    wire.write(post(GOOD), CHUNKED_HEAD, b"5\r\n{")
    assert _is_accepted(await wire.answer())
    wire.write(b"zzzzzzzzz")
    assert (await wire.answer()).status == 400
    assert await wire.rest() == b""
    assert await _accepted(corridor) == 1


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\n\r\n", 414, "uri_too_long"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 33_000 + b"\r\n\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 900_000, 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"x" * 900_000, 431, "head_too_large"),
        (CHUNKED_HEAD + b"1\r\n{\r\n0\r\nA: " + b"x" * 900_000, 431, "head_too_large"),
        (CHUNKED_HEAD + b"1\r\n{\r\n0\r\n" + b"A: b\r\n" * 10_000 + b"\r\n", 431, "head_too_large"),
        (CHUNKED_HEAD + b"1;" + b"x" * 900_000, 431, "head_too_large"),
    ],
    ids=["url", "count", "size", "endless value", "endless name", "endless trailer", "many trailers", "extension"],
)
async def test_a_head_has_a_bound(wire: Wire, head: bytes, status: int, code: str) -> None:
    wire.write(head)
    answer = await wire.answer()
    assert (answer.status, answer.closes, answer.json()["code"]) == (status, True, code)


async def test_a_client_that_closes_its_side_still_gets_its_answers(wire: Wire, slow: Slow) -> None:
    wire.write(get("/ready"), post(GOOD))
    wire.writer.write_eof()
    await slow.asked.wait()
    slow.let_go.set()
    assert (await wire.answer()).status == 200
    assert (await wire.answer()).status == 202
    assert await wire.rest() == b""


async def test_a_client_that_leaves_in_the_midst_of_a_request_changes_nothing(
    door: Serving, wire: Wire, corridor: Corridor
) -> None:
    async with Wire.open(door.port) as leaving:
        leaving.write(post(GOOD)[:-1])
        assert await leaving.silent()
    wire.write(post(GOOD))
    assert _is_accepted(await wire.answer())
    assert await _accepted(corridor) == 1


async def test_stopping_answers_what_is_under_way_and_closes_idle_connections(
    door: Serving, slow: Slow, wire: Wire
) -> None:
    async with Wire.open(door.port) as idle:
        idle.write(post(GOOD))
        assert _is_accepted(await idle.answer())
        wire.write(get("/ready"), post(GOOD))
        await slow.asked.wait()
        door.server.should_exit = True
        assert await idle.rest() == b""
        assert not door.done.done()
        slow.let_go.set()
        assert (await wire.answer()).status == 200
        answer = await wire.answer()
        assert (answer.status, answer.closes) == (202, True)
        assert await wire.rest() == b""
        async with asyncio.timeout(10):
            await door.done


async def test_a_fault_of_howk_is_answered_and_told(corridor: Corridor, slow: Slow) -> None:
    def broken() -> float:
        raise ZeroDivisionError

    guard, limits, metrics = (
        Guard((), loopback_only=True, rate=1, now=broken),
        Limits(1_000, 1_000, 5),
        corridor.metrics,
    )
    app = App(
        corridor.house.ingest,
        corridor.engines.state,
        guard,
        limits,
        metrics,
        metrics.expose,
        slow,
        Refusals(corridor.notes),
    )
    async with serving(app) as door, Wire.open(door.port) as wire:
        wire.write(post(GOOD), post(GOOD))
        for _ in range(2):
            answer = await wire.answer()
            assert (answer.status, answer.json()["code"]) == (500, "internal")
    told = [message for event, message in corridor.notes.lines if event == "internal"]
    assert len(told) == 2
    assert all("ZeroDivisionError" in message for message in told)


SHORT = BOUNDS._replace(read_timeout=0.3, write_timeout=0.3, keep_alive=0.3)


@pytest.mark.parametrize("whole", [post(GOOD), get("/ready"), CHUNKED_HEAD + chunks(GOOD, 1)], ids=range(3))
async def test_a_request_that_trickles_in_is_cut_at_its_deadline(app: App, corridor: Corridor, whole: bytes) -> None:
    async with serving(app, SHORT) as door, Wire.open(door.port) as wire:
        heard = b""
        async with asyncio.timeout(10):
            for byte in whole[:-1]:
                wire.write(bytes([byte]))
                try:
                    async with asyncio.timeout(0.05):
                        heard = await wire.reader.read(1_000)
                        break
                except TimeoutError:
                    continue
        assert heard.startswith(b"HTTP/1.1 408 ")
        assert await _accepted(corridor) == 0


@pytest.mark.parametrize("before", [b"", b"\r\n\r\n"])
async def test_a_client_that_never_asks_is_closed(app: App, before: bytes) -> None:
    async with serving(app, SHORT) as door, Wire.open(door.port) as wire:
        wire.write(before)
        assert await wire.rest() == b""


async def test_a_connection_kept_and_not_used_is_closed(app: App) -> None:
    async with serving(app, SHORT._replace(read_timeout=60)) as door, Wire.open(door.port) as wire:
        wire.write(post(GOOD))
        assert _is_accepted(await wire.answer())
        assert await wire.rest() == b""


async def test_no_deadline_of_the_client_runs_while_howk_works(app: App, slow: Slow) -> None:
    bounds = SHORT._replace(read_timeout=1.0)
    async with serving(app, bounds) as door, Wire.open(door.port) as wire, Wire.open(door.port) as other:
        half = post(GOOD)
        wire.write(get("/ready"), half[:50])
        await slow.asked.wait()
        # The other connection is cut at its deadline, which has by then passed for this one too.
        assert await other.rest() == b""
        async with Wire.open(door.port) as later:
            assert await later.rest() == b""
        slow.let_go.set()
        assert (await wire.answer()).status == 200
        wire.write(half[50:])
        assert _is_accepted(await wire.answer())


async def test_a_client_that_never_reads_its_answers_is_cut(app: App) -> None:
    async with serving(app, SHORT) as door:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_024)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", door.port))
        with raw, pytest.raises(ConnectionError):
            await _ask_on_and_on(raw)


async def _ask_on_and_on(raw: socket.socket) -> None:
    async with asyncio.timeout(20):
        while True:
            await asyncio.get_running_loop().sock_sendall(raw, get("/metrics") * 200)


async def test_more_connections_than_there_is_room_for_are_sent_away(app: App) -> None:
    async with serving(app, BOUNDS._replace(connections=2)) as door:
        async with Wire.open(door.port) as first, Wire.open(door.port) as second:
            for wire in (first, second):
                wire.write(post(GOOD))
                assert _is_accepted(await wire.answer())
            async with Wire.open(door.port) as third:
                answer = await third.answer()
                assert (answer.status, answer.closes, answer.headers["retry-after"]) == (503, True, "1")
            first.write(post(GOOD))
            assert _is_accepted(await first.answer())
        # The server learns a moment later that there is room again.
        async with asyncio.timeout(10):
            while not await _is_taken(door.port):
                await asyncio.sleep(0)


async def _is_taken(port: int) -> bool:
    async with Wire.open(port) as wire:
        wire.write(post(GOOD))
        return (await wire.answer()).status == 202


async def test_what_a_connection_refuses_is_counted(wire: Wire, corridor: Corridor) -> None:
    wire.write(b"\x00\r\n\r\n")
    assert (await wire.answer()).status == 400
    assert 'howk_http_requests_total{route="refused",status="400"} 1.0' in corridor.metrics.expose().decode()


# Requests that begin with the same head


def _of(payload: bytes, endpoint: bytes = b"http://127.0.0.1:9/") -> bytes:
    return b'{"endpoint":"%b","payload":%b}' % (endpoint, payload)


async def _stored(corridor: Corridor) -> dict[str, bytes]:
    """The payloads in the log, by the ids that were answered."""
    ((place, (start, stop)),) = (await corridor.engines.log.bounds(PENDING)).items()
    batches = corridor.engines.log.read(PENDING, place.partition, start, stop)
    found = [_read_delivery(entry.value) async for batch in batches for entry in batch]
    assert len(found) == stop
    return {delivery.targets[0].id: delivery.body for delivery in found}


async def _taken(wire: Wire) -> str:
    answer = await wire.answer()
    assert _is_accepted(answer), answer
    assert not answer.closes
    return answer.json()["webhook_id"]


async def test_each_body_under_the_same_head_is_a_webhook_of_its_own(wire: Wire, corridor: Corridor) -> None:
    sizes = (1, 1, 7, 8, 9, 10, 99, 100, 101, 940, 9_990, 15_000, 16_384, 16_385, 40_000, 3, 1)
    expected: dict[str, bytes] = {}
    for number, size in enumerate(sizes):
        payload = b'"%b"' % (b"%x" % (number % 16) * size)
        wire.write(post(_of(payload)))
        expected[await _taken(wire)] = payload
    assert await _stored(corridor) == expected
    assert len(expected) == len(sizes)


async def test_a_body_under_a_known_head_may_come_in_pieces(wire: Wire, corridor: Corridor) -> None:
    expected: dict[str, bytes] = {}
    whole = post(_of(b"0"))
    for cut in (len(whole), len(whole) - 1, whole.index(b"{"), whole.index(b"{") - 1, 60, 20, 1, len(whole)):
        wire.write(post(_of(b"-1")))
        expected[await _taken(wire)] = b"-1"
        wire.write(whole[:cut])
        if cut < len(whole):
            assert await wire.silent()
            wire.write(whole[cut:])
        expected[await _taken(wire)] = b"0"
    assert await _stored(corridor) == expected
    assert len(expected) == 16


async def test_the_end_of_a_head_that_came_in_pieces_is_no_head(wire: Wire, corridor: Corridor) -> None:
    whole = post(GOOD)
    wire.write(whole[:20])
    assert await wire.silent()
    wire.write(whole[20:])
    await _taken(wire)
    wire.write(whole[20:])
    answer = await wire.answer()
    assert (answer.status, answer.closes) == (400, True)
    assert await _accepted(corridor) == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_reads_like_a_known_request_is_a_body(wire: Wire, corridor: Corridor, chunked: bool) -> None:
    wire.write(post(GOOD))
    await _taken(wire)
    inner = post(GOOD)
    head = CHUNKED_HEAD + b"%x\r\n" % len(inner) if chunked else post(inner)[: -len(inner)]
    wire.write(head)
    assert await wire.silent()
    wire.write(inner)
    if chunked:
        assert await wire.silent()
        wire.write(b"\r\n0\r\n\r\n")
    assert (await wire.answer()).status == 400
    wire.write(get("/health"))
    assert (await wire.answer()).status == 200
    assert await _accepted(corridor) == 1


async def test_requests_under_a_known_head_may_come_at_once(wire: Wire, corridor: Corridor) -> None:
    expected: dict[str, bytes] = {}
    for several in ([b"1"], [b"2", b"33"], [b"4"], [b"5", b"6", b"7"], [b"8"]):
        wire.write(*[post(_of(payload)) for payload in several])
        for payload in several:
            expected[await _taken(wire)] = payload
    # One that is behind another which is not answered yet.
    wire.write(post(_of(b"9")))
    await asyncio.sleep(0)
    wire.write(post(_of(b"10")))
    expected[await _taken(wire)] = b"9"
    expected[await _taken(wire)] = b"10"
    assert await _stored(corridor) == expected
    assert len(expected) == 10


async def test_one_under_a_known_head_waits_for_what_was_asked_before_it(
    wire: Wire, slow: Slow, corridor: Corridor
) -> None:
    wire.write(post(_of(b"1")))
    first = await _taken(wire)
    wire.write(get("/ready"))
    await slow.asked.wait()
    wire.write(post(_of(b"2")))
    assert await wire.silent()
    assert await _stored(corridor) == {first: b"1"}
    slow.let_go.set()
    assert (await wire.answer()).status == 200
    second = await _taken(wire)
    assert await _stored(corridor) == {first: b"1", second: b"2"}


async def test_what_differs_from_a_known_head_is_read_for_what_it_is(wire: Wire, corridor: Corridor) -> None:
    wire.write(post(_of(b"1")))
    expected = {await _taken(wire): b"1"}
    wire.write(post(_of(b"2"), "/webhooks/other/enqueue"))
    other = await _taken(wire)
    expected[other] = b"2"
    wire.write(get(f"/webhooks/{other}/status"))
    assert (await wire.answer()).json()["config_id"] == "other"
    wire.write(post(_of(b"3")), CHUNKED_HEAD, chunks(_of(b"4"), 5), post(_of(b"5"), "/webhooks/app/enqueue", b"A: b"))
    for payload in (b"3", b"4", b"5"):
        expected[await _taken(wire)] = payload
    wire.write(post(_of(b"6")).replace(b"application/json", b"application/JSON"))
    expected[await _taken(wire)] = b"6"
    wire.write(post(_of(b"7")).replace(b"application/json", b"text/plain"))
    assert (await wire.answer()).status == 415
    wire.write(post(_of(b"8")).replace(b"127.0.0.1\r\n", b"evil.example\r\n"))
    assert (await wire.answer()).status == 421
    wire.write(post(_of(b"9")))
    expected[await _taken(wire)] = b"9"
    assert await _stored(corridor) == expected


@pytest.mark.parametrize(
    "spoiled",
    [
        b"\x00\x01\x02\r\n\r\n",
        post(GOOD).replace(b"Content-Length: ", b"Content-Length: +"),
        post(GOOD).replace(b"Content-Length: ", b"Content-Length: -"),
        post(GOOD).replace(b"Content-Length: 46", b"Content-Length: 4x"),
        post(GOOD).replace(b"Content-Length: 46", b"Content-Length: "),
        post(GOOD).replace(b"Content-Length: 46", b"Content-Length: 46\r\nContent-Length: 46"),
        post(GOOD).replace(b"Content-Length: 46", b"Content-Length: 46\r\nTransfer-Encoding: chunked"),
        post(GOOD).replace(b"Content-Length: 46", b"Content-Length: 45"),
        post(GOOD) + b"}",
    ],
    ids=range(9),
)
async def test_garbage_after_a_known_head_is_refused_and_ends_the_connection(
    wire: Wire, corridor: Corridor, spoiled: bytes
) -> None:
    assert len(GOOD) == 46
    for _ in range(2):
        wire.write(post(GOOD))
        await _taken(wire)
    wire.write(spoiled)
    answers = [await wire.answer()]
    if answers[0].status != 400 or not answers[0].closes:
        # What stands before the garbage was a request.
        answers.append(await wire.answer())
    assert (answers[-1].status, answers[-1].closes) == (400, True)
    assert await wire.rest() == b""
    assert await _accepted(corridor) == 2 + sum([answer.status == 202 for answer in answers])


async def test_connection_close_after_a_known_head_is_honoured(wire: Wire, corridor: Corridor) -> None:
    for _ in range(2):
        wire.write(post(GOOD))
        await _taken(wire)
    wire.write(post(GOOD, "/webhooks/app/enqueue", b"Connection: close"))
    wire.write(post(GOOD))
    answer = await wire.answer()
    assert (answer.status, answer.closes) == (202, True)
    assert await wire.rest() == b""
    assert await _accepted(corridor) == 3


async def test_an_idempotency_key_in_a_known_head_is_a_repeat(wire: Wire, corridor: Corridor) -> None:
    await corridor.house.recall.turn()
    keyed = post(_of(b"1"), "/webhooks/app/enqueue", b"Idempotency-Key: k")
    answers: list[Answer] = []
    for _ in range(3):
        wire.write(keyed)
        answers.append(await wire.answer())
    assert {(answer.status, answer.body) for answer in answers} == {(202, answers[0].body)}
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", "true"]
    for other in (_of(b"2"), _of(b"12")):
        wire.write(post(other, "/webhooks/app/enqueue", b"Idempotency-Key: k"))
        assert (await wire.answer()).json()["code"] == "idempotency_key_reused"
    assert await _accepted(corridor) == 1


async def test_a_bad_body_under_a_known_head_is_refused_and_the_connection_goes_on(
    wire: Wire, corridor: Corridor
) -> None:
    wire.write(post(_of(b"1")))
    expected = {await _taken(wire): b"1"}
    for number, (body, status) in enumerate(
        (
            (b"{", 400),
            (b"x", 400),
            (_of(b"\xff"), 400),
            (_of(b'1,"payload":2'), 400),
            (_of(b"1", b"ftp://x/"), 422),
            (b'{"payload":1}', 422),
        )
    ):
        wire.write(post(body))
        answer = await wire.answer()
        assert (answer.status, answer.closes) == (status, False)
        wire.write(post(_of(b"%d" % number)))
        expected[await _taken(wire)] = b"%d" % number
    wire.write(post(b""))
    assert (await wire.answer()).status == 400
    wire.write(post(_of(b"2")))
    expected[await _taken(wire)] = b"2"
    assert await _stored(corridor) == expected


async def test_a_known_head_lets_nobody_in_who_was_not(corridor: Corridor, slow: Slow) -> None:
    house, metrics, clock = corridor.house, corridor.metrics, corridor.clock
    guard = Guard([sha256(b"hk_right").hexdigest()], loopback_only=False, rate=3, now=clock.monotonic)
    limits, told = Limits(1_000, 1_000, 5), Refusals(corridor.notes)
    app = App(house.ingest, corridor.engines.state, guard, limits, metrics, metrics.expose, slow, told)
    right, wrong = (
        post(GOOD, "/webhooks/app/enqueue", b"Authorization: Bearer hk_" + key) for key in (b"right", b"wrng")
    )
    async with serving(app) as door, Wire.open(door.port) as wire:
        statuses: list[int] = []
        for data in (wrong, wrong, right, right, post(GOOD), wrong, right, right, right):
            wire.write(data)
            statuses.append((await wire.answer()).status)
        assert statuses == [401, 401, 202, 202, 401, 401, 202, 429, 429]
        clock.advance(1_000)
        wire.write(right)
        assert _is_accepted(await wire.answer())
    assert await _accepted(corridor) == 4


async def test_more_heads_than_a_connection_learns_are_all_read(wire: Wire, corridor: Corridor) -> None:
    expected: dict[str, bytes] = {}
    for number in (*range(24), *range(24)):
        payload = b"%d" % number
        wire.write(post(_of(payload), "/webhooks/app/enqueue", b"Traceparent: %d" % number))
        expected[await _taken(wire)] = payload
    assert await _stored(corridor) == expected
    assert len(expected) == 48


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
async def test_after_an_upgrade_was_asked_for_no_head_is_known(wire: Wire, corridor: Corridor, upgrade: bytes) -> None:
    for _ in range(2):
        wire.write(post(GOOD))
        await _taken(wire)
    asking = (b"Connection: Upgrade", b"Upgrade: " + upgrade)
    wire.write(get("/health", *asking))
    assert (await wire.answer()).status == 200
    # What the parser says of this is the same as on a connection that knew nothing.
    wire.write(post(GOOD))
    heard = await _first(wire)
    async with _another(wire) as other:
        other.write(get("/health", *asking))
        assert (await other.answer()).status == 200
        other.write(post(GOOD))
        assert await _first(other) == heard
    assert await _accepted(corridor) == 2 + 2 * (heard == b"HTTP/1.1 202 Accepted")


async def _first(wire: Wire) -> bytes:
    """The first line of what comes, if anything does."""
    try:
        async with asyncio.timeout(0.2):
            return (await wire.reader.readline()).strip()
    except TimeoutError:
        return b""


def _another(wire: Wire) -> AbstractAsyncContextManager[Wire]:
    return Wire.open(wire.writer.get_extra_info("peername")[1])


async def test_deadlines_run_on_after_a_request_under_a_known_head(app: App, corridor: Corridor) -> None:
    async with serving(app, SHORT._replace(keep_alive=60)) as door, Wire.open(door.port) as wire:
        for _ in range(3):
            wire.write(post(GOOD))
            await _taken(wire)
        wire.write(post(GOOD)[:-1])
        answer = await wire.answer()
        assert (answer.status, answer.closes) == (408, True)
        assert await wire.rest() == b""
    async with serving(app, SHORT._replace(read_timeout=60)) as door, Wire.open(door.port) as wire:
        for _ in range(3):
            wire.write(post(GOOD))
            await _taken(wire)
        assert await wire.rest() == b""
    assert await _accepted(corridor) == 6


async def test_requests_under_a_known_head_keep_a_connection_alive(app: App) -> None:
    async with serving(app, SHORT) as door, Wire.open(door.port) as wire, Wire.open(door.port) as idle:
        wire.write(post(GOOD))
        idle.write(post(GOOD))
        await _taken(wire)
        await _taken(idle)
        closed = asyncio.ensure_future(idle.rest())
        while not closed.done():
            wire.write(post(GOOD))
            await _taken(wire)
            await asyncio.sleep(0.01)
        assert await closed == b""
        wire.write(post(GOOD))
        await _taken(wire)


async def test_a_client_that_closes_its_side_after_a_known_head_gets_its_answer(wire: Wire) -> None:
    wire.write(post(GOOD))
    await _taken(wire)
    wire.write(post(GOOD))
    wire.writer.write_eof()
    assert (await wire.answer()).status == 202
    assert await wire.rest() == b""
