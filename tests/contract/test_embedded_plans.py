"""The plans of hot state's statements: none walks over a table that grows with what waits or has ended. Beside a
million deliveries such a walk holds up the loop for a second, and some are made at each start or turn."""

import re
import sqlite3
from collections.abc import Callable

import pytest

from howk.adapters.embedded import hot, keys
from howk.domain.delivery import Status
from howk.ports.state import Effect

GROWING = ("status", "waiting", "turns", "keys")
IDS = ["a"]
EFFECTS = [Effect(Status(id="a", scope="s", state="failed"), due_at=5, record=b"x", turn="t", rank=1)]
ASKED: dict[str, Callable[[sqlite3.Connection], object]] = {
    "the start: how many have ended": hot.count_ended,
    "the start: when the first one ended": hot.oldest_end,
    "the start: what is held": hot.held,
    "the start: leases of the last run": hot.drop_leases,
    "where deliveries stand": lambda db: hot.standings(db, IDS),
    "statuses": lambda db: hot.statuses(db, IDS),
    "what was accepted": lambda db: hot.add_pending(db, [effect.status for effect in EFFECTS]),
    "what was settled": lambda db: hot.store(db, EFFECTS, any_known=True, any_waiting=True),
    "what is rebuilt": lambda db: hot.restore(db, EFFECTS),
    "marks": lambda db: (hot.mark(db, IDS), hot.unmark(db, IDS)),
    "turns": lambda db: (hot.enter_turns(db, [("t", 1, "a")]), hot.call_next(db, ["t"]), hot.leave_turns(db, IDS)),
    "what is in a stream already": lambda db: hot.unschedule(db, [("a", 1, 0)]),
    "what is due": lambda db: hot.lease_due(db, 10, 1.0, 2.0, 1, 10, 1_000),
    "what an endpoint holds": lambda db: hot.lease_held(db, "e", 1.0, 2.0, 1, 10, 1_000),
    "when the next one is due": lambda db: hot.next_due(db, 1.0),
    "what was claimed": lambda db: hot.drop_leased(db, 1, IDS),
    "what has ended long ago": lambda db: hot.prune(db, 10, 10),
    "idempotency keys": lambda db: (keys.find(db, IDS), keys.store(db, [], {}, 1), keys.any_older(db, 1)),
}


@pytest.mark.parametrize("name", ASKED)
def test_nothing_that_is_asked_of_hot_state_walks_over_a_growing_table(name: str) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    hot.create(connection)
    hot.store(connection, EFFECTS, any_known=True, any_waiting=True)
    said: list[str] = []
    connection.set_trace_callback(said.append)
    ASKED[name](connection)
    connection.set_trace_callback(None)
    plans = [step for statement in said for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    walks = [step for step in plans if re.fullmatch(rf"SCAN ({'|'.join(GROWING)})", step)]
    connection.close()
    assert said
    assert walks == []
