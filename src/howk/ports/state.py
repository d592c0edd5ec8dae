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

**What may be forgotten.** That a delivery was accepted and is in flight is known to every call of the process that said
so, and may die with it: `reconcile` notes again what the log has not finished. Everything that `apply` stored stays.

**Bounds.** Ended statuses are kept for `ttl.status_ttl` from their end and at most `ttl.status_max` of them, oldest
dropped first. Waiting deliveries are never dropped.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from howk.domain.delivery import Standing, Status


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


class Claim(NamedTuple):
    """A retry that is due, leased to the caller. `record` is the delivery record to append."""

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


class Condition(NamedTuple):
    """Whether hot state can be trusted, why not, and up to which offset of `results` its effects are in."""

    valid: bool
    reason: str
    watermark: Mapping[int, int]


class Counts(NamedTuple):
    """How much there is: deliveries waiting for a retry, statuses kept."""

    waiting: int
    statuses: int


class Rebuild(Protocol):
    """A rebuild under way. Only one at a time; a later one voids it (`Conflict` from then on)."""

    async def restore(self, effects: Sequence[Effect]) -> None:
        """Add deliveries. For one delivery the later effect stands, unless it is of a lower (series, ended, gen): a
        success of an old gen ends a series, and what waited of it does not begin it again."""
        ...

    async def seal(self, watermark: Mapping[int, int]) -> None:
        """Declare the rebuild whole; from now on `condition` is valid."""
        ...


class HotState(Protocol):
    """See the module for the contract."""

    async def accept(self, statuses: Sequence[Status]) -> None:
        """Note accepted deliveries as pending, where nothing is known of them yet. One whose end was known and has been
        forgotten may stay so."""
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
        """These claims are in the log: they are no longer due. Claims whose lease was lost change nothing."""
        ...

    async def queued(self, keys: Sequence[tuple[str, int, int]]) -> None:
        """These (id, series, gen) are in a stream already: where they are due, they no longer are."""
        ...

    async def status(self, ids: Sequence[str]) -> Sequence[Status | None]: ...

    async def counts(self) -> Counts: ...

    async def condition(self) -> Condition: ...

    async def rebuild(self) -> Rebuild:
        """Forget everything and begin anew; until `seal`, `condition` is not valid."""
        ...

    async def close(self) -> None:
        """Close cleanly, so that the next start of any boot may go on from here."""
        ...
