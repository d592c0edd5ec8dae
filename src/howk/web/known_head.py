"""A head that the parser has read once. Clients that keep a connection send the same head again and again, but for the
length of the body: the same bytes mean the same, so they need not be parsed anew."""

from collections.abc import Mapping
from typing import NamedTuple

from howk.web.messages import Request

_LONGEST = 1_024
_MOST_DIGITS = 8
_NAME = b"\r\ncontent-length:"
_END = b"\r\n\r\n"
_ZERO = 0x30


class KnownHead(NamedTuple):
    """The bytes on both sides of the length's digits, and what the parser made of them with `digits` between."""

    before: bytes
    digits: bytes
    after: bytes
    path: str
    headers: Mapping[bytes, bytes]

    def read(self, data: bytes) -> Request | None:
        """The request where `data` is this head and one whole body, and nothing else."""
        before, digits, after, path, headers = self
        if not data.startswith(before):
            return None
        start = len(before)
        stop = start + len(digits)
        if not (data.startswith(digits, start) and data.startswith(after, stop)):
            stop = data.find(b"\r", start, start + _MOST_DIGITS + 1)
            digits = data[start:stop]
            if stop < 0 or not _is_length(digits) or not data.startswith(after, stop):
                return None
            headers = {**headers, b"content-length": digits}
        body = data[stop + len(after) :]
        return Request("POST", path, headers, None, body) if len(body) == int(digits) else None


def learn(data: bytes, request: Request) -> KnownHead | None:
    """What to know of a `POST` that came as `data`, from its first byte; None where there is more in it than a head
    with a plain length and its body."""
    head_ends = data.find(_END) + len(_END)
    head = data[:head_ends]
    if head_ends > _LONGEST or data[head_ends:] != request.body or b"transfer-encoding" in request.headers:
        return None
    lower = head.lower()
    name = lower.find(_NAME)
    if name < 0 or lower.count(_NAME) != 1:
        return None
    line = head[name + len(_NAME) : head.find(b"\r", name + 1)]
    digits = line.lstrip(b" \t")
    start = name + len(_NAME) + len(line) - len(digits)
    if not _is_length(digits) or int(digits) != len(request.body):
        return None
    return KnownHead(head[:start], digits, head[start + len(digits) :], request.path, request.headers)


def _is_length(digits: bytes) -> bool:
    """Whether it says a length in the one plain way."""
    return digits.isdigit() and len(digits) <= _MOST_DIGITS and digits[0] != _ZERO
