"""The fold of results over endpoints and marks: batched in any way it comes to the same, and each endpoint's own
results alone decide of it."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from howk.domain.breaker import BreakerPolicy, Circuit, moved
from howk.domain.delivery import ENDED, Standing
from howk.domain.ids import delivery_id
from howk.domain.records import Delivery, EndpointRow, Result, Target
from howk.domain.retry import RetryPolicy
from howk.domain.settlement import Decided, Rules, Settled, settle, undecodable

RULES = Rules(RetryPolicy(1_000, 60_000, 0.2), BreakerPolicy(3, 0.5, 60_000, 5_000, 2_000, 2))
URL = "https://example.com/hook"
DELIVERIES = ("a", "b", "c")
ENDPOINTS = ("x", "y")
UNREADABLE = undecodable("howk.slow/0/7", f"app/{delivery_id(1_790_000_000_000, bytes(16))}", b"{", 5, "it is damaged")
NEW = {id_: Standing(1, 0, ended=False) for id_ in DELIVERIES}

outcomes = st.sampled_from(
    ["delivered", "failed", "failed", "failed", "gone", "held", "cancelled", "cancel", "pause", "enable", "release"]
)
steps = st.lists(
    st.tuples(outcomes, st.sampled_from(DELIVERIES), st.sampled_from(ENDPOINTS), st.integers(0, 2), st.booleans()),
    max_size=30,
)
cuts = st.lists(st.integers(0, 30), max_size=5)


def results_of(steps: Sequence[tuple[str, str, str, int, bool]]) -> list[Result]:
    """Results at one second after the other; the probes carry the token that is current, as the gate lends it."""
    found: list[Result] = []
    standings, circuits = NEW, dict[str, EndpointRow]()
    for second, (kind, id_, endpoint, back, probe) in enumerate(steps):
        gen = max(0, standings[id_].gen - back // 2)
        token = circuits[endpoint].circuit.gen if probe and endpoint in circuits else 0
        made = _result(kind, id_, endpoint, gen, second * 1_000, token)
        found.append(made)
        settled = settle([made], standings, circuits, RULES)
        standings, circuits = after([made], settled, standings), circuits | {row.id: row for row in settled.endpoints}
    return found


def _result(kind: str, id_: str, endpoint: str, gen: int, at: int, probe: int) -> Result:
    if kind in ("pause", "enable", "release"):
        return Result(v=2, id=endpoint, scope="app", outcome=kind, at=at, endpoint=endpoint, url=URL, command=f"c{at}")  # pyright: ignore[reportArgumentType]
    if kind == "cancel":
        return Result(v=2, id=id_, scope="app", outcome="cancel", at=at, command=f"c{at}")
    delivery = Delivery(
        v=1,
        scope="app",
        targets=(Target(id=id_, endpoint=URL),),
        created_at=0,
        max_attempts=99,
        payload=Raw(b"{}"),
        gen=gen,
        attempt=gen + 1,
    )
    result = Result(
        v=2,
        id=id_,
        scope="app",
        outcome="rejected" if kind == "gone" else kind,  # pyright: ignore[reportArgumentType]
        at=at,
        gen=gen,
        attempt=gen + 1,
        max_attempts=99,
        status_code={"delivered": 200, "failed": 503, "gone": 410}.get(kind, 0),
        reason="endpoint_gone" if kind == "gone" else "",
        endpoint=endpoint,
        probe=probe,
    )
    return result if kind in ("delivered", "cancelled") else replace(result, delivery=delivery)


def after(results: Sequence[Result], settled: Settled, standings: dict[str, Standing]) -> dict[str, Standing]:
    """Where the deliveries stand then, as hot state keeps it: a mark goes with the end."""
    found = dict(standings)
    for result, decided in zip(results, settled.decisions, strict=True):
        if decided.mark is not None:
            found[result.id] = replace(found[result.id], marked=True)
        elif decided.moved is not None:
            status = decided.moved.status
            ended = status.state in ENDED
            found[result.id] = Standing(status.series, status.gen, ended, found[result.id].marked and not ended)
    return found


def folded(results: Sequence[Result], cuts: Sequence[int] = ()) -> tuple[list[Decided], dict[str, EndpointRow]]:
    """Settled in batches; every decision, and the endpoints in the end."""
    edges = sorted({0, len(results), *[cut % (len(results) + 1) for cut in cuts]})
    standings, circuits = NEW, dict[str, EndpointRow]()
    decisions: list[Decided] = []
    for start, stop in pairwise(edges):
        batch = results[start:stop]
        settled = settle(batch, standings, circuits, RULES)
        standings, circuits = after(batch, settled, standings), circuits | {row.id: row for row in settled.endpoints}
        decisions += settled.decisions
    return decisions, circuits


@given(steps=steps, cuts=cuts)
def test_how_results_are_batched_matters_neither_to_rows_nor_to_marks(
    steps: list[tuple[str, str, str, int, bool]], cuts: list[int]
) -> None:
    results = results_of(steps)
    (whole, rows), (parts, rows_of_parts) = folded(results), folded(results, cuts)
    assert {id_: row.circuit for id_, row in rows.items()} == {id_: row.circuit for id_, row in rows_of_parts.items()}
    for one, other in zip(whole, parts, strict=True):
        assert (one.moved, one.mark, one.turned) == (other.moved, other.mark, other.turned)
        assert (one.row and one.row.circuit) == (other.row and other.row.circuit)


@given(steps=steps)
def test_a_row_is_written_down_whenever_an_endpoint_moves_and_only_then(
    steps: list[tuple[str, str, str, int, bool]],
) -> None:
    results = results_of(steps)
    now = dict.fromkeys(ENDPOINTS, Circuit())
    written = dict.fromkeys(ENDPOINTS, Circuit())
    for upto, (result, decided) in enumerate(zip(results, folded(results)[0], strict=True), 1):
        rows = folded(results[:upto])[1]
        before = now
        now = {id_: rows[id_].circuit if id_ in rows else Circuit() for id_ in ENDPOINTS}
        moves = [id_ for id_ in ENDPOINTS if moved(before[id_], now[id_])]
        assert moves == ([decided.row.id] if decided.row else [])
        if decided.row:
            assert decided.row.id == result.endpoint
            assert decided.row.circuit.gen > written[decided.row.id].gen
            assert decided.row.endpoint == URL
            written[decided.row.id] = decided.row.circuit


@given(steps=steps)
def test_only_an_endpoints_own_results_count_for_it(steps: list[tuple[str, str, str, int, bool]]) -> None:
    results = results_of(steps)
    for endpoint in ENDPOINTS:
        own = [result for result in results if result.endpoint == endpoint]
        alone, among = folded(own)[1].get(endpoint), folded(results)[1].get(endpoint)
        assert (alone and alone.circuit) == (among and among.circuit)


@given(steps=steps)
def test_a_marked_delivery_never_waits_again_and_ends_cancelled_or_delivered(
    steps: list[tuple[str, str, str, int, bool]],
) -> None:
    results = results_of(steps)
    marked: set[str] = set()
    ended: set[str] = set()
    for result, decided in zip(results, folded(results)[0], strict=True):
        if decided.mark is not None:
            assert result.outcome == "cancel"
            assert result.id not in marked | ended
            marked.add(result.id)
        if decided.moved is None:
            continue
        assert result.id not in ended
        if result.id in marked:
            assert decided.moved.status.state in ("cancelled", "delivered")
            assert decided.moved.waiting is decided.moved.dead is None
        if decided.moved.status.state in ENDED:
            ended.add(result.id)


@pytest.mark.parametrize(
    "standing", [Standing(1, 0, ended=False), Standing(1, 3, ended=False), Standing(2, 1, ended=False)]
)
def test_what_nobody_can_read_ends_the_gen_that_is_current(standing: Standing) -> None:
    # At gen 0 its end would not stand in a rebuild, where the row of a later gen came before it.
    settled = settle([UNREADABLE], {UNREADABLE.id: standing}, {}, RULES)
    moved = settled.decisions[0].moved
    assert moved is not None
    assert moved.dead is not None
    assert (moved.status.state, moved.status.reason_type) == ("dead", "undecodable")
    current = (standing.series, standing.gen)
    assert (moved.status.series, moved.status.gen) == (moved.dead.series, moved.dead.gen) == current


@pytest.mark.parametrize("standing", [Standing(1, 3, ended=False), Standing(2, 1, ended=False)])
def test_a_success_after_what_nobody_could_read_is_history(standing: Standing) -> None:
    late = Result(
        v=1, id=UNREADABLE.id, scope="app", outcome="delivered", at=9, series=standing.series, gen=standing.gen
    )
    decisions = settle([UNREADABLE, late, UNREADABLE], {UNREADABLE.id: standing}, {}, RULES).decisions
    assert [decided.moved is not None for decided in decisions] == [True, False, False]


def test_what_nobody_can_read_of_a_delivery_that_is_not_known_ends_it_as_new() -> None:
    moved = settle([UNREADABLE], {}, {}, RULES).decisions[0].moved
    assert moved is not None
    assert (moved.status.state, moved.status.series, moved.status.gen) == ("dead", 1, 0)
