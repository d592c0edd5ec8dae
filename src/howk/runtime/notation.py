"""The notation of quantities: durations as Go and Kubernetes write them, sizes in bytes, shares in percent.
Text or a YAML scalar enters, a number leaves, and every number is written so that it reads back as itself."""

import re
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from howk.domain.durations import NUMBER, seconds_of

_BYTES = MappingProxyType(
    {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
    | {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
    | {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
)
_SIZE = re.compile(rf"({NUMBER})\s*([a-z]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Percent:
    """A share of something whose size is known only while running, such as a disk; above 0, up to 100."""

    value: float

    def __str__(self) -> str:
        return f"{format_number(self.value)}%"


def text_of(raw: object, wanted: str) -> str:
    """What a scalar says as text; a YAML bool or collection is never a number or a name."""
    if isinstance(raw, str):
        return raw.strip()
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return str(raw) if isinstance(raw, int) else f"{Decimal(repr(raw)):f}"
    raise ValueError(wanted)


def parse_duration(raw: object) -> float:
    """Seconds, from the notation of Go and Kubernetes (`1m30s`, `500ms`), with days and weeks (`7d`).

    A bare number is seconds.
    """
    wanted = "must be a duration such as 500ms, 10s, 1m30s, 168h or 7d"
    text = text_of(raw, wanted)
    try:
        return seconds_of(text)
    except ValueError:
        raise ValueError(wanted) from None


def format_duration(seconds: float) -> str:
    """The shortest usual notation, which reads back as the same float."""
    rest = Decimal(repr(seconds))
    if 0 < rest < 1 and (rest * 1000) % 1 == 0:
        return f"{rest * 1000:.0f}ms"
    text = ""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        count, rest = divmod(rest, length)
        text += f"{count:f}{unit}" if count else ""
    return f"{text}{_trimmed(rest)}s" if rest or not text else text


def parse_size(raw: object) -> int:
    """Bytes, from `1MiB`, `16KiB`, `64Mi` (powers of 1024), `2MB` (powers of 1000) or a bare number."""
    wanted = "must be a size such as 512, 16KiB, 1MiB or 2MB"
    match = _SIZE.fullmatch(text_of(raw, wanted))
    if not match or match[2].lower() not in _BYTES:
        raise ValueError(wanted)
    size = Decimal(match[1]) * _BYTES[match[2].lower()]
    if size != int(size):
        raise ValueError(f"{wanted}, a whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """The size in the largest unit that divides it, powers of 1024 first."""
    for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB"):
        factor = _BYTES[unit.lower()]
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def format_number(number: float) -> str:
    """The number without an exponent, and without zeros that say nothing."""
    return _trimmed(Decimal(repr(number)))


def _trimmed(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
