"""Hot state: the fast projection of the log that the rooms ask. It may be lost at any time and is then rebuilt.

**A call is one whole decision over a batch**, atomic per item at least (embedded: one transaction per batch). Items
are judged in the order given. Every call is idempotent by (series, gen) or by watermark, so a caller that got
`Transient` calls again.

**Watermark.** `apply` stores, in the same act as its effects, the offset of `results` up to which settle's effects are
in. A call with a watermark at or below the stored one changes nothing. `condition` gives it back at start, and settle's
decisions from there on are applied again.

**Validity.** `condition().valid` is false when hot state is missing, damaged, or comes from another boot of the
machine, where writes that were answered may be gone. Nothing but `rebuild` may then be trusted: the door and first
attempts go on (an unknown first attempt is current), everything else waits.

**Leases** run on hot state's own clock. A claim that is not released before its lease ends, or whose owner died, is
claimed again; embedded, the owner is the process. Due times are wall time.

**Idempotency keys.** `claim_keys` is the one decision that says whether a request with a key is the first: at most
one caller holds a key at a time, and every other one is told to wait for that caller's `accept`. A claim lives with
its process and with nothing else: void at open, untouched by a rebuild. What was claimed may have come into the log,
though, so keys may only be claimed while hot state holds what `howk.keys` holds: until an `accept` has said `whole`,
and from `rebuild` on until one says it again, `claim_keys` raises `Transient`. `accept` stores what was read there
together with the offset that is reached, and drops keys older than `ttl.idempotency_ttl`, a bounded number at a time;
what the door says of a key may be forgotten with the process, since it is read again from `howk.keys`. A claim that was
let go with `unknown` is taken up under its own id, and forgotten only after a minute and a `whole` since.

**Statistics.** An effect that says when it happened (`at`) is counted in the windows at that time, in the same act and
under the same watermark as what it changes, so that what is applied again counts once; where it names an endpoint, that
was called then. A webhook counts as received at `Status.created_at` from `accept` on and, for good, with the effect
that carries `accepted_at`: the first one of its delivery. Which of the two an engine knows must not matter for the sum,
however often a delivery is accepted or noted again. Numbers are true to the second; slices of time are kept for
`ttl.stats_ttl`.

**What may be forgotten.** That a delivery was accepted and is in flight is known to every call of the process that said
so, and may die with it: `reconcile` notes again what the log has not finished. Everything that `apply` stored stays.

**Bounds.** Ended statuses are kept for `ttl.status_ttl` from their end and at most `ttl.status_max` of them, oldest
dropped first. Waiting deliveries are never dropped. Claims of keys, and keys that were not yet read from `howk.keys`,
have a bound of their own: above it `claim_keys` raises `Full`.
"""

from asyncio import Future
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from howk.domain.delivery import Standing, Status
from howk.domain.idempotency import End, Verdict
from howk.domain.windows import Window


class Ask(NamedTuple):
    """May this delivery record be sent? `status` is what to show while it is in flight."""

    id: str
    series: int
    gen: int
    scope: str
    attempt: int
    max_attempts: int
    created_at: int


class Effect(NamedTuple):
    """What settle decided of a delivery: its new status and, when it waits, the record to send when due."""

    status: Status
    due_at: int = 0
    record: bytes = b""
    endpoint: str = ""
    """The endpoint that was called, "" where none was."""
    at: int = 0
    """When it happened, to be counted in the windows then; 0: it is not counted."""
    accepted_at: int = 0
    """In the first effect of a delivery: when it was accepted, to be counted as received for good."""


class Claim(NamedTuple):
    """A retry that is due, leased to the caller under `token`. `record` is the delivery record to append."""

    id: str
    series: int
    gen: int
    record: bytes
    token: int


class Claims(NamedTuple):
    """What was due, when the next one will be (0: none is waiting), and how many wait in all."""

    due: Sequence[Claim]
    next_due: int
    waiting: int


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
    """How much there is: deliveries waiting for a retry, statuses kept of ended ones; and what happened lately."""

    waiting: int
    ended: int
    last_1h: Window
    last_24h: Window


class Rebuild(Protocol):
    """A rebuild under way. Only one at a time; a later one voids it (`Conflict` from then on)."""

    async def count(self, effects: Sequence[Effect]) -> None:
        """Count in the windows what had happened; no delivery changes by it. To be called once for each."""
        ...

    async def restore(self, effects: Sequence[Effect]) -> None:
        """Add deliveries. For one delivery the later effect stands, unless it is of a lower (series, ended, gen): a
        success of an old gen ends a series, and what waited of it does not begin it again. Nothing of it is counted,
        but that a *pending* one was received."""
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
        each by `accept`. Nothing was claimed when it raises."""
        ...

    async def gate(self, asks: Sequence[Ask]) -> Sequence[bool]:
        """For each record whether it is still current; what is becomes *delivering* in the same act."""
        ...

    async def standing(self, ids: Sequence[str]) -> Sequence[Standing | None]:
        """Where each delivery stands, None for what is not known."""
        ...

    async def apply(self, effects: Sequence[Effect], watermark: Mapping[int, int]) -> None:
        """Store settle's effects and how far they reach."""
        ...

    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        """Lease up to `limit` retries that are due at `now`, earliest first, for `lease` seconds."""
        ...

    async def release(self, claims: Sequence[Claim]) -> None:
        """These claims are in the log: they are no longer due. Claims whose lease was lost change nothing. With token 0
        (id, series, gen) was found in a stream: it is no longer due, whoever leases it."""
        ...

    async def status(self, ids: Sequence[str]) -> Sequence[Status | None]: ...

    async def statistics(self, now: int) -> Statistics:
        """What there is, and what happened in the hour and the day that end at `now`. Raises `Transient` while hot
        state is not valid."""
        ...

    async def condition(self) -> Condition: ...

    async def rebuild(self) -> Rebuild:
        """Forget everything and begin anew; until `seal`, `condition` is not valid."""
        ...

    async def close(self) -> None:
        """Close cleanly, so that the next start of any boot may go on from here."""
        ...
