"""Durations as Go and Kubernetes write them (`1m30s`, `500ms`), with days and weeks (`7d`). Text comes in, seconds go
out; what a duration is for, and its bounds, are the reader's."""

import re
from decimal import Decimal
from types import MappingProxyType

_NANOSECONDS = MappingProxyType(
    {
        "ns": 1,
        "us": 10**3,
        "µs": 10**3,
        "μs": 10**3,
        "ms": 10**6,
        "s": 10**9,
        "m": 60 * 10**9,
        "h": 3600 * 10**9,
        "d": 86400 * 10**9,
        "w": 604800 * 10**9,
    }
)
NUMBER = r"(?:[0-9]{1,18}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})"
PLAIN = re.compile(rf"[+-]?{NUMBER}")
_PART = re.compile(rf"({NUMBER})(ns|us|µs|μs|ms|s|m|h|d|w)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_LONGEST_TEXT = 200


def seconds_of(text: str) -> float:
    """Seconds; a bare number is seconds. Raises `ValueError` for anything else, and for what no clock tells from 0."""
    if len(text) > _LONGEST_TEXT:
        raise ValueError("too long for a duration")
    if PLAIN.fullmatch(text):
        seconds = float(text)
    elif _DURATION.fullmatch(text):
        parts = _PART.findall(text)
        seconds = float(sum(Decimal(number) * _NANOSECONDS[unit] for number, unit in parts) / Decimal(10**9))
    else:
        raise ValueError("not a duration")
    if 0 < seconds < 1e-9:
        raise ValueError("too short for a duration")
    return seconds
