"""Hot state on SQLite with synchronous=OFF: it survives the process, and is rebuilt when the machine goes down.

It runs on the event loop: nothing here waits for the disk, and beside a busy loop a thread would spend longer on
getting the interpreter lock back than on the work. The file carries the session that wrote it: a file of another
session than the last, of another boot and not closed whole, or damaged, is thrown away at open and begun anew.

What the door accepted stays in memory until its first outcome (`_young`), and which attempts are in flight always
does: a killed process loses both, and reconcile notes what is unfinished again. What the file knows wins.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from howk.adapters.embedded import hot
from howk.adapters.embedded import keys as key_table
from howk.adapters.embedded.db import Checkpoints, connect, transaction, translate
from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.keys import Keys
from howk.adapters.embedded.windows import Windows
from howk.domain.delivery import Standing, Status, is_current
from howk.domain.errors import Conflict, Transient
from howk.domain.windows import DAY, HOUR
from howk.ports.clock import Clock
from howk.ports.state import Ask, Claim, Claims, Condition, Effect, Follow, KeyAnswer, KeyAsk, KeyEnd, Statistics

_PRUNE_AT_ONCE = 2_000
_FOREVER = 1 << 62
_MOST_YOUNG = 16_384
_FLUSH_AT_ONCE = 512
_WAL_BYTES = 64 << 20
_R = TypeVar("_R")


class Keep(NamedTuple):
    """How long ended statuses are kept, in milliseconds, and how many; how long idempotency keys are, and what the
    windows count."""

    ttl: int
    most: int
    keys: int = 86_400_000
    windows: int = 172_800_000


class EmbeddedState:
    """The `HotState` port on one SQLite file."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, condition: Condition, keep: Keep, clock: Clock
    ) -> None:
        self._path = path
        self._db = connection
        self._valid, self._reason = condition.valid, condition.reason
        self._watermark = dict(condition.watermark)
        self._keep = keep
        self._clock = clock
        self._epoch = 0
        # Tokens of a run before this one are never given again.
        self._tokens = time.monotonic_ns()
        self._ended = hot.count_ended(connection)
        self._waiting = hot.count_waiting(connection)
        self._young: dict[str, Status] = {}
        self._in_flight: dict[str, None] = {}
        # Settled before the door has said that it was accepted, the last of them: that word then comes too late.
        self._early: dict[str, None] = {}
        self._keys = Keys(hot.keys_reached(connection), keep.keys, clock)
        self._windows = Windows(connection, keep.windows)
        self._checkpoints = Checkpoints(path, _WAL_BYTES, ("synchronous=OFF",))
        self._closed = False

    @classmethod
    def open(cls, directory: Directory, keep: Keep, clock: Clock) -> "EmbeddedState":
        """Open `hot.db`, or begin it anew where it can't be trusted; `condition` then says why."""
        path = directory.path / "hot.db"
        reason = hot.distrust(path, directory.previous, directory.run)
        if reason:
            for end in ("", "-wal", "-shm"):
                path.with_name(path.name + end).unlink(missing_ok=True)
        connection = connect(path, pragmas=hot.PRAGMAS)
        if reason:
            hot.create(connection)
        elif hot.meta(connection, "valid") != "yes":
            reason = "its rebuild was not finished"
        hot.drop_leases(connection)
        hot.set_meta(connection, session=directory.run.session, boot=directory.run.boot, whole="")
        return cls(path, connection, Condition(not reason, reason, hot.watermark(connection)), keep, clock)

    async def accept(
        self, statuses: Sequence[Status], keys: Sequence[KeyEnd] = (), follow: Follow | None = None
    ) -> Mapping[int, int]:
        self._open()
        for status in statuses:
            if status.id not in self._early:
                self._young.setdefault(status.id, status)
        if len(self._young) > _MOST_YOUNG:
            with suppress(Transient):
                # They are in the log: the door's answer stands. A disk that is full takes no more of them either.
                self._write_young(max(_FLUSH_AT_ONCE, len(self._young) - _MOST_YOUNG))
        if follow:
            self._follow(keys, follow)
        elif keys:
            self._keys.end(keys)
        return self._keys.mark

    def _follow(self, ends: Sequence[KeyEnd], follow: Follow) -> None:
        if follow.before != self._keys.mark:
            return
        oldest = self._keys.oldest
        if follow.reached != follow.before or self._read(lambda db: key_table.any_older(db, oldest)):
            self._write(lambda db: key_table.store(db, ends, follow.reached, oldest))
        self._keys.followed(ends, follow)

    async def claim_keys(self, asks: Sequence[KeyAsk], now: int) -> Sequence[KeyAnswer]:
        return self._read(lambda db: self._keys.claim(db, asks, now))

    def _write_young(self, most: int) -> None:
        oldest = list(islice(self._young, most))
        statuses = [self._young[id_] for id_ in oldest]

        def store(db: sqlite3.Connection) -> None:
            self._windows.hold(db, statuses)
            hot.add_pending(db, statuses)

        self._write(store)
        for id_ in oldest:
            del self._young[id_]

    async def gate(self, asks: Sequence[Ask]) -> Sequence[bool]:
        standings = await self.standing([ask.id for ask in asks])
        passed = [is_current(known, ask.series, ask.gen) for known, ask in zip(standings, asks, strict=True)]
        for ask, known, current in zip(asks, standings, passed, strict=True):
            if current:
                self._in_flight[ask.id] = None
                if known is None:
                    self._young.setdefault(ask.id, _first_seen(ask))
        return passed

    async def standing(self, ids: Sequence[str]) -> Sequence[Standing | None]:
        known = self._read(lambda db: hot.standings(db, ids))
        young = self._young
        return [known.get(id_) or (_standing(young[id_]) if id_ in young else None) for id_ in ids]

    async def apply(self, effects: Sequence[Effect], watermark: Mapping[int, int]) -> None:
        known = self._watermark
        if watermark and all(known.get(part, -1) >= offset for part, offset in watermark.items()):
            return
        reached = known | {part: max(offset, known.get(part, 0)) for part, offset in watermark.items()}
        now = self._clock.now()

        def store(db: sqlite3.Connection) -> tuple[hot.Grown, list[str]]:
            hot.set_watermark(db, reached)
            self._windows.store(db, effects, now)
            grown = hot.store(db, effects, any_waiting=self._waiting > 0)
            over = min(self._ended + grown.ended - self._keep.most, _PRUNE_AT_ONCE)
            gone = hot.prune(db, _FOREVER, over) if over > 0 else []
            return grown, gone + hot.prune(db, now - self._keep.ttl, _PRUNE_AT_ONCE)

        grown, gone = self._write(store)
        self._windows.stored()
        self._watermark = reached
        self._ended += grown.ended - len(gone)
        self._waiting += grown.waiting
        for effect in effects:
            self._in_flight.pop(effect.status.id, None)
            if self._young.pop(effect.status.id, None) is None:
                self._early[effect.status.id] = None
        for id_ in gone:
            # Or what the door said too late of it would be all that is left.
            self._young.pop(id_, None)
        _bound(self._early)
        _bound(self._in_flight)

    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        clock = time.monotonic()
        self._tokens += 1
        token = self._tokens
        if not self._waiting:
            return Claims([], 0, 0)

        def take(db: sqlite3.Connection) -> Claims:
            due = hot.lease_due(db, now, clock, clock + lease, token, limit)
            return Claims([Claim(*row, token) for row in due], hot.next_due(db, clock), self._waiting)

        return self._write(take)

    async def release(self, claims: Sequence[Claim]) -> None:
        def drop(db: sqlite3.Connection) -> int:
            tokens = {claim.token for claim in claims if claim.token}
            gone = sum([hot.drop_leased(db, token, [c.id for c in claims if c.token == token]) for token in tokens])
            queued = [(claim.id, claim.series, claim.gen) for claim in claims if not claim.token]
            return gone + (hot.unschedule(db, queued) if queued else 0)

        self._waiting -= self._write(drop)

    async def status(self, ids: Sequence[str]) -> Sequence[Status | None]:
        known = self._read(lambda db: hot.statuses(db, ids))
        return [self._shown(known.get(id_) or self._young.get(id_)) for id_ in ids]

    def _shown(self, status: Status | None) -> Status | None:
        if status is None or status.ended_at or status.id not in self._in_flight:
            return status
        return replace(status, state="delivering")

    async def statistics(self, now: int) -> Statistics:
        if not self._valid:
            raise Transient("statistics are being read from the log: try again in a moment")
        young, window = self._young.values(), self._windows.window
        return self._read(
            lambda db: Statistics(self._waiting, self._ended, window(db, now, HOUR, young), window(db, now, DAY, young))
        )

    async def condition(self) -> Condition:
        return Condition(self._valid, self._reason, dict(self._watermark))

    async def rebuild(self) -> "EmbeddedRebuild":
        self._epoch += 1
        self._valid, self._reason = False, "a rebuild is under way"
        self._write(hot.wipe)
        self._watermark = {}
        self._ended = self._waiting = 0
        self._young.clear()
        self._in_flight.clear()
        self._early.clear()
        self._keys.wiped()
        self._windows.wiped()
        return EmbeddedRebuild(self, self._epoch)

    async def restore(self, effects: Sequence[Effect], epoch: int) -> None:
        """One step of a rebuild; see `EmbeddedRebuild`."""
        self._still(epoch)

        def store(db: sqlite3.Connection) -> hot.Grown:
            self._windows.restore(db, effects)
            return hot.restore(db, effects)

        grown = self._write(store)
        self._ended += grown.ended
        self._waiting += grown.waiting
        for effect in effects:
            # Or it would count twice as received until it has an outcome.
            self._young.pop(effect.status.id, None)

    async def count(self, effects: Sequence[Effect], epoch: int) -> None:
        """What happened before a rebuild; see `EmbeddedRebuild`."""
        self._still(epoch)
        self._write(lambda db: self._windows.count(db, effects))

    async def seal(self, watermark: Mapping[int, int], epoch: int) -> None:
        """The end of a rebuild; see `EmbeddedRebuild`."""
        self._still(epoch)

        def finish(db: sqlite3.Connection) -> None:
            hot.set_watermark(db, watermark)
            hot.set_meta(db, valid="yes")

        self._write(finish)
        self._watermark = dict(watermark)
        self._valid, self._reason = True, ""

    def _still(self, epoch: int) -> None:
        if epoch != self._epoch:
            raise Conflict("a later rebuild of hot state has begun: this one is void")

    async def close(self) -> None:
        if self._closed:
            return
        with suppress(Transient):
            self._write_young(len(self._young))
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self._checkpoints.close()
        try:
            # `whole` is only true once every page before it is on the disk.
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            hot.set_meta(self._db, whole="yes")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.DatabaseError:
            # A full disk: the file goes on under this boot of the machine, and is rebuilt under another.
            pass
        finally:
            self._db.close()
        handle = os.open(self._path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    def _open(self) -> None:
        if self._closed:
            raise Transient("hot state is closed: the process is stopping, try again")

    def _read(self, question: Callable[[sqlite3.Connection], _R]) -> _R:
        self._open()
        try:
            return question(self._db)
        except sqlite3.DatabaseError as error:
            raise translate("hot state", error) from error

    def _write(self, act: Callable[[sqlite3.Connection], _R]) -> _R:
        self._open()
        try:
            with transaction(self._db):
                answer = act(self._db)
            self._checkpoints.after_commit(self._db)
        except sqlite3.DatabaseError as error:
            raise translate("hot state", error) from error
        return answer


def _standing(status: Status) -> Standing:
    return Standing(status.series, status.gen, status.ended_at > 0)


def _bound(ids: dict[str, None]) -> None:
    """Drop the oldest above the bound."""
    for id_ in list(islice(ids, max(0, len(ids) - _MOST_YOUNG))):
        del ids[id_]


def _first_seen(ask: Ask) -> Status:
    return Status(
        id=ask.id,
        scope=ask.scope,
        state="pending",
        series=ask.series,
        gen=ask.gen,
        attempts=ask.attempt - 1,
        max_attempts=ask.max_attempts,
        created_at=ask.created_at,
    )


class EmbeddedRebuild:
    """The `Rebuild` port: valid for as long as no later rebuild has begun."""

    def __init__(self, state: EmbeddedState, epoch: int) -> None:
        self._state = state
        self._epoch = epoch

    async def restore(self, effects: Sequence[Effect]) -> None:
        await self._state.restore(effects, self._epoch)

    async def count(self, effects: Sequence[Effect]) -> None:
        await self._state.count(effects, self._epoch)

    async def seal(self, watermark: Mapping[int, int]) -> None:
        await self._state.seal(watermark, self._epoch)
