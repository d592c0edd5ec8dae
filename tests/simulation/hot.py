"""A hot state of plain dictionaries, for the simulation: written from `howk.ports.state` and the rules of
`howk.domain`, so that it is a second reading of the contract beside the engine that ships. `HotDurable` is what the
contract keeps through a kill of the process; everything else is in `SimulatedHot` and dies with it.

Each call is one decision without an await in it. Nothing here asks a clock but the one that was given, and nothing
depends on the order of a set.
"""

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

from msgspec.structs import replace

from howk.domain.admission import Release, Share, admit, rate_of, release
from howk.domain.breaker import Circuit, is_default
from howk.domain.delivery import DELIVER_AT, ENDED, LIMIT, OF_ENDPOINT, ORDER, Standing, Status, is_current
from howk.domain.errors import Conflict, Full, Transient
from howk.domain.idempotency import Claimed, Kept, Verdict, ended, expired, judge
from howk.domain.limits import Bucket, refilled, reserve_token
from howk.domain.records import EndpointRow
from howk.domain.windows import DAY, HOUR, KIND_OF, Window
from howk.ports.clock import Clock
from howk.ports.directory import NO_LIMITS, Limits
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

PATIENCE = 2.0
"""Seconds that a delivery may wait for a token of its endpoint before it is put aside."""
LOST_AFTER = 600.0
"""Seconds after which what was let go of a queue is taken for lost."""
DOUBT = 60.0
"""Seconds that a claim of a key is remembered whose end nobody knows."""
_LOOK_FOR_IDLE = 60.0
_AT_ONCE = 1
"""A due time that no clock, however far it is set back, stands before."""


class HotSettings(NamedTuple):
    """What a deployment sets: times in milliseconds for what is kept, in seconds for endpoints."""

    status_ttl: int = 7 * 86_400_000
    status_max: int = 2_000_000
    key_ttl: int = 86_400_000
    keys_max: int = 65_536
    most_out: int = 50
    ramp: float = 20.0
    probe_lease: float = 60.0
    endpoints_max: int = 65_536
    idle_after: float = 86_400.0


@dataclass(slots=True)
class _Row:
    """A delivery that waits; `endpoint` is the one whose queue it stands in."""

    series: int
    gen: int
    due: int
    held_by: str
    endpoint: str
    record: bytes


class HotDurable:
    """What survives a kill of the process."""

    def __init__(self) -> None:
        # No token and no rebuild of one life is taken for one of another.
        self.token = self.epoch = 0
        self.owner: SimulatedHot | None = None
        self.lose()

    def lose(self, reason: str = "it is missing") -> None:
        """The machine has lost it, or a rebuild begins."""
        self.valid, self.reason = False, reason
        self.watermark: dict[int, int] = {}
        self.statuses: dict[str, Status] = {}
        self.ends: list[tuple[int, str]] = []
        self.rows: dict[str, _Row] = {}
        """In the order in which they came to wait."""
        self.turns: dict[str, dict[str, int]] = {}
        self.turn_of: dict[str, str] = {}
        self.marks: set[str] = set()
        self.received: dict[str, int] = {}
        self.happened: Counter[tuple[int, str]] = Counter()
        self.called: dict[str, int] = {}
        self.keys: dict[str, Kept] = {}
        self.keys_reached: dict[int, int] = {}


@dataclass(slots=True)
class _Endpoint:
    """What is known of an endpoint beside its queue."""

    row: EndpointRow | None = None
    limits: Limits = NO_LIMITS
    bucket: Bucket | None = None
    share: Share = field(default_factory=Share)
    probing_until: float = 0.0

    @property
    def circuit(self) -> Circuit:
        return self.row.circuit if self.row else _CLOSED


_CLOSED = Circuit()


class _Lease(NamedTuple):
    token: int
    until: float


class _Out(NamedTuple):
    """A delivery that was let go of a queue."""

    endpoint: str
    token: int
    until: float


class _KeyClaim(NamedTuple):
    claimed: Claimed
    settled: "asyncio.Future[None]"
    let_go: float = 0.0


class SimulatedHot:
    """The `HotState` port of one life of the process. To open another over the same `HotDurable` kills this one."""

    def __init__(self, durable: HotDurable, settings: HotSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._durable = durable
        durable.owner = self
        if not durable.valid:
            durable.lose(durable.reason)
        self._young: dict[str, Status] = {}
        """Accepted or seen at the gate, and not settled yet."""
        self._settled: set[str] = set()
        self._in_flight: set[str] = set()
        self._leases: dict[str, _Lease] = {}
        self._endpoints: dict[str, _Endpoint] = {}
        self._out: dict[str, _Out] = {}
        self._idle_at = 0.0
        self._rebuilding = False
        self._queues: dict[str, dict[str, None]] = {}
        for id_, row in durable.rows.items():
            self._stand_in_queue(id_, row)
        self._claimed: dict[str, _KeyClaim] = {}
        self._said: dict[str, Kept] = {}
        """Keys that the door has confirmed and that were not read yet."""
        self._keys_whole = False
        self._whole_at = 0.0

    def _alive(self) -> HotDurable:
        if self._durable.owner is not self:
            raise Transient("hot state is closed: the process is stopping, try again")
        return self._durable

    async def close(self) -> None:
        if self._durable.owner is not self:
            return
        self._durable.owner = None
        for id_, status in self._young.items():
            self._durable.statuses.setdefault(id_, status)
            self._received(status)

    async def condition(self) -> Condition:
        durable = self._alive()
        return Condition(durable.valid, durable.reason, dict(durable.watermark))

    # What is known of deliveries

    def _status(self, id_: str) -> Status | None:
        return self._durable.statuses.get(id_) or self._young.get(id_)

    def _standing(self, id_: str) -> Standing | None:
        status = self._status(id_)
        if status is None:
            return None
        return Standing(status.series, status.gen, status.state in ENDED, id_ in self._durable.marks)

    async def status(self, ids: Sequence[str]) -> Sequence[Status | None]:
        self._alive()
        return [self._shown(self._status(id_)) for id_ in ids]

    def _shown(self, status: Status | None) -> Status | None:
        if status is None or status.state in ENDED or status.id not in self._in_flight:
            return status
        return replace(status, state="delivering")

    async def standing(self, ids: Sequence[str], endpoints: Sequence[str] = ()) -> Standings:
        self._alive()
        return Standings([self._standing(id_) for id_ in ids], [self.row_of(id_) for id_ in endpoints])

    def row_of(self, endpoint: str) -> EndpointRow | None:
        """Where an endpoint stands, for who looks on."""
        known = self._endpoints.get(endpoint)
        return known.row if known else None

    def _received(self, status: Status) -> None:
        # By delivery, so that it counts once however often it is noted.
        if (status.series, status.gen) == (1, 0):
            self._durable.received.setdefault(status.id, status.created_at)

    async def statistics(self, now: int) -> Statistics:
        durable = self._alive()
        if not durable.valid:
            raise Transient("statistics are being read from the log: try again in a moment")
        return Statistics(len(durable.rows), len(durable.ends), self._window(now, HOUR), self._window(now, DAY))

    def _window(self, now: int, length: int) -> Window:
        durable, until = self._durable, now // 1000
        kinds: Counter[str] = Counter()
        for (second, kind), count in durable.happened.items():
            if until - length < second <= until:
                kinds[kind] += count
        young = {s.id: s.created_at for s in self._young.values() if (s.series, s.gen) == (1, 0)}
        received = [at for at in (young | durable.received).values() if until - length < at // 1000 <= until]
        called = [at for at in durable.called.values() if until - length < at <= until]
        return Window(received=len(received), unique_endpoints=len(called), **kinds)

    # The door

    async def accept(
        self, statuses: Sequence[Status], keys: Sequence[KeyEnd] = (), follow: Follow | None = None
    ) -> Mapping[int, int]:
        durable = self._alive()
        for status in statuses:
            if status.id not in self._settled and status.id not in durable.statuses:
                self._young.setdefault(status.id, status)
        if follow is None:
            self._end_claims(keys)
        elif follow.before == durable.keys_reached:
            self._follow(keys, follow)
        return dict(durable.keys_reached)

    async def claim_keys(self, asks: Sequence[KeyAsk], now: int) -> Sequence[KeyAnswer]:
        self._alive()
        if not self._keys_whole:
            raise Transient("idempotency keys are being read from the log: try again in a moment")
        if len(self._claimed) + len(self._said) >= self._settings.keys_max:
            raise Full("too many idempotency keys are under way: try again in a moment")
        return [self._claim_key(ask, now) for ask in asks]

    def _claim_key(self, ask: KeyAsk, now: int) -> KeyAnswer:
        claim = self._claimed.get(ask.key)
        known = claim.claimed if claim else self._said.get(ask.key) or self._durable.keys.get(ask.key)
        verdict = judge(known, ask.body, now, self._settings.key_ttl)
        if verdict is Verdict.MINE:
            mine = claim.claimed._replace(held=True) if claim else Claimed(ask.body, ask.id, held=True)
            self._claimed[ask.key] = _KeyClaim(mine, asyncio.get_running_loop().create_future())
            return KeyAnswer(verdict, mine.id)
        if verdict is Verdict.BUSY and claim:
            return KeyAnswer(verdict, settled=claim.settled)
        return KeyAnswer(verdict, known.id if known and verdict is Verdict.REPLAY else "")

    def _end_claims(self, ends: Iterable[KeyEnd]) -> None:
        for end in ends:
            claim = self._claimed.get(end.key)
            if claim is None or claim.claimed.id != end.id:
                # It was read from the log meanwhile.
                continue
            known = ended(claim.claimed, end.end, end.accepted_at)
            del self._claimed[end.key]
            if isinstance(known, Claimed):
                self._claimed[end.key] = _KeyClaim(known, claim.settled, self._clock.monotonic())
            elif known:
                self._said[end.key] = known
            _wake(claim)

    def _follow(self, ends: Iterable[KeyEnd], follow: Follow) -> None:
        durable, now, ttl = self._durable, self._clock.now(), self._settings.key_ttl
        durable.keys_reached = dict(follow.reached)
        for end in ends:
            durable.keys[end.key] = Kept(end.body, end.id, end.accepted_at)
            claim, said = self._claimed.get(end.key), self._said.get(end.key)
            if claim and claim.claimed.id == end.id:
                _wake(self._claimed.pop(end.key))
            if said and said.id == end.id:
                del self._said[end.key]
        for kept in (durable.keys, self._said):
            for key in [key for key, one in kept.items() if expired(one.accepted_at, now, ttl)]:
                del kept[key]
        if follow.whole:
            self._keys_whole = True
            self._forget_doubts()

    def _forget_doubts(self) -> None:
        # What was let go before the `whole` before this one would have been read by now.
        before = min(self._clock.monotonic() - DOUBT, self._whole_at)
        self._whole_at = self._clock.monotonic()
        for key, claim in list(self._claimed.items()):
            if not claim.claimed.held and claim.let_go <= before:
                del self._claimed[key]

    # The gate

    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        self._alive()
        current = [is_current(self._standing(ask.id), ask.series, ask.gen) for ask in asks]
        for ask, yes in zip(asks, current, strict=True):
            if yes and ask.turn:
                self._enter(ask.id, ask.turn, ask.rank)
        return [self._pass(ask, now) if yes else Passage("stale") for ask, yes in zip(asks, current, strict=True)]

    def _pass(self, ask: Ask, now: int) -> Passage:
        if self._status(ask.id) is None:
            self._young[ask.id] = _first_seen(ask)
        if ask.id in self._durable.marks:
            return Passage("cancelled")
        passage = self._admit(ask, now)
        if passage.verdict == "go":
            self._in_flight.add(ask.id)
        return passage

    def _admit(self, ask: Ask, now: int) -> Passage:
        clock = self._clock.monotonic()
        endpoint = self._endpoint(ask.endpoint)
        endpoint.limits = ask.limits
        found = admit(
            endpoint.circuit,
            now,
            behind=bool(self._queues.get(ask.endpoint)),
            probing=endpoint.probing_until > clock,
            admitted=ask.admitted,
            probe=ask.probe,
        )
        if found.verdict == "disabled":
            return Passage("disabled")
        if ask.turn and min(self._durable.turns[ask.turn].values()) < ask.rank:
            return Passage("wait" if found.verdict == "go" else "hold", ORDER)
        if found.verdict == "hold":
            return Passage("hold", found.held_by)
        if found.probe:
            endpoint.probing_until = clock + self._settings.probe_lease
            return Passage("go", probe=found.probe)
        rate, burst = self._rate(endpoint, now)
        if ask.admitted or not rate:
            # What was held has had its token since it was let go.
            return Passage("go")
        endpoint.bucket, wait = reserve_token(endpoint.bucket, rate, burst, clock, PATIENCE)
        return Passage("hold", LIMIT) if wait is None else Passage("go", wait=wait)

    def _rate(self, endpoint: _Endpoint, now: int) -> tuple[float, float]:
        asked = endpoint.limits
        rate = rate_of(endpoint.circuit, now, asked.per_second, self._settings.ramp)
        return rate, max(1.0, asked.burst if asked.burst and rate == asked.per_second else rate)

    def _endpoint(self, id_: str) -> _Endpoint:
        """The endpoint, now the last one to be forgotten."""
        endpoint = self._endpoints[id_] = self._endpoints.pop(id_, None) or _Endpoint()
        if len(self._endpoints) > self._settings.endpoints_max:
            resting = [one for one in self._endpoints if one != id_ and self._rests(one)]
            for one in resting[:1]:
                del self._endpoints[one]
        return endpoint

    def _rests(self, id_: str) -> bool:
        return is_default(self._endpoints[id_].circuit) and not self._queues.get(id_) and not self._count_out(id_)

    def _count_out(self, endpoint: str) -> int:
        clock = self._clock.monotonic()
        return sum([out.endpoint == endpoint and out.until > clock for out in self._out.values()])

    # Settle

    async def apply(
        self,
        effects: Sequence[Effect],
        watermark: Mapping[int, int],
        endpoints: Sequence[EndpointRow] = (),
        marks: Sequence[str] = (),
    ) -> int:
        durable = self._alive()
        if watermark and all(durable.watermark.get(part, -1) >= offset for part, offset in watermark.items()):
            return 0
        for part, offset in watermark.items():
            durable.watermark[part] = max(offset, durable.watermark.get(part, 0))
        now = self._clock.now()
        times: list[int] = []
        for effect in effects:
            self._count(effect)
            self._come_back(effect)
            self._in_flight.discard(effect.status.id)
        times += self._store(effects)
        for row in endpoints:
            self._learn(row)
        times += self._mark(marks)
        self._prune(now)
        times += [look for id_ in self._queues if (look := self._look(id_, now))]
        return min([max(time, now) for time in times], default=0)

    def _count(self, effect: Effect) -> None:
        durable, second = self._durable, effect.at // 1000
        if effect.accepted_at:
            durable.received[effect.status.id] = effect.accepted_at
        if effect.at and (kind := KIND_OF.get(effect.status.state)):
            durable.happened[second, kind] += 1
        if effect.at and effect.endpoint and not effect.status.held_by:
            durable.called[effect.endpoint] = max(second, durable.called.get(effect.endpoint, 0))

    def _come_back(self, effect: Effect) -> None:
        out = self._out.pop(effect.status.id, None)
        endpoint = self._endpoints.get(out.endpoint) if out else None
        if out and endpoint and out.until > self._clock.monotonic():
            endpoint.share = endpoint.share.after(effect.good, self._cap(endpoint))

    def _store(self, effects: Sequence[Effect]) -> list[int]:
        """Put deliveries where they stand now; when those that wait are due."""
        turns: dict[str, None] = {}
        for effect in effects:
            turns.update(dict.fromkeys(self._put(effect)))
        called = [self._durable.rows[id_].due for turn in turns for id_ in self._call_next(turn)]
        waiting = [self._durable.rows.get(effect.status.id) for effect in effects]
        return called + [row.due for row in waiting if row]

    def _put(self, effect: Effect) -> list[str]:
        """Put one delivery where it stands now; the turns that may have moved on by it."""
        durable, status = self._durable, effect.status
        id_, over = status.id, status.state in ENDED
        self._forget_status(id_)
        self._drop(id_)
        self._settled.add(id_)
        durable.statuses[id_] = status
        if over:
            insort(durable.ends, (status.ended_at, id_))
            durable.marks.discard(id_)
        if effect.due_at:
            endpoint = effect.endpoint if status.held_by in OF_ENDPOINT else ""
            due = _AT_ONCE if id_ in durable.marks else effect.due_at
            row = _Row(status.series, status.gen, due, status.held_by, endpoint, effect.record)
            durable.rows[id_] = row
            self._stand_in_queue(id_, row)
        if effect.turn and not effect.rank and not over:
            # It takes its place when it is let go, and keeps one that it has taken since.
            return []
        left = self._leave(id_)
        if over or not effect.turn:
            return left
        self._enter(id_, effect.turn, effect.rank)
        return [*left, effect.turn]

    def _forget_status(self, id_: str) -> None:
        durable = self._durable
        if young := self._young.pop(id_, None):
            self._received(young)
        known = durable.statuses.pop(id_, None)
        if known and known.state in ENDED:
            durable.ends.remove((known.ended_at, id_))

    def _prune(self, now: int) -> None:
        ends, keep = self._durable.ends, self._settings
        while ends and (len(ends) > keep.status_max or ends[0][0] < now - keep.status_ttl):
            self._forget_status(ends[0][1])

    def _learn(self, row: EndpointRow) -> None:
        endpoint = self._endpoint(row.id)
        before = endpoint.circuit.gen
        if row.circuit.gen < before:
            return
        endpoint.row = row
        if row.circuit.gen > before:
            endpoint.probing_until = 0.0
            if row.circuit.state != "closed":
                endpoint.share = Share()

    def _mark(self, ids: Iterable[str]) -> list[int]:
        """Mark deliveries that have not ended; when those of them that wait are due."""
        rows, times = self._durable.rows, list[int]()
        for id_ in ids:
            status = self._status(id_)
            if status and status.state in ENDED:
                continue
            self._durable.marks.add(id_)
            if id_ in rows:
                rows[id_].due = _AT_ONCE
                times.append(_AT_ONCE)
        return times

    # Turns

    def _enter(self, id_: str, turn: str, rank: int) -> None:
        self._leave(id_)
        self._durable.turns.setdefault(turn, {})[id_] = rank
        self._durable.turn_of[id_] = turn

    def _leave(self, id_: str) -> list[str]:
        turns = self._durable.turns
        turn = self._durable.turn_of.pop(id_, "")
        if not turn:
            return []
        del turns[turn][id_]
        if not turns[turn]:
            del turns[turn]
        return [turn]

    def _call_next(self, turn: str) -> list[str]:
        """Of those held by their order, the ones that have become due now."""
        ranks, rows = self._durable.turns.get(turn, {}), self._durable.rows
        lowest = min(ranks.values(), default=0)
        first = [id_ for id_, rank in ranks.items() if rank == lowest and id_ in rows]
        called = [id_ for id_ in first if rows[id_].held_by == ORDER and rows[id_].due > _AT_ONCE]
        for id_ in called:
            rows[id_].due = _AT_ONCE
        return called

    # What waits

    def _stand_in_queue(self, id_: str, row: _Row) -> None:
        if row.endpoint:
            self._queues.setdefault(row.endpoint, {})[id_] = None

    def _drop(self, id_: str) -> None:
        """It does not wait any more."""
        self._leases.pop(id_, None)
        row = self._durable.rows.pop(id_, None)
        if row and row.endpoint:
            queue = self._queues[row.endpoint]
            del queue[id_]
            if not queue:
                del self._queues[row.endpoint]

    def _free(self, id_: str) -> bool:
        lease = self._leases.get(id_)
        return lease is None or lease.until <= self._clock.monotonic()

    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        durable = self._alive()
        durable.token += 1
        taken = _Lease(durable.token, self._clock.monotonic() + lease)
        ready = [id_ for id_, row in durable.rows.items() if row.due <= now and self._free(id_)]
        ready.sort(key=lambda id_: durable.rows[id_].due)
        claims = [self._lease(id_, taken, self._why_due(id_)) for id_ in ready[:limit]]
        for endpoint in list(self._queues):
            claims += self._let_go(endpoint, now, limit - len(claims), taken)
        times = [row.due for id_, row in durable.rows.items() if self._free(id_)]
        times += [look for id_ in self._queues if (look := self._look(id_, now))]
        held = Counter([row.held_by for row in durable.rows.values()])
        reasons = {reason: count for reason, count in held.items() if reason not in ("", DELIVER_AT)}
        open_ = [one for one in self._endpoints.values() if one.circuit.state != "closed"]
        return Claims(claims, min(times, default=0), len(durable.rows), reasons, len(open_), self._idle(now))

    def _why_due(self, id_: str) -> str:
        if id_ in self._durable.marks:
            return "cancelled"
        return "expired" if self._durable.rows[id_].held_by in OF_ENDPOINT else "due"

    def _lease(self, id_: str, taken: _Lease, why: str, probe: int = 0) -> Claim:
        row = self._durable.rows[id_]
        self._leases[id_] = taken
        return Claim(id_, row.series, row.gen, row.record, taken.token, why, probe)  # pyright: ignore[reportArgumentType]

    def _let_go(self, id_: str, now: int, most: int, taken: _Lease) -> list[Claim]:
        endpoint, clock = self._endpoint(id_), self._clock.monotonic()
        free = [one for one in self._queues[id_] if self._free(one)]
        if endpoint.circuit.disabled:
            return [self._lease(one, taken, "endpoint_disabled") for one in free[: max(0, most)]]
        found = self._may_release(id_, endpoint, now)
        going = free[: max(0, min(most, found.most))]
        for one in going:
            self._out[one] = _Out(id_, *taken)
        if going and found.probe:
            endpoint.probing_until = clock + self._settings.probe_lease
        elif going and (rate := self._rate(endpoint, now))[0]:
            bucket = refilled(endpoint.bucket, *rate, clock)
            endpoint.bucket = Bucket(bucket.tokens - len(going), bucket.at)
        return [self._lease(one, taken, "admitted", found.probe) for one in going]

    def _may_release(self, id_: str, endpoint: _Endpoint, now: int) -> Release:
        clock = self._clock.monotonic()
        rate, burst = self._rate(endpoint, now)
        return release(
            endpoint.circuit,
            now,
            out=self._count_out(id_),
            share=endpoint.share.within(self._cap(endpoint)),
            probing=endpoint.probing_until - clock,
            tokens=refilled(endpoint.bucket, rate, burst, clock) if rate else None,
            rate=rate,
        )

    def _cap(self, endpoint: _Endpoint) -> int:
        return min(endpoint.limits.max_in_flight or self._settings.most_out, self._settings.most_out)

    def _look(self, id_: str, now: int) -> int:
        """When this queue may give something, 0 where only an event can tell."""
        endpoint, clock = self._endpoint(id_), self._clock.monotonic()
        found = self._may_release(id_, endpoint, now)
        if (found.most or endpoint.circuit.disabled) and any(map(self._free, self._queues[id_])):
            return now
        if found.again and not endpoint.circuit.disabled:
            return now + ceil(found.again * 1000)
        ends = [out.until for out in self._out.values() if out.endpoint == id_ and out.until > clock]
        ends += [self._leases[one].until for one in self._queues[id_] if not self._free(one)]
        return now + ceil((min(ends) - clock) * 1000) if ends else 0

    def _idle(self, now: int) -> list[EndpointRow]:
        clock, before = self._clock.monotonic(), now - round(self._settings.idle_after * 1000)
        if clock < self._idle_at:
            return []
        self._idle_at = clock + _LOOK_FOR_IDLE
        rows = [one.row for id_, one in self._endpoints.items() if one.row and not self._queues.get(id_)]
        unused = [row for row in rows if row.circuit.state != "closed" and row.circuit.probe_at < before]
        return [row for row in unused if not row.circuit.disabled and not row.circuit.paused]

    async def release(self, claims: Sequence[Claim]) -> None:
        durable = self._alive()
        for claim in claims:
            row, lease = durable.rows.get(claim.id), self._leases.get(claim.id)
            queued = not claim.token and row and (row.series, row.gen) == (claim.series, claim.gen)
            if queued or (claim.token and lease and lease.token == claim.token):
                self._drop(claim.id)
            out = self._out.get(claim.id)
            if out and out.token == claim.token:
                clock = self._clock.monotonic()
                self._out[claim.id] = out._replace(until=clock + LOST_AFTER)
                endpoint = self._endpoints.get(out.endpoint)
                if endpoint and endpoint.row and claim.probe and claim.probe == endpoint.row.circuit.gen:
                    endpoint.probing_until = clock + self._settings.probe_lease

    # Rebuild

    async def rebuild(self) -> "SimulatedRebuild":
        durable = self._alive()
        stops = (
            ([one.row for one in self._endpoints.values() if one.row], durable.marks) if self._rebuilding else ([], ())
        )
        durable.lose("a rebuild is under way")
        durable.epoch += 1
        self._rebuilding = True
        for part in (self._young, self._leases, self._endpoints, self._out, self._queues):
            part.clear()
        # What one that this life had begun has restored of them.
        for row in stops[0]:
            self._learn(row)
        durable.marks.update(stops[1])
        self._settled.clear()
        self._in_flight.clear()
        self._keys_whole = False
        return SimulatedRebuild(self, durable.epoch)

    def restore(
        self, effects: Sequence[Effect], endpoints: Sequence[EndpointRow], marks: Sequence[str], epoch: int
    ) -> None:
        """One step of a rebuild; see `SimulatedRebuild`."""
        self.still(epoch)
        for effect in effects:
            known = self._durable.statuses.get(effect.status.id)
            if known is None or _reached(effect.status) >= _reached(known):
                self._put(effect)
                if effect.status.state == "pending":
                    self._received(effect.status)
        for row in endpoints:
            self._learn(row)
        self._mark(marks)

    def count(self, effects: Sequence[Effect], epoch: int) -> None:
        """What happened before a rebuild; see `SimulatedRebuild`."""
        self.still(epoch)
        for effect in effects:
            self._count(effect)

    def seal(self, watermark: Mapping[int, int], epoch: int) -> None:
        """The end of a rebuild; see `SimulatedRebuild`."""
        durable = self.still(epoch)
        for turn in durable.turns:
            self._call_next(turn)
        durable.valid, durable.reason, durable.watermark = True, "", dict(watermark)
        self._rebuilding = False

    def still(self, epoch: int) -> HotDurable:
        """Raises `Conflict` when a later rebuild has begun."""
        durable = self._alive()
        if durable.epoch != epoch:
            raise Conflict("a later rebuild of hot state has begun: this one is void")
        return durable


class SimulatedRebuild:
    """The `Rebuild` port."""

    def __init__(self, state: SimulatedHot, epoch: int) -> None:
        self._state = state
        self._epoch = epoch

    async def count(self, effects: Sequence[Effect]) -> None:
        self._state.count(effects, self._epoch)

    async def restore(
        self, effects: Sequence[Effect], endpoints: Sequence[EndpointRow] = (), marks: Sequence[str] = ()
    ) -> None:
        self._state.restore(effects, endpoints, marks, self._epoch)

    async def seal(self, watermark: Mapping[int, int]) -> None:
        self._state.seal(watermark, self._epoch)


def _reached(status: Status) -> tuple[int, bool, int]:
    return status.series, status.state in ENDED, status.gen


def _wake(claim: _KeyClaim) -> None:
    if not claim.settled.done():
        claim.settled.set_result(None)


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
        ordering_key=ask.turn.partition("/")[2],
    )
