"""The parser of answers under fuzzing: whatever comes, and however it is cut into reads, a call ends once, with an
outcome of a known kind, within its bounds; and a connection is kept only after what every reader would read alike.
"""

import asyncio
import re
from typing import Any, NamedTuple, get_args

import h11
import pytest
from tests.fuzz.answers import HEARD, Heard
from tests.fuzz.driver import fuzz

from howk.adapters.outbound.connection import Connection, Pool
from howk.adapters.outbound.options import SenderOptions
from howk.ports.sender import Answer, Answered, Call, Failure, Origin

_CAPTURE, _HEAD, _DRAIN = 64, 256, 400
_OPTIONS = SenderOptions(capture=_CAPTURE, max_header=_HEAD, drain_limit=_DRAIN)
_ORIGIN = Origin("http", "a.example", 80)
_LINES = b"\r\n"
_INTERIM = re.compile(rb"HTTP/1\.[01] 1[0-9][0-9]\b")
_FAILURES = frozenset(get_args(Failure)) - {""}


class _Socket(asyncio.Transport):
    """A transport to nowhere, which says when it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


class _Borrower:
    """The owner of one connection: what came of its calls."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.stales = 0
        self.is_free = False

    def opened(self, connection: Connection) -> None: ...

    def answer(self, answered: Answered, call: Call, answer: Answer) -> None:
        self.answers.append(answer)

    def free(self, connection: Connection, now: float) -> None:
        assert not connection.ended
        self.is_free = True

    def retire(self, connection: Connection) -> None:
        self.is_free = False

    def stale(self, pool: Pool, answered: Answered, call: Call, started: float) -> None:
        self.stales += 1

    def closed(self, connection: Connection) -> None: ...


class _Seen(NamedTuple):
    """What came of one stream."""

    answer: Answer
    is_free: bool


def _ignored(call: Call, answer: Answer) -> None: ...


def _hears(pieces: list[bytes], end: str = "") -> _Seen:
    """One call, and what is read after it; then its end, if it has none yet."""
    owner, transport = _Borrower(), _Socket()
    connection = Connection(owner, Pool(_ORIGIN), _OPTIONS)
    connection.connection_made(transport)
    connection.begin(_ignored, Call(_ORIGIN, b"/", b"", b"{}", 1.0), 0.0, 0.0)
    for piece in pieces:
        # A closed transport reads no more.
        if not transport.closed:
            connection.data_received(piece)
    assert len(owner.answers) <= 1
    is_free = owner.is_free
    if end == "eof" and not transport.closed:
        connection.eof_received()
    elif end == "deadline" and not owner.answers:
        connection.expire(2.0)
    connection.connection_lost(None)
    assert (len(owner.answers), owner.stales) == (1, 0)
    assert connection.ended
    return _Seen(owner.answers[0], is_free)


def _is_sound(answer: Answer) -> None:
    if answer.failure:
        assert answer.failure in _FAILURES
        assert (answer.status, bool(answer.error), answer.body, list(answer.headers)) == (0, True, b"", [])
    else:
        assert 200 <= answer.status <= 999
        assert not answer.error
    assert len(answer.body) <= min(_CAPTURE, answer.size)
    assert sum(len(name) + len(value) for name, value in answer.headers) <= _HEAD


def _same(one: Answer, other: Answer, *, whole: bool) -> None:
    """The outcome and what is kept of it; whether it was cut only where no bound was near."""
    assert (one.status, one.failure, one.body, list(one.headers)) == (
        other.status,
        other.failure,
        other.body,
        list(other.headers),
    )
    if whole:
        assert (one.truncated, one.size) == (other.truncated, other.size)


def _read_alike(stream: bytes) -> tuple[int, bytes, bytes]:
    """Status and body as another reader of HTTP/1.1 has them, and what is left. Raises `h11.RemoteProtocolError`."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="POST", target="/", headers=[("Host", "a"), ("Content-Length", "0")]))
    reader.send(h11.EndOfMessage())
    # Empty lines before a message are passed over: nothing else can be read from them.
    stream = stream.lstrip(_LINES)
    while _INTERIM.match(stream):
        head, end, stream = stream.partition(b"\r\n\r\n")
        reader.receive_data(head + end)
        assert isinstance(reader.next_event(), h11.InformationalResponse)
        stream = stream.lstrip(_LINES)
    reader.receive_data(stream)
    status, body = 0, b""
    while True:
        event = reader.next_event()
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert reader.their_state is h11.DONE, "the other reader would close"
            return status, body, reader.trailing_data[0]
        else:
            pytest.fail(f"the other reader is not at the end: {event}")


def _kept_only_after_what_all_read_alike(stream: bytes, seen: _Seen) -> None:
    status, body, left = _read_alike(stream)
    assert (status, len(body)) == (seen.answer.status, seen.answer.size)
    assert not left.strip(_LINES)
    assert body.startswith(seen.answer.body)


def check(heard: Heard) -> None:
    """Every promise, for one stream."""
    for end in ("eof", "deadline"):
        at_once, in_pieces = _hears([heard.stream], end), _hears(heard.pieces, end)
        for seen in (at_once, in_pieces):
            _is_sound(seen.answer)
            if seen.is_free:
                _kept_only_after_what_all_read_alike(heard.stream, seen)
        whole = len(heard.stream) <= _HEAD
        _same(at_once.answer, in_pieces.answer, whole=whole)
        if whole:
            assert at_once.is_free >= in_pieces.is_free
            assert at_once.is_free == in_pieces.is_free or heard.stream.endswith((b"\r", b"\n"))


def test_no_answer_breaks_the_parser_or_is_read_in_two_ways() -> None:
    fuzz(check, HEARD)


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/1.1 103 Early Hints\r\nX: " + b"x" * 200 + b"\r\n\r\nHTTP/1.1 200 OK\r\nX: " + b"x" * 200 + b"\r\n\r\n",
        b"HTTP/1.1 200 " + b"O" * 250 + b"\r\nContent-Length: 0\r\n\r\n",
        b"\r\n" * 128 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["interim", "reason", "empty lines"],
)
def test_a_head_over_its_bound_is_refused_however_it_is_cut(stream: bytes) -> None:
    for size in (1, 7, 300, 1_000):
        seen = _hears([stream[start : start + size] for start in range(0, len(stream), size)])
        assert seen.answer.failure == "protocol"
        assert seen.answer.error == "the headers of the answer are larger than 256 bytes"


@pytest.mark.parametrize(
    "pieces",
    [[b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n"], [b"HTTP/1.1 200 O", b"\x7fK\r\nContent-Length: 0\r\n\r\n"]],
)
def test_a_connection_is_not_kept_after_a_reason_that_not_all_readers_take(pieces: list[bytes]) -> None:
    seen = _hears(pieces)
    assert (seen.answer.status, seen.is_free) == (200, False)
    assert _hears([piece.replace(b"\x00", b"").replace(b"\x7f", b"") for piece in pieces]).is_free
