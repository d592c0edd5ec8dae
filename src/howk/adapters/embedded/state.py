"""Hot state on SQLite with synchronous=OFF: it survives the process, and is rebuilt when the machine goes down.

It runs on the event loop: nothing here waits for the disk, and beside a busy loop a thread would spend longer on
getting the interpreter lock back than on the work. The file carries the session that wrote it: a file of another
session than the last, of another boot and not closed whole, or damaged, is thrown away at open and begun anew.

What the door accepted stays in memory until its first outcome (`young`), and which attempts are in flight always does:
the process takes both with it, and reconcile notes what is unfinished again. What the file knows wins.
"""

import asyncio
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from howk.adapters.embedded import hot
from howk.adapters.embedded import keys as key_table
from howk.adapters.embedded.db import Checkpoints, connect, is_damage, transaction, translate
from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.endpoints import Endpoints, Holding, Taken
from howk.adapters.embedded.keys import Keys
from howk.adapters.embedded.windows import Windows
from howk.adapters.embedded.young import Young
from howk.domain.delivery import DELIVER_AT, OF_ENDPOINT, Standing, Status, is_current
from howk.domain.errors import Conflict, HowkError, Permanent, Transient
from howk.domain.records import EndpointRow
from howk.domain.windows import DAY, HOUR
from howk.ports.clock import Clock
from howk.ports.state import (
    Ask,
    Claim,
    Claims,
    Condition,
    Effect,
    Follow,
    KeyAnswer,
    KeyAsk,
    KeyEnd,
    Passage,
    Standings,
    Statistics,
)

_PRUNE_AT_ONCE = 64
_FOREVER = 1 << 62
_WRITTEN_AT_CLOSE = 16_384
_MOST_KNOWN = 16_384
_FLUSH_AT_ONCE = 512
_WAL_BYTES = 64 << 20
# All of what is claimed at once is in memory, and is read before the loop goes on.
_CLAIM_BYTES = 2 << 20
_R = TypeVar("_R")
_STALE = Passage("stale")
_CANCELLED = Passage("cancelled")


class Keep(NamedTuple):
    """How long ended statuses are kept, in milliseconds, and how many; how long idempotency keys are, and what the
    windows count; how endpoints let go of what they hold. Above `young` deliveries without an outcome the oldest are
    written to the file; below, each costs about 150 bytes of memory."""

    ttl: int
    most: int
    keys: int = 86_400_000
    windows: int = 172_800_000
    holding: Holding = Holding(50, 20.0, 60.0)
    young: int = 1_000_000


class _Marks(NamedTuple):
    """Deliveries that are marked from now on, and those that are no more."""

    on: Sequence[str] = ()
    off: Sequence[str] = ()


class _Turned(NamedTuple):
    """Whether any delivery is in a turn, and how many were called by what was stored."""

    any: bool
    called: int = 0


class _Stored(NamedTuple):
    grown: hot.Grown
    turned: _Turned
    marks: _Marks
    gone: Sequence[str] = ()
    oldest: int = _FOREVER


class _Claimed(NamedTuple):
    due: list[Claim]
    taken: list[Taken]
    next_due: int


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
        self._rebuilding = False
        # Tokens of a run before this one are never given again.
        self._tokens = time.monotonic_ns()
        self._ended = hot.count_ended(connection)
        # No status that is kept has ended before this.
        self._oldest = hot.oldest_end(connection) or _FOREVER
        self._held: Counter[str] = Counter()
        self._waiting = 0
        self._marks = hot.marks(connection)
        self._in_turns = hot.any_turns(connection)
        self._endpoints = Endpoints(keep.holding)
        self._grew(hot.held(connection), clock.monotonic())
        self._young = Young()
        # Those of which the file knows nothing: it need not be asked.
        self._unwritten: set[str] = set()
        # Nor of what comes after the last one that it ever had, as ids of new deliveries do.
        self._last_id = hot.last_id(connection)
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
        # A link stays: who has room for it elsewhere put it there.
        path = (directory.path / "hot.db").resolve()
        try:
            return cls._open_file(path, directory, keep, clock)
        except (sqlite3.DatabaseError, OSError) as error:
            raise Permanent(
                f"{path} can't be opened or begun anew ({error}): make room, and see that howk may write there. It "
                "holds nothing that is not in the log, so it may be moved away"
            ) from error

    @classmethod
    def _open_file(cls, path: Path, directory: Directory, keep: Keep, clock: Clock) -> "EmbeddedState":
        reason = hot.distrust(path, directory.previous, directory.run)
        if reason:
            for end in ("", "-wal", "-shm"):
                path.with_name(path.name + end).unlink(missing_ok=True)
        connection = connect(path, pragmas=hot.PRAGMAS)
        if reason:
            hot.create(connection)
        hot.drop_leases(connection)
        hot.set_meta(connection, session=directory.run.session, boot=directory.run.boot, whole="")
        return cls(path, connection, Condition(not reason, reason, hot.watermark(connection)), keep, clock)

    async def accept(
        self, statuses: Sequence[Status], keys: Sequence[KeyEnd] = (), follow: Follow | None = None
    ) -> Mapping[int, int]:
        self._open()
        early = self._early
        self._young.add([status for status in statuses if status.id not in early] if early else statuses)
        if len(self._young) > self._keep.young:
            with suppress(Transient):
                # They are in the log: the door's answer stands. A disk that is full takes no more of them either.
                self._write_young(max(_FLUSH_AT_ONCE, len(self._young) - self._keep.young))
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
        statuses = self._young.oldest(most)

        def store(db: sqlite3.Connection) -> None:
            self._windows.hold(db, statuses)
            hot.add_pending(db, statuses)

        self._written([status.id for status in statuses])
        self._write(store)
        for status in statuses:
            self._young.pop(status.id)
        self._unwritten.difference_update([status.id for status in statuses])

    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        known = self._standing([ask.id for ask in asks])
        current = [is_current(standing, ask.series, ask.gen) for standing, ask in zip(known, asks, strict=True)]
        lowest = self._enter([ask for ask, yes in zip(asks, current, strict=True) if yes and ask.turn])
        clock = self._clock.monotonic()
        passages: list[Passage] = []
        for ask, standing, yes in zip(asks, known, current, strict=True):
            if not yes:
                passages.append(_STALE)
                continue
            if standing is None:
                self._young.add((_first_seen(ask),))
            if ask.id in self._marks:
                passages.append(_CANCELLED)
                continue
            waits = bool(ask.turn) and lowest[ask.turn] < ask.rank
            passage = self._endpoints.pass_(ask, now, clock, waits=waits)
            if passage.verdict == "go":
                self._in_flight[ask.id] = None
            passages.append(passage)
        return passages

    def _enter(self, asks: Sequence[Ask]) -> Mapping[str, int]:
        """The lowest rank of each turn, once these have entered it."""
        if not asks:
            return {}
        places = [(ask.turn, ask.rank, ask.id) for ask in asks]

        lowest = self._write(lambda db: hot.enter_turns(db, places))
        self._in_turns = True
        return lowest

    async def standing(self, ids: Sequence[str], endpoints: Sequence[str] = ()) -> Standings:
        return Standings(self._standing(ids), [self._endpoints.row(id_) for id_ in endpoints])

    def _standing(self, ids: Sequence[str]) -> list[Standing | None]:
        young, unwritten, last = self._young, self._unwritten, self._last_id
        asked = [id_ for id_ in ids if id_ <= last and id_ not in unwritten]
        known = self._read(lambda db: hot.standings(db, asked)) if asked else {}
        found = [known.get(id_) or young.standing(id_) for id_ in ids]
        unwritten.update([id_ for id_ in ids if id_ in young and id_ not in known])
        if self._marks:
            for position, id_ in enumerate(ids):
                if id_ in self._marks and (standing := found[position]) is not None:
                    found[position] = replace(standing, marked=True)
        return found

    def _written(self, ids: Sequence[str]) -> None:
        """These may be in the file from now on."""
        self._last_id = max(self._last_id, max(ids, default=""))

    async def apply(
        self,
        effects: Sequence[Effect],
        watermark: Mapping[int, int],
        endpoints: Sequence[EndpointRow] = (),
        marks: Sequence[str] = (),
    ) -> int:
        known = self._watermark
        if watermark and all(known.get(part, -1) >= offset for part, offset in watermark.items()):
            return 0
        reached = known | {part: max(offset, known.get(part, 0)) for part, offset in watermark.items()}
        now = self._clock.now()
        known_before = not all(effect.status.id in self._unwritten for effect in effects)

        self._written([effect.status.id for effect in effects])

        def store(db: sqlite3.Connection) -> _Stored:
            hot.set_watermark(db, reached, counted=self._windows.store(db, effects, now))
            grown = hot.store(db, effects, any_known=known_before, any_waiting=self._waiting > 0)
            turned = self._turn(db, grown.stored)
            changed = self._mark(db, effects, grown.stored, marks)
            return _Stored(grown, turned, changed, *self._pruned(db, grown, now))

        stored = self._write(store)
        self._oldest = stored.oldest
        self._windows.stored()
        self._watermark = reached
        self._ended -= len(stored.gone)
        for effect in effects:
            self._in_flight.pop(effect.status.id, None)
            if not self._young.pop(effect.status.id):
                self._early[effect.status.id] = None
        for id_ in stored.gone:
            # Or what the door said too late of it would be all that is left.
            self._young.pop(id_)
        self._unwritten.difference_update([effect.status.id for effect in effects], stored.gone)
        _bound(self._early)
        _bound(self._in_flight)
        clock = self._clock.monotonic()
        self._noted(stored, endpoints, clock)
        self._endpoints.outcomes(effects, clock)
        times = [effect.due_at for effect in effects if effect.due_at]
        if stored.turned.called or stored.marks.on:
            times.append(now)
        if look := self._endpoints.next_look(now, clock):
            times.append(look)
        return min(times, default=0)

    def _turn(self, db: sqlite3.Connection, stored: Sequence[Effect]) -> _Turned:
        """Move turns on."""
        places = [(effect.turn, effect.rank, effect.status.id) for effect in stored if effect.turn and effect.rank]
        if not places and not self._in_turns:
            return _Turned(any=False)
        # One without a rank names its turn all the same, and keeps the place that it may have.
        staying = {effect.status.id for effect in stored if effect.turn}
        left = hot.leave_turns(db, [e.status.id for e in stored if e.status.id not in staying])
        if places:
            hot.enter_turns(db, places)
        turns = list({*left, *(turn for turn, _, _ in places)})
        return _Turned(hot.any_turns(db), hot.call_next(db, turns) if turns else 0)

    def _mark(
        self, db: sqlite3.Connection, effects: Sequence[Effect], stored: Sequence[Effect], marks: Sequence[str]
    ) -> _Marks:
        """Take marks off what has ended, and set these on what has not; what waits under a mark is due."""
        if not marks and not self._marks:
            return _Marks()
        off = {effect.status.id for effect in effects if effect.status.ended_at and effect.status.id in self._marks}
        again = {e.status.id for e in stored if e.due_at and e.status.id in self._marks and e.status.id not in off}
        over = {id_ for id_, standing in hot.standings(db, marks).items() if standing.ended} if marks else set[str]()
        on = [*again, *(id_ for id_ in marks if id_ not in over)]
        if off:
            hot.unmark(db, list(off))
        if on:
            hot.mark(db, on)
        return _Marks(on, list(off))

    def _pruned(self, db: sqlite3.Connection, grown: hot.Grown, now: int) -> tuple[list[str], int]:
        """Drop some of what is over the bound or too old, more than has come, and say since when there are ends; the
        file is not asked where nothing can be to drop."""
        most = _PRUNE_AT_ONCE + 2 * len(grown.stored)
        over = min(self._ended + grown.ended - self._keep.most, most)
        gone = hot.prune(db, _FOREVER, over) if over > 0 else []
        before = now - self._keep.ttl
        oldest = min([self._oldest, *_ends(grown.stored)])
        if oldest < before:
            gone += hot.prune(db, before, most)
        return gone, (hot.oldest_end(db) or _FOREVER) if gone or oldest < before else oldest

    def _noted(self, stored: _Stored, endpoints: Sequence[EndpointRow], clock: float) -> None:
        """What is in the file is in memory too."""
        self._ended += stored.grown.ended
        self._in_turns = stored.turned.any
        self._marks.difference_update(stored.marks.off)
        self._marks.update(stored.marks.on)
        self._endpoints.learn(endpoints, clock)
        self._grew(stored.grown.waiting, clock)

    def _grew(self, grown: Mapping[hot.Held, int], clock: float) -> None:
        for held, count in grown.items():
            self._waiting += count
            self._held[held[1]] += count
        self._endpoints.held(grown, clock)

    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        clock = self._clock.monotonic()
        self._tokens += 1
        token = self._tokens
        if not self._waiting:
            return Claims([], 0, 0, {}, self._endpoints.open_breakers, self._endpoints.idle(now, clock))

        def take(db: sqlite3.Connection) -> _Claimed:
            until = clock + lease
            rows = hot.lease_due(db, now, clock, until, token, limit, _CLAIM_BYTES)
            due = [self._due(row, token) for row in rows]
            taken: list[Taken] = []
            left, room = limit - len(due), _CLAIM_BYTES - _size(rows)
            for id_ in self._endpoints.looks(clock, left):
                if not left or room <= 0:
                    break
                grant = self._endpoints.grant(id_, now, clock)
                most = min(grant.most, left)
                rows = hot.lease_held(db, id_, clock, until, token, most, room) if most else []
                left, room = left - len(rows), room - _size(rows)
                # Where the bytes were the bound, there may be more.
                asked = most if room > 0 else len(rows)
                taken.append(Taken(grant, asked, [row.id for row in rows], token, until))
                due += [self._let_go(row, taken[-1]) for row in rows]
            return _Claimed(due, taken, hot.next_due(db, clock))

        due, granted, next_due = self._write(take)
        for taken in granted:
            self._endpoints.took(taken, now, clock)
        times = [time for time in (next_due, self._endpoints.next_look(now, clock)) if time]
        held = {reason: count for reason, count in self._held.items() if reason not in ("", DELIVER_AT) and count}
        idle = self._endpoints.idle(now, clock)
        return Claims(due, min(times, default=0), self._waiting, held, self._endpoints.open_breakers, idle)

    def _due(self, row: hot.Leased, token: int) -> Claim:
        if row.id in self._marks:
            why = "cancelled"
        else:
            # One whose turn has come meets its endpoint at the gate, as any other does.
            why = "expired" if row.held in OF_ENDPOINT else "due"
        return Claim(row.id, row.series, row.gen, row.record, token, why)

    def _let_go(self, row: hot.Leased, taken: Taken) -> Claim:
        why = "endpoint_disabled" if taken.grant.disabled else "admitted"
        return Claim(row.id, row.series, row.gen, row.record, taken.token, why, taken.grant.probe)

    async def release(self, claims: Sequence[Claim]) -> None:
        def drop(db: sqlite3.Connection) -> Counter[hot.Held]:
            gone: Counter[hot.Held] = Counter()
            for token in {claim.token for claim in claims if claim.token}:
                gone += hot.drop_leased(db, token, [claim.id for claim in claims if claim.token == token])
            queued = [(claim.id, claim.series, claim.gen) for claim in claims if not claim.token]
            return gone + hot.unschedule(db, queued) if queued else gone

        gone, clock = self._write(drop), self._clock.monotonic()
        self._grew({held: -count for held, count in gone.items()}, clock)
        self._endpoints.released(claims, clock)

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
        young, window = self._young.received(), self._windows.window
        return self._read(
            lambda db: Statistics(self._waiting, self._ended, window(db, now, HOUR, young), window(db, now, DAY, young))
        )

    async def condition(self) -> Condition:
        return Condition(self._valid, self._reason, dict(self._watermark))

    async def rebuild(self) -> "EmbeddedRebuild":
        # First attempts go by what one that this process had begun has restored of them.
        rows = self._endpoints.rows() if self._rebuilding else []
        marks = list(self._marks) if self._rebuilding else []

        def forget(db: sqlite3.Connection) -> None:
            hot.wipe(db)
            hot.mark(db, marks)

        self._epoch += 1
        self._valid, self._reason = False, "a rebuild is under way"
        self._write(forget)
        self._rebuilding = True
        with suppress(sqlite3.OperationalError):
            # It is begun anew after a crash in any case. Where another reads it, it stays as it is.
            hot.write_through(self._db)
        self._watermark = {}
        self._ended = self._waiting = 0
        self._oldest = _FOREVER
        self._in_turns = False
        self._held.clear()
        self._marks = set(marks)
        self._endpoints.clear()
        self._endpoints.learn(rows, self._clock.monotonic())
        self._young.clear()
        self._unwritten.clear()
        self._in_flight.clear()
        self._early.clear()
        self._keys.wiped()
        self._windows.wiped()
        return EmbeddedRebuild(self, self._epoch)

    async def restore(
        self, effects: Sequence[Effect], endpoints: Sequence[EndpointRow], marks: Sequence[str], epoch: int
    ) -> None:
        """One step of a rebuild; see `EmbeddedRebuild`."""
        self._still(epoch)

        self._written([effect.status.id for effect in effects])

        def store(db: sqlite3.Connection) -> _Stored:
            self._windows.restore(db, effects)
            grown = hot.restore(db, effects)
            turned = self._turn(db, grown.stored)
            return _Stored(grown, turned, self._mark(db, grown.stored, grown.stored, marks))

        self._noted(self._write(store), endpoints, self._clock.monotonic())
        self._oldest = min([self._oldest, *_ends(effects)])
        if len(self._young) or self._unwritten:
            for effect in effects:
                # Or it would count twice as received until it has an outcome.
                self._young.pop(effect.status.id)
            self._unwritten.difference_update([effect.status.id for effect in effects])

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

        self._read(hot.write_ahead)
        self._write(finish)
        self._watermark = dict(watermark)
        self._valid, self._reason = True, ""
        self._rebuilding = False

    def _still(self, epoch: int) -> None:
        if epoch != self._epoch:
            raise Conflict("a later rebuild of hot state has begun: this one is void")

    async def close(self) -> None:
        if self._closed:
            return
        with suppress(Transient):
            # So that their statuses are there at once; those beyond are noted again by reconcile.
            self._write_young(_WRITTEN_AT_CLOSE)
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
            raise self._failed(error) from error

    def _write(self, act: Callable[[sqlite3.Connection], _R]) -> _R:
        self._open()
        try:
            with transaction(self._db):
                answer = act(self._db)
            self._checkpoints.after_commit(self._db)
        except sqlite3.DatabaseError as error:
            raise self._failed(error) from error
        return answer

    def _failed(self, error: sqlite3.DatabaseError) -> HowkError:
        if not is_damage(error):
            return translate("hot state", error)
        with suppress(sqlite3.DatabaseError):
            hot.set_meta(self._db, valid="damaged")
        return Permanent(f"hot.db is damaged ({error}): start howk again, and it is rebuilt from the log")


def _size(rows: Sequence[hot.Leased]) -> int:
    return sum([len(row.record) for row in rows])


def _ends(effects: Sequence[Effect]) -> list[int]:
    return [effect.status.ended_at for effect in effects if effect.status.ended_at]


def _bound(ids: dict[str, None]) -> None:
    """Drop the oldest above the bound."""
    for id_ in list(islice(ids, max(0, len(ids) - _MOST_KNOWN))):
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
        # What is asked of it later has to stand in the same order as its results.
        ordering_key=ask.turn.partition("/")[2],
    )


class EmbeddedRebuild:
    """The `Rebuild` port: valid for as long as no later rebuild has begun."""

    def __init__(self, state: EmbeddedState, epoch: int) -> None:
        self._state = state
        self._epoch = epoch

    async def restore(
        self, effects: Sequence[Effect], endpoints: Sequence[EndpointRow] = (), marks: Sequence[str] = ()
    ) -> None:
        await self._state.restore(effects, endpoints, marks, self._epoch)

    async def count(self, effects: Sequence[Effect]) -> None:
        await self._state.count(effects, self._epoch)

    async def seal(self, watermark: Mapping[int, int]) -> None:
        await self._state.seal(watermark, self._epoch)
