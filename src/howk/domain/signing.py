"""What proves to a receiver that an attempt is howk's: the signature schemes, the header lines of each profile that
carry them, and the checks a receiver makes. Secrets, bodies and the attempt's one time enter; text and bytes leave.

Schemes: Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks; `v1`: HMAC-SHA256, `v1a`: Ed25519,
in base64 over `id.timestamp.body`), howk's own `t=<unix>,v1=<hex>` over `t.body`, and Harborhook's `sha256=<hex>` over
body then timestamp. Several keys give several signatures, so that a secret can be rotated without a gap.
"""

import hashlib
import hmac
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, Protocol, get_args

from howk.domain import ed25519
from howk.domain.endpoints import RESERVED

TOLERANCE = 300
"""Seconds a receiver lets a timestamp be off, either way."""

Profile = Literal["default", "standard", "howk", "harborhook"]
"""Which header lines identify and sign an attempt; `default` is those of `standard` and of `howk`."""

PROFILES: tuple[Profile, ...] = get_args(Profile)


class _Hash(Protocol):
    def copy(self) -> "_Hash": ...
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_LONGEST_TIMESTAMP = 15
_MOST_V1A = 8
_BLOCK = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


@lru_cache(maxsize=4_096)
def secret_bytes(secret: str) -> bytes:
    """The key a secret stands for: base64 (padded or not) after `whsec_`, otherwise its UTF-8 bytes.

    Raises `ValueError` with a sentence for the secret's owner; it never repeats the secret.
    """
    if not secret.startswith("whsec_"):
        return verbatim(secret)
    text = secret[6:]
    try:
        key = a2b_base64(text if text.endswith("=") else text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError:
        raise ValueError("a signing secret that starts with whsec_ must go on in standard base64") from None
    if not key:
        raise ValueError("a signing secret must not be empty")
    return key


def verbatim(secret: str) -> bytes:
    """A secret's UTF-8 bytes as they are, which is how Harborhook takes it. Raises `ValueError` like `secret_bytes`."""
    try:
        key = secret.encode()
    except UnicodeEncodeError:
        raise ValueError("a signing secret must be text that has a UTF-8 form") from None
    if not key:
        raise ValueError("a signing secret must not be empty")
    return key


def signing_keys(profile: Profile, secrets: Sequence[str]) -> list[bytes]:
    """The keys that secrets stand for in a profile. Raises `ValueError` like `secret_bytes`."""
    form = verbatim if profile == "harborhook" else secret_bytes
    return [form(secret) for secret in secrets]


def standard_v1(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`, one `v1,<base64>` for each key."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join([_base64(hmac.digest(key, signed, "sha256")) for key in keys])


def howk_signature(keys: Sequence[bytes], timestamp: int, body: bytes) -> str:
    """The value of `X-Webhook-Signature`: `t=<unix>` and one `v1=<hex>` for each key."""
    signed = b"%d.%b" % (timestamp, body)
    return ",".join([f"t={timestamp}", *["v1=" + hmac.digest(key, signed, "sha256").hex() for key in keys]])


def standard_v1a(private: str, message_id: str, timestamp: int, body: bytes) -> str:
    """`v1a,<base64>` of an Ed25519 private key. Raises `ValueError` for a text that is none."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return "v1a," + b2a_base64(ed25519.private_key(private).sign(signed), newline=False).decode()


def harborhook_signature(key: bytes, timestamp: int, body: bytes) -> str:
    """The value of `X-HarborHook-Signature`; the header has room for one."""
    return "sha256=" + hmac.digest(key, b"%b%d" % (body, timestamp), "sha256").hex()


def _base64(mac: bytes) -> str:
    return "v1," + b2a_base64(mac, newline=False).decode()


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


_Lines = Callable[[str, int, int, bytes, Sequence[bytes], str], tuple[str, int]]
"""From (id, attempt, timestamp, body, keys, Ed25519 key) the lines of a profile and their number."""


def _default_lines(
    webhook_id: str, attempt: int, timestamp: int, body: bytes, keys: Sequence[bytes], private: str
) -> tuple[str, int]:
    if not keys and not private:
        return (
            f"webhook-id: {webhook_id}\r\nwebhook-timestamp: {timestamp}\r\n"
            f"X-Webhook-ID: {webhook_id}\r\nX-Webhook-Attempt: {attempt}\r\nX-Webhook-Timestamp: {timestamp}\r\n"
        ), 5
    # One pass with keys that are set up once: this is the case of nearly every attempt.
    ours = b"%d.%b" % (timestamp, body)
    theirs = b"%b.%b" % (webhook_id.encode(), ours)
    standard, howk = "", ""
    for key in keys:
        inner, outer = _pads(key)
        standard += " v1," + b2a_base64(_mac(inner, outer, theirs), newline=False).decode()
        howk += ",v1=" + _mac(inner, outer, ours).hex()
    if private:
        standard += " " + standard_v1a(private, webhook_id, timestamp, body)
    signed = f"X-Webhook-Signature: t={timestamp}{howk}\r\n" if keys else ""
    return (
        f"webhook-id: {webhook_id}\r\nwebhook-timestamp: {timestamp}\r\nwebhook-signature:{standard}\r\n"
        f"X-Webhook-ID: {webhook_id}\r\nX-Webhook-Attempt: {attempt}\r\n"
        f"X-Webhook-Timestamp: {timestamp}\r\n{signed}"
    ), 7 if keys else 6


def _standard_lines(
    webhook_id: str, attempt: int, timestamp: int, body: bytes, keys: Sequence[bytes], private: str
) -> tuple[str, int]:
    signatures = [standard_v1(keys, webhook_id, timestamp, body)] if keys else []
    if private:
        signatures.append(standard_v1a(private, webhook_id, timestamp, body))
    signed = f"webhook-signature: {' '.join(signatures)}\r\n" if signatures else ""
    return f"webhook-id: {webhook_id}\r\nwebhook-timestamp: {timestamp}\r\n{signed}", 3 if signed else 2


def _howk_lines(
    webhook_id: str, attempt: int, timestamp: int, body: bytes, keys: Sequence[bytes], private: str
) -> tuple[str, int]:
    signed = f"X-Webhook-Signature: {howk_signature(keys, timestamp, body)}\r\n" if keys else ""
    return (
        f"X-Webhook-ID: {webhook_id}\r\nX-Webhook-Attempt: {attempt}\r\nX-Webhook-Timestamp: {timestamp}\r\n{signed}"
    ), 4 if signed else 3


def _harborhook_lines(
    webhook_id: str, attempt: int, timestamp: int, body: bytes, keys: Sequence[bytes], private: str
) -> tuple[str, int]:
    # That system sends no id: howk's own two lines are what tells a repeat.
    signed = f"X-HarborHook-Signature: {harborhook_signature(keys[0], timestamp, body)}\r\n" if keys else ""
    return (
        f"X-HarborHook-Timestamp: {timestamp}\r\n{signed}X-Webhook-ID: {webhook_id}\r\nX-Webhook-Attempt: {attempt}\r\n"
    ), 4 if signed else 3


_LINES: dict[Profile, _Lines] = {
    "default": _default_lines,
    "standard": _standard_lines,
    "howk": _howk_lines,
    "harborhook": _harborhook_lines,
}


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
    profile: Profile = "default",
    ed25519_key: str = "",
) -> bytes:
    """The header lines of one attempt, each ended by CRLF; the sender adds Host, Content-Length, Connection.

    `timestamp` is the attempt's time in Unix seconds, the same in all of them. `ed25519_key` is a private key's text;
    only `default` and `standard` have a place for its signature, and `harborhook` signs with the first of `keys`.
    A tenant's `headers` replace Content-Type and User-Agent, whatever their case, and otherwise come last. Raises
    `ValueError` for a header that would break or forge a line: the door refuses those, this is the last defence.
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
    signed, count = _LINES[profile](webhook_id, attempt, timestamp, body, keys, ed25519_key)
    head = f"Content-Type: {content_type}\r\nUser-Agent: {user_agent}\r\n{signed}{''.join(own)}".encode()
    # What signs is howk's own text; nearly always the rest is plain too, which is soon seen.
    if not own and content_type.isprintable() and user_agent.isprintable() and webhook_id.isprintable():
        return head
    lines = len(own) + 2 + count
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
    signed, signatures, wrong = _standard_parts(headers, body, now, tolerance)
    return wrong or _match(_base64(hmac.digest(key, signed, "sha256")), signatures)


def verify_v1a(public: str, headers: Mapping[str, str], body: bytes, now: float, tolerance: float = TOLERANCE) -> str:
    """For a receiver: the same with the sender's public Ed25519 key (`whpk_…`), which can check and not sign."""
    ed25519.public_key(public)
    signed, signatures, wrong = _standard_parts(headers, body, now, tolerance)
    if wrong:
        return wrong
    found = [signature[4:] for signature in signatures if signature.startswith("v1a,")]
    if not found:
        return "webhook-signature holds no v1a signature"
    # A bound on what one request may cost: a sender has a key or two.
    good = any(ed25519.is_signed(public, signature, signed) for signature in found[:_MOST_V1A])
    return "" if good else "no v1a signature is that of this key over these bytes"


def _standard_parts(
    headers: Mapping[str, str], body: bytes, now: float, tolerance: float
) -> tuple[bytes, Sequence[str], str]:
    """What a Standard Webhooks sender signed, its signatures, and what is wrong already."""
    found = {name.lower(): value for name, value in headers.items()}
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        if not found.get(name):
            return b"", (), f"the header {name} is missing"
    timestamp = found["webhook-timestamp"]
    wrong = _timing(timestamp, now, tolerance)
    if wrong:
        return b"", (), wrong
    return (
        b"%b.%b.%b" % (_utf8(found["webhook-id"]), timestamp.encode(), body),
        found["webhook-signature"].split(" "),
        "",
    )


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


def verify_harborhook(
    secret: str, headers: Mapping[str, str], body: bytes, now: float, tolerance: float = TOLERANCE
) -> str:
    """For a receiver: the same of `X-HarborHook-Signature` and `X-HarborHook-Timestamp`."""
    key = verbatim(secret)
    found = {name.lower(): value for name, value in headers.items()}
    for name in ("X-HarborHook-Timestamp", "X-HarborHook-Signature"):
        if not found.get(name.lower()):
            return f"the header {name} is missing"
    timestamp = found["x-harborhook-timestamp"]
    wrong = _timing(timestamp, now, tolerance)
    if wrong:
        return wrong
    return _match(harborhook_signature(key, int(timestamp), body), (found["x-harborhook-signature"],))


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
