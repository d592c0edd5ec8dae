"""A head that was read once: what is learnt of it, and that it never reads anything as the parser would not."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import httptools
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from howk.web.known_head import KnownHead, learn
from howk.web.messages import Request

LINE = b"POST /webhooks/app/enqueue HTTP/1.1\r\n"
HEAD = LINE + b"Host: a\r\nContent-Length: %b\r\nContent-Type: application/json\r\n\r\n"
BODY = b'{"a":1}'


class Message(NamedTuple):
    """What the parser found in some bytes, one message at a time."""

    method: bytes
    url: bytes
    headers: dict[bytes, bytes]
    body: bytes
    stays: bool
    """Whether the connection is kept, and for HTTP."""


class Recorder:
    """The parser's protocol: keeps the messages that are whole."""

    def __init__(self) -> None:
        self.parser: Any = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.whole: list[Message] = []
        self.begun = 0

    def on_message_begin(self) -> None:
        self.begun += 1
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        parser = self.parser
        stays = parser.should_keep_alive() and not parser.should_upgrade() and parser.get_http_version() != "1.0"
        self.whole.append(Message(parser.get_method(), self.url, dict(self.headers), self.body, stays))


def messages(*parts: bytes) -> list[Message] | None:
    """What the parser finds in them on one connection; None where it finds that it is not HTTP, or not all of it."""
    recorder = Recorder()
    for part in parts:
        try:
            recorder.parser.feed_data(part)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
    return recorder.whole if recorder.begun == len(recorder.whole) else None


def learnt(data: bytes) -> KnownHead | None:
    """What a connection learns of bytes that came at once."""
    found = messages(data)
    if not found or found[-1].method != b"POST" or not found[-1].stays or found[-1].headers.get(b"expect"):
        return None
    last = found[-1]
    return learn(data, Request("POST", last.url.decode(), last.headers, None, last.body))


def post(body: bytes = BODY, length: bytes | None = None) -> bytes:
    return HEAD % (b"%d" % len(body) if length is None else length) + body


def _known() -> KnownHead:
    known = learnt(post())
    assert known is not None
    return known


@pytest.mark.parametrize("body", [BODY, b"x", b"x" * 9, b"x" * 10, b"x" * 99_999, b"\r\n\r\n", BODY + b"\r\n" + post()])
def test_a_head_is_known_again_with_any_body_that_its_length_fits(body: bytes) -> None:
    request = _known().read(post(body))
    assert request == Request(
        "POST",
        "/webhooks/app/enqueue",
        {b"host": b"a", b"content-length": b"%d" % len(body), b"content-type": b"application/json"},
        None,
        body,
    )


@pytest.mark.parametrize("line", [b"content-length:7", b"CONTENT-LENGTH: 7", b"Content-Length: \t 7"])
def test_a_length_may_be_named_in_any_way(line: bytes) -> None:
    known = learnt(LINE + line + b"\r\n\r\n" + BODY)
    assert known is not None
    again = known.read(LINE + line[:-1] + b"12\r\n\r\n" + b"x" * 12)
    assert again is not None
    assert (again.body, again.headers) == (b"x" * 12, {b"content-length": b"12"})


def test_what_one_request_said_is_not_changed_by_the_next() -> None:
    known = _known()
    first = known.read(post())
    assert known.read(post(b"another length")) is not None
    assert first is not None
    assert first.headers[b"content-length"] == b"7"
    assert known.read(post()) == first


def test_a_head_is_known_up_to_a_bound() -> None:
    least = len(LINE + b"A: \r\nContent-Length: 7\r\n\r\n")
    for size, fits in ((1_024, True), (1_025, False)):
        data = LINE + b"A: " + b"x" * (size - least) + b"\r\nContent-Length: 7\r\n\r\n" + BODY
        assert len(data) == size + len(BODY)
        assert (learnt(data) is not None) is fits


CHUNKED = LINE + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED + b"7\r\n" + BODY + b"\r\n0\r\n\r\n",
        LINE + b"Host: a\r\n\r\n",
        post(b""),
        post(length=b"07"),
        post(length=b"00000000007"),
        post(length=b"7 "),
        post(length=b"7\t"),
        post() + post(),
        post() + b"\r\n",
        b"GET /health HTTP/1.1\r\n\r\n" + post(),
        b"\r\n\r\n" + post(),
    ],
    ids=[
        "chunked",
        "no length",
        "no body",
        "leading zero",
        "many zeros",
        "blank behind",
        "tab behind",
        "two",
        "an end of line behind",
        "behind another",
        "behind an empty head",
    ],
)
def test_what_is_more_than_a_plain_head_and_its_body_is_not_learnt(data: bytes) -> None:
    found = messages(data)
    assert found
    assert found[-1].stays
    assert learnt(data) is None


@pytest.mark.parametrize(
    "data",
    [
        post(length=b"6"),
        post(length=b"8"),
        post(length=b"+7"),
        post(length=b"-7"),
        post(length=b"7,7"),
        post(length=b"0x7"),
        post(length=b""),
        post(length=b"\xd9\xa7"),
        post(length=b"7\r\nContent-Length: 7"),
        post(length=b"7\r\ncontent-length: 8"),
        post(length=b"7\r\nTransfer-Encoding: chunked"),
        BODY,
        b"",
        b"\r\n\r\n" + BODY,
    ],
    ids=range(14),
)
def test_nothing_is_learnt_of_a_head_that_does_not_say_what_the_request_is_said_to_be(data: bytes) -> None:
    # The parser refuses these, or reads less of them: what is said here, it would not say.
    headers = {b"content-length": b"7"}
    if b"Transfer-Encoding" in data:
        headers[b"transfer-encoding"] = b"chunked"
    assert learn(data, Request("POST", "/webhooks/app/enqueue", headers, None, BODY)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        post()[:5],
        post()[: -len(BODY)],
        post()[:-1],
        BODY,
        post() + b"\r\n",
        post() + post(),
        post(b"12345678901", b"1"),
        post(length=b"6"),
        post(length=b"8"),
        post(length=b"70"),
        post(length=b"77"),
        post(length=b"07"),
        post(length=b"+7"),
        post(length=b"-7"),
        post(length=b"7 "),
        post(length=b" 7"),
        post(length=b"7_0"),
        post(length=b""),
        post(b"", b"0"),
        post(b"", b""),
        post(length=b"\xd9\xa7"),
        post(length=b"7\r\nContent-Length: 7"),
        post(length=b"7\r\nX: y"),
        post(length=b"000000007"),
        post(length=b"100000007"),
        post().replace(b"Host: a", b"Host: b"),
        post().replace(b"Host", b"host"),
        post().replace(b"/json", b"/jsom"),
        post().replace(b"app", b"apq"),
        post().replace(b"POST", b"PUT"),
        post().replace(b"HTTP/1.1", b"HTTP/1.0"),
        post().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        post().replace(b"\r\n\r\n", b"\n\n"),
        b"\r\n" + post(),
    ],
    ids=range(35),
)
def test_what_differs_in_more_than_a_length_that_fits_is_left_to_the_parser(data: bytes) -> None:
    assert _known().read(data) is None


# Whatever a known head reads, the parser reads as the same

_ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\n ", b"\r\n\t"])
_BLANKS = st.sampled_from([b" "] * 5 + [b"", b"\t", b"  ", b" \t ", b"\x0b"])
_LENGTH_NAMES = st.sampled_from([b"Content-Length"] * 4 + [b"content-length", b"CONTENT-LENGTH", b"Content-Length "])
_OTHERS = st.sampled_from(
    [b"Host: 127.0.0.1", b"Content-Type: application/json", b"User-Agent: a", b"Idempotency-Key: k", b"X-A:"] * 2
    + [
        b"Connection: keep-alive",
        b"Connection: close",
        b"Connection: Upgrade",
        b"Upgrade: h2c",
        b"Upgrade: websocket\r\nConnection: upgrade",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding:",
        b"Expect: 100-continue",
        b"Expect: anything",
        b"Content-Length: 7",
        b"X-Content-Length: 3",
        b"X: Content-Length: 3",
        b"X: y\r\n Content-Length: 3",
        b"X: y\rContent-Length: 3",
        b"X: y\ncontent-length: 3",
        b": 3",
        b"X: \x00",
        b"X: \xff",
        b"X y: z",
    ]
)
_LINES = st.sampled_from(
    [LINE] * 6
    + [
        b"\r\n" + LINE,
        b"\n" + LINE,
        b"POST http://a/webhooks/app/enqueue HTTP/1.1\r\n",
        b"POST /webhooks/\xc3\xa4/enqueue HTTP/1.1\r\n",
        LINE.replace(b"1.1", b"1.0"),
        LINE.replace(b"\r", b""),
        b"PUT" + LINE[4:],
        b"\r\ncontent-length: 7\r\n" + LINE,
    ]
)
_BODIES = st.one_of(
    st.sampled_from([BODY, b"x", b"\r\n\r\n", b"\r\ncontent-length: 7\r\n\r\n" + BODY, post(), CHUNKED + b"0\r\n\r\n"]),
    st.binary(min_size=1, max_size=12),
)
_DIGITS = st.sampled_from([b"%d"] * 8 + [b"0%d", b"+%d", b"%d ", b"%d\t", b"%d, %d", b"%d;", b" %d", b"%d\r\n 0"])


class _Head(NamedTuple):
    """A head in three parts: what stands before the length, the form of the length, what stands after."""

    before: bytes
    form: bytes
    after: bytes

    def around(self, body: bytes) -> bytes:
        return self.before + self.form.replace(b"%d", b"%d" % len(body)) + self.after + body


@st.composite
def _heads(draw: st.DrawFn) -> _Head:
    def lines(of: Sequence[bytes]) -> bytes:
        return b"".join([line + draw(_ENDS) for line in of])

    before = draw(_LINES) + lines(draw(st.lists(_OTHERS, max_size=3)))
    before += draw(_LENGTH_NAMES) + b":" + draw(_BLANKS)
    after = draw(_ENDS) + lines(draw(st.lists(_OTHERS, max_size=3))) + b"\r\n"
    return _Head(before, draw(_DIGITS), after)


@st.composite
def _changed(draw: st.DrawFn, head: _Head) -> bytes:
    """Bytes that begin much like it."""
    data = head.around(draw(_BODIES))
    start = draw(st.one_of(st.integers(0, len(data)), st.just(len(head.before))))
    stop = min(len(data), start + draw(st.integers(0, 3)))
    piece = draw(
        st.one_of(st.sampled_from([b"", b"\r\n", b"\n", b" ", b"0", b"1", b"+", post()]), st.binary(max_size=3))
    )
    return data[:start] + piece + data[stop:]


def _read_alike(known: KnownHead, first: bytes, data: bytes) -> bool:
    """Whether it reads this at all; asserts that the parser, new or in its place, reads the same."""
    request = known.read(data)
    if request is None:
        return False
    expected = Message(request.method.encode(), request.path.encode(), dict(request.headers), request.body, stays=True)
    assert messages(data) == [expected]
    after = messages(first, data)
    assert after is not None
    assert after[1:] == [expected]
    return True


@settings(max_examples=500)
@given(_heads(), st.data())
def test_whatever_a_known_head_reads_the_parser_reads_as_the_same(head: _Head, data: st.DataObject) -> None:
    first = head.around(data.draw(_BODIES))
    known = learnt(first)
    if known is None:
        event("not learnt")
        return
    event("learnt")
    # What differs in the body and its length alone is the reason for it all.
    assert _read_alike(known, first, head.around(data.draw(_BODIES)))
    for _ in range(3):
        if _read_alike(known, first, data.draw(_changed(head))):
            event("a changed one is read")


@settings(max_examples=300)
@given(st.lists(st.sampled_from([b"\r", b"\n", b" ", b"\r\n"]), max_size=2), st.data())
def test_no_change_of_a_byte_of_a_plain_request_is_read_otherwise(blanks: list[bytes], data: st.DataObject) -> None:
    head = _Head(*(HEAD.partition(b"%b")[0], b"%d", HEAD.partition(b"%b")[2]))
    changed = data.draw(_changed(head))
    _read_alike(_known(), post(), b"".join(blanks) + changed)
    _read_alike(_known(), post(), changed + b"".join(blanks))
