"""What an idempotency key makes of a request: the first one under it, a repeat, another request, or one too early.

Pure: what is known of the key comes in, a verdict goes out. A key lives `ttl` milliseconds from the acceptance of
its first request, in whatever process; a body is known by its SHA-256 only.
"""

import re
from enum import Enum
from hashlib import sha256
from typing import Literal, NamedTuple

End = Literal["kept", "void", "unknown"]
"""What became of a claim: it is in the log; it is certain that this try put nothing there; nobody knows."""

_FORM = re.compile(r"[\x21-\x7e]{1,255}")


class Kept(NamedTuple):
    """A key whose delivery is in the log: `id` is the first answer."""

    body: str
    id: str
    accepted_at: int


class Claimed(NamedTuple):
    """A key whose delivery may come to be in the log under `id`. `held`: somebody is at it. `doubted`: an earlier try
    may have put it there."""

    body: str
    id: str
    held: bool
    doubted: bool = False


class Verdict(Enum):
    """What a request with a key is."""

    MINE = "mine"
    """The first: it is to be appended, under the claimed id where there is one."""
    REPLAY = "replay"
    """A repeat: it gets the first answer."""
    REUSED = "reused"
    """Another request under a key that is taken."""
    BUSY = "busy"
    """The first one is still under way: whether it will be taken is not known yet."""


def judge(known: Kept | Claimed | None, body: str, now: int, ttl: int) -> Verdict:
    """What a request with this body is.

    While a claim is held even another body is only `BUSY`, since the claim may yet come to nothing. A claim that was
    let go without an answer may be in the log: it is taken up again under its own id, so that a key never has two.
    """
    if known is None or (isinstance(known, Kept) and expired(known.accepted_at, now, ttl)):
        return Verdict.MINE
    if isinstance(known, Claimed) and known.held:
        return Verdict.BUSY
    if known.body != body:
        return Verdict.REUSED
    return Verdict.REPLAY if isinstance(known, Kept) else Verdict.MINE


def ended(claim: Claimed, end: End, accepted_at: int) -> Kept | Claimed | None:
    """What is known of a key once its holder is done. A void try after a doubted one leaves the doubt."""
    if end == "kept":
        return Kept(claim.body, claim.id, accepted_at)
    if end == "void" and not claim.doubted:
        return None
    return claim._replace(held=False, doubted=True)


def expired(accepted_at: int, now: int, ttl: int) -> bool:
    """Whether a key that was accepted then is free again."""
    return now - accepted_at >= ttl


def is_key(text: str) -> bool:
    """Whether a text has the form of a key: 1 to 255 visible ASCII characters."""
    return _FORM.fullmatch(text) is not None


def body_hash(body: bytes) -> str:
    """What a body is known by: the bytes as they came, so that a repeat has to be one byte for byte."""
    return sha256(body).hexdigest()


def scoped(scope: str, key: str) -> str:
    """A key among those of all scopes; a scope has no slash in it."""
    return f"{scope}/{key}"
