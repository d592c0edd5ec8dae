"""What the embedded hot state knows of endpoints, in memory: their rows in the log, tokens, leased probes, and how many
deliveries each holds and has let go. The held deliveries themselves are rows of `hot.db`.

Durations and `clock` are monotonic seconds, `now` is Unix milliseconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from math import ceil, inf
from typing import NamedTuple

from howk.adapters.embedded.hot import Held
from howk.domain.admission import Release, Share, admit, rate_of, release
from howk.domain.breaker import Circuit, is_default
from howk.domain.delivery import LIMIT, ORDER
from howk.domain.limits import Bucket, refilled, reserve_token
from howk.domain.records import NEWER, EndpointRow
from howk.ports.directory import NO_LIMITS, Limits
from howk.ports.state import Ask, Claim, Effect, Passage

PATIENCE = 2.0
"""Seconds that a delivery may wait for a token of its endpoint before it is put aside."""
_LOST_AFTER = 600.0
_LOOK_AGAIN = 30.0
_SPARE = 64
_LOOK_FOR_IDLE = 60.0
_MOST_IDLE = 500
_LOOK_AT = 64
_NEW = Circuit()

_GO = Passage("go")
_WAIT = Passage("wait", ORDER)
_PUT_BACK = Passage("hold", ORDER)
_DISABLED = Passage("disabled")


class Holding(NamedTuple):
    """`most_out` held deliveries of an endpoint are on their way at most; `ramp` is the first rate of one that
    recovers, in requests a second; a probe is taken for lost after `probe_lease` seconds. `most_known` endpoints are
    remembered beside those that have to be, and an open breaker is idle once it could have been tried for
    `idle_after` seconds and nothing was there to try it with."""

    most_out: int
    ramp: float
    probe_lease: float
    most_known: int = 65_536
    idle_after: float = 86_400.0


class Grant(NamedTuple):
    """What an endpoint lets go: `most` of its queue, as a probe, or all of it because it is disabled."""

    endpoint: str
    most: int
    probe: int = 0
    disabled: bool = False


class Taken(NamedTuple):
    """Of a grant, at most `asked` were asked for and `ids` were leased, under `token` until an instant of the clock."""

    grant: Grant
    asked: int
    ids: Sequence[str]
    token: int
    until: float


class _Out(NamedTuple):
    """A held delivery on its way, and from when on it is taken for lost."""

    token: int
    until: float


class _Endpoint:
    __slots__ = ("bucket", "calm", "held", "limits", "look_at", "out", "probing_until", "row", "share")

    def __init__(self, row: EndpointRow) -> None:
        self.row = row
        self.limits: Limits = NO_LIMITS
        self.bucket: Bucket | None = None
        self.held = 0
        self.out: dict[str, _Out] = {}
        self.share = Share()
        self.probing_until = 0.0
        self.look_at = inf
        self.calm = True
        """Nothing to judge: it holds nothing, nothing holds it, and it is not recovering."""

    def see(self) -> None:
        """To be called when the row or what is held has changed."""
        self.calm = not self.held and not self.row.circuit.since and is_default(self.row.circuit)

    def is_idle(self, before: int) -> bool:
        circuit = self.row.circuit
        if circuit.state == "closed" or circuit.disabled or circuit.paused:
            return False
        return not self.held and circuit.probe_at < before

    def at_rest(self, clock: float) -> bool:
        return not self.held and is_default(self.row.circuit) and all(out.until <= clock for out in self.out.values())


class Endpoints:
    """All that are known."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._known: dict[str, _Endpoint] = {}
        # Which endpoint has let go a delivery that has not come back. Not every outcome names it.
        self._out: dict[str, str] = {}
        # (instant, endpoint), valid while the endpoint says the same instant. A wall clock that steps back delays none.
        self._looks: list[tuple[float, str]] = []
        self.open_breakers = 0
        self._idle_at = 0.0

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
        self._out.clear()
        self._looks.clear()
        self.open_breakers = 0

    def row(self, id_: str) -> EndpointRow | None:
        """Where an endpoint stands."""
        known = self._known.get(id_)
        return known.row if known else None

    def rows(self) -> list[EndpointRow]:
        """Where those stand of which the log has something to say."""
        return [known.row for known in self._known.values() if known.row.circuit.gen]

    def pass_(self, ask: Ask, now: int, clock: float, *, waits: bool) -> Passage:
        """Judge a delivery that is current; one that `waits` for its turn takes nothing."""
        known = self._known.get(ask.endpoint)
        if known is None:
            if waits:
                return _WAIT
            if ask.limits is NO_LIMITS or not ask.limits.per_second:
                return _GO
            known = self._get(ask.endpoint, clock)
        elif known.calm and ask.limits is NO_LIMITS:
            known.limits = NO_LIMITS
            return _WAIT if waits else _GO
        known.limits = ask.limits
        found = admit(
            known.row.circuit,
            now,
            behind=known.held > 0,
            probing=known.probing_until > clock,
            admitted=ask.admitted,
            probe=ask.probe,
        )
        if found.verdict == "disabled":
            return _DISABLED
        if waits:
            # In the endpoint's queue it would stand before the one it waits for, or be the probe in its place.
            return _WAIT if found.verdict == "go" else _PUT_BACK
        if found.verdict == "hold":
            return Passage("hold", found.held_by)
        if found.probe:
            known.probing_until = clock + self._holding.probe_lease
            return Passage("go", probe=found.probe)
        # A hold took its token when it was let go.
        return _GO if ask.admitted else self._paced(known, now, clock)

    def _paced(self, known: _Endpoint, now: int, clock: float) -> Passage:
        rate, burst = self._rate(known, now)
        if not rate:
            return _GO
        known.bucket, wait = reserve_token(known.bucket, rate, burst, clock, PATIENCE)
        if wait is None:
            return Passage("hold", LIMIT)
        return Passage("go", wait=wait) if wait else _GO

    def _rate(self, known: _Endpoint, now: int) -> tuple[float, float]:
        limits = known.limits
        rate = rate_of(known.row.circuit, now, limits.per_second, self._holding.ramp)
        return rate, max(1.0, limits.burst if limits.burst and rate == limits.per_second else rate)

    def learn(self, rows: Iterable[EndpointRow], clock: float) -> None:
        """Take over what settle decided, or what the log says."""
        for row in rows:
            known = self._get(row.id, clock)
            before, after = known.row.circuit, row.circuit
            if after.gen < before.gen:
                continue
            known.row = row
            known.see()
            self.open_breakers += (after.state != "closed") - (before.state != "closed")
            if after.gen != before.gen:
                known.probing_until = 0.0
                if after.state != "closed":
                    known.share = Share()
                self._look(row.id, known, clock)

    def outcomes(self, effects: Sequence[Effect], clock: float) -> None:
        """These deliveries have come back, those that were let go among them."""
        if not self._out:
            return
        for effect in effects:
            id_ = self._out.pop(effect.status.id, "")
            known = self._known.get(id_) if id_ else None
            out = known.out.pop(effect.status.id, None) if known else None
            if known and out and out.until > clock:
                known.share = known.share.after(effect.good, self._most_out(known))
                self._look(id_, known, clock)

    def held(self, grown: Mapping[Held, int], clock: float) -> None:
        """So many more are held by each endpoint, or fewer."""
        for (id_, _), count in grown.items():
            if id_ and count:
                known = self._get(id_, clock)
                known.held = max(0, known.held + count)
                known.see()
                if count > 0:
                    self._look(id_, known, clock)

    def idle(self, now: int, clock: float) -> list[EndpointRow]:
        """Open breakers that nothing waits for, some of them, asked about now and then: to be forgotten."""
        if not self.open_breakers or clock < self._idle_at:
            return []
        self._idle_at = clock + _LOOK_FOR_IDLE
        before = now - round(self._holding.idle_after * 1000)
        idle = [known.row for known in self._known.values() if known.is_idle(before)]
        return idle[:_MOST_IDLE]

    def looks(self, clock: float, most: int) -> list[str]:
        """Endpoints that may let something go now, each once; they stay so until `took`."""
        found: dict[str, float] = {}
        while self._looks and self._looks[0][0] <= clock and len(found) < most:
            at, id_ = heappop(self._looks)
            known = self._known.get(id_)
            if known is not None and known.look_at == at:
                found[id_] = at
        for id_, at in found.items():
            heappush(self._looks, (at, id_))
        return list(found)

    def next_look(self, now: int, clock: float) -> int:
        """When an endpoint may let something go, in Unix milliseconds, 0 for none."""
        while self._looks:
            at, id_ = self._looks[0]
            known = self._known.get(id_)
            if known is not None and known.look_at == at and known.held:
                return now + max(0, ceil((at - clock) * 1000))
            heappop(self._looks)
            if known is not None and known.look_at == at:
                known.look_at = inf
        return 0

    def grant(self, id_: str, now: int, clock: float) -> Grant:
        """How much of its queue an endpoint lets go now; none of it is gone before `took`."""
        known = self._known[id_]
        if not known.held:
            return Grant(id_, 0)
        if known.row.circuit.disabled:
            return Grant(id_, known.held, disabled=True)
        found = self._released(known, now, clock)
        return Grant(id_, found.most, found.probe)

    def took(self, taken: Taken, now: int, clock: float) -> None:
        """What of a grant was leased; when to look again."""
        grant, _, ids, token, until = taken
        known = self._known[grant.endpoint]
        if ids and not grant.disabled:
            known.out.update(dict.fromkeys(ids, _Out(token, until)))
            self._out.update(dict.fromkeys(ids, grant.endpoint))
            if grant.probe:
                known.probing_until = clock + self._holding.probe_lease
            elif (rate := self._rate(known, now))[0]:
                bucket = refilled(known.bucket, *rate, clock)
                known.bucket = Bucket(bucket.tokens - len(ids), bucket.at)
        known.look_at = inf
        self._look(grant.endpoint, known, self._again(known, taken, now, clock))

    def _again(self, known: _Endpoint, taken: Taken, now: int, clock: float) -> float:
        """The instant at which it may let go more."""
        # Fewer than were asked for: the rest is leased already.
        more = 0 < taken.asked == len(taken.ids)
        if taken.grant.disabled:
            return clock if more else taken.until
        found = self._released(known, now, clock)
        if found.most and more:
            return clock
        if found.again:
            # The wall clock may be set ahead meanwhile.
            return clock + min(found.again, _LOOK_AGAIN)
        leased = [taken.until] if taken.ids else []
        return min([clock + _LOOK_AGAIN, *leased, *(out.until for out in known.out.values())])

    def released(self, claims: Sequence[Claim], clock: float) -> None:
        """These are in the log: from now on only their outcome, or a long time, gives their place back."""
        for claim in claims if self._out else ():
            known = self._known.get(self._out.get(claim.id, ""))
            out = known.out.get(claim.id) if known else None
            if known and out and out.token == claim.token:
                known.out[claim.id] = _Out(claim.token, clock + _LOST_AFTER)
                if claim.probe and claim.probe == known.row.circuit.gen:
                    # It goes from now on, however long its append took.
                    known.probing_until = clock + self._holding.probe_lease

    def _released(self, known: _Endpoint, now: int, clock: float) -> Release:
        rate, burst = self._rate(known, now)
        for id_ in [id_ for id_, out in known.out.items() if out.until <= clock]:
            del known.out[id_], self._out[id_]
        return release(
            known.row.circuit,
            now,
            out=len(known.out),
            share=known.share.within(self._most_out(known)),
            probing=known.probing_until - clock,
            tokens=refilled(known.bucket, rate, burst, clock) if rate else None,
            rate=rate,
        )

    def _most_out(self, known: _Endpoint) -> int:
        cap = known.limits.max_in_flight
        return min(cap, self._holding.most_out) if cap else self._holding.most_out

    def _look(self, id_: str, known: _Endpoint, at: float) -> None:
        if not known.held or at >= known.look_at:
            return
        known.look_at = at
        heappush(self._looks, (at, id_))
        if len(self._looks) > 2 * len(self._known) + _SPARE:
            self._looks = [(each.look_at, name) for name, each in self._known.items() if each.look_at < inf]
            heapify(self._looks)

    def _get(self, id_: str, clock: float) -> _Endpoint:
        """The endpoint, now the last to be forgotten."""
        known = self._known.pop(id_, None) or _Endpoint(EndpointRow(v=NEWER, id=id_, circuit=_NEW))
        self._known[id_] = known
        if len(self._known) > self._holding.most_known:
            self._forget(clock)
        return known

    def _forget(self, clock: float) -> None:
        for id_ in list(islice(self._known, _LOOK_AT)):
            known = self._known.pop(id_)
            if not known.at_rest(clock):
                # It has to stay: the next look for one to forget begins behind it.
                self._known[id_] = known
                continue
            for out in known.out:
                del self._out[out]
