"""Identifiers: a prefix that names the kind and a ULID that sorts by time of creation.

The caller passes the time and the randomness in, so the same inputs make the same id.
Format: https://github.com/ulid/spec (48 bits of milliseconds, 80 bits of randomness, Crockford base 32).
"""

import re
from functools import lru_cache
from typing import NewType

from howk.domain.errors import Rejected

DeliveryId = NewType("DeliveryId", str)

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_DIGITS = bytes([ord(_ALPHABET[byte & 31]) for byte in range(256)])
RANDOM_BYTES = 16
_DELIVERY_ID = re.compile(f"wh_[{_ALPHABET}]{{26}}")
_CONFIG_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~-]{0,127}")


def ulid(now_ms: int, random: bytes) -> str:
    """26 characters; `random` is exactly `RANDOM_BYTES` long, and the lower five bits of each byte are one digit."""
    return _time(now_ms) + random.translate(_DIGITS).decode("ascii")


@lru_cache(maxsize=64)
def _time(now_ms: int) -> str:
    return "".join([_PAIRS[(now_ms >> shift) & 1023] for shift in range(40, -1, -10)])


def time_of(delivery: str) -> int:
    """When a delivery's id was made, in Unix milliseconds; 0 for what is no such id."""
    return _time_of(delivery[:13]) if len(delivery) == 29 else 0


@lru_cache(maxsize=4_096)
def _time_of(start: str) -> int:
    value = 0
    for digit in start[3:]:
        place = _ALPHABET.find(digit)
        if place < 0:
            return 0
        value = value << 5 | place
    return value if start.startswith("wh_") else 0


def delivery_id(now_ms: int, random: bytes) -> DeliveryId:
    """The webhook id a receiver sees: `wh_` and a ULID."""
    return DeliveryId("wh_" + ulid(now_ms, random))


def delivery_ids(now_ms: int, random: bytes) -> list[str]:
    """As many as there are `RANDOM_BYTES` in `random`."""
    start, digits = "wh_" + _time(now_ms), random.translate(_DIGITS).decode("ascii")
    return [start + digits[at : at + RANDOM_BYTES] for at in range(0, len(digits), RANDOM_BYTES)]


def is_delivery_id(text: str) -> bool:
    """Whether `text` has the form of a delivery id, so that nothing else reaches a store."""
    return _DELIVERY_ID.fullmatch(text) is not None


def command_id(now_ms: int, random: bytes) -> str:
    """The id of what an owner asked for: `cmd_` and a ULID."""
    return "cmd_" + ulid(now_ms, random)


def check_config_id(scope: str) -> None:
    """Raises `Rejected` for what can't be a config's id."""
    if not _CONFIG_ID.fullmatch(scope):
        raise Rejected(
            "invalid_config_id",
            "a config id has 1 to 128 letters, digits and . _ : ~ -, and begins with a letter or a digit",
        )
