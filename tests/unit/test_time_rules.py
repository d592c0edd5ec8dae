"""What time makes of a delivery: laid by until it is asked for, retried by its own policy, ended when it is too old."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from howk.domain.breaker import BreakerPolicy
from howk.domain.delivery import (
    Moved,
    Standing,
    accepted_status,
    dead_status,
    is_current,
    move,
    pending_status,
    schedule,
    waiting_status,
)
from howk.domain.records import Delivery, Result, Target, encode, reader
from howk.domain.retry import RetryPolicy
from howk.domain.settlement import Rules, settle

POLICY = RetryPolicy(1_000, 60_000, 0.2)
NOW = 1_750_000_000_000
DUE = NOW + 3_600_000
LATER = Delivery(
    v=1,
    scope="app",
    targets=(Target(id="wh_a", endpoint="https://example.com/"),),
    created_at=NOW,
    max_attempts=1,
    payload=Raw(b"{}"),
    not_before=DUE,
    expires_at=DUE + 1_000,
    deliver_at=DUE,
)
FIRST = replace(LATER, not_before=0, deliver_at=0, max_attempts=5)


def settled_by(
    results: Sequence[Result], standings: dict[str, Standing], policy: RetryPolicy
) -> list[tuple[Moved | None, Standing | None]]:
    """What becomes of the deliveries; the breaker never opens."""
    rules = Rules(policy, BreakerPolicy(1_000, 1.0, 60_000, 1, 1, 1))
    return [(decided.moved, decided.before) for decided in settle(results, standings, {}, rules).decisions]


def failed(delivery: Delivery, at: int = NOW, retry_after: int = 0) -> Result:
    return Result(
        v=1,
        id="wh_a",
        scope="app",
        outcome="failed",
        at=at,
        series=delivery.series,
        gen=delivery.gen,
        attempt=delivery.attempt,
        max_attempts=delivery.max_attempts,
        created_at=delivery.created_at,
        error="HTTP 500",
        retry_after=retry_after,
        delivery=delivery,
    )


# A time ahead


def test_what_is_laid_by_waits_for_its_time_with_the_next_gen_and_no_attempt_used_up() -> None:
    moved = move(schedule(LATER), POLICY)
    assert moved.waiting is not None
    assert moved.waiting.delivery == replace(LATER, gen=1)
    assert moved.waiting.due_at == DUE
    status = moved.status
    assert (status.state, status.held_by, status.next_retry_at) == ("deferred", "deliver_at", DUE)
    assert (status.attempts, status.last_attempt_at, status.ended_at) == (0, 0, 0)
    assert waiting_status(moved.waiting) == status


def test_what_the_door_shows_is_what_settle_makes_of_it_but_for_the_gen() -> None:
    moved = move(schedule(LATER), POLICY)
    assert replace(accepted_status(LATER), gen=1) == moved.status
    assert accepted_status(FIRST) == pending_status(FIRST, "wh_a")


def test_laying_by_twice_is_once_and_a_late_copy_of_it_moves_nothing() -> None:
    first, second = settled_by([schedule(LATER), schedule(LATER)], {}, POLICY)
    assert first[0] is not None
    assert second == (None, Standing(1, 1, False))
    assert settled_by([schedule(LATER)], {"wh_a": Standing(1, 1, True)}, POLICY)[0][0] is None


def test_only_the_record_that_waits_for_its_time_may_be_sent_then() -> None:
    moved = move(schedule(LATER), POLICY)
    assert moved.waiting is not None
    standing = Standing(moved.status.series, moved.status.gen, ended=False)
    sent = moved.waiting.delivery
    assert is_current(standing, sent.series, sent.gen)
    assert not is_current(standing, LATER.series, LATER.gen)


def test_its_first_failure_counts_as_the_first_attempt() -> None:
    patient = replace(LATER, max_attempts=2, expires_at=0)
    moved = move(schedule(patient), POLICY)
    assert moved.waiting is not None
    retried = move(failed(moved.waiting.delivery, DUE), POLICY)
    assert retried.waiting is not None
    assert (retried.waiting.delivery.attempt, retried.waiting.delivery.gen) == (2, 2)
    assert (retried.status.state, retried.status.held_by, retried.status.attempts) == ("failed", "", 1)
    assert retried.waiting.delivery.deliver_at == DUE


def test_a_time_past_the_end_of_the_delivery_ends_it_without_an_attempt() -> None:
    moved = move(schedule(replace(LATER, expires_at=DUE - 1)), POLICY)
    assert moved.dead is not None
    assert (moved.status.reason_type, moved.status.attempts, moved.status.last_attempt_at) == ("expired", 0, 0)
    assert dead_status(moved.dead) == moved.status


def test_one_that_names_no_time_is_due_at_once_and_does_not_wait_for_ever() -> None:
    moved = move(schedule(replace(LATER, not_before=0, deliver_at=0)), POLICY)
    assert moved.waiting is not None
    assert moved.waiting.due_at == NOW


def test_one_that_carries_nothing_to_send_is_not_lost_in_silence() -> None:
    moved = move(replace(schedule(LATER), delivery=None), POLICY)
    assert moved.dead is not None
    assert moved.dead.reason == "undecodable"
    assert dead_status(moved.dead) == moved.status


# Its own policy


@pytest.mark.parametrize("attempt", [1, 2, 3, 4])
def test_a_delivery_with_a_policy_is_retried_by_it_and_keeps_it(attempt: int) -> None:
    own = RetryPolicy(5_000, 60_000, 0.0, "linear")
    delivery = replace(FIRST, retry=own, expires_at=0, attempt=attempt, gen=attempt - 1)
    moved = move(failed(delivery), POLICY)
    assert moved.waiting is not None
    assert moved.waiting.due_at == NOW + 5_000 * attempt
    assert moved.waiting.delivery.retry == own


@given(at=st.integers(NOW, NOW + (1 << 40)), asked=st.integers(0, 10**9), own=st.booleans())
def test_a_decision_that_is_replayed_from_the_log_is_the_same(at: int, asked: int, own: bool) -> None:
    policy = RetryPolicy(2_000, 600_000, 0.5, "schedule", (2_000, 9_000)) if own else None
    result = failed(replace(FIRST, retry=policy), at, asked)
    assert move(reader(Result)(encode(result)), POLICY) == move(result, POLICY)


# Too old


@given(
    expires_at=st.integers(NOW - 10_000, NOW + 200_000),
    attempt=st.integers(1, 4),
    asked=st.integers(0, 100_000),
)
def test_a_retry_is_made_when_it_falls_due_by_the_end_and_else_the_delivery_has_expired_now(
    expires_at: int, attempt: int, asked: int
) -> None:
    delivery = replace(FIRST, attempt=attempt, gen=attempt - 1)
    endless = move(failed(replace(delivery, expires_at=0), NOW, asked), POLICY)
    assert endless.waiting is not None
    moved = move(failed(replace(delivery, expires_at=expires_at), NOW, asked), POLICY)
    if endless.waiting.due_at <= expires_at:
        assert moved.waiting is not None
        assert moved.waiting.due_at == endless.waiting.due_at
        return
    assert moved.waiting is None
    assert moved.dead is not None
    assert (moved.status.state, moved.status.reason_type, moved.status.ended_at) == ("dead", "expired", NOW)
    assert (moved.status.attempts, moved.status.last_error) == (attempt, "HTTP 500")
    assert moved.dead.delivery is not None
    assert dead_status(moved.dead) == moved.status


def test_the_last_attempt_exhausts_a_delivery_however_old_it_is() -> None:
    moved = move(failed(replace(FIRST, max_attempts=1, expires_at=NOW - 1)), POLICY)
    assert moved.status.reason_type == "exhausted"


def test_a_delivery_that_arrives_after_its_end_has_arrived() -> None:
    late = Result(v=1, id="wh_a", scope="app", outcome="delivered", at=DUE * 2)
    assert move(late, POLICY).status.state == "delivered"


@pytest.mark.parametrize(("spare", "ends"), [(0, False), (-1, True)])
def test_what_falls_due_at_the_very_end_is_still_in_time(spare: int, ends: bool) -> None:
    still = RetryPolicy(1_000, 60_000, 0.0)
    assert (move(failed(replace(FIRST, expires_at=NOW + 1_000 + spare)), still).dead is not None) == ends
    assert (move(schedule(replace(LATER, expires_at=DUE + spare)), still).dead is not None) == ends
