"""Identifiers: a prefix that names the kind and a ULID that sorts by time of creation.

The caller passes the time and the randomness in, so the same inputs make the same id.
Format: https://github.com/ulid/spec (48 bits of milliseconds, 80 bits of randomness, Crockford base 32).
"""

import re
from typing import NewType

from howk.domain.errors import Rejected

DeliveryId = NewType("DeliveryId", str)

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
RANDOM_BYTES = 10
_CONFIG_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~-]{0,127}")


def ulid(now_ms: int, random: bytes) -> str:
    """26 characters; `random` is exactly `RANDOM_BYTES` long."""
    value = (now_ms << 80) | int.from_bytes(random, "big")
    pairs = _PAIRS
    return "".join([pairs[(value >> shift) & 1023] for shift in range(120, -1, -10)])


def delivery_id(now_ms: int, random: bytes) -> DeliveryId:
    """The webhook id a receiver sees: `wh_` and a ULID."""
    return DeliveryId("wh_" + ulid(now_ms, random))


def is_delivery_id(text: str) -> bool:
    """Whether `text` has the form of a delivery id, so that nothing else reaches a store."""
    return len(text) == 29 and text.startswith("wh_") and all(c in _ALPHABET for c in text[3:])


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
