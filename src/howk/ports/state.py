"""Hot state: the fast projection of the log that the rooms ask. It may be lost at any time and is then rebuilt.

**A call is one whole decision over a batch**, atomic per item at least (embedded: one transaction per batch). Items
are judged in the order given. Every call is idempotent by (series, gen) or by watermark, so a caller that got
`Transient` calls again; a token, a probe or a lease that the call before took may then be lost until its time is over.

**Watermark.** `apply` stores, in the same act as its effects, the offset of `results` up to which settle's effects are
in. A call with a watermark at or below the stored one changes nothing. `condition` gives it back at start, and settle's
decisions from there on are applied again.

**Validity.** `condition().valid` is false when hot state is missing, damaged, or comes from another boot of the
machine, where writes that were answered may be gone. Nothing but `rebuild` may then be trusted: the door goes on, and
first attempts do (an unknown one is current) once a rebuild has restored endpoints and marks; everything else waits.

**Leases** run on hot state's own clock. A claim that is not released before its lease ends, or whose owner died, is
claimed again; embedded, the owner is the process. Due times are wall time.

**Endpoints.** What the log says of one (its row in `howk.state`) is handed in by `restore` and `apply`, at each start
anew; of two the one of the higher gen stands, of one gen the later. The row, and what is known of an endpoint beyond it
(the window of a closed breaker, tokens, a leased probe, which holds are on their way), may die with the process and
does with a rebuild: one that is begun anew within a life may let a second probe meet the first. What is known of
endpoints with neither row nor holds is bounded, least recently used first. A delivery put aside by reason of
its endpoint (`domain.delivery.OF_ENDPOINT`) stands in that endpoint's queue, and while there is one, fresh deliveries
queue behind it. What was let go of it keeps its place among those on their way until its outcome is applied, its lease
ends unreleased, or it is taken for lost.

**Turns.** Of the deliveries that have entered a turn and have not ended, only the one of the lowest rank goes; what is
current of a batch enters before the first of it is judged. One whose effect names no turn has left it; one
whose effect names it and no rank keeps the place that it may have. What is held by
*order* is due once it is the lowest, at once and however the wall clock is set then (of what is rebuilt, at the latest
when that is sealed), and meets its endpoint at the gate. Where its endpoint would hold what has to wait for its turn,
that is held by *order*: it stands in no queue before the one it waits for.

**Idempotency keys.** `claim_keys` is the one decision that says whether a request with a key is the first: at most
one caller holds a key at a time, and every other one is told to wait for that caller's `accept`. A claim lives with
its process and with nothing else: void at open, untouched by a rebuild. What was claimed may have come into the log,
though, so keys may only be claimed while hot state holds what `howk.keys` holds: until an `accept` has said `whole`,
and from `rebuild` on until one says it again, `claim_keys` raises `Transient`. `accept` stores what was read there
together with the offset that is reached, and drops keys older than `ttl.idempotency_ttl`, a bounded number at a time;
what the door says of a key may be forgotten with the process, since it is read again from `howk.keys`, but not by a
rebuild: a reading that is under way may end before it. A claim that was
let go with `unknown` is taken up under its own id, and forgotten only after a minute and a `whole` since.

**Statistics.** An effect that says when it happened (`at`) is counted in the windows at that time, in the same act and
under the same watermark as what it changes, so that what is applied again counts once; where it names an endpoint that
does not hold it, that was called then. A webhook counts as received at `Status.created_at` from `accept` on and, for
good, with the effect that carries `accepted_at`: the first one of its delivery. Which of the two an engine knows must
not matter for the sum, however often a delivery is accepted or noted again. Numbers are true to the second; slices of
time are kept for `ttl.stats_ttl`.

**What may be forgotten.** That a delivery was accepted and is in flight is known to every call of the process that said
so, and may die with it: `reconcile` notes again what the log has not finished. Everything that `apply` stored stays,
and so does a place that was taken in a turn.

**Bounds.** Ended statuses are kept for `ttl.status_ttl` from their end and at most `ttl.status_max` of them, oldest
dropped first. Waiting deliveries are never dropped. Claims of keys, and keys that were not yet read from `howk.keys`,
have a bound of their own: above it `claim_keys` raises `Full`.
"""

from asyncio import Future
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from howk.domain.delivery import Standing, Status
from howk.domain.idempotency import End, Verdict
from howk.domain.records import EndpointRow
from howk.domain.windows import Window
from howk.ports.directory import NO_LIMITS, Limits


class Ask(Struct, frozen=True, gc=False):
    """May this delivery record be sent? Its status is what to show while it is in flight.

    `endpoint` is where to, under `limits`. With a `turn` (`domain.delivery.turn_of`) it stands at `rank` there, and has
    to wait for all before it. `admitted` and `probe` are the record's.
    """

    id: str
    series: int
    gen: int
    scope: str
    attempt: int
    max_attempts: int
    created_at: int
    endpoint: str = ""
    turn: str = ""
    rank: int = 0
    admitted: bool = False
    probe: int = 0
    limits: Limits = NO_LIMITS


class Passage(NamedTuple):
    """The answer to an `Ask`.

    `go`: send it, after `wait` seconds where its rate says so, as a probe under that token if there is one. `stale`: it
    is not current. `cancelled`: it is current, and marked. `disabled`: its endpoint is. `hold`: it has to be put aside
    by reason of `held_by`. `wait`: it is not its turn yet; ask again when something has ended, or put it aside.
    """

    verdict: Literal["go", "stale", "cancelled", "disabled", "hold", "wait"]
    held_by: str = ""
    wait: float = 0.0
    probe: int = 0


class Effect(Struct, frozen=True, gc=False):
    """What settle decided of a delivery: its new status and, when it waits, the record to send when due."""

    status: Status
    due_at: int = 0
    record: bytes = b""
    endpoint: str = ""
    """The endpoint that was called, or that holds it; "" where there is none."""
    at: int = 0
    """When it happened, to be counted in the windows then; 0: it is not counted."""
    accepted_at: int = 0
    """In the first effect of a delivery: when it was accepted, to be counted as received for good."""
    turn: str = ""
    rank: int = 0
    """Where it stands among those of its ordering key, while it has not ended."""
    good: bool | None = None
    """Whether the endpoint did well (`domain.breaker.verdict_of`)."""


class Claim(NamedTuple):
    """A delivery that need not wait any longer, leased to the caller under `token`.

    `why`: a retry or a time that is `due`, a hold that is `admitted` (as a `probe` under that token, if there is one),
    or the end of a wait that nothing is sent after: `expired`, `cancelled`, `endpoint_disabled`. `record` is the
    delivery.
    """

    id: str
    series: int
    gen: int
    record: bytes
    token: int
    why: Literal["due", "admitted", "expired", "cancelled", "endpoint_disabled"] = "due"
    probe: int = 0


class Standings(NamedTuple):
    """Where deliveries and endpoints stand, None for what is not known."""

    deliveries: Sequence[Standing | None]
    endpoints: Sequence[EndpointRow | None]


class Claims(NamedTuple):
    """What need not wait, when the next will be (0: nothing waits for a time; when a lease ends need not be said of
    what was due, so the caller asks now and then), how many wait in all, how many of them are held by something else
    than a time, by reason, and how many breakers are not closed. `idle` are open breakers that have seen no traffic for
    `ttl.circuit_state_ttl`, some of them, now and then: the caller has them released."""

    due: Sequence[Claim]
    next_due: int
    waiting: int
    held: Mapping[str, int]
    open_breakers: int
    idle: Sequence[EndpointRow] = ()


class KeyAsk(NamedTuple):
    """Is this the first request under `key` (see `domain.idempotency.scoped`)? If so its delivery is to be `id`."""

    key: str
    body: str
    id: str


class KeyAnswer(NamedTuple):
    """`id` is the one to append under (`MINE`) or to answer with (`REPLAY`). `settled` is done when a `BUSY` key is
    worth asking about again; it is shared, and never cancelled by who waits for it."""

    verdict: Verdict
    id: str = ""
    settled: "Future[None] | None" = None


class KeyEnd(NamedTuple):
    """What became of a claimed key (`domain.idempotency.ended`)."""

    key: str
    body: str
    id: str
    accepted_at: int
    end: End = "kept"


class Follow(NamedTuple):
    """These keys were read from `howk.keys`, all that there are from `before` up to `reached` by partition. `whole`: up
    to its end, as it was asked for after the `whole` before."""

    before: Mapping[int, int]
    reached: Mapping[int, int]
    whole: bool = False


class Condition(NamedTuple):
    """Whether hot state can be trusted, why not, and up to which offset of `results` its effects are in."""

    valid: bool
    reason: str
    watermark: Mapping[int, int]


class Statistics(NamedTuple):
    """How much there is: deliveries that wait, statuses kept of ended ones; and what happened lately."""

    waiting: int
    ended: int
    last_1h: Window
    last_24h: Window


class Rebuild(Protocol):
    """A rebuild under way. Only one at a time; a later one voids it (`Conflict` from then on)."""

    async def count(self, effects: Sequence[Effect]) -> None:
        """Count in the windows what had happened; no delivery changes by it. To be called once for each."""
        ...

    async def restore(
        self, effects: Sequence[Effect], endpoints: Sequence[EndpointRow] = (), marks: Sequence[str] = ()
    ) -> None:
        """Add deliveries, rows of endpoints, and ids of deliveries to be cancelled. For one delivery the later effect
        stands, unless it is of a lower (series, ended, gen): a success of an old gen ends a series, and what waited of
        it does not begin it again. Nothing of it is counted, but that a *pending* one was received."""
        ...

    async def seal(self, watermark: Mapping[int, int]) -> None:
        """Declare the rebuild whole; from now on `condition` is valid."""
        ...


class HotState(Protocol):
    """See the module for the contract."""

    async def accept(
        self, statuses: Sequence[Status], keys: Sequence[KeyEnd] = (), follow: Follow | None = None
    ) -> Mapping[int, int]:
        """Note accepted deliveries as pending, where nothing is known of them yet; one whose end was known and has been
        forgotten may stay so. Note what became of keys that the caller held: `kept` answers every repeat from now on.

        With `follow` the keys are what was read; it changes nothing when `before` is not what was reached last. Answers
        with the offsets of `howk.keys` that are reached now.
        """
        ...

    async def claim_keys(self, asks: Sequence[KeyAsk], now: int) -> Sequence[KeyAnswer]:
        """Judge keys (`domain.idempotency.judge`) and, where the verdict is `MINE`, hold them for the caller, who ends
        each by `accept`. Nothing was claimed when it raises, or is cancelled."""
        ...

    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        """Judge each record: whether it is still current, whether its endpoint lets it through
        (`domain.admission.admit`, its rate), and whether it is its turn. In the same act what goes becomes
        *delivering*, takes its token or leases its probe, and what has a turn enters its rank, refused or not."""
        ...

    async def standing(self, ids: Sequence[str], endpoints: Sequence[str] = ()) -> Standings:
        """Where deliveries and endpoints stand."""
        ...

    async def apply(
        self,
        effects: Sequence[Effect],
        watermark: Mapping[int, int],
        endpoints: Sequence[EndpointRow] = (),
        marks: Sequence[str] = (),
    ) -> int:
        """Store settle's effects, then endpoints as they stand now, then marks on deliveries that have not ended, and
        how far they reach; an empty watermark says nothing of that. An end gives its turn to the next rank. Answers
        with the time from which `claim` may give what it did not before, 0 for none."""
        ...

    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        """Lease up to `limit` deliveries for `lease` seconds: those that are due at `now`, earliest first, those whose
        turn has come, and of each endpoint's queue, oldest first, as many as it admits (`domain.admission.release`)."""
        ...

    async def release(self, claims: Sequence[Claim]) -> None:
        """These claims are in the log: they are no longer due, and the time after which a probe is lost begins now.
        Claims whose lease was lost change nothing. With token 0 (id, series, gen) was found in a stream: it is no
        longer due, whoever leases it."""
        ...

    async def status(self, ids: Sequence[str]) -> Sequence[Status | None]: ...

    async def statistics(self, now: int) -> Statistics:
        """What there is, and what happened in the hour and the day that end at `now`. Raises `Transient` while hot
        state is not valid."""
        ...

    async def condition(self) -> Condition: ...

    async def rebuild(self) -> Rebuild:
        """Forget everything and begin anew; until `seal`, `condition` is not valid. Where one of this process is not
        sealed, the rows of endpoints and the marks that it has restored stay: first attempts go by them."""
        ...

    async def close(self) -> None:
        """Close cleanly, so that the next start of any boot may go on from here."""
        ...
