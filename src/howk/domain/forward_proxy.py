"""Asking a forward proxy for a tunnel: its URL comes in, the bytes of the CONNECT request and the meaning of what the
proxy answers come out. Nothing here knows a socket.

RFC 9110, section 9.3.6, and RFC 9112 for the form of the answer, read strictly; RFC 7617 for the credentials.
"""

import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from howk.domain.endpoints import parse_endpoint

MAX_ANSWER = 16 * 1024
"""Bytes of an answer's head, interim answers included."""
MAX_INTERIM = 16
UNAUTHORIZED = frozenset({401, 407})
"""By RFC 9110 it is 407; some proxies say 401 to credentials that are wrong."""

_FORM = "must be a URL such as http://proxy:3128 or http://user:password@proxy:3128, without a path"
_VERSION = b"HTTP/1."
_BARE_LF = re.compile(rb"(?<!\r)\n")
_HEAD = re.compile(
    rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*"
)


@dataclass(frozen=True, slots=True)
class ForwardProxy:
    """`host` is a name or an address without brackets; `authorization` is the value of its header, b"" for none."""

    host: str
    port: int
    authorization: bytes = field(default=b"", repr=False)


class ConnectAnswer(NamedTuple):
    """`size` is where the head ends; what follows it belongs to the tunnel."""

    status: int
    size: int


def parse_proxy(url: str) -> ForwardProxy:
    """Raises ValueError, which says what would be right and nothing of what the URL holds."""
    if url[:8].lower() == "https://":
        raise ValueError("must begin with http://: a proxy that is itself spoken to over TLS is not supported")
    try:
        parts = parse_endpoint(url)
    except ValueError:
        raise ValueError(f"{_FORM}; write characters such as @, / and # of a password as %40, %2F and %23") from None
    if parts.scheme != "http" or parts.target != b"/" or "#" in url:
        raise ValueError(_FORM)
    return ForwardProxy(parts.host, parts.port, _authorization(parts.userinfo) if parts.userinfo else b"")


def _authorization(userinfo: str) -> bytes:
    user, _, password = userinfo.partition(":")
    name, secret = unquote_to_bytes(user), unquote_to_bytes(password)
    if b":" in name:
        raise ValueError("must have a user without a colon in it: Basic credentials can't carry one")
    if any(byte < 0x20 or byte == 0x7F for byte in name + secret):
        raise ValueError("must have a user and a password without control characters")
    return b"Basic " + b64encode(name + b":" + secret)


def connect_request(proxy: ForwardProxy, address: str, port: int) -> bytes:
    """What asks for a tunnel to an IP address."""
    target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    lines = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n".encode("ascii")
    if proxy.authorization:
        lines += b"Proxy-Authorization: %b\r\n" % proxy.authorization
    return lines + b"\r\n"


def connect_answer(data: bytes) -> ConnectAnswer | None:
    """The final answer that `data` begins with, None as long as it isn't whole. Interim answers are passed over.

    Raises ValueError as soon as it can't become one, in words that follow "the proxy's answer".
    """
    start = 0
    for _ in range(MAX_INTERIM + 1):
        end = data.find(b"\r\n\r\n", start)
        head = data[start:] if end < 0 else data[start : end + 2]
        if head[: len(_VERSION)] != _VERSION[: len(head)] or _BARE_LF.search(head):
            raise ValueError("is not HTTP/1.1")
        size = len(data) if end < 0 else end + 4
        if size > MAX_ANSWER or (end < 0 and size == MAX_ANSWER):
            raise ValueError(f"has a head of more than {MAX_ANSWER} bytes")
        if end < 0:
            return None
        found = _HEAD.fullmatch(head)
        if found is None or (status := int(found.group(1))) == 101:
            raise ValueError("is not one to CONNECT")
        if status >= 200:
            return ConnectAnswer(status, size)
        start = size
    raise ValueError(f"is more than {MAX_INTERIM} interim ones")


def refusal(status: int, proxy: ForwardProxy) -> str:
    """Why there is no tunnel, "" when there is. A 2xx of any kind opens one, whatever its headers say."""
    if 200 <= status < 300:
        return ""
    if status in UNAUTHORIZED:
        fault = (
            "the credentials of delivery.proxy are wrong" if proxy.authorization else "delivery.proxy needs credentials"
        )
        return f"the proxy refused with HTTP {status}: {fault}"
    return f"the proxy refused to connect to the receiver, with HTTP {status}"
