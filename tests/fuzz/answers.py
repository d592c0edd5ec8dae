"""Bytes that a receiver might answer with: well-formed answers, broken ones, and what mutation makes of both; and how
they may come in pieces.
"""

from itertools import pairwise
from typing import NamedTuple

from hypothesis import strategies as st

_CRLF = b"\r\n"
_NAMES = st.sampled_from(
    [
        b"X",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Connection",
        b"Keep-Alive",
        b"Upgrade",
        b"content-length ",
        b"",
        b"X Y",
    ]
)
_NUMBERS = b"0 1 2 5 +2 -1 0x2 99999999999999999999 18446744073709551615 \x0b2".split(b" ")
_CODINGS = [b"chunked", b"Chunked", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"identity", b"xchunked"]
_TOKENS = [b"", b" 2", b"2 ", b"2, 2", b"chunked;a=b", b"\t2\t", b"a\r\n b", b"\x00", b"\xff"]
_OPTIONS = [b"close", b"keep-alive", b"close, keep-alive", b"upgrade", b"timeout=1", b"h2c"]
_VALUES = st.one_of(st.sampled_from(_NUMBERS + _CODINGS + _TOKENS + _OPTIONS), st.binary(max_size=12))
_STATUSES = st.sampled_from(
    [
        b"200",
        b"204",
        b"304",
        b"100",
        b"103",
        b"101",
        b"500",
        b"302",
        b"199",
        b"000",
        b"099",
        b"600",
        b"999",
        b"20",
        b"2000",
        b"+20",
        b"OK",
    ]
)
_VERSIONS = st.sampled_from(
    [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"http/1.1", b"ICY", b"RTSP/1.0", b"HTTP/1.", b""]
)
_ENDS = st.sampled_from([_CRLF, b"\n", b"\r", b"\r\r\n", b""])
_SMALL = st.binary(max_size=8)


@st.composite
def _good(draw: st.DrawFn) -> bytes:
    """A well-formed answer, so that most of what follows it is looked at too."""
    status = draw(st.sampled_from([b"200 OK", b"500 No", b"302 Found", b"204 None", b"304 Same", b"200 "]))
    body = draw(_SMALL)
    lines = draw(
        st.lists(
            st.sampled_from(
                [b"X: y", b"Connection: keep-alive", b"Connection: close", b"X:", b"Keep-Alive: timeout=5"]
            ),
            max_size=2,
        )
    )
    kind = draw(st.sampled_from(["length", "chunks", "stream"]))
    if kind == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif kind == "chunks":
        lines.append(b"Transfer-Encoding: chunked")
        trailer = draw(st.sampled_from([b"", b"T: u\r\n", b"Content-Length: 3\r\n"]))
        body = (
            (b"%x%b\r\n%b\r\n" % (len(body), draw(st.sampled_from([b"", b";a=b"])), body) if body else b"")
            + b"0\r\n"
            + trailer
            + _CRLF
        )
    return b"HTTP/1.1 " + status + _CRLF + b"".join([line + _CRLF for line in lines]) + _CRLF + body


@st.composite
def _rough(draw: st.DrawFn) -> bytes:
    """An answer of parts that do not belong together."""
    head = (
        draw(_VERSIONS)
        + b" "
        + draw(_STATUSES)
        + draw(st.sampled_from([b" OK", b"", b" ", b" \xff"]))
        + draw(st.sampled_from([_CRLF, _CRLF, b"\n"]))
    )
    for _ in range(draw(st.integers(0, 3))):
        head += (
            draw(_NAMES)
            + draw(st.sampled_from([b": ", b":", b" : "]))
            + draw(_VALUES)
            + draw(st.sampled_from([_CRLF, _CRLF, _CRLF, b"\n", b"\r"]))
        )
    return head + draw(st.sampled_from([_CRLF, _CRLF, b"\n", b""])) + draw(st.one_of(_SMALL, _chunks()))


@st.composite
def _chunks(draw: st.DrawFn) -> bytes:
    body = b""
    for _ in range(draw(st.integers(0, 3))):
        data = draw(_SMALL)
        size = draw(
            st.one_of(
                st.just(b"%x" % len(data)),
                st.sampled_from([b"-1", b"0x2", b"zz", b"fffffffffffffffff", b"2 ", b" 2", b"", b"02", b"+2"]),
            )
        )
        body += size + draw(st.sampled_from([b"", b"", b";x", b'; x="y"', b" ;x"])) + draw(_ENDS) + data + draw(_ENDS)
    return body + draw(st.sampled_from([b"0\r\n\r\n", b"0\r\n", b"0\r\nT: u\r\n\r\n", b"00\r\n\r\n", b"0\n\n", b""]))


_INTERIM = st.sampled_from(
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n",
        b"HTTP/1.1 102 P\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ]
)
_FILLERS = st.sampled_from([b"\r\n", b"X: " + b"x" * 90 + _CRLF, b"x" * 300, b"\n", b"\x00"])


@st.composite
def _mutated(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Cut, doubled, overwritten or filled up in a few places."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 16)))
        data[at:to] = draw(
            st.one_of(st.just(b""), st.binary(min_size=1, max_size=3), st.just(bytes(data[at:to]) * 2), _FILLERS)
        )
    return bytes(data)


_PARTS = st.one_of(_good(), _good(), _rough(), _INTERIM, _mutated(_good()), _mutated(_rough()), _FILLERS)
STREAMS = st.one_of(st.lists(_PARTS, min_size=1, max_size=4).map(b"".join), st.binary(max_size=80))


class Heard(NamedTuple):
    """A stream, and where it is cut into reads."""

    stream: bytes
    cuts: tuple[int, ...]

    @property
    def pieces(self) -> list[bytes]:
        places = [0, *sorted({cut % (len(self.stream) + 1) for cut in self.cuts}), len(self.stream)]
        return [self.stream[start:stop] for start, stop in pairwise(places) if stop > start]


HEARD = st.builds(Heard, STREAMS, st.lists(st.integers(0, 1_000), max_size=12).map(tuple))
