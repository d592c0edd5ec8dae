"""The rule of (series, gen): whatever comes twice, late or in another order, a delivery ends once and stays ended."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from howk.domain.breaker import BreakerPolicy
from howk.domain.delivery import (
    ENDED,
    Moved,
    Standing,
    Verdict,
    cancelled_result,
    dead_status,
    is_current,
    is_retried,
    judge,
    move,
    outline,
    pending_status,
    retried_status,
    unsent,
    waiting_status,
)
from howk.domain.records import Delivery, Result, ResultSketch, Target, encode, reader
from howk.domain.retry import RetryPolicy
from howk.domain.settlement import Rules, read_result, settle, undecodable

read_sketch = reader(ResultSketch)
POLICY = RetryPolicy(1_000, 60_000, 0.2)
MOST = 4
NEW = Standing(1, 0, False)
Kind = Literal["delivered", "failed", "rejected"]
kinds = st.sampled_from(["delivered", "failed", "failed", "failed", "rejected"])
Settled = list[tuple[Moved | None, Standing | None]]


def delivery(id_: str, gen: int, series: int = 1) -> Delivery:
    return Delivery(
        v=1,
        scope="app",
        targets=(Target(id=id_, endpoint="https://example.com/"),),
        created_at=5,
        max_attempts=MOST,
        payload=Raw(b'{"a": 1}'),
        series=series,
        gen=gen,
        attempt=gen + 1,
        ordering_key="key",
        event_id="evt",
    )


def result(id_: str, kind: Kind, gen: int, series: int = 1, at: int = 1_000) -> Result:
    return Result(
        v=1,
        id=id_,
        scope="app",
        outcome=kind,
        at=at + gen,
        series=series,
        gen=gen,
        attempt=gen + 1,
        max_attempts=MOST,
        created_at=5,
        status_code=204 if kind == "delivered" else 500,
        reason="endpoint_gone" if kind == "rejected" else "",
        error="" if kind == "delivered" else "HTTP 500",
        delivery=None if kind == "delivered" else delivery(id_, gen, series),
    )


def settled_by(
    results: Sequence[Result], standings: dict[str, Standing], policy: RetryPolicy
) -> list[tuple[Moved | None, Standing | None]]:
    """What becomes of the deliveries; the breaker never opens."""
    rules = Rules(policy, BreakerPolicy(1_000, 1.0, 60_000, 1, 1, 1))
    return [(decided.moved, decided.before) for decided in settle(results, standings, {}, rules).decisions]


class Oracle:
    """The rule in its plainest words: the gen that counts, and whether it is over."""

    def __init__(self) -> None:
        self.gen = 0
        self.over = False

    def counts(self, kind: Kind, gen: int) -> bool:
        return not self.over and (kind == "delivered" or gen == self.gen)

    def take(self, kind: Kind, gen: int) -> None:
        if not self.counts(kind, gen):
            return
        if kind == "failed" and gen + 1 < MOST:
            self.gen += 1
        else:
            self.over = True


@st.composite
def histories(draw: st.DrawFn, id_: str = "a") -> list[Result]:
    """Results of one delivery as they may come: repeated, late, in any order, but none of a gen that no attempt was
    made for yet. In the end every attempt that was decided has had an answer."""
    oracle = Oracle()
    found: list[Result] = []
    for kind, back in draw(st.lists(st.tuples(kinds, st.integers(0, 3)), max_size=12)):
        gen = max(0, oracle.gen - back)
        oracle.take(kind, gen)
        found.append(result(id_, kind, gen))
    while not oracle.over:
        kind = draw(kinds)
        found.append(result(id_, kind, oracle.gen))
        oracle.take(kind, oracle.gen)
    late = draw(st.lists(st.tuples(kinds, st.integers(0, oracle.gen)), max_size=4))
    return found + [result(id_, kind, gen) for kind, gen in late]


def standings_after(settled: Settled, results: Sequence[Result], before: dict[str, Standing]) -> dict[str, Standing]:
    after = dict(before)
    for (moved, _), judged in zip(settled, results, strict=True):
        if moved is not None:
            after[judged.id] = Standing(moved.status.series, moved.status.gen, moved.waiting is None)
    return after


def in_batches(results: Sequence[Result], cuts: Sequence[int], before: dict[str, Standing]) -> Settled:
    edges = [0, *sorted(cut % (len(results) + 1) for cut in cuts), len(results)]
    settled: Settled = []
    standings = dict(before)
    for start, stop in pairwise(edges):
        batch = results[start:stop]
        part = settled_by(batch, standings, POLICY)
        standings = standings_after(part, batch, standings)
        settled += part
    return settled


def ends(settled: Settled) -> list[int]:
    return [n for n, (moved, _) in enumerate(settled) if moved is not None and moved.status.state in ENDED]


# Histories


@given(results=histories(), known=st.booleans(), cuts=st.lists(st.integers(0, 40), max_size=5))
@example(
    results=[result("a", "failed", 0), result("a", "failed", 0), result("a", "delivered", 0)], known=True, cuts=[1]
)
def test_a_delivery_ends_exactly_once_and_nothing_moves_it_afterwards(
    results: list[Result], known: bool, cuts: list[int]
) -> None:
    settled = in_batches(results, cuts, {"a": NEW} if known else {})
    (end,) = ends(settled)
    assert [moved for moved, _ in settled[end + 1 :] if moved is not None] == []


@given(results=histories(), cuts=st.lists(st.integers(0, 40), max_size=5))
def test_each_result_counts_just_when_the_rule_says_so(results: list[Result], cuts: list[int]) -> None:
    oracle = Oracle()
    for (moved, before), judged in zip(in_batches(results, cuts, {"a": NEW}), results, strict=True):
        assert (moved is not None) == oracle.counts(judged.outcome, judged.gen)  # pyright: ignore[reportArgumentType]
        assert before is not None
        assert before.ended == oracle.over
        if not oracle.over:
            assert before.gen == oracle.gen
        oracle.take(judged.outcome, judged.gen)  # pyright: ignore[reportArgumentType]


@given(results=histories(), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_how_results_are_batched_does_not_matter(results: list[Result], cuts: list[int]) -> None:
    assert in_batches(results, cuts, {"a": NEW}) == settled_by(results, {"a": NEW}, POLICY)
    assert in_batches(results, cuts, {}) == settled_by(results, {}, POLICY)


@given(results=histories(), upto=st.integers(0, 40), start=st.integers(0, 40))
def test_settling_a_batch_again_over_what_it_led_to_changes_nothing(
    results: list[Result], upto: int, start: int
) -> None:
    upto %= len(results) + 1
    start %= upto + 1
    before = standings_after(settled_by(results[:start], {"a": NEW}, POLICY), results[:start], {"a": NEW})
    batch = results[start:upto]
    after = standings_after(settled_by(batch, before, POLICY), batch, before)
    assert [moved for moved, _ in settled_by(batch, after, POLICY) if moved is not None] == []


@given(first=histories("a"), second=histories("b"), order=st.randoms(use_true_random=False))
def test_deliveries_do_not_touch_each_other(first: list[Result], second: list[Result], order: object) -> None:
    mixed = list(first)
    at = 0
    for judged in second:
        at = order.randint(at, len(mixed))  # pyright: ignore[reportAttributeAccessIssue]
        mixed.insert(at, judged)
        at += 1
    settled = settled_by(mixed, {}, POLICY)
    for own, id_ in ((first, "a"), (second, "b")):
        assert [s for s, judged in zip(settled, mixed, strict=True) if judged.id == id_] == settled_by(own, {}, POLICY)


@given(results=st.lists(st.builds(result, st.just("a"), kinds, st.integers(0, 5), st.integers(1, 3)), max_size=15))
def test_even_results_that_can_not_have_come_so_end_a_delivery_at_most_once(results: list[Result]) -> None:
    settled = settled_by(results, {}, POLICY)
    assert len(ends(settled)) <= 1
    gens = [moved.status.gen for moved, _ in settled if moved is not None and moved.waiting is not None]
    assert gens == sorted(set(gens))


@given(results=histories())
def test_the_only_record_that_may_be_sent_is_the_one_that_waits(results: list[Result]) -> None:
    standing = NEW
    for moved, _ in settled_by(results, {"a": NEW}, POLICY):
        if moved is None:
            continue
        standing = Standing(moved.status.series, moved.status.gen, moved.waiting is None)
        sendable = [gen for gen in range(MOST + 1) if is_current(standing, 1, gen)]
        assert sendable == ([moved.waiting.delivery.gen] if moved.waiting else [])
        assert not is_current(standing, 2, standing.gen)
    assert standing.ended


# Single judgements


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize(("series", "gen"), [(1, 1), (1, 7), (2, 0), (2, 1)])
def test_an_unknown_delivery_of_a_later_series_or_gen_is_history_and_is_not_sent(
    series: int, gen: int, success: bool
) -> None:
    assert judge(None, series, gen, success=success) is Verdict.HISTORY
    assert not is_current(None, series, gen)
    kind: Kind = "delivered" if success else "failed"
    assert settled_by([result("a", kind, gen, series)], {}, POLICY) == [(None, None)]


@pytest.mark.parametrize("kind", ["delivered", "failed", "rejected"])
def test_an_unknown_first_attempt_counts_and_may_be_sent(kind: Kind) -> None:
    assert is_current(None, 1, 0)
    ((moved, before),) = settled_by([result("a", kind, 0)], {}, POLICY)
    assert moved is not None
    assert before is None


@given(standing=st.builds(Standing, st.integers(1, 3), st.integers(0, 3), st.booleans()), gen=st.integers(0, 4))
def test_a_result_of_another_series_is_always_history(standing: Standing, gen: int) -> None:
    for series in {1, 2, 3, 4} - {standing.series}:
        for success in (True, False):
            assert judge(standing, series, gen, success=success) is Verdict.HISTORY


# What a move makes


@given(gen=st.integers(0, MOST - 2), at=st.integers(0, 1 << 44))
def test_a_failure_with_attempts_left_waits_with_the_next_gen_and_the_same_content(gen: int, at: int) -> None:
    failed = result("a", "failed", gen, at=at)
    moved = move(failed, POLICY)
    assert moved.waiting is not None
    assert moved.dead is None
    sent, retried = failed.delivery, moved.waiting.delivery
    assert sent is not None
    assert (retried.gen, retried.attempt, retried.series) == (gen + 1, gen + 2, 1)
    assert retried.not_before == moved.waiting.due_at == moved.status.next_retry_at
    assert moved.waiting.due_at == POLICY.due(failed.at, gen + 1, "a/1", 0)
    for kept in (
        "scope",
        "targets",
        "payload",
        "content_type",
        "created_at",
        "max_attempts",
        "ordering_key",
        "event_id",
    ):
        assert getattr(retried, kept) == getattr(sent, kept), kept


@given(gen=st.integers(0, MOST - 2))
def test_the_status_of_what_waits_is_the_same_when_it_is_rebuilt_from_the_log(gen: int) -> None:
    moved = move(result("a", "failed", gen), POLICY)
    assert moved.waiting is not None
    assert waiting_status(moved.waiting) == moved.status
    assert (moved.status.state, moved.status.attempts, moved.status.last_error) == ("failed", gen + 1, "HTTP 500")


@pytest.mark.parametrize(
    ("kind", "gen", "reason"), [("rejected", 0, "endpoint_gone"), ("failed", MOST - 1, "exhausted")]
)
def test_what_is_given_up_is_a_dead_letter_with_its_reason_and_all_that_a_replay_needs(
    kind: Kind, gen: int, reason: str
) -> None:
    given_up = result("a", kind, gen)
    moved = move(given_up, POLICY)
    assert moved.waiting is None
    assert moved.dead is not None
    assert (moved.dead.reason, moved.status.reason_type, moved.status.state) == (reason, reason, "dead")
    assert moved.dead.delivery == given_up.delivery
    assert dead_status(moved.dead) == moved.status


def test_a_delivery_that_arrived_says_when() -> None:
    moved = move(result("a", "delivered", 2), POLICY)
    assert (moved.waiting, moved.dead) == (None, None)
    status = moved.status
    assert (status.state, status.attempts, status.delivered_at, status.ended_at) == ("delivered", 3, 1_002, 1_002)


def test_a_rejection_without_a_reason_is_unrecoverable() -> None:
    moved = move(Result(v=1, id="a", scope="app", outcome="rejected", at=1), POLICY)
    assert moved.dead is not None
    assert moved.dead.reason == "unrecoverable"


def test_a_failure_that_carries_nothing_to_retry_is_not_lost_in_silence() -> None:
    moved = move(Result(v=1, id="a", scope="app", outcome="failed", at=1, max_attempts=5), POLICY)
    assert moved.dead is not None
    assert moved.dead.reason == "undecodable"


@pytest.mark.parametrize(("value", "damage"), [(b"{", ""), (b"\xff\xfe", ""), (b'{"v":1}', ""), (b"{}", "checksum")])
def test_a_record_that_can_not_be_read_ends_as_a_dead_letter_of_its_own_with_its_bytes(
    value: bytes, damage: str
) -> None:
    source = "howk.results/0/7"
    read = read_result(value, source, "app/k", 9, damage)
    assert read == undecodable(source, "app/k", value, 9, read.error)
    ((moved, _),) = settled_by([read], {}, POLICY)
    assert moved is not None
    assert moved.dead is not None
    assert (moved.dead.id, moved.dead.reason, moved.dead.source) == (source, "undecodable", source)
    assert moved.dead.raw_base64 == undecodable("", "", value, 0, "").raw_base64
    assert moved.dead.error
    after = {source: Standing(1, 0, True)}
    assert settled_by([read], after, POLICY) == [(None, after[source])]


def test_a_status_is_pending_with_the_attempts_that_were_made() -> None:
    status = pending_status(delivery("a", 2), "a")
    assert (status.state, status.attempts, status.gen, status.ended_at) == ("pending", 2, 2, 0)


@pytest.mark.parametrize("why", ["expired", "endpoint_disabled"])
def test_what_is_given_up_unsent_says_the_same_of_its_last_attempt_when_its_letter_is_read_again(
    why: Literal["expired", "endpoint_disabled"],
) -> None:
    never_sent = move(unsent(delivery("a", 0), why, 5_000), POLICY)
    assert never_sent.dead is not None
    assert dead_status(never_sent.dead) == never_sent.status
    assert never_sent.status.last_attempt_at == 0
    waiting = move(result("a", "failed", 0), POLICY).waiting
    assert waiting is not None
    given_up = move(unsent(waiting.delivery, why, 5_000), POLICY)
    assert given_up.dead is not None
    assert dead_status(given_up.dead) == given_up.status
    assert given_up.status.last_attempt_at == 1_000


def test_what_is_cancelled_says_the_same_of_its_last_attempt_when_it_is_read_again() -> None:
    failed = result("a", "failed", 0)
    ended = move(failed, POLICY, marked=True).status
    assert (ended.state, ended.attempts, ended.last_attempt_at, ended.last_status_code) == ("cancelled", 1, 1_000, 500)
    assert move(cancelled_result(failed), POLICY).status == ended
    waiting = move(failed, POLICY).waiting
    assert waiting is not None
    before_it_was_sent = move(unsent(waiting.delivery, "cancelled", 5_000), POLICY).status
    assert (before_it_was_sent.attempts, before_it_was_sent.last_attempt_at) == (1, 1_000)
    assert (before_it_was_sent.last_status_code, before_it_was_sent.last_error) == (500, "HTTP 500")


OUTCOMES = ["delivered", "failed", "rejected", "scheduled", "held", "cancelled", "undecodable"]


@given(
    outcome=st.sampled_from(OUTCOMES),
    gen=st.integers(0, MOST),
    expires=st.sampled_from([0, 1, 999, 1_001, 30_000, 61_003, 72_004, 73_000, 10**9]),
    policy=st.builds(RetryPolicy, st.integers(0, 60_000), st.integers(0, 60_000), st.floats(0, 1)),
    retry_after=st.integers(0, 200_000),
    own=st.booleans(),
)
def test_the_outline_of_a_result_says_what_its_move_does(
    outcome: str, gen: int, expires: int, policy: RetryPolicy, retry_after: int, own: bool
) -> None:
    carried = replace(delivery("a", gen), expires_at=expires, retry=policy if own else None)
    made = replace(result("a", "failed", gen), outcome=outcome, delivery=carried, retry_after=retry_after)
    deployment = POLICY if own else policy
    full, short = move(made, deployment).status, outline(made, deployment)
    assert (short.id, short.scope, short.state, short.held_by) == (full.id, full.scope, full.state, full.held_by)
    sketch = read_sketch(encode(made))
    assert is_retried(sketch, deployment) == is_retried(made, deployment)
    assert not is_retried(sketch, deployment) or retried_status(sketch) == short
