"""The windows of the embedded hot state: counts by slices of time, and when each endpoint was called last.

Everything is written in the transaction of what is counted, so that a killed process loses and repeats nothing. What
was received is counted for good with a delivery's first outcome. Until then the delivery itself is counted: in memory
by the caller, or in `fresh` where its status was written before it had one. The counts of the latest second stand
beside the watermark, which is written in any case, and become slices when another second comes. The caller owns
transactions; what memory knows of the tables changes only after they are committed (`stored`).
"""

import sqlite3
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b

from msgspec.json import decode, encode

from howk.adapters.embedded.db import execute_rows
from howk.adapters.embedded.young import is_first
from howk.domain.delivery import Status
from howk.domain.windows import DAY, HASH_BITS, KIND_OF, KINDS, SAMPLE, Window, cover, distinct, needed, starts
from howk.ports.state import Effect

_COLUMNS = ", ".join(KINDS)
SCHEMA = (
    f"CREATE TABLE slices (width INT, start INT, {_COLUMNS}, PRIMARY KEY (width, start)) WITHOUT ROWID",
    "CREATE TABLE fresh (id TEXT PRIMARY KEY, second INT) WITHOUT ROWID",
    "CREATE INDEX fresh_second ON fresh (second)",
    # In the order of the hashes, so that the smallest ones of a window are found by a walk.
    "CREATE TABLE called (hash INTEGER PRIMARY KEY, second INT)",
    "CREATE TABLE salt AS SELECT randomblob(16) AS salt",
)
_INTO_SLICES = f"INSERT INTO slices (width, start, {_COLUMNS})"
_ADD = "ON CONFLICT (width, start) DO UPDATE SET " + ", ".join(f"{kind} = {kind} + excluded.{kind}" for kind in KINDS)
_SUMS = ", ".join(f"coalesce(sum({kind}), 0)" for kind in KINDS)
_LATER = "ON CONFLICT (hash) DO UPDATE SET second = max(second, excluded.second)"
_AMONG = "IN (SELECT value FROM json_each(?))"
_MOST_CALLED = 32_768
_MOST_KNOWN = 16_384
_PRUNE_AT_ONCE = 2_000
_PLACE = {kind: place for place, kind in enumerate(KINDS)}
_RECEIVED = _PLACE["received"]


def wipe(connection: sqlite3.Connection) -> None:
    """Forget everything that was counted."""
    for table in ("slices", "fresh", "called"):
        connection.execute(f"DELETE FROM {table}")


class Windows:
    """What was counted; `ttl` is how long slices are kept, in milliseconds."""

    def __init__(self, connection: sqlite3.Connection, ttl: int) -> None:
        self._ttl = ttl
        self._any_fresh = _any_fresh(connection)
        self._still_fresh = self._any_fresh
        self._new = connection.execute("SELECT count(*) FROM called").fetchone()[0]
        self._known: dict[str, int] = {}
        self._learned: dict[str, int] = {}
        self._pruned = 0
        self._counted = decode(_kept(connection), type=dict[int, list[int]])
        self._next = self._counted
        (salt,) = connection.execute("SELECT salt FROM salt").fetchone()

        def hashed(endpoint: str) -> int:
            # With a salt, so that nobody can choose endpoints by their hashes.
            digest = blake2b(endpoint.encode(), digest_size=HASH_BITS // 8, key=salt).digest()
            return int.from_bytes(digest, "big")

        self._hash = lru_cache(maxsize=_MOST_KNOWN)(hashed)

    def store(self, connection: sqlite3.Connection, effects: Sequence[Effect], now: int) -> str:
        """Count effects, and drop what is older than `ttl` at `now`; what is to be kept beside the watermark."""
        self._learned = {}
        counted = _tallied(effects, self._counted)
        latest = max(counted, default=0)
        _into_slices(connection, {second: row for second, row in counted.items() if second < latest})
        self._next = {latest: counted[latest]} if counted else {}
        self._call(connection, effects)
        self._still_fresh = self._any_fresh
        if self._any_fresh:
            _forget_fresh(connection, [effect.status.id for effect in effects])
            self._still_fresh = _any_fresh(connection)
        oldest = (now - self._ttl) // 1000
        if oldest != self._pruned:
            self._pruned = oldest
            _prune(connection, oldest)
        return encode(self._next).decode()

    def stored(self) -> None:
        """What was given to `store` is committed."""
        if len(self._known) + len(self._learned) > _MOST_KNOWN:
            self._known.clear()
        self._known.update(self._learned)
        self._any_fresh = self._still_fresh
        self._counted = self._next

    def count(self, connection: sqlite3.Connection, effects: Sequence[Effect]) -> None:
        """Count effects of a rebuild, which change no delivery."""
        self._learned = {}
        _into_slices(connection, _tallied(effects, {}))
        self._call(connection, effects)

    def hold(self, connection: sqlite3.Connection, statuses: Sequence[Status]) -> None:
        """These are about to be written without an outcome: they are counted as they stand, each of them once."""
        rows = [(status.id, status.created_at // 1000) for status in statuses if is_first(status)]
        if not rows:
            return
        self._any_fresh = True
        connection.execute(
            "INSERT INTO fresh SELECT value ->> 0, value ->> 1 FROM json_each(?) "
            "WHERE NOT EXISTS (SELECT 1 FROM status WHERE id = value ->> 0) ON CONFLICT DO NOTHING",
            (encode(rows).decode(),),
        )

    def restore(self, connection: sqlite3.Connection, effects: Sequence[Effect]) -> None:
        """The same for what a rebuild is about to restore; what has had an outcome is counted by that."""
        if self._any_fresh:
            _forget_fresh(connection, [effect.status.id for effect in effects if effect.status.state != "pending"])
        self.hold(connection, [effect.status for effect in effects if effect.status.state == "pending"])

    def wiped(self) -> None:
        """The tables are empty."""
        self._known.clear()
        self._counted = self._next = {}
        self._any_fresh = False
        self._new = 0

    def window(self, connection: sqlite3.Connection, now: int, length: int, young: Mapping[int, int]) -> Window:
        """The last `length` seconds; `young` is how many were received in each second that have no row yet."""
        until = now // 1000
        after = until - length
        sums = [0] * len(KINDS)
        for width, first, last in cover(after, until):
            found = connection.execute(
                f"SELECT {_SUMS} FROM slices WHERE width = ? AND start BETWEEN ? AND ?", (width, first, last)
            ).fetchone()
            sums = [one + more for one, more in zip(sums, found, strict=True)]
        for second, row in self._counted.items():
            if after < second <= until:
                sums = [one + more for one, more in zip(sums, row, strict=True)]
        fresh = "SELECT count(*) FROM fresh WHERE second BETWEEN ? AND ?"
        sums[_RECEIVED] += connection.execute(fresh, (after + 1, until)).fetchone()[0]
        sums[_RECEIVED] += sum([count for second, count in young.items() if after < second <= until])
        smallest = connection.execute(
            "SELECT hash FROM called WHERE second BETWEEN ? AND ? ORDER BY hash LIMIT ?", (after + 1, until, SAMPLE + 1)
        )
        return Window(*sums, unique_endpoints=distinct([hash_ for (hash_,) in smallest]))

    def _call(self, connection: sqlite3.Connection, effects: Sequence[Effect]) -> None:
        known, learned = self._known, self._learned
        for effect in effects:
            # One that is held names the endpoint that it waits for, and called none.
            if effect.endpoint and effect.at and not effect.status.held_by:
                second = effect.at // 1000
                if known.get(effect.endpoint, 0) < second and learned.get(effect.endpoint, 0) < second:
                    learned[effect.endpoint] = second
        if not self._learned:
            return
        rows = {self._hash(endpoint): second for endpoint, second in self._learned.items()}
        execute_rows(connection, "INSERT INTO called (hash, second)", list(rows.items()), _LATER)
        self._new += len(rows)
        if self._new > _MOST_CALLED:
            self._new = _thin(connection, max(rows.values()))


def _kept(connection: sqlite3.Connection) -> str:
    """What was kept beside the watermark."""
    row = connection.execute("SELECT value FROM meta WHERE name = 'counted'").fetchone()
    return row[0] if row else "{}"


def _tallied(effects: Sequence[Effect], before: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
    """What happened in each second, in the order of `KINDS`, on top of what was counted before."""
    counted = {second: list(row) for second, row in before.items()}
    for effect in effects:
        if effect.at and (kind := KIND_OF.get(effect.status.state)):
            _at(counted, effect.at // 1000)[_PLACE[kind]] += 1
        if effect.accepted_at:
            _at(counted, effect.accepted_at // 1000)[_RECEIVED] += 1
    return counted


def _at(counted: dict[int, list[int]], second: int) -> list[int]:
    row = counted.get(second)
    if row is None:
        row = counted[second] = [0] * len(KINDS)
    return row


def _into_slices(connection: sqlite3.Connection, counted: Mapping[int, Sequence[int]]) -> None:
    sums: dict[tuple[int, int], list[int]] = {}
    for second, row in counted.items():
        for slice_ in starts(second):
            known = sums.get(slice_)
            sums[slice_] = list(row) if known is None else [one + more for one, more in zip(known, row, strict=True)]
    execute_rows(connection, _INTO_SLICES, [(*slice_, *row) for slice_, row in sums.items()], _ADD)


def _any_fresh(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM fresh LIMIT 1").fetchone() is not None


def _forget_fresh(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    connection.execute(f"DELETE FROM fresh WHERE id {_AMONG}", (encode(ids).decode(),))


def _prune(connection: sqlite3.Connection, oldest: int) -> None:
    connection.execute(
        "DELETE FROM slices WHERE width = 1 AND start IN "
        "(SELECT start FROM slices WHERE width = 1 AND start < ? ORDER BY start LIMIT ?)",
        (oldest, _PRUNE_AT_ONCE),
    )
    connection.execute("DELETE FROM slices WHERE width = 60 AND start + 60 <= ?", (oldest,))


def _thin(connection: sqlite3.Connection, newest: int) -> int:
    """Drop the endpoints that no window needs; how many are left."""
    called = connection.execute("SELECT hash, second FROM called WHERE second > ?", (newest - DAY,))
    left = needed(called, _MOST_CALLED * 3 // 4)
    # Most of them go: writing what is left anew takes a fraction of the time of deleting the others.
    connection.execute("DELETE FROM called")
    execute_rows(connection, "INSERT INTO called (hash, second)", sorted(left))
    return len(left)
