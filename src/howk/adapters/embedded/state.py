"""Hot state on SQLite with synchronous=OFF: it survives the process, and is rebuilt when the machine goes down.

What waits together runs in one transaction on one thread. The file carries the session that wrote it: a file of
another session than the last, of another boot and not closed whole, or damaged, is thrown away at open and begun anew.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from howk.adapters.embedded import hot
from howk.adapters.embedded.db import Committer, connect, transaction
from howk.adapters.embedded.directory import Directory
from howk.domain.delivery import Standing, Status
from howk.domain.errors import Conflict
from howk.ports.clock import Clock
from howk.ports.state import Ask, Claim, Claims, Condition, Counts, Effect

_PRUNE_AT_ONCE = 2_000
_FOREVER = 1 << 62
_R = TypeVar("_R")

Decide = Callable[[sqlite3.Connection], Any]


class Keep(NamedTuple):
    """How long ended statuses are kept, in milliseconds, and how many."""

    ttl: int
    most: int


class EmbeddedState:
    """The `HotState` port on one SQLite file."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, condition: Condition, keep: Keep, clock: Clock
    ) -> None:
        self._path = path
        self._db = connection
        self._condition = condition
        self._keep = keep
        self._clock = clock
        self._epoch = 0
        self._tokens = 0
        self._ended = hot.count_ended(connection)
        self._committer: Committer[Decide, Any] = Committer("hot state", self._run)

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

    async def accept(self, statuses: Sequence[Status]) -> None:
        await self._ask(lambda db: hot.add_pending(db, statuses))

    async def gate(self, asks: Sequence[Ask]) -> Sequence[bool]:
        return await self._ask(lambda db: hot.pass_current(db, asks))

    async def standing(self, ids: Sequence[str]) -> Sequence[Standing | None]:
        known = await self._ask(lambda db: hot.standings(db, ids))
        return [known.get(id_) for id_ in ids]

    async def apply(self, effects: Sequence[Effect], watermark: Mapping[int, int]) -> None:
        await self._ask(lambda db: self._apply(db, effects, watermark))

    def _apply(self, db: sqlite3.Connection, effects: Sequence[Effect], watermark: Mapping[int, int]) -> None:
        known = hot.watermark(db)
        if watermark and all(known.get(part, -1) >= offset for part, offset in watermark.items()):
            return
        hot.store(db, effects)
        hot.set_watermark(db, {**known, **watermark})
        self._ended += sum([1 for effect in effects if effect.status.ended_at])
        over = min(self._ended - self._keep.most, _PRUNE_AT_ONCE)
        if over > 0:
            self._ended -= hot.prune(db, _FOREVER, over)
        self._ended -= hot.prune(db, self._clock.now() - self._keep.ttl, _PRUNE_AT_ONCE)

    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        return await self._ask(lambda db: self._claim(db, now, limit, lease))

    def _claim(self, db: sqlite3.Connection, now: int, limit: int, lease: float) -> Claims:
        clock = time.monotonic()
        self._tokens += 1
        due = hot.lease_due(db, now, clock, clock + lease, self._tokens, limit)
        return Claims([Claim(*row, self._tokens) for row in due], hot.next_due(db, clock))

    async def release(self, claims: Sequence[Claim]) -> None:
        def drop(db: sqlite3.Connection) -> None:
            for token in {claim.token for claim in claims}:
                hot.drop_leased(db, token, [claim.id for claim in claims if claim.token == token])

        await self._ask(drop)

    async def queued(self, keys: Sequence[tuple[str, int, int]]) -> None:
        await self._ask(lambda db: hot.unschedule(db, keys))

    async def status(self, ids: Sequence[str]) -> Sequence[Status | None]:
        known = await self._ask(lambda db: hot.statuses(db, ids))
        return [known.get(id_) for id_ in ids]

    async def counts(self) -> Counts:
        return Counts(*await self._ask(hot.count_all))

    async def condition(self) -> Condition:
        return self._condition

    async def rebuild(self) -> "EmbeddedRebuild":
        self._epoch += 1
        self._condition = Condition(False, "a rebuild is under way", {})
        await self._ask(hot.wipe)
        return EmbeddedRebuild(self, self._epoch)

    async def restore(self, effects: Sequence[Effect], epoch: int) -> None:
        """One step of a rebuild; see `EmbeddedRebuild`."""
        self._still(epoch)
        await self._ask(lambda db: hot.store(db, effects, restoring=True))

    async def seal(self, watermark: Mapping[int, int], epoch: int) -> None:
        """The end of a rebuild; see `EmbeddedRebuild`."""
        self._still(epoch)

        def finish(db: sqlite3.Connection) -> None:
            hot.set_watermark(db, watermark)
            hot.set_meta(db, valid="yes")
            self._ended = hot.count_ended(db)

        await self._ask(finish)
        self._condition = Condition(True, "", dict(watermark))

    def _still(self, epoch: int) -> None:
        if epoch != self._epoch:
            raise Conflict("a later rebuild of hot state has begun: this one is void")

    async def close(self) -> None:
        await self._committer.close()
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        # `whole` is only true once every page before it is on the disk.
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        hot.set_meta(self._db, whole="yes")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()
        handle = os.open(self._path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    async def _ask(self, decide: Callable[[sqlite3.Connection], _R]) -> _R:
        return cast(_R, await self._committer.submit(decide))

    def _run(self, jobs: list[Decide]) -> list[Any]:
        with transaction(self._db):
            return [job(self._db) for job in jobs]


class EmbeddedRebuild:
    """The `Rebuild` port: valid for as long as no later rebuild has begun."""

    def __init__(self, state: EmbeddedState, epoch: int) -> None:
        self._state = state
        self._epoch = epoch

    async def restore(self, effects: Sequence[Effect]) -> None:
        await self._state.restore(effects, self._epoch)

    async def seal(self, watermark: Mapping[int, int]) -> None:
        await self._state.seal(watermark, self._epoch)
