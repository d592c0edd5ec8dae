"""Who may come in: by key where there are keys, and on a loopback door never by way of a web page that is open in the
same person's browser (DNS rebinding, cross-site posts)."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from math import ceil
from urllib.parse import urlsplit

from howk.domain.limits import Rates
from howk.web.problems import Problem

_MOST_CALLERS = 10_000
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Guard:
    """`key_hashes` are SHA-256 in hex; none means that the door is open to whoever reaches it. `rate` is how many
    requests a second a key may make, 0 any number; those without a key at an open door share one."""

    def __init__(
        self,
        key_hashes: Sequence[str],
        *,
        loopback_only: bool,
        rate: float = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hashes = tuple(text.lower() for text in key_hashes)
        self._loopback_only = loopback_only
        self._rates = Rates(rate, _MOST_CALLERS) if rate else None
        self._now = now

    def check_host(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises `Problem` for a name that is not this machine's own, and for another site's page."""
        if not self._loopback_only:
            return
        if not _is_loopback(headers.get(b"host", b"")):
            raise Problem(
                421,
                "host_not_allowed",
                "this door answers to localhost, 127.0.0.1 and [::1] only; to reach it by another name, set api.host "
                "and api.keys",
            )
        origin = headers.get(b"origin")
        if origin is not None and _name(urlsplit(origin.decode("latin-1")).netloc) not in _LOOPBACK:
            raise Problem(403, "origin_not_allowed", "requests from web pages of other sites are refused")

    def check_key(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises `Problem` unless a known key came, where keys are set, and it has not come too often."""
        caller = self._caller(headers) if self._hashes else ""
        if self._rates is not None and (wait := self._rates.take(caller, self._now())):
            seconds = ceil(wait)
            raise Problem(
                429,
                "rate_limited",
                f"this key may not make so many requests a second (api.rate_limit.key): try again in {seconds} s",
                headers=[(b"retry-after", b"%d" % seconds)],
            )

    def _caller(self, headers: Mapping[bytes, bytes]) -> str:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        given = sha256(key.strip()).hexdigest()
        # Every hash is compared: the time tells nothing of which one came close.
        known = sum([compare_digest(given, hash_) for hash_ in self._hashes])
        if scheme.lower() != b"bearer" or not known:
            raise Problem(
                401,
                "unauthorized",
                "send a key of api.keys: Authorization: Bearer <key>",
                headers=[(b"www-authenticate", b"Bearer")],
            )
        return given


@lru_cache(maxsize=256)
def _is_loopback(host: bytes) -> bool:
    return _name(host.decode("latin-1")) in _LOOPBACK


def _name(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
