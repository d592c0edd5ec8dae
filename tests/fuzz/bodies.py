"""Bodies that a sender might send to the door: requests of every field, rough ones, and what mutation makes of them."""

from itertools import pairwise
from typing import NamedTuple

from hypothesis import strategies as st

_GOOD_URL = b'"http://127.0.0.1:9/hook"'
_STRINGS = st.one_of(
    st.sampled_from([b'""', b'"a"', b'"\\u0000"', b'"\\ud800"', b'"\xc3\xa9"', b'"\xff"', b'"\\x"', b'"a\nb"', b'"{}"', b'"\\"payload\\":1"']),
    st.text(max_size=6).map(lambda text: b'"%b"' % text.encode("utf-8", "surrogatepass").replace(b"\\", b"\\\\").replace(b'"', b'\\"')),
)  # fmt: skip
_NUMBERS = st.sampled_from(
    [
        b"0",
        b"-0",
        b"1",
        b"5",
        b"-1",
        b"1.50",
        b"1e400",
        b"-1E-999",
        b"01",
        b"1.",
        b"+1",
        b"NaN",
        b"123456789012345678901234567890",
    ]
    + [b"9" * 400, b"100", b"true", b"false", b"null"]
)
_SPACES = st.sampled_from([b"", b"", b" ", b"\n\t", b"\r\n  ", b"\x0b", b"\xef\xbb\xbf"])
_DEPTHS = st.sampled_from([1, 2, 60, 64, 65, 200, 1_000, 5_000])


def _nested(depth: int, inside: bytes) -> bytes:
    return b"[" * depth + inside + b"]" * depth


def _list_of(values: list[bytes]) -> bytes:
    return b"[" + b",".join(values) + b"]"


def _object_of(pairs: list[tuple[bytes, bytes]]) -> bytes:
    return b"{" + b",".join([name + b":" + value for name, value in pairs]) + b"}"


_VALUES = st.recursive(
    st.one_of(_STRINGS, _NUMBERS, st.builds(_nested, _DEPTHS, st.just(b"1"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(_list_of),
        st.lists(st.tuples(_STRINGS, inner), max_size=3).map(_object_of),
        st.builds(lambda before, value, after: before + value + after, _SPACES, inner, _SPACES),
    ),
    max_leaves=5,
)
_FIELDS: dict[bytes, st.SearchStrategy[bytes]] = {
    b"endpoint": st.sampled_from([_GOOD_URL, _GOOD_URL, b'"https://u:p@a.example/?q=1"', b'"http://10.0.0.1/"', b'"ftp://a/"', b'"http://a\\nb/"']),
    b"payload": _VALUES,
    b"payload_base64": st.sampled_from([b'"aGk="', b'"aGk"', b'""', b'"\\u0061Gk="', b"1", b"null"]),
    b"content_type": st.sampled_from([b'"text/plain"', b'"x"', b'"a/b; c=d"', b'"text/plain\\r\\nX: y"', b"null", b"1"]),
    b"headers": st.sampled_from([b"{}", b'{"X-A":"b"}', b'{"X-A":"b","X-A":"c"}', b'{"webhook-id":"x"}', b'{"A":"\\r\\n"}', b'{"Authorization":"s"}', b'{"a":1}', b"[]"]),
    b"signing_secret": st.sampled_from([b'"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"', b'"short"', b'"whsk_a"', b'""', b"null"]),
    b"signing": st.sampled_from([b'{"profile":"standard"}', b'{"profile":"no"}', b'{"secrets":["a","b"],"secrets":[]}', b"{}", b"null"]),
    b"max_attempts": st.sampled_from([b"1", b"0", b"-1", b"5.0", b"1e1", b"99999999999999999999", b'"1"', b"null"]),
    b"require_script": st.sampled_from([b"true", b"false", b"null", b"0"]),
    b"idempotency_key": st.sampled_from([b'"k1"', b'"k2"', b'""', b'"\\u0000"', b'"' + b"k" * 300 + b'"', b"null"]),
    b"ordering_key": st.sampled_from([b'"o"', b'""', b'"' + b"o" * 257 + b'"', b'"\\n"', b"null"]),
    b"deliver_at": st.sampled_from([b'"2026-09-21T15:00:00Z"', b'"2020-01-01T00:00:00Z"', b'"2026-09-21T15:00:00"', b'"9999-12-31T23:59:59Z"', b'"0001-01-01T00:00:00+23:59"', b"1"]),
    b"max_age": st.sampled_from([b'"1h"', b"60", b"-1", b"0.5", b'"x"', b"1e300", b"null"]),
    b"retry": st.sampled_from([b'{"strategy":"fixed"}', b'{"delays":["1s"]}', b'{"on_status":[404]}', b'{"on_status":[1]}', b'{"max_attempts":3}', b"{}", b"null"]),
    b"unknown": st.just(b"1"),
    b"p\\u0061yload": st.just(b"2"),
}  # fmt: skip


@st.composite
def _request(draw: st.DrawFn) -> bytes:
    """An object of the right fields, mostly with right values, in any order and with any spaces."""
    names = [b"endpoint", b"payload", *draw(st.lists(st.sampled_from(list(_FIELDS)), max_size=3))]
    if draw(st.integers(0, 7)) == 0:
        names.pop(draw(st.integers(0, 1)))
    parts = []
    for name in draw(st.permutations(names)):
        space = draw(_SPACES)
        parts.append(space + b'"' + name + b'"' + space + b":" + draw(_FIELDS[name]))
    return b"{" + b",".join(parts) + draw(st.sampled_from([b"}", b"}", b"}", b"", b"}}", b",}", b"} x"]))


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(_request()))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 8)))
        data[at:to] = draw(st.one_of(st.just(b""), st.binary(min_size=1, max_size=3), st.just(bytes(data[at:to]) * 2)))
    return bytes(data)


SINGLES = st.one_of(_request(), _request(), _mutated(), _VALUES, st.binary(max_size=20))
_BATCH_KEYS = st.sampled_from([b'"webhooks"', b'"webhooks"', b'"webhooks"', b'"w\\u0065bhooks"', b'"webhook"'])


@st.composite
def _batch(draw: st.DrawFn) -> bytes:
    items = draw(st.lists(SINGLES, max_size=4))
    body = b"{" + draw(_BATCH_KEYS) + b":" + _list_of(items)
    return body + draw(st.sampled_from([b"}", b"}", b"}", b',"webhooks":[]}', b',"x":1}', b""]))


BATCHES = st.one_of(_batch(), _batch(), SINGLES)


class Asked(NamedTuple):
    """A request: its body, how it is cut into messages, and its Idempotency-Key."""

    is_batch: bool
    body: bytes
    cuts: tuple[int, ...]
    key: bytes | None

    @property
    def pieces(self) -> list[bytes]:
        places = [0, *sorted({cut % (len(self.body) + 1) for cut in self.cuts}), len(self.body)]
        return [self.body[start:stop] for start, stop in pairwise(places)]


_CUTS = st.lists(st.integers(0, 500), max_size=3).map(tuple)
_KEYS = st.sampled_from([None, None, None, None, b"k1", b"", b"k\xff", b"k" * 300])
ASKED = st.one_of(
    st.builds(Asked, st.just(value=False), SINGLES, _CUTS, _KEYS),
    st.builds(Asked, st.just(value=True), BATCHES, _CUTS, _KEYS),
)
