"""A delivery's life as pure decisions: which result counts, and what it makes of the delivery.

`series` counts runs of attempts and `gen` rises with every re-entry, so duplicates, lost leases and late results
are told apart without a clock (architecture, records).
"""

from enum import Enum
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from howk.domain.endpoints import endpoint_id
from howk.domain.records import (
    NEWER,
    VERSION,
    DeadLetter,
    Delivery,
    Outcome,
    Previous,
    Result,
    ResultSketch,
    Waiting,
)
from howk.domain.retry import RetryPolicy

DELIVER_AT = "deliver_at"
BREAKER = "breaker"
LIMIT = "limit"
PAUSE = "pause"
ORDER = "order"
OF_ENDPOINT: frozenset[str] = frozenset({BREAKER, LIMIT, PAUSE})
"""What holds every delivery of an endpoint alike: they stand in one queue, first in, first out."""
_NEVER = 253_402_300_799_999

State = Literal["pending", "delivering", "failed", "deferred", "delivered", "dead", "cancelled"]
ENDED: frozenset[str] = frozenset({"delivered", "dead", "cancelled"})


class Status(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is known of one delivery, as its owner sees it. `series` and `gen` are the current ones."""

    id: str
    scope: str
    state: State
    series: int = 1
    gen: int = 0
    attempts: int = 0
    max_attempts: int = 0
    created_at: int = 0
    last_attempt_at: int = 0
    last_status_code: int = 0
    last_error: str = ""
    next_retry_at: int = 0
    held_by: str = ""
    delivered_at: int = 0
    reason_type: str = ""
    ended_at: int = 0
    ordering_key: str = ""


class Standing(Struct, frozen=True):
    """Where a known delivery stands, as far as the next result is judged against it. `marked` is one to be
    cancelled."""

    series: int
    gen: int
    ended: bool
    marked: bool = False


class Verdict(Enum):
    """What settle makes of a result."""

    APPLY = "apply"
    HISTORY = "history"


def judge(standing: Standing | None, series: int, gen: int, *, success: bool) -> Verdict:
    """Whether a result moves the delivery or is history only.

    Only the current (series, gen) counts, but a success of any gen ends a series that has not ended. A delivery
    that is not known is new if the result is of series 1, gen 0, and otherwise has ended.
    """
    if standing is None:
        return Verdict.APPLY if (series, gen) == (1, 0) else Verdict.HISTORY
    if standing.ended or series != standing.series:
        return Verdict.HISTORY
    if success or gen == standing.gen:
        return Verdict.APPLY
    return Verdict.HISTORY


def is_current(standing: Standing | None, series: int, gen: int) -> bool:
    """Whether a delivery record may still be sent. An unknown one may when it is a first attempt: its status is
    written after it is in the log, so a fast reader can be ahead of it."""
    if standing is None:
        return (series, gen) == (1, 0)
    return not standing.ended and (standing.series, standing.gen) == (series, gen)


class Moved(Struct, frozen=True):
    """What a counted result makes of a delivery: its status, and what has to be written beside it."""

    status: Status
    waiting: Waiting | None = None
    dead: DeadLetter | None = None


def move(result: Result, policy: RetryPolicy, *, marked: bool = False) -> Moved:
    """The next state of a delivery whose current attempt had this result (`judge` said it counts). One that is `marked`
    ends cancelled, unless it was delivered."""
    if result.outcome == "delivered":
        return Moved(_ended(result, "delivered"))
    if marked or result.outcome == "cancelled":
        return Moved(_ended(result, "cancelled"))
    reason = _dead_reason(result)
    if reason:
        return Moved(_ended(result, "dead", reason), dead=_dead_letter(result, reason))
    assert result.delivery is not None  # noqa: S101 - `_dead_reason` has ended what carries none
    waiting = _waiting(result, result.delivery, policy)
    expires = waiting.delivery.expires_at
    # Known now: nobody has to wait for the moment to learn of it.
    if 0 < expires < waiting.due_at or 0 < expires <= result.at:
        return Moved(_ended(result, "dead", "expired"), dead=_dead_letter(result, "expired"))
    return Moved(waiting_status(waiting), waiting=waiting)


def outline(result: Result, policy: RetryPolicy) -> Status:
    """The status that `move` gives a result, as far as it is counted: its state, and by what it is held. Much the
    quicker for a retry."""
    return retried_status(result) if is_retried(result, policy) else move(result, policy).status


def is_retried(result: Result | ResultSketch, policy: RetryPolicy) -> bool:
    """Whether `move` surely makes a retry of a result; one that may expire before it is due has to be asked about."""
    delivery = result.delivery
    if result.outcome != "failed" or delivery is None or result.attempt >= result.max_attempts:
        return False
    return not 0 < delivery.expires_at <= result.at + (delivery.retry or policy).longest


def retried_status(result: Result | ResultSketch) -> Status:
    """The status of a delivery that is retried after this result, as far as it is counted."""
    return Status(id=result.id, scope=result.scope, state="failed")


def _dead_reason(result: Result) -> str:
    if result.outcome == "undecodable":
        return "undecodable"
    if result.outcome == "rejected":
        return result.reason or "unrecoverable"
    if result.delivery is None:
        return "undecodable"
    if result.outcome in _NO_ATTEMPT:
        return ""
    return "exhausted" if result.attempt >= result.max_attempts else ""


def _waiting(result: Result, delivery: Delivery, policy: RetryPolicy) -> Waiting:
    if result.outcome == "scheduled":
        return _scheduled(result, delivery)
    if result.outcome == "held":
        return _held(result, delivery)
    return _retry(result, delivery, policy)


_NONE_BEFORE = Previous(at=0)
_NO_ATTEMPT = frozenset({"scheduled", "held", "cancelled"})
_UNSENT = frozenset({"endpoint_disabled", "expired"})


def _ended(result: Result, state: State, reason: str = "") -> Status:
    return Status(
        id=result.id,
        scope=result.scope,
        state=state,
        series=result.series,
        gen=result.gen,
        attempts=_made(result),
        max_attempts=result.max_attempts,
        created_at=result.created_at,
        last_attempt_at=_last_attempt(result),
        last_status_code=result.status_code,
        last_error=result.error,
        delivered_at=result.at if state == "delivered" else 0,
        reason_type=reason,
        ended_at=result.at,
    )


def _last_attempt(result: Result) -> int:
    if result.outcome in _NO_ATTEMPT or result.reason in _UNSENT:
        before = result.delivery.previous if result.delivery else None
        return before.at if before else result.last_attempt_at
    return result.at


def _made(result: Result) -> int:
    """How many attempts there were."""
    unsent = result.outcome in _NO_ATTEMPT or result.reason in _UNSENT
    return result.attempt - 1 if unsent else result.attempt


def _dead_letter(result: Result, reason: str) -> DeadLetter:
    return DeadLetter(
        v=VERSION,
        id=result.id,
        scope=result.scope,
        reason=reason,
        at=result.at,
        series=result.series,
        gen=result.gen,
        attempts=_made(result),
        max_attempts=result.max_attempts,
        created_at=result.created_at,
        status_code=result.status_code,
        error=result.error,
        response=result.response,
        delivery=result.delivery,
        source=result.source,
        raw_base64=result.raw_base64,
    )


def _retry(result: Result, delivery: Delivery, policy: RetryPolicy) -> Waiting:
    seed = f"{result.id}/{result.series}"
    due = (delivery.retry or policy).due(result.at, result.attempt, seed, result.retry_after)
    return Waiting(
        v=VERSION,
        delivery=replace(
            delivery,
            gen=result.gen + 1,
            attempt=result.attempt + 1,
            not_before=due,
            skipped=delivery.skipped or 0 < delivery.skip_after <= result.attempt,
            admitted=False,
            probe=0,
            previous=Previous(at=result.at, status_code=result.status_code, error=result.error),
        ),
        due_at=due,
        last_attempt_at=result.at,
        last_status_code=result.status_code,
        last_error=result.error,
    )


def _held(result: Result, delivery: Delivery) -> Waiting:
    before = delivery.previous or _NONE_BEFORE
    return Waiting(
        v=NEWER,
        delivery=replace(delivery, gen=result.gen + 1, admitted=False, probe=0),
        due_at=delivery.expires_at or _NEVER,
        last_attempt_at=before.at,
        last_status_code=before.status_code,
        last_error=before.error,
        held_by=result.held_by or LIMIT,
    )


def _scheduled(result: Result, delivery: Delivery) -> Waiting:
    return Waiting(
        v=VERSION,
        delivery=replace(delivery, gen=result.gen + 1),
        # Whoever wrote it: a row without a due time would wait for ever.
        due_at=max(delivery.not_before, result.at),
        held_by=DELIVER_AT,
    )


def _of(delivery: Delivery, outcome: Outcome, at: int, version: int = VERSION) -> Result:
    """A result about a delivery of one target that was not sent."""
    return Result(
        v=version,
        id=delivery.targets[0].id,
        scope=delivery.scope,
        outcome=outcome,
        at=at,
        series=delivery.series,
        gen=delivery.gen,
        attempt=delivery.attempt,
        max_attempts=delivery.max_attempts,
        created_at=delivery.created_at,
        delivery=delivery,
    )


def schedule(delivery: Delivery) -> Result:
    """What makes a new delivery of one target wait for its `not_before`, without an attempt."""
    return _of(delivery, "scheduled", delivery.created_at)


CLOCK_STEP = 60_000
"""Milliseconds by which what was written may lie ahead of the clock before that was set back."""


def waiting_status(waiting: Waiting) -> Status:
    """The status of a delivery that waits, for a retry or for what it is held by."""
    delivery = waiting.delivery
    return Status(
        id=delivery.targets[0].id,
        scope=delivery.scope,
        state="deferred" if waiting.held_by else "failed",
        series=delivery.series,
        gen=delivery.gen,
        attempts=delivery.attempt - 1,
        max_attempts=delivery.max_attempts,
        created_at=delivery.created_at,
        last_attempt_at=waiting.last_attempt_at,
        last_status_code=waiting.last_status_code,
        last_error=waiting.last_error,
        next_retry_at=waiting.due_at if waiting.held_by in ("", DELIVER_AT) else 0,
        held_by=waiting.held_by,
        ordering_key=delivery.ordering_key,
    )


def due_again(waiting: Waiting, now: int) -> int:
    """When a delivery that waits is due: a retry no later than its own delay from now, also where it was decided at a
    time that lies ahead because the clock was set back since."""
    decided = waiting.last_attempt_at
    if waiting.held_by or not decided or decided <= now + CLOCK_STEP:
        return waiting.due_at
    return now + max(0, waiting.due_at - decided)


def dead_status(letter: DeadLetter) -> Status:
    """The status of a delivery that was given up."""
    return Status(
        id=letter.id,
        scope=letter.scope,
        state="dead",
        series=letter.series,
        gen=letter.gen,
        attempts=letter.attempts,
        max_attempts=letter.max_attempts,
        created_at=letter.created_at,
        last_attempt_at=_last_before_death(letter),
        last_status_code=letter.status_code,
        last_error=letter.error,
        reason_type=letter.reason,
        ended_at=letter.at,
    )


def _last_before_death(letter: DeadLetter) -> int:
    delivery = letter.delivery
    if not letter.attempts or delivery is None or letter.attempts == delivery.attempt:
        return letter.at if letter.attempts else 0
    # It was not sent any more: the last attempt is the one before.
    return delivery.previous.at if delivery.previous else 0


def pending_status(delivery: Delivery, target: str) -> Status:
    """The status of a delivery that is in the log and waits for this attempt."""
    return Status(
        id=target,
        scope=delivery.scope,
        state="pending",
        series=delivery.series,
        gen=delivery.gen,
        attempts=delivery.attempt - 1,
        max_attempts=delivery.max_attempts,
        created_at=delivery.created_at,
        ordering_key=delivery.ordering_key,
    )


def unsettled_status(result: Result) -> Status:
    """The status of an accepted delivery of which only its first outcome is known, before settle has judged that."""
    if result.outcome == "scheduled" and result.delivery:
        return accepted_status(result.delivery)
    return Status(
        id=result.id,
        scope=result.scope,
        state="pending",
        max_attempts=result.max_attempts,
        created_at=result.created_at,
        ordering_key=result.delivery.ordering_key if result.delivery else "",
    )


def accepted_status(delivery: Delivery) -> Status:
    """The status of a new delivery of one target that is in the log: pending, or with a time ahead deferred, before
    settle has its `schedule`."""
    pending = pending_status(delivery, delivery.targets[0].id)
    if not delivery.deliver_at:
        return pending
    return replace(pending, state="deferred", held_by=DELIVER_AT, next_retry_at=delivery.not_before)


def cancelled_result(result: Result) -> Result:
    """What says in the log that a result of another kind ended its delivery cancelled."""
    return Result(
        v=NEWER,
        id=result.id,
        scope=result.scope,
        outcome="cancelled",
        at=result.at,
        series=result.series,
        gen=result.gen,
        attempt=_made(result) + 1,
        max_attempts=result.max_attempts,
        created_at=result.created_at,
        status_code=result.status_code,
        error=result.error,
        last_attempt_at=_last_attempt(result),
        settled=True,
    )


def ranked(delivery: Delivery, offset: int) -> Delivery:
    """The delivery with its place among those of its ordering key: that of its first attempt in its stream."""
    return replace(delivery, rank=offset + 1) if delivery.ordering_key and not delivery.rank else delivery


def turn_of(delivery: Delivery) -> str:
    """Where a delivery has to wait for those before it: its endpoint and ordering key; "" where it need not."""
    if not delivery.ordering_key or delivery.skipped:
        return ""
    return f"{endpoint_id(delivery.scope, delivery.targets[0].endpoint)}/{delivery.ordering_key}"


_WHY = {
    "expired": "its time was over before it could be sent",
    "endpoint_disabled": "its endpoint is disabled",
    "cancelled": "",
}


def unsent(delivery: Delivery, why: Literal["expired", "endpoint_disabled", "cancelled"], now: int) -> Result:
    """The outcome of a delivery of one target that is not sent any more; what the attempt before said stays its last
    word."""
    before = delivery.previous or _NONE_BEFORE
    if why == "cancelled":
        result, reason, kept = _of(delivery, "cancelled", now, NEWER), "", None
        result = replace(result, last_attempt_at=before.at)
    else:
        result, reason, kept = _of(delivery, "rejected", now), why, delivery
    error = before.error or _WHY[why]
    return replace(result, reason=reason, status_code=before.status_code, error=error, delivery=kept)


def put_aside(delivery: Delivery, held_by: str, endpoint: str, now: int) -> Result:
    """The outcome of a delivery of one target that has to wait for what `held_by` says."""
    return replace(_of(delivery, "held", now, NEWER), endpoint=endpoint, held_by=held_by)
