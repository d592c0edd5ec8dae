"""Idempotency keys of the embedded hot state: the table of what was read from `howk.keys`, and in memory what is newer.

Claims live in memory, so that they are void when the process is gone. A confirmed key stays in memory until it comes by
in `howk.keys`, and is written then, a batch at once together with the offset: the door never waits for a row. The
caller owns transactions; `follow` changes memory only after they are committed.
"""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.json import encode

from howk.adapters.embedded import hot
from howk.adapters.embedded.db import execute_rows
from howk.domain.errors import Full, Transient
from howk.domain.idempotency import Claimed, Kept, Verdict, ended, expired, judge
from howk.ports.clock import Clock
from howk.ports.state import Follow, KeyAnswer, KeyAsk, KeyEnd

LEASE = 60.0
"""Seconds that a claim of unknown outcome is remembered."""
_MOST_IN_MEMORY = 65_536
_PRUNE_AT_ONCE = 2_000


def find(connection: sqlite3.Connection, names: Sequence[str]) -> dict[str, Kept]:
    """The stored ones of these keys."""
    rows = connection.execute(
        "SELECT key, body, id, at, sum FROM keys WHERE key IN (SELECT value FROM json_each(?))",
        (encode(names).decode(),),
    )
    found: dict[str, Kept] = {}
    for key, body, id_, at, check in rows:
        if check != _check(key, body.hex(), id_, at):
            raise hot.Damaged("a row of keys fails its checksum")
        found[key] = Kept(body.hex(), id_, at)
    return found


def store(connection: sqlite3.Connection, ends: Sequence[KeyEnd], mark: Mapping[int, int], before: int) -> None:
    """Write what was read and how far, in the order of the log; drop some of what was accepted by `before`."""
    last = {end.key: end for end in ends if end.accepted_at > before}
    rows = [
        (end.key, bytes.fromhex(end.body), end.id, end.accepted_at, _check(end.key, end.body, end.id, end.accepted_at))
        for end in last.values()
    ]
    execute_rows(connection, "REPLACE INTO keys (key, body, id, at, sum)", rows)
    connection.execute(
        "DELETE FROM keys WHERE key IN (SELECT key FROM keys WHERE at <= ? ORDER BY at LIMIT ?)",
        (before, _PRUNE_AT_ONCE),
    )
    hot.set_meta(connection, keys=encode(dict(mark)).decode())


def any_older(connection: sqlite3.Connection, before: int) -> bool:
    """Whether there is something to drop."""
    return connection.execute("SELECT 1 FROM keys WHERE at <= ? LIMIT 1", (before,)).fetchone() is not None


def _check(key: str, body: str, id_: str, at: int) -> int:
    return hot.check_of(f"{key}/{body}/{id_}/{at}")


class _Claim(NamedTuple):
    """A claim, what its waiters wait for, and when it was let go (monotonic)."""

    claimed: Claimed
    settled: "asyncio.Future[None]"
    let_go: float = 0.0


class Keys:
    """The claims and the keys that are newer than the table; `ttl` in milliseconds."""

    def __init__(self, mark: Mapping[int, int], ttl: int, clock: Clock) -> None:
        self.mark = dict(mark)
        self._ttl = ttl
        self._clock = clock
        self._whole = False
        self._whole_at = 0.0
        self._claims: dict[str, _Claim] = {}
        self._recent: dict[str, Kept] = {}

    @property
    def oldest(self) -> int:
        """What was accepted by then is free again."""
        return self._clock.now() - self._ttl

    def wiped(self) -> None:
        """The table is empty. Claims stay: their callers are still at it."""
        self.mark = {}
        self._whole = False

    def claim(self, connection: sqlite3.Connection, asks: Sequence[KeyAsk], now: int) -> list[KeyAnswer]:
        """See the port."""
        if not self._whole:
            raise Transient("idempotency keys are being read from the log: try again in a moment")
        in_memory = len(self._claims) + len(self._recent)
        if in_memory >= _MOST_IN_MEMORY:
            raise Full(f"{in_memory} idempotency keys wait to be stored: try again in a moment")
        stored = find(connection, [ask.key for ask in asks])
        return [self._judge(ask, stored, now) for ask in asks]

    def _judge(self, ask: KeyAsk, stored: Mapping[str, Kept], now: int) -> KeyAnswer:
        claim = self._claims.get(ask.key)
        known = claim.claimed if claim else self._recent.get(ask.key) or stored.get(ask.key)
        verdict = judge(known, ask.body, now, self._ttl)
        if verdict is Verdict.MINE:
            taken = claim.claimed._replace(held=True) if claim else Claimed(ask.body, ask.id, held=True)
            self._claims[ask.key] = _Claim(taken, asyncio.get_running_loop().create_future())
            return KeyAnswer(verdict, taken.id)
        if verdict is Verdict.BUSY and claim:
            return KeyAnswer(verdict, settled=claim.settled)
        return KeyAnswer(verdict, known.id if known and verdict is Verdict.REPLAY else "")

    def end(self, ends: Sequence[KeyEnd]) -> None:
        """What the door says. A key that has come by in the log meanwhile has been ended by that."""
        for end in ends:
            claim = self._claims.get(end.key)
            if claim is None or claim.claimed.id != end.id:
                continue
            del self._claims[end.key]
            known = ended(claim.claimed, end.end, end.accepted_at)
            if isinstance(known, Claimed):
                self._claims[end.key] = claim._replace(claimed=known, let_go=self._clock.monotonic())
            elif known:
                self._recent[end.key] = known
            _settle(claim)

    def followed(self, ends: Sequence[KeyEnd], follow: Follow) -> None:
        """What was read is in the table."""
        self.mark = dict(follow.reached)
        for end in ends:
            claim, recent = self._claims.get(end.key), self._recent.get(end.key)
            if claim and claim.claimed.id == end.id:
                _settle(self._claims.pop(end.key))
            if recent and recent.id == end.id:
                del self._recent[end.key]
        if follow.whole:
            self._whole = True
            self._forget()

    def _forget(self) -> None:
        # What was let go before the last `whole` would have been read by this one.
        long_ago, now = min(self._clock.monotonic() - LEASE, self._whole_at), self._clock.now()
        self._whole_at = self._clock.monotonic()
        for key in [key for key, claim in self._claims.items() if not claim.claimed.held and claim.let_go <= long_ago]:
            del self._claims[key]
        for key in [key for key, kept in self._recent.items() if expired(kept.accepted_at, now, self._ttl)]:
            del self._recent[key]


def _settle(claim: _Claim) -> None:
    if not claim.settled.done():
        claim.settled.set_result(None)
