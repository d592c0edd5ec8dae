"""Bodies that a sender might send to the door: requests of every field, rough ones, and what mutation makes of them."""

from itertools import pairwise
from typing import NamedTuple

from hypothesis import strategies as st


def _any_of(*lines: bytes) -> st.SearchStrategy[bytes]:
    """One of the texts that stand between bars."""
    return st.sampled_from(b"|".join(lines).split(b"|"))


def _quoted(text: str) -> bytes:
    escaped = text.encode("utf-8", "surrogatepass").replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'"%b"' % escaped


_STRINGS = st.one_of(
    _any_of(b'""|"a"|"\\u0000"|"\\ud800"|"\xc3\xa9"|"\xff"|"\\x"|"a\nb"|"{}"|"\\"payload\\":1"'),
    st.text(max_size=6).map(_quoted),
)
_NUMBERS = _any_of(
    b"0|-0|1|5|-1|1.50|1e400|-1E-999|01|1.|+1|NaN|123456789012345678901234567890|100|true|false|null", b"9" * 400
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
    b"endpoint": _any_of(
        b'"http://127.0.0.1:9/hook"|"http://127.0.0.1:9/hook"|"https://u:p@a.example/?q=1"',
        b'"http://10.0.0.1/"|"ftp://a/"|"http://a\\nb/"|"http://[::1/"|"http://a:99999/"|""|1|null',
    ),
    b"payload": _VALUES,
    b"payload_base64": _any_of(b'"aGk="|"aGk"|""|"\\u0061Gk="|1|null'),
    b"content_type": _any_of(b'"text/plain"|"x"|"a/b; c=d"|"text/plain\\r\\nX: y"|null|1'),
    b"headers": _any_of(
        b'{}|{"X-A":"b"}|{"X-A":"b","X-A":"c"}|{"webhook-id":"x"}|{"A":"\\r\\n"}|{"Authorization":"s"}|{"a":1}|[]'
    ),
    b"signing_secret": _any_of(b'"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"|"short"|"whsk_a"|""|null'),
    b"signing": _any_of(b'{"profile":"standard"}|{"profile":"no"}|{"secrets":["a","b"],"secrets":[]}|{}|null'),
    b"max_attempts": _any_of(b'1|0|-1|5.0|1e1|99999999999999999999|"1"|null'),
    b"require_script": _any_of(b"true|false|null|0"),
    b"idempotency_key": _any_of(b'"k1"|"k2"|""|"\\u0000"|null', b'"' + b"k" * 300 + b'"'),
    b"ordering_key": _any_of(b'"o"|""|"\\n"|null', b'"' + b"o" * 257 + b'"'),
    b"deliver_at": _any_of(
        b'"2026-09-21T15:00:00Z"|"2020-01-01T00:00:00Z"|"2026-09-21T15:00:00"',
        b'"9999-12-31T23:59:59Z"|"9999-12-31T23:59:59-23:59"|"0001-01-01T00:00:00+23:59"|1',
    ),
    b"max_age": _any_of(b'"1h"|60|-1|0.5|"x"|1e300|null'),
    b"retry": _any_of(
        b'{"strategy":"fixed"}|{"delays":["1s"]}|{"on_status":[404]}|{"on_status":[1]}|{"max_attempts":3}|{}|null'
    ),
    b"unknown": st.just(b"1"),
    b"p\\u0061yload": st.just(b"2"),
}


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
