"""The breaker as a fold: results and commands go in by their own times, and what has to be written down comes out."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.json import decode, encode
from msgspec.structs import replace

from howk.domain.breaker import (
    BreakerPolicy,
    Circuit,
    abandoned,
    blocked,
    command,
    count,
    gone,
    is_default,
    moved,
    probe_due,
    ramp,
    verdict_of,
    written,
)

POLICY = BreakerPolicy(
    failure_threshold=5,
    failure_ratio=0.5,
    failure_window=60_000,
    recovery_timeout=300_000,
    probe_interval=60_000,
    success_threshold=2,
)
START = 1_700_000_000_000
NO_PROBE = -1
MOST_BUCKETS = 8

policies = st.builds(
    BreakerPolicy,
    failure_threshold=st.integers(1, 8),
    failure_ratio=st.floats(0, 1),
    failure_window=st.integers(1, 2_000),
    recovery_timeout=st.integers(1, 10_000),
    probe_interval=st.integers(1, 10_000),
    success_threshold=st.integers(1, 4),
)
times = st.integers(START, START + 6_000)
results = st.lists(st.tuples(times, st.booleans()), max_size=80)
circuits = st.builds(
    Circuit,
    state=st.sampled_from(["closed", "open", "half_open"]),
    gen=st.integers(0, 1 << 50),
    probe_at=times,
    successes=st.integers(0, 3),
    since=st.just(0) | times,
    disabled=st.sampled_from(["", "gone", "command"]),
    paused=st.booleans(),
)


def fold(circuit: Circuit, results: Sequence[tuple[int, bool]], policy: BreakerPolicy = POLICY) -> Circuit:
    for at, good in results:
        circuit = count(circuit, at, good, NO_PROBE, policy)
    return circuit


def opened(policy: BreakerPolicy = POLICY) -> Circuit:
    circuit = fold(Circuit(), [(START, False)] * policy.failure_threshold, policy)
    assert circuit.state == "open"
    return circuit


def counted(results: Sequence[tuple[int, bool]], window: int) -> tuple[int, int]:
    """(good, bad) of what a window of at most eight buckets holds, from the whole list of results."""
    width = -(-window // MOST_BUCKETS)
    newest = max(at // width for at, _ in results)
    inside = [good for at, good in results if at // width > newest - window // width]
    return inside.count(True), inside.count(False)


@pytest.mark.parametrize(
    ("status", "outcome", "verdict"),
    [
        (200, "delivered", True),
        (204, "delivered", True),
        (301, "rejected", True),
        (404, "rejected", True),
        (410, "rejected", True),
        (404, "failed", True),
        (0, "failed", False),
        (408, "failed", False),
        (425, "failed", False),
        (429, "failed", False),
        (500, "failed", False),
        (503, "failed", False),
        (0, "rejected", None),
        (0, "undecodable", None),
        (0, "scheduled", None),
        (0, "held", None),
        (0, "cancel", None),
        (200, "something new", None),
    ],
)
def test_a_result_speaks_for_its_endpoint_against_it_or_says_nothing(
    status: int, outcome: str, verdict: bool | None
) -> None:
    assert verdict_of(status, outcome) is verdict


@given(results=results, policy=policies)
def test_it_opens_exactly_when_the_failures_in_the_window_reach_number_and_ratio(
    results: list[tuple[int, bool]], policy: BreakerPolicy
) -> None:
    circuit = Circuit()
    for position, (at, good) in enumerate(results, 1):
        circuit = count(circuit, at, good, NO_PROBE, policy)
        goods, bads = counted(results[:position], policy.failure_window)
        reached = bads >= policy.failure_threshold and bads / max(1, goods + bads) >= policy.failure_ratio
        if circuit.state == "open":
            assert reached
            assert not good
            assert circuit == Circuit(state="open", gen=at, since=at, probe_at=at + policy.recovery_timeout)
            return
        assert good or not reached or _too_old(results[:position], policy.failure_window)
        assert (sum(good for _, good, _ in circuit.window), sum(bad for _, _, bad in circuit.window)) == (goods, bads)


def _too_old(results: Sequence[tuple[int, bool]], window: int) -> bool:
    width = -(-window // MOST_BUCKETS)
    return results[-1][0] // width <= max(at // width for at, _ in results) - window // width


@given(ats=st.lists(times, max_size=80), policy=policies)
def test_good_results_never_open_it(ats: list[int], policy: BreakerPolicy) -> None:
    assert fold(Circuit(), [(at, True) for at in ats], policy).state == "closed"


@given(results=results, later=st.integers(0, 10_000), policy=policies)
def test_what_is_older_than_the_window_does_not_count(
    results: list[tuple[int, bool]], later: int, policy: BreakerPolicy
) -> None:
    """Neither when it came before a newer result, nor when it comes after."""
    now = START + 6_000 + policy.failure_window + later
    lenient = policy._replace(failure_threshold=1_000)
    before = count(fold(Circuit(), results, lenient), now, True, NO_PROBE, lenient)
    assert before.window == count(Circuit(), now, True, NO_PROBE, lenient).window
    after = fold(before, results, policy)
    assert after is before


@given(results=results, policy=policies)
def test_the_window_is_bounded_in_order_and_holds_nothing_empty(
    results: list[tuple[int, bool]], policy: BreakerPolicy
) -> None:
    circuit = Circuit()
    for at, good in results:
        circuit = count(circuit, at, good, NO_PROBE, policy)
        assert len(circuit.window) <= MOST_BUCKETS
        assert list(circuit.window) == sorted(circuit.window)
        assert all(good + bad > 0 for _, good, bad in circuit.window)


def test_failures_before_the_recovery_do_not_open_it_again() -> None:
    recovered = command(opened(), "release", START + 12_000)
    late = fold(recovered, [(START + 11_999, False)] * 50)
    assert late is recovered
    assert fold(recovered, [(START + 12_000, False)] * 5).state == "open"
    busy = count(recovered, START + 12_001, True, NO_PROBE, POLICY)
    assert fold(busy, [(START + 11_999, False)] * 50) is busy


@given(circuit=circuits, at=times, good=st.booleans(), probe=st.integers(-1, 1 << 50), policy=policies)
def test_only_the_current_token_moves_one_that_is_not_closed(
    circuit: Circuit, at: int, good: bool, probe: int, policy: BreakerPolicy
) -> None:
    if circuit.state == "closed":
        return
    if probe != circuit.gen:
        assert count(circuit, at, good, probe, policy) is circuit
    after = count(circuit, at, good, circuit.gen, policy)
    assert moved(circuit, after)
    assert after.gen == circuit.gen + 1
    assert count(after, at, good, circuit.gen, policy) is after or after.state == "closed"


def test_good_probes_in_a_row_close_it_and_a_bad_one_begins_anew() -> None:
    circuit = opened()
    at = circuit.probe_at
    half = count(circuit, at, True, circuit.gen, POLICY)
    assert half == Circuit(state="half_open", gen=circuit.gen + 1, successes=1, probe_at=at, since=at)
    again = count(half, at + 1, False, half.gen, POLICY)
    assert again == Circuit(state="open", gen=half.gen + 1, probe_at=at + 60_001, since=at + 1)
    half = count(again, again.probe_at, True, again.gen, POLICY)
    closed = count(half, again.probe_at + 5, True, half.gen, POLICY)
    assert closed == Circuit(gen=half.gen + 1, since=again.probe_at + 5)


def test_a_failed_probe_of_an_open_one_does_not_begin_its_state_again() -> None:
    circuit = opened()
    after = count(circuit, circuit.probe_at, False, circuit.gen, POLICY)
    assert (after.state, after.since, after.probe_at) == ("open", START, circuit.probe_at + 60_000)


@given(circuit=circuits, at=times, policy=policies)
def test_an_abandoned_probe_counts_as_a_bad_one(circuit: Circuit, at: int, policy: BreakerPolicy) -> None:
    after = abandoned(circuit, at, policy)
    if circuit.state == "closed":
        assert after is circuit
    else:
        assert after == count(circuit, at, False, circuit.gen, policy)


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 20_000), st.booleans(), st.sampled_from(["now", "stale", "none"])), max_size=80
    ),
    policy=policies,
)
def test_probes_sent_when_due_never_turn_the_time_of_the_next_one_back(
    steps: list[tuple[int, bool, str]], policy: BreakerPolicy
) -> None:
    circuit, now = opened(policy), START
    for step, good, token in steps:
        now += step
        before = circuit
        probe = {"now": circuit.gen if probe_due(circuit, now) else NO_PROBE, "stale": 1, "none": NO_PROBE}[token]
        circuit = count(circuit, now, good, probe, policy)
        assert circuit.gen >= before.gen
        if before.state != "closed" and circuit.state != "closed":
            assert circuit.probe_at >= before.probe_at
            assert circuit.probe_at <= now + max(policy.probe_interval, policy.recovery_timeout)


@given(circuit=circuits, results=results, policy=policies)
def test_results_do_not_touch_what_the_owner_decided(
    circuit: Circuit, results: list[tuple[int, bool]], policy: BreakerPolicy
) -> None:
    for at, good in results:
        after = count(circuit, at, good, circuit.gen, policy)
        assert (after.disabled, after.paused) == (circuit.disabled, circuit.paused)
        circuit = after


@given(results=results, policy=policies)
def test_counting_alone_is_nothing_to_write_down(results: list[tuple[int, bool]], policy: BreakerPolicy) -> None:
    circuit = Circuit()
    for at, good in results:
        after = count(circuit, at, good, NO_PROBE, policy)
        assert moved(circuit, after) == (circuit.state != after.state)
        circuit = after


@given(circuit=circuits, names=st.lists(st.sampled_from(["enable", "pause", "release", "gone"]), max_size=8), at=times)
def test_what_changes_raises_the_gen_and_what_does_not_is_the_same_object(
    circuit: Circuit, names: list[str], at: int
) -> None:
    for name in names:
        after = gone(circuit, at) if name == "gone" else command(circuit, name, at)  # pyright: ignore[reportArgumentType]
        if after is circuit:
            assert not moved(circuit, after)
        else:
            assert moved(circuit, after)
            assert after.gen > circuit.gen
            assert replace(after, gen=circuit.gen) != circuit
        circuit = after


def test_a_command_does_what_its_name_says() -> None:
    circuit = opened()
    paused = command(circuit, "pause", START)
    assert paused == replace(circuit, gen=circuit.gen + 1, paused=True)
    assert command(paused, "pause", START) is paused
    dead = gone(paused, START)
    assert (dead.disabled, dead.paused, dead.state) == ("gone", True, "open")
    assert gone(dead, START) is dead
    released = command(dead, "release", START + 7)
    assert released == Circuit(gen=START + 7, since=START + 7, disabled="gone", paused=True)
    enabled = command(released, "enable", START + 8)
    assert enabled == Circuit(gen=START + 8, since=START + 7)
    assert command(enabled, "enable", START) is enabled
    assert command(enabled, "release", START) is enabled


def test_a_forgotten_circuit_gives_no_token_a_second_time() -> None:
    first = opened()
    closed = command(first, "release", START + 1)
    assert is_default(closed)
    assert fold(Circuit(), [(START + 2, False)] * 5).gen > first.gen
    assert gone(Circuit(), START + 2).gen > gone(Circuit(), START + 1).gen


@pytest.mark.parametrize(
    ("circuit", "reason"),
    [
        (Circuit(), ""),
        (Circuit(disabled="gone"), ""),
        (Circuit(paused=True), "pause"),
        (Circuit(state="open", gen=1, paused=True), "pause"),
        (Circuit(state="open", gen=1), "breaker"),
        (Circuit(state="half_open", gen=1), "breaker"),
    ],
)
def test_what_holds_traffic_back_has_a_name(circuit: Circuit, reason: str) -> None:
    assert blocked(circuit, START) == reason


def test_a_probe_is_due_from_its_time_on_unless_the_owner_stopped_the_endpoint() -> None:
    circuit = Circuit(state="open", gen=1, probe_at=START)
    assert [probe_due(circuit, at) for at in (START - 1, START, START + 1)] == [False, True, True]
    assert probe_due(replace(circuit, state="half_open"), START)
    for stopped in (replace(circuit, paused=True), replace(circuit, disabled="gone"), Circuit(probe_at=1)):
        assert not probe_due(stopped, START)


@pytest.mark.parametrize(
    ("after", "rate"),
    [(-50, 20), (0, 20), (4_999, 20), (5_000, 40), (14_999, 80), (40_000, 5_120), (45_000, 0), (10**12, 0)],
)
def test_after_a_recovery_the_rate_doubles_until_there_is_none(after: int, rate: float) -> None:
    assert ramp(Circuit(since=START), START + after, 20.0) == rate


def test_one_that_never_opened_has_no_ramp_and_one_still_open_is_at_its_foot() -> None:
    assert ramp(Circuit(), START, 20.0) == 0.0
    assert ramp(Circuit(state="half_open", since=START), START + 60_000, 20.0) == 20.0


@given(results=results, policy=policies)
def test_what_is_written_down_reads_back_as_the_same_circuit(
    results: list[tuple[int, bool]], policy: BreakerPolicy
) -> None:
    circuit = fold(Circuit(), results, policy)
    kept = written(circuit)
    assert kept == replace(circuit, window=())
    assert decode(encode(kept), type=Circuit) == kept
    assert decode(encode(circuit), type=Circuit) == circuit
    assert b"window" not in encode(kept)


@given(circuit=circuits)
def test_a_circuit_of_any_state_reads_back(circuit: Circuit) -> None:
    assert decode(encode(written(circuit)), type=Circuit) == circuit
    assert is_default(circuit) == (circuit.state == "closed" and not circuit.disabled and not circuit.paused)
