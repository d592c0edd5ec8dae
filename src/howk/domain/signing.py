"""What proves to a receiver that an attempt is howk's: both signature schemes, the header lines that carry
them, and the checks a receiver makes. Secrets, bodies and the attempt's one time enter; text and bytes leave.

Schemes: Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks; `v1`: HMAC-SHA256 in
base64 over `id.timestamp.body`) and howk's own `t=<unix>,v1=<hex>` over `t.body`. Several keys give several
signatures, so that a secret can be rotated without a gap.
"""

import hashlib
import hmac
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from howk.domain.endpoints import RESERVED

TOLERANCE = 300
"""Seconds a receiver lets a timestamp be off, either way."""


class _Hash(Protocol):
    def copy(self) -> "_Hash": ...
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_LONGEST_TIMESTAMP = 15
_BLOCK = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


@lru_cache(maxsize=4_096)
def secret_bytes(secret: str) -> bytes:
    """The key a secret stands for: base64 (padded or not) after `whsec_`, otherwise its UTF-8 bytes.

    Raises `ValueError` with a sentence for the secret's owner; it never repeats the secret.
    """
    if not secret.startswith("whsec_"):
        try:
            key = secret.encode()
        except UnicodeEncodeError:
            raise ValueError("a signing secret must be text that has a UTF-8 form") from None
    else:
        text = secret[6:]
        try:
            key = a2b_base64(text if text.endswith("=") else text + "=" * (-len(text) % 4), strict_mode=True)
        except ValueError:
            raise ValueError("a signing secret that starts with whsec_ must go on in standard base64") from None
    if not key:
        raise ValueError("a signing secret must not be empty")
    return key


def standard_v1(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`, one `v1,<base64>` for each key."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join([_base64(hmac.digest(key, signed, "sha256")) for key in keys])


def howk_signature(keys: Sequence[bytes], timestamp: int, body: bytes) -> str:
    """The value of `X-Webhook-Signature`: `t=<unix>` and one `v1=<hex>` for each key."""
    signed = b"%d.%b" % (timestamp, body)
    return ",".join([f"t={timestamp}", *["v1=" + hmac.digest(key, signed, "sha256").hex() for key in keys]])


def _base64(mac: bytes) -> str:
    return "v1," + b2a_base64(mac, newline=False).decode()


def _signatures(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> tuple[str, str]:
    """`standard_v1` and `howk_signature` at once, from keys that are set up once."""
    ours = b"%d.%b" % (timestamp, body)
    theirs = b"%b.%b" % (message_id.encode(), ours)
    standard: list[str] = []
    howk = [f"t={timestamp}"]
    for key in keys:
        inner, outer = _pads(key)
        standard.append(_base64(_mac(inner, outer, theirs)))
        howk.append("v1=" + _mac(inner, outer, ours).hex())
    return " ".join(standard), ",".join(howk)


@lru_cache(maxsize=4_096)
def _pads(key: bytes) -> tuple[_Hash, _Hash]:
    """HMAC's inner and outer hash of a key (RFC 2104), to be copied for each message: setting a key up costs more
    than a small body does."""
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return hashlib.sha256(block.translate(_INNER)), hashlib.sha256(block.translate(_OUTER))


def _mac(inner: _Hash, outer: _Hash, message: bytes) -> bytes:
    first, second = inner.copy(), outer.copy()
    first.update(message)
    second.update(first.digest())
    return second.digest()


def signed_head(
    *,
    webhook_id: str,
    attempt: int,
    timestamp: int,
    body: bytes,
    keys: Sequence[bytes],
    user_agent: str,
    content_type: str,
    headers: Mapping[str, str],
) -> bytes:
    """The header lines of one attempt, each ended by CRLF; the sender adds Host, Content-Length, Connection.

    `timestamp` is the attempt's time in Unix seconds, the same in all of them. A tenant's `headers` replace
    Content-Type and User-Agent, whatever their case, and otherwise come last. Raises `ValueError` for a
    header that would break or forge a line: the door refuses those, this is the last line of defence.
    """
    own: list[str] = []
    for name, value in headers.items():
        match name.lower():
            case "content-type":
                content_type = value
            case "user-agent":
                user_agent = value
            case lower:
                if lower in RESERVED or not _TOKEN.fullmatch(name):
                    raise ValueError(f"the header name {name!r} is reserved or not an HTTP token")
                own.append(f"{name}: {value}\r\n")
    signed = signed_ours = ""
    if keys:
        standard, ours = _signatures(keys, webhook_id, timestamp, body)
        signed = f"webhook-signature: {standard}\r\n"
        signed_ours = f"X-Webhook-Signature: {ours}\r\n"
    head = (
        f"Content-Type: {content_type}\r\nUser-Agent: {user_agent}\r\n"
        f"webhook-id: {webhook_id}\r\nwebhook-timestamp: {timestamp}\r\n{signed}"
        f"X-Webhook-ID: {webhook_id}\r\nX-Webhook-Attempt: {attempt}\r\n"
        f"X-Webhook-Timestamp: {timestamp}\r\n{signed_ours}{''.join(own)}"
    ).encode()
    lines = len(own) + (9 if keys else 7)
    if head.count(b"\r") != lines or head.count(b"\n") != lines or b"\0" in head:
        raise ValueError("a header of this attempt holds a line break or a NUL character")
    return head


def verify_standard(
    secret: str, headers: Mapping[str, str], body: bytes, now: float, tolerance: float = TOLERANCE
) -> str:
    """For a receiver: "" when the Standard Webhooks signature is good at `now` (Unix seconds), else why not.

    Header names may have any case. Raises `ValueError` when the receiver's own secret is broken.
    """
    key = secret_bytes(secret)
    found = {name.lower(): value for name, value in headers.items()}
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        if not found.get(name):
            return f"the header {name} is missing"
    timestamp = found["webhook-timestamp"]
    wrong = _timing(timestamp, now, tolerance)
    if wrong:
        return wrong
    signed = b"%b.%b.%b" % (_utf8(found["webhook-id"]), timestamp.encode(), body)
    expected = _base64(hmac.digest(key, signed, "sha256"))
    return _match(expected, found["webhook-signature"].split(" "))


def verify_howk(secret: str, headers: Mapping[str, str], body: bytes, now: float, tolerance: float = TOLERANCE) -> str:
    """For a receiver: the same of `X-Webhook-Signature`."""
    key = secret_bytes(secret)
    value = next((value for name, value in headers.items() if name.lower() == "x-webhook-signature"), "")
    if not value:
        return "the header X-Webhook-Signature is missing"
    stamp, *signatures = value.split(",")
    if not stamp.startswith("t="):
        return "the signature does not begin with t=<unix>"
    wrong = _timing(stamp[2:], now, tolerance)
    if wrong:
        return wrong
    signed = b"%b.%b" % (stamp[2:].encode(), body)
    return _match("v1=" + hmac.digest(key, signed, "sha256").hex(), signatures)


def _timing(timestamp: str, now: float, tolerance: float) -> str:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _LONGEST_TIMESTAMP):
        return "the timestamp is not a whole number of Unix seconds"
    ahead = int(timestamp) - now
    if abs(ahead) <= tolerance:
        return ""
    side = "new" if ahead > 0 else "old"
    return f"the timestamp is too {side}: {abs(ahead):.0f} s off, {tolerance:g} s allowed"


def _match(expected: str, signatures: Sequence[str]) -> str:
    wanted = expected.encode()
    # Every one is compared: how long that takes then says nothing of which one was right.
    good = [hmac.compare_digest(wanted, _utf8(signature)) for signature in signatures]
    return "" if any(good) else "no signature is that of this secret over these bytes"


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
