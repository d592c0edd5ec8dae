"""The kinds of value a setting may have: each reads text (or a YAML scalar) and writes it back.
Text from the environment, a flag or a file enters; a checked, immutable value leaves, or a ValueError whose
message says what would be right. It knows no key, no source and never repeats the value it refuses."""

import base64
import binascii
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Generic, TypeVar, cast
from urllib.parse import urlsplit

from howk.domain.durations import PLAIN
from howk.domain.forward_proxy import parse_proxy
from howk.runtime.notation import (
    Percent,
    format_duration,
    format_number,
    format_size,
    parse_duration,
    parse_size,
    text_of,
)

T = TypeVar("T")
S = TypeVar("S", bound=str)

Network = IPv4Network | IPv6Network

LONGEST = 100 * 365 * 86400.0  # a century; longer is a typing error, and would overflow timers

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_TRUE = frozenset({"true", "t", "1", "yes", "on"})
_FALSE = frozenset({"false", "f", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """How one sort of value is read and written; `show` gives text that `parse` reads back."""

    name: str
    parse: Callable[[object], T]
    show: Callable[[T], str]
    unit: str = ""


def _bounds(low: float, high: float, above: bool, show: Callable[[float], str] = format_number) -> str:
    if math.isinf(high):
        return f"above {show(low)}" if above else f"of at least {show(low)}"
    return f"above {show(low)} and up to {show(high)}" if above else f"from {show(low)} to {show(high)}"


def duration(low: float = 0.0, high: float = LONGEST, *, above: bool = True) -> Kind[float]:
    """A duration above `low` (or from it, when not `above`) up to `high` seconds."""
    wanted = f"must be a duration {_bounds(low, high, above, format_duration)}, such as 500ms, 10s, 1m30s or 7d"

    def parse(raw: object) -> float:
        try:
            seconds = parse_duration(raw)
        except ValueError:
            raise ValueError(wanted) from None
        if not (low < seconds or (not above and low == seconds)) or seconds > high:
            raise ValueError(wanted)
        return seconds

    return Kind("duration", parse, format_duration, "seconds")


def size(low: int = 0, high: int = 2**50) -> Kind[int]:
    """A number of bytes."""
    wanted = f"must be a size from {format_size(low)} to {format_size(high)}, such as 16KiB, 1MiB or 2MB"

    def parse(raw: object) -> int:
        try:
            number = parse_size(raw)
        except ValueError:
            raise ValueError(wanted) from None
        if not low <= number <= high:
            raise ValueError(wanted)
        return number

    return Kind("size", parse, format_size, "bytes")


def whole(low: int = 0, high: int = 2**31 - 1, unit: str = "") -> Kind[int]:
    """A whole number within its bounds, both included."""
    wanted = f"must be a whole number from {low} to {high}"

    def parse(raw: object) -> int:
        text = text_of(raw, wanted)
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(wanted)
        return int(text)

    return Kind("integer", parse, str, unit)


def number(low: float, high: float = math.inf, unit: str = "") -> Kind[float]:
    """A decimal number within its bounds, both included."""
    wanted = f"must be a number {_bounds(low, high, above=False)}"

    def parse(raw: object) -> float:
        text = text_of(raw, wanted)
        if not PLAIN.fullmatch(text) or not low <= float(text) <= high:
            raise ValueError(wanted)
        return float(text)

    return Kind("number", parse, format_number, unit)


def choice(*names: S) -> Kind[S]:
    """One of a few words."""

    def parse(raw: object) -> S:
        word = raw.strip().lower() if isinstance(raw, str) else str(raw)
        for name in names:
            if name == word:
                return name
        raise ValueError(f"must be one of {', '.join(names)}")

    return Kind(" | ".join(names), parse, str)


def _boolean(raw: object) -> bool:
    word = str(raw).strip().lower()
    if isinstance(raw, bool | int | str) and word in _TRUE | _FALSE:
        return word in _TRUE
    raise ValueError("must be true or false")


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError("must be text; put quotes around it")
    if not raw.isprintable():
        raise ValueError("must be one line of text, without control characters")
    return raw


def _required(raw: object) -> str:
    if not (text := _text(raw).strip()):
        raise ValueError("must not be empty")
    return text


def _host(raw: object) -> str:
    text = _text(raw).strip()
    try:
        good = bool(ip_address(text)) if ":" in text else re.fullmatch(r"[^\s/@\[\]]+", text)
    except ValueError:
        good = False
    if not good:
        raise ValueError("must be a host name or an address, without a port, such as 127.0.0.1, :: or example.com")
    return text


def _address(raw: object) -> str:
    text = _text(raw).strip()
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[^\s/@]+", host) or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("must be host:port, such as localhost:9092, without a scheme or credentials")
    return text


def _url(*schemes: str, userinfo: bool) -> Callable[[object], str]:
    wanted = f"must be a URL such as {schemes[0]}://host" + ("" if userinfo else ", without credentials")

    def parse(raw: object) -> str:
        text = _text(raw).strip()
        try:
            parts = urlsplit(text)
            good = parts.scheme in schemes and parts.hostname and (userinfo or "@" not in parts.netloc)
        except ValueError:
            good = False
        if not good:
            raise ValueError(wanted)
        return text

    return parse


def _proxy(raw: object) -> str:
    text = _text(raw).strip()
    parse_proxy(text)
    return text


def _network(raw: object) -> Network:
    text = _text(raw).strip()
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        hint = f"; did you mean {ip_network(text, strict=False)}?"
    except ValueError:
        hint = ""
    raise ValueError(f"must be a network such as 10.0.0.0/8 or fd00::/8{hint}")


def _header(raw: object) -> str:
    text = _text(raw).strip().lower()
    if not _TOKEN.fullmatch(text):
        raise ValueError("must be the name of a header, such as x-api-key")
    return text


def _header_value(raw: object) -> str:
    text = _text(raw).strip()
    if not text.isascii():
        raise ValueError("must be plain ASCII, as the value of a header")
    return text


def _key_hash(raw: object) -> str:
    text = _text(raw).strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError("must be SHA-256 hashes of API keys, 64 hex digits each: the hash, never the key itself")
    return text


def _encryption_key(raw: object) -> bytes | None:
    text = raw.strip() if isinstance(raw, str) else "?"
    if re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        return bytes.fromhex(text)
    padded = text.translate(str.maketrans("-_", "+/")) + "=" * (-len(text) % 4)
    try:
        key = base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError):
        key = b"?"
    if text and len(key) != 32:
        raise ValueError("must be 32 bytes as base64 (44 characters) or hex (64): `openssl rand -base64 32` makes one")
    return key or None


def _disk_budget(raw: object) -> int | Percent:
    wanted = "must be a share of the disk such as 80%, or a size such as 50GiB"
    text = text_of(raw, wanted)
    if text.endswith("%"):
        share = text[:-1].strip()
        if not PLAIN.fullmatch(share) or not 0 < float(share) <= 100:
            raise ValueError(wanted)
        return Percent(float(share))
    try:
        budget = parse_size(text)
    except ValueError:
        budget = 0
    if budget <= 0:
        raise ValueError(wanted)
    return budget


def listed(item: Kind[T]) -> Kind[tuple[T, ...]]:
    """Several of a kind: comma separated as text, or a YAML list."""

    def parse(raw: object) -> tuple[T, ...]:
        if isinstance(raw, str):
            return tuple(item.parse(part.strip()) for part in raw.split(",") if part.strip())
        if isinstance(raw, list):
            return tuple(item.parse(part) for part in cast("list[object]", raw))
        raise ValueError("must be a list")

    return Kind(f"list of {item.name}", parse, lambda values: ", ".join(item.show(value) for value in values))


def optional(kind: Kind[T]) -> Kind[T | None]:
    """A kind with one value more, None, which is what an empty text means."""

    def parse(raw: object) -> T | None:
        return None if raw == "" else kind.parse(raw)

    return Kind(kind.name, parse, lambda value: "" if value is None else kind.show(value), kind.unit)


def or_empty(kind: Kind[str]) -> Kind[str]:
    """A kind of text that may also be empty, which means that there is none."""
    return Kind(kind.name, lambda raw: "" if raw == "" else kind.parse(raw), str)


def _anything(raw: object) -> str:
    if not isinstance(raw, str) or not raw.strip():
        raise ValueError("must be text that is not empty")
    return raw


BOOL = Kind("true | false", _boolean, lambda value: str(value).lower())
TEXT = Kind("text", _text, str)
NAME = Kind("text", _required, str)
RAW = Kind("text", _anything, str)
HOST = Kind("host", _host, str)
ADDRESS = Kind("host:port", _address, str)
FILE = Kind("path", _text, str)
PATH = Kind("path", lambda raw: Path(_required(raw)), str)
URL = Kind("URL", _url("https", "http", userinfo=False), str)
PROXY = Kind("URL", _proxy, str)
DSN = Kind("URL", _url("postgresql", "postgres", userinfo=True), str)
NETWORK = Kind("network", _network, str)
HEADER = Kind("header name", _header, str)
HEADER_VALUE = Kind("text", _header_value, str)
KEY_HASH = Kind("SHA-256 hex", _key_hash, str)
ENCRYPTION_KEY: Kind[bytes | None] = Kind(
    "32 bytes, base64 or hex", _encryption_key, lambda key: key.hex() if key else ""
)
DISK_BUDGET: Kind[int | Percent] = Kind(
    "size | percent", _disk_budget, lambda value: format_size(value) if isinstance(value, int) else str(value)
)
DURATION = duration()
DURATION_OR_ZERO = duration(above=False)
PORT = whole(0, 65535)
SIZE = size(1)
COUNT = whole(1)
COUNT_OR_ZERO = whole(0)
RATIO = number(0, 1, "ratio")
RATE = number(0, unit="per second")
