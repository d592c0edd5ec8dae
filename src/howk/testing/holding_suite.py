"""The part of the conformance suite of hot state that is about what deliveries have to wait for: endpoints, turns, and
marks. An engine gets it with `howk.testing.state_suite`."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from howk.domain.delivery import BREAKER, LIMIT, ORDER, PAUSE, Standing
from howk.domain.records import EndpointRow
from howk.ports.clock import Clock
from howk.ports.directory import Limits
from howk.ports.state import Effect, HotState
from howk.testing.clock import ManualClock
from howk.testing.state_samples import (
    FAR,
    HOOK,
    LEASE,
    NOW,
    OTHER,
    ask,
    asking,
    back,
    come_back,
    dead,
    due,
    ended,
    held,
    judged,
    keyed,
    knows,
    later,
    let_go,
    ordered,
    passes,
    pending,
    stand,
    states,
    stood,
    waiting,
)


class HoldingSuite(ABC):
    """What every hot state promises of endpoints, turns and marks; part of `StateSuite`."""

    status_ttl = 60_000
    """Milliseconds that the engine is to keep ended statuses."""
    status_max = 20
    """How many ended statuses the engine is to keep."""
    key_ttl = 86_400_000
    """Milliseconds that the engine is to keep idempotency keys."""

    most_out = 50
    """How many held deliveries of an endpoint the engine is to have on their way at most."""
    ramp = 20.0
    """The first rate of an endpoint that recovers."""
    probe_lease = 60.0
    """Seconds after which the engine is to take a probe for lost."""
    endpoints_max = 200
    """How many endpoints at rest the engine is to remember."""

    @abstractmethod
    async def open_state(self, clock: Clock) -> HotState:
        """Open the storage of the running test: missing at first, and as it was left after `close_state`."""

    async def close_state(self, state: HotState) -> None:
        """Close what `open_state` has opened, cleanly, so that it can be opened again."""
        await state.close()

    @asynccontextmanager
    async def opened(self, clock: Clock | None = None) -> AsyncGenerator[HotState]:
        """A hot state as it is found, closed at the end whatever happens."""
        state = await self.open_state(clock or ManualClock())
        try:
            yield state
        finally:
            await self.close_state(state)

    @asynccontextmanager
    async def whole(self, clock: Clock | None = None) -> AsyncGenerator[HotState]:
        """A hot state that is empty and valid."""
        async with self.opened(clock) as state:
            await (await state.rebuild()).seal({})
            yield state

    # Gate

    async def test_an_ask_for_an_endpoint_of_which_nothing_is_known_goes(self) -> None:
        async with self.whole() as state:
            assert await judged(state, [asking("a"), asking("b")]) == ["go", "go"]
            assert (await state.standing((), [HOOK])).endpoints == [None]

    async def test_the_gate_says_disabled_of_everything_for_a_disabled_endpoint(self) -> None:
        async with self.whole() as state:
            await knows(state, stood(disabled="gone"))
            asks = [asking("a"), asking("b", admitted=True), asking("c", turn="t", rank=2), asking("d", HOOK + "2")]
            await passes(state, [asking("first", HOOK + "2", turn="t", rank=1)])
            assert await judged(state, asks) == ["disabled", "disabled", "disabled", "go"]
            assert await states(state, ["a"]) == ["pending"]

    async def test_the_gate_holds_everything_for_a_paused_endpoint_back(self) -> None:
        async with self.whole() as state:
            await knows(state, stood(paused=True), stood(OTHER, state="open", paused=True, probe_at=1))
            asks = [asking("a"), asking("b", admitted=True), asking("c", OTHER), asking("d", OTHER, probe=1)]
            assert await judged(state, asks) == ["hold pause"] * 4
            assert await states(state, ["a"]) == ["pending"]

    async def test_an_open_breaker_holds_back_until_one_probe_may_go_under_its_token(self) -> None:
        async with self.whole() as state:
            await knows(state, stood(state="open", gen=7, probe_at=NOW))
            assert await judged(state, [asking("early")], NOW - 1) == ["hold breaker"]
            found = await state.gate([asking("a"), asking("b")], NOW)
            assert [(passage.verdict, passage.probe) for passage in found] == [("go", 7), ("hold", 0)]
            assert await states(state, ["a", "b"]) == ["delivering", "pending"]
            assert await judged(state, [asking("c"), asking("d", admitted=True)]) == ["hold breaker"] * 2

    async def test_a_half_open_breaker_lets_the_next_probe_go_when_the_one_before_has_moved_it(self) -> None:
        async with self.whole() as state:
            await knows(state, stood(state="open", gen=7, probe_at=NOW))
            assert await judged(state, [asking("a"), asking("b")]) == ["go 7", "hold breaker"]
            await knows(state, stood(state="half_open", gen=8, probe_at=NOW))
            assert await judged(state, [asking("b"), asking("c")]) == ["go 8", "hold breaker"]
            await knows(state, stood(gen=9))
            assert await judged(state, [asking("c"), asking("d")]) == ["go", "go"]

    async def test_a_probe_that_does_not_come_back_is_lost_after_its_time(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            await knows(state, stood(state="open", gen=7, probe_at=NOW))
            assert await judged(state, [asking("a")]) == ["go 7"]
            clock.advance(round(self.probe_lease * 1000) - 1)
            assert await judged(state, [asking("b")], clock.now()) == ["hold breaker"]
            clock.advance(1)
            assert await judged(state, [asking("b")], clock.now()) == ["go 7"]

    async def test_while_an_endpoint_holds_any_the_gate_lends_no_probe(self) -> None:
        async with self.whole() as state:
            await knows(state, stood(state="open", gen=7, probe_at=NOW))
            await state.apply([held("h")], {})
            assert await judged(state, [asking("a")]) == ["hold breaker"]
            (claim,) = await due(state, NOW)
            assert (claim.id, claim.why, claim.probe) == ("h", "admitted", 7)
            asks = [asking("stale", probe=6), asking("h", gen=1, admitted=True, probe=7)]
            assert await judged(state, asks) == ["hold breaker", "go 7"]

    async def test_fresh_ones_stand_behind_what_is_held_and_admitted_ones_pass(self) -> None:
        async with self.whole() as state:
            await state.apply([held("h", held_by=LIMIT)], {})
            asks = [asking("a"), asking("b", admitted=True), asking("c", OTHER)]
            assert await judged(state, asks) == ["hold limit", "go", "go"]
            await state.release(await due(state, NOW))
            assert await judged(state, [asking("a")]) == ["go"]

    async def test_an_ended_hold_leaves_nobody_behind_it(self) -> None:
        async with self.whole() as state:
            await state.apply([held("h", held_by=LIMIT)], {})
            await state.apply([ended("h", 1)], {})
            assert await judged(state, [asking("a")]) == ["go"]

    async def test_a_rate_lets_its_burst_go_then_tells_to_wait_and_above_two_seconds_holds(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            asks = [asking(f"a{n}", limits=Limits(per_second=2, burst=3)) for n in range(9)]
            found = await state.gate(asks, NOW)
            assert [passage.verdict for passage in found] == ["go"] * 7 + ["hold"] * 2
            assert [passage.wait for passage in found[:7]] == [0, 0, 0, 0.5, 1, 1.5, 2]
            assert {passage.held_by for passage in found[7:]} == {LIMIT}
            clock.advance(500)
            assert await judged(state, [asks[7], asks[8]], clock.now()) == ["go after 2.0", "hold limit"]

    async def test_without_a_burst_of_its_own_a_rate_has_that_of_a_second(self) -> None:
        async with self.whole() as state:
            found = await state.gate([asking(f"a{n}", limits=Limits(per_second=5)) for n in range(6)], NOW)
            assert [passage.wait for passage in found] == [0] * 5 + [0.2]

    async def test_endpoints_do_not_share_a_rate(self) -> None:
        slow = Limits(per_second=0.25, burst=1)
        async with self.whole() as state:
            asks = [asking(f"{hook}{n}", hook, limits=slow) for hook in (HOOK, OTHER) for n in range(2)]
            assert await judged(state, asks) == ["go", "hold limit"] * 2

    async def test_what_was_admitted_has_its_token(self) -> None:
        slow = Limits(per_second=0.25, burst=1)
        async with self.whole() as state:
            asks = [asking("a", limits=slow), asking("b", limits=slow, admitted=True), asking("c", limits=slow)]
            assert await judged(state, asks) == ["go", "go", "hold limit"]

    async def test_what_is_not_current_or_waits_for_its_turn_takes_no_token_and_no_probe(self) -> None:
        one = Limits(per_second=0.25, burst=1)
        async with self.whole() as state:
            await knows(state, stood(OTHER, state="open", gen=7, probe_at=1))
            await passes(state, [asking("first", turn="t", rank=1), asking("o", turn="u", rank=1)])
            asks = [
                asking("stale", gen=3, limits=one),
                asking("second", turn="t", rank=2, limits=one),
                asking("good", limits=one),
                asking("waits", OTHER, turn="u", rank=2),
                asking("probe", OTHER),
            ]
            assert await judged(state, asks) == ["stale", "wait order", "go", "wait order", "go 7"]

    async def test_one_that_recovers_is_called_no_more_often_than_its_ramp(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            await knows(state, stood(gen=9, since=NOW))
            many = [asking(f"a{n}") for n in range(200)]
            found = await state.gate(many, NOW)
            assert [passage.verdict for passage in found].count("go") == round(self.ramp * 3)
            clock.advance(60_000)
            assert set(await judged(state, many, clock.now())) == {"go"}

    # Endpoints' rows

    async def test_rows_of_endpoints_are_given_back_as_they_stand_and_the_higher_gen_stands(self) -> None:
        async with self.whole() as state:
            row = stood(state="open", gen=5, probe_at=9)
            await knows(state, row)
            assert (await state.standing((), [OTHER, HOOK])).endpoints == [None, row]
            await knows(state, stood(gen=4))
            assert (await state.standing((), [HOOK])).endpoints == [row]
            counted = stood(state="open", gen=5, probe_at=9, window=((1, 2, 3),))
            await knows(state, counted)
            assert (await state.standing((), [HOOK])).endpoints == [counted]
            later, earlier = stood(gen=7, paused=True), stood(gen=6)
            await knows(state, later, earlier)
            assert (await state.standing((), [HOOK])).endpoints == [later]

    async def test_a_claim_says_how_many_breakers_are_not_closed(self) -> None:
        async with self.whole() as state:
            await knows(
                state, stood(state="open", gen=1), stood(OTHER, state="half_open", gen=1), stood("third", gen=2)
            )
            assert (await state.claim(NOW, 10, LEASE)).open_breakers == 2
            await knows(state, stood(gen=2), stood(gen=1, state="open"))
            assert (await state.claim(NOW, 10, LEASE)).open_breakers == 1

    async def test_endpoints_at_rest_are_forgotten_above_a_bound_and_the_others_are_not(self) -> None:
        many = 2 * self.endpoints_max
        async with self.whole() as state:
            await knows(state, stood("paused", gen=1, paused=True), stood("open", gen=1, state="open", probe_at=NOW))
            await state.apply([held("h", "holds", held_by=LIMIT)], {})
            names = [f"at rest {n}" for n in range(many)]
            await knows(state, *[stood(name, window=((1, 1, 0),)) for name in names])
            rows = (await state.standing((), [*names, "paused", "open"])).endpoints
            assert sum(row is not None for row in rows) <= self.endpoints_max
            assert None not in rows[-2:]
            assert None not in rows[many - 10 : many]
            asks = [asking("a", "paused"), asking("b", "holds")]
            assert await judged(state, asks) == ["hold pause", "hold limit"]
            assert (await state.claim(NOW, 1, LEASE)).open_breakers == 1

    # Claims of what endpoints hold

    async def test_a_hold_is_no_retry_and_is_told_by_its_reason(self) -> None:
        async with self.whole() as state:
            await knows(state, stood(state="open", gen=1, probe_at=FAR), stood(OTHER, gen=1, paused=True))
            effects = [
                held("a"),
                held("b"),
                held("c", OTHER, held_by=PAUSE),
                ordered("d", "t", 1),
                waiting("e", 1, FAR),
            ]
            await state.apply([*effects, later("f", FAR)], {})
            found = await state.claim(NOW, 1, LEASE)
            assert [claim.id for claim in found.due] == ["d"]
            assert (found.waiting, dict(found.held)) == (6, {BREAKER: 2, PAUSE: 1, ORDER: 1})
            await state.release(found.due)
            await state.apply([ended("a", 1), held("b", gen=2, held_by=LIMIT)], {})
            found = await state.claim(NOW, 0, LEASE)
            assert (found.waiting, dict(found.held)) == (4, {LIMIT: 1, PAUSE: 1})

    async def test_holds_of_an_endpoint_that_is_well_are_admitted_oldest_first_four_at_once(self) -> None:
        async with self.whole() as state:
            await state.apply([held(f"h{n}", record=b"%d" % n, held_by=LIMIT) for n in (3, 1, 4, 0, 5, 9)], {})
            claims = await due(state, NOW)
            assert [claim.id for claim in claims] == ["h3", "h1", "h4", "h0"]
            assert {(claim.gen, claim.series, claim.why, claim.probe) for claim in claims} == {(1, 1, "admitted", 0)}
            assert [claim.record for claim in claims] == [b"3", b"1", b"4", b"0"]
            assert await due(state, NOW) == []
            await state.release(claims)
            assert await due(state, NOW) == []

    async def test_good_outcomes_let_more_go_and_bad_ones_half_as_many(self) -> None:
        async with self.whole() as state:
            await state.apply([held(f"h{n:03}", held_by=LIMIT) for n in range(100)], {})
            first = await let_go(state)
            second = await come_back(state, first, good=True)
            assert (len(first), len(second)) == (4, 8)
            third = await come_back(state, second[:1], good=False)
            # Half of eight may be on their way, and seven are.
            assert third == []
            fourth = await come_back(state, second[1:7], good=None)
            assert len(fourth) == 3
            assert len(await come_back(state, [*second[7:], *fourth], good=True)) == 4

    async def test_no_more_are_on_their_way_than_the_deployment_or_the_sender_says(self) -> None:
        async with self.whole() as state:
            await passes(state, [asking("x", OTHER, limits=Limits(max_in_flight=2))])
            await knows(state, stood(OTHER, gen=1))
            holds = [held(f"{hook}{n:03}", hook, held_by=LIMIT) for hook in (HOOK, OTHER) for n in range(300)]
            await state.apply(holds, {})
            await state.gate([asking("y", OTHER, limits=Limits(max_in_flight=2))], NOW)
            out = await let_go(state)
            assert [claim.id.startswith(OTHER) for claim in out].count(True) == 2
            for _ in range(6):
                out = await come_back(state, out, good=True)
            assert [claim.id.startswith(HOOK) for claim in out].count(True) == self.most_out
            assert [claim.id.startswith(OTHER) for claim in out].count(True) == 2

    async def test_nothing_is_let_go_while_an_endpoint_is_paused(self) -> None:
        async with self.whole() as state:
            await knows(state, stood(gen=1, paused=True))
            await state.apply([held("h", held_by=PAUSE)], {})
            assert await due(state, NOW) == []
            assert await knows(state, stood(gen=2)) == NOW
            assert [claim.id for claim in await due(state, NOW)] == ["h"]

    async def test_an_open_breaker_lets_one_probe_go_when_it_is_due_and_none_before(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            await knows(state, stood(state="open", gen=7, probe_at=NOW + 5_000))
            await state.apply([held("h1"), held("h2")], {})
            found, next_due, *_ = await state.claim(NOW, 10, LEASE)
            assert (list(found), next_due) == ([], NOW + 5_000)
            clock.advance(5_000)
            assert [(c.id, c.probe) for c in await due(state, clock.now())] == [("h1", 7)]
            assert await due(state, clock.now()) == []
            assert await judged(state, [asking("x")], clock.now()) == ["hold breaker"]

    async def test_a_probe_that_was_let_go_and_does_not_come_back_is_followed_by_another(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            await knows(state, stood(state="open", gen=7, probe_at=NOW))
            await state.apply([held("h1"), held("h2")], {})
            await let_go(state)
            clock.advance(round(self.probe_lease * 1000))
            assert [(c.id, c.probe) for c in await due(state, clock.now())] == [("h2", 7)]

    async def test_a_probe_that_came_late_into_the_log_has_all_of_its_time_from_then_on(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            await knows(state, stood(state="open", gen=7, probe_at=NOW))
            await state.apply([held("h1"), held("h2")], {})
            late = await due(state, NOW)
            clock.advance(round(self.probe_lease * 1000))
            await state.release(late)
            clock.advance(round(self.probe_lease * 1000) - 1)
            assert await due(state, clock.now()) == []
            clock.advance(1)
            assert [(c.id, c.probe) for c in await due(state, clock.now())] == [("h2", 7)]

    async def test_a_move_of_the_breaker_lets_the_next_probe_go_and_its_close_the_others(self) -> None:
        async with self.whole() as state:
            await knows(state, stood(state="open", gen=7, probe_at=NOW))
            await state.apply([held(f"h{n}") for n in range(7)], {})
            (probe,) = await let_go(state)
            assert await back(state, [probe], True, stood(state="half_open", gen=8, probe_at=NOW)) == NOW
            (probe,) = await let_go(state)
            assert (probe.id, probe.probe) == ("h1", 8)
            assert await back(state, [probe], True, stood(gen=9)) == NOW
            assert len(await let_go(state)) == 5

    async def test_only_one_probe_goes_however_often_it_is_asked_at_one_instant(self) -> None:
        """Whatever wakes the queue, and however often."""
        async with self.whole() as state:
            await knows(state, stood(state="open", gen=7, probe_at=NOW))
            for n in range(3):
                await state.apply([held(f"old{n}"), waiting("w", 1, FAR)], {})
                await state.apply([ended(f"old{n}", 1)], {})
                await state.claim(NOW, 10, LEASE)
            await state.apply([held("h1"), held("h2")], {})
            await knows(state, stood(state="half_open", gen=8, probe_at=NOW))
            claims = [claim for _ in range(3) for claim in await due(state, NOW)]
            assert [(claim.id, claim.probe) for claim in claims] == [("h1", 8)]

    async def test_holds_go_at_the_rate_of_their_endpoint_and_the_claim_says_when_the_next_does(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            slow = Limits(per_second=2, burst=1)
            await state.gate([asking("x", limits=slow)], NOW)
            await state.apply([held(f"h{n}", held_by=LIMIT) for n in range(3)], {})
            seen: list[tuple[int, list[str]]] = []
            while len(seen) < 3:
                found, next_due, *_ = await state.claim(clock.now(), 10, LEASE)
                if found:
                    seen.append((clock.now() - NOW, [claim.id for claim in found]))
                    await state.release(found)
                    continue
                assert clock.now() < next_due < NOW + 5_000
                clock.advance(next_due - clock.now())
            assert seen == [(500, ["h0"]), (1_000, ["h1"]), (1_500, ["h2"])]

    async def test_a_hold_whose_claim_was_not_released_is_given_again_after_its_lease(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            await state.apply([held(f"h{n}", held_by=LIMIT) for n in range(5)], {})
            first, next_due, *_ = await state.claim(NOW, 10, 10.0)
            assert [claim.id for claim in first] == ["h0", "h1", "h2", "h3"]
            assert next_due == NOW + 10_000
            clock.advance(10_000)
            again = await due(state, clock.now())
            assert [(claim.id, claim.why) for claim in again] == [(claim.id, "admitted") for claim in first]
            await state.release(first)
            assert (await state.statistics(NOW)).waiting == 5
            await state.release(again)
            assert (await state.statistics(NOW)).waiting == 1

    async def test_more_holds_than_a_claim_may_give_are_given_by_the_next(self) -> None:
        async with self.whole() as state:
            holds = [held(f"{hook}{n}", hook, held_by=LIMIT) for hook in ("one", "two", "three") for n in range(4)]
            await state.apply(holds, {})
            claims = [await state.claim(NOW, 5, LEASE) for _ in range(3)]
            given = [claim.id for claimed in claims for claim in claimed.due]
            assert sorted(given) == sorted(effect.status.id for effect in holds)
            assert [claimed.next_due > NOW for claimed in claims] == [False, False, True]

    async def test_everything_that_a_disabled_endpoint_holds_is_given_to_be_ended(self) -> None:
        async with self.whole() as state:
            await state.apply([held(f"h{n}") for n in range(9)], {})
            assert await knows(state, stood(state="open", gen=7, probe_at=NOW, paused=True, disabled="gone")) == NOW
            found = [claim for _ in range(3) for claim in (await state.claim(NOW, 4, LEASE)).due]
            assert [(claim.id, claim.why, claim.probe) for claim in found] == [
                (f"h{n}", "endpoint_disabled", 0) for n in range(9)
            ]

    async def test_a_hold_that_expires_is_given_to_be_ended_whatever_its_endpoint_says(self) -> None:
        async with self.whole() as state:
            await knows(state, stood(state="open", gen=7, probe_at=NOW), stood(OTHER, gen=1, paused=True))
            effects = [held("a", expires=NOW + 10), held("b", OTHER, expires=NOW + 20, held_by=PAUSE)]
            await state.apply([held("first"), *effects], {})
            assert [claim.id for claim in await due(state, NOW)] == ["first"]
            found, next_due, *_ = await state.claim(NOW + 10, 10, LEASE)
            assert [(claim.id, claim.why, claim.probe) for claim in found] == [("a", "expired", 0)]
            assert next_due == NOW + 20
            assert [(claim.id, claim.why) for claim in await due(state, NOW + 20)] == [("b", "expired")]

    async def test_a_place_is_given_back_by_every_end_also_by_one_that_names_no_endpoint(self) -> None:
        async with self.whole() as state:
            await state.apply([held(f"h{n}", held_by=LIMIT) for n in range(8)], {})
            out = await let_go(state)
            cancelled = [ended(claim.id, claim.gen) for claim in out]
            assert await state.apply(cancelled, {}) == NOW
            assert [claim.id for claim in await due(state, NOW)] == ["h4", "h5", "h6", "h7"]

    async def test_a_wall_clock_that_steps_back_keeps_no_hold_waiting(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            await state.apply([held(f"h{n}", held_by=LIMIT) for n in range(5)], {})
            await state.claim(NOW, 10, 10.0)
            clock.advance(10_000)
            clock.step(-3_600_000)
            found, next_due, *_ = await state.claim(clock.now(), 10, 10.0)
            assert [claim.id for claim in found] == ["h0", "h1", "h2", "h3"]
            assert next_due == clock.now() + 10_000

    async def test_a_wall_clock_that_is_set_ahead_keeps_a_probe_waiting_for_half_a_minute_at_most(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            await knows(state, stood(state="open", gen=7, probe_at=NOW + 86_400_000))
            await state.apply([held("h")], {})
            assert await due(state, NOW) == []
            clock.step(86_400_000)
            clock.advance(30_000)
            (claim,) = await due(state, clock.now())
            assert (claim.id, claim.probe) == ("h", 7)

    async def test_a_wall_clock_that_steps_back_keeps_nothing_waiting_whose_turn_has_come_or_that_is_cancelled(
        self,
    ) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            await passes(state, [asking("a", turn="t", rank=1)])
            await state.apply([ordered("b", "t", 2), waiting("c", 1, FAR)], {})
            await state.apply([ended("a", 0)], {}, (), ["c"])
            clock.step(-3_600_000)
            assert sorted(claim.id for claim in await due(state, clock.now())) == ["b", "c"]

    async def test_every_hold_is_given_in_the_end(self) -> None:
        """Who asks when it was told to comes to the end, although results are lost and leases end."""
        clock = ManualClock(NOW)
        hooks = [f"hook{n}" for n in range(5)]
        async with self.whole(clock) as state:
            await knows(state, stood("hook1", state="open", gen=7, probe_at=NOW), stood("hook2", gen=3, since=NOW))
            await state.gate([asking("x", "hook3", limits=Limits(per_second=0.5, burst=1))], NOW)
            await state.apply([held(f"{hook}-{n}", hook, held_by=LIMIT) for hook in hooks for n in range(12)], {})
            given: set[str] = set()
            for turn in range(2_000):
                found, next_due, *_ = await state.claim(clock.now(), 7, 10.0)
                given |= {claim.id for claim in found}
                kept = [claim for n, claim in enumerate(found) if (turn + n) % 5]
                await state.release(kept)
                lost = {claim.id for claim in kept[::4]}
                probes = [stood("hook1", gen=claim.probe + 1, since=1) for claim in kept if claim.probe]
                await state.apply([ended(c.id, c.gen) for c in kept if c.id not in lost or c.probe], {}, probes)
                if not (await state.statistics(NOW)).waiting:
                    break
                if not found:
                    assert next_due > clock.now()
                    clock.advance(next_due - clock.now())
            assert len(given) == 60
            assert clock.now() < NOW + 3_600_000

    async def test_what_apply_answers_is_the_time_from_which_a_claim_may_give_something(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            assert await state.apply([], {0: 1}) == 0
            assert await state.apply([waiting("a", 1, FAR), waiting("b", 1, FAR - 5)], {0: 2}) == FAR - 5
            assert await state.apply([ended("c", 0)], {0: 3}) == 0
            assert await knows(state, stood(gen=1)) == 0
            assert await state.apply([held("h", held_by=LIMIT)], {0: 4}) == NOW
            await let_go(state)
            assert await state.apply([], {0: 5}, (), ["a"]) == NOW
            assert await state.apply([held("h", gen=9)], {0: 5}) == 0

    # Turns

    async def test_of_a_turn_the_lowest_rank_goes_and_the_others_wait(self) -> None:
        async with self.whole() as state:
            asks = [asking("c", turn="t", rank=9), asking("a", turn="t", rank=3), asking("b", turn="t", rank=5)]
            assert await judged(state, [*asks, asking("x", turn="u", rank=70)]) == [
                "wait order",
                "go",
                "wait order",
                "go",
            ]
            assert await states(state, ["a", "b", "c"]) == ["delivering", "pending", "pending"]

    async def test_taking_ones_own_turn_again_succeeds(self) -> None:
        async with self.whole() as state:
            for _ in range(3):
                assert await judged(state, [asking("a", turn="t", rank=3)]) == ["go"]
            await state.apply([keyed(waiting("a", 1, 10), "t", 3)], {})
            assert await judged(state, [asking("a", gen=1, turn="t", rank=3)]) == ["go"]

    async def test_who_was_refused_has_entered_and_holds_up_those_behind_it(self) -> None:
        async with self.whole() as state:
            await passes(state, [asking("a", turn="t", rank=1)])
            assert await judged(state, [asking("b", turn="t", rank=2)]) == ["wait order"]
            await state.apply([ended("a", 0)], {})
            assert await judged(state, [asking("c", turn="t", rank=3)]) == ["wait order"]
            assert await judged(state, [asking("b", turn="t", rank=2)]) == ["go"]

    async def test_what_an_endpoint_holds_keeps_its_turn(self) -> None:
        async with self.whole() as state:
            await knows(state, stood(gen=1, paused=True))
            assert await judged(state, [asking("a", turn="t", rank=1)]) == ["hold pause"]
            assert await judged(state, [asking("b", OTHER, turn="t", rank=2)]) == ["wait order"]

    async def test_what_waits_for_its_turn_does_not_stand_in_its_endpoints_queue(self) -> None:
        """Or an open breaker would be probed by what can't go."""
        async with self.whole() as state:
            await passes(state, [asking("a", turn="t", rank=1)])
            await knows(state, stood(state="open", gen=7, probe_at=FAR), stood(OTHER, gen=1, paused=True))
            asks = [asking("b", turn="t", rank=2), asking("c", OTHER, turn="t", rank=3)]
            assert await judged(state, asks) == ["hold order"] * 2

    async def test_an_effect_that_names_a_turn_and_no_rank_takes_no_place_and_none_away(self) -> None:
        """A delivery that waits for its time has none; one that a rebuild found beyond that has."""
        async with self.whole() as state:
            await state.apply([keyed(waiting("timed", 1, NOW + 50), "t", 0)], {})
            await passes(state, [asking("a", turn="t", rank=1)])
            assert await judged(state, [asking("b", turn="t", rank=2)]) == ["wait order"]
            await state.apply([keyed(waiting("b", 1, NOW + 50), "t", 0), ended("a", 0)], {})
            assert await judged(state, [asking("c", turn="t", rank=3)]) == ["wait order"]

    async def test_what_is_not_current_enters_no_turn(self) -> None:
        async with self.whole() as state:
            await state.apply([ended("over", 0)], {})
            asks = [asking("over", turn="t", rank=1), asking("?", gen=4, turn="t", rank=2)]
            assert await judged(state, asks) == ["stale", "stale"]
            assert await judged(state, [asking("c", turn="t", rank=3)]) == ["go"]

    async def test_an_end_gives_the_turn_to_the_next_rank_which_is_due_where_it_is_held(self) -> None:
        async with self.whole() as state:
            await passes(state, [asking("a", turn="t", rank=1)])
            effects = [ordered("c", "t", 3), ordered("b", "t", 2, record=b"b"), ordered("x", "u", 1)]
            assert await state.apply(effects, {}) == NOW
            assert [claim.id for claim in await due(state, NOW)] == ["x"]
            assert await state.apply([dead("a", 0)], {}) == NOW
            (claim,) = await due(state, NOW)
            assert (claim.id, claim.why, claim.record) == ("b", "due", b"b")
            await state.release([claim])
            assert await judged(state, [asking("b", gen=1, turn="t", rank=2)]) == ["go"]
            await state.apply([ended("b", 1)], {})
            assert [claim.id for claim in await due(state, NOW)] == ["c"]

    async def test_what_is_held_by_order_and_is_the_lowest_already_is_due_at_once(self) -> None:
        async with self.whole() as state:
            await passes(state, [asking("a", turn="t", rank=1)])
            assert await judged(state, [asking("b", turn="t", rank=2)]) == ["wait order"]
            await state.apply([ended("a", 0)], {})
            assert await state.apply([ordered("b", "t", 2)], {}) == NOW
            assert [claim.id for claim in await due(state, NOW)] == ["b"]

    async def test_one_that_is_skipped_leaves_its_turn_and_comes_again_without_one(self) -> None:
        async with self.whole() as state:
            await passes(state, [asking("a", turn="t", rank=1)])
            await state.apply([ordered("b", "t", 2)], {})
            assert await state.apply([waiting("a", 1, NOW + 50)], {}) == NOW
            assert [claim.id for claim in await due(state, NOW)] == ["b"]
            assert await judged(state, [asking("b", gen=1, turn="t", rank=2), asking("a", gen=1)]) == ["go", "go"]

    async def test_an_end_leaves_its_turn_although_a_retry_came_before_it_in_the_batch(self) -> None:
        async with self.whole() as state:
            await passes(state, [asking("a", turn="t", rank=1)])
            await state.apply([keyed(waiting("a", 1, 10), "t", 1), ended("a", 0)], {})
            assert await judged(state, [asking("b", turn="t", rank=2)]) == ["go"]

    async def test_two_of_one_rank_do_not_hold_each_other_up_and_both_hold_up_the_next(self) -> None:
        async with self.whole() as state:
            asks = [asking(id_, turn="t", rank=1) for id_ in ("a", "b")]
            assert await judged(state, [*asks, asking("c", turn="t", rank=2)]) == ["go", "go", "wait order"]
            await state.apply([ended("a", 0)], {})
            assert await judged(state, [asking("c", turn="t", rank=2)]) == ["wait order"]
            await state.apply([ended("b", 0)], {})
            assert await judged(state, [asking("c", turn="t", rank=2)]) == ["go"]

    # Marks

    async def test_a_marked_delivery_is_stopped_at_the_gate_until_it_has_ended(self) -> None:
        async with self.whole() as state:
            await state.accept([pending("a")])
            await state.apply([], {0: 1}, (), ["a"])
            assert await stand(state, ["a"]) == [Standing(1, 0, ended=False, marked=True)]
            assert await judged(state, [asking("a"), asking("a", gen=1)]) == ["cancelled", "stale"]
            assert await states(state, ["a"]) == ["pending"]
            await state.apply([ended("a", 0)], {0: 2})
            assert await stand(state, ["a"]) == [Standing(1, 0, ended=True)]

    async def test_what_waits_under_a_mark_is_due_at_once_to_be_cancelled(self) -> None:
        async with self.whole() as state:
            await knows(state, stood(gen=1, paused=True))
            effects = [waiting("w", 2, FAR), held("h", held_by=PAUSE), ordered("b", "t", 2), later("l", FAR)]
            await state.apply([keyed(waiting("a", 1, FAR), "t", 1), *effects], {})
            ids = ["w", "h", "b", "l"]
            assert await state.apply([], {}, (), ids) == NOW
            for left in (3, 2, 1, 0):
                found, next_due, *_ = await state.claim(NOW, 1, LEASE)
                assert [claim.why for claim in found] == ["cancelled"]
                assert not left or 0 < next_due <= NOW
                ids.remove(found[0].id)
            assert ids == []

    async def test_what_comes_to_wait_under_a_mark_is_due_as_well(self) -> None:
        async with self.whole() as state:
            await passes(state, [ask("a")])
            await state.apply([], {}, (), ["a"])
            assert await state.apply([waiting("a", 1, FAR)], {}) <= NOW
            assert [(claim.id, claim.why) for claim in await due(state, NOW)] == [("a", "cancelled")]

    async def test_what_has_ended_is_not_marked_and_runs_free_in_its_next_series(self) -> None:
        async with self.whole() as state:
            await state.apply([ended("a", 0), waiting("b", 1, 10)], {})
            await state.apply([ended("b", 1)], {}, (), ["a", "b"])
            assert await stand(state, ["a", "b"]) == [Standing(1, 0, ended=True), Standing(1, 1, ended=True)]
            await state.apply([waiting("a", 1, 10, series=2)], {})
            assert await judged(state, [asking("a", gen=1, series=2)]) == ["go"]

    async def test_a_mark_twice_is_one_and_marks_touch_nobody_else(self) -> None:
        async with self.whole() as state:
            await state.accept([pending("a"), pending("b")])
            await state.apply([], {}, (), ["a", "a"])
            await state.apply([], {}, (), ["a"])
            assert await judged(state, [asking("a"), asking("b")]) == ["cancelled", "go"]

    # Watermark, rebuild and reopen with endpoints, turns, marks and holds

    async def test_below_the_watermark_neither_rows_nor_marks_nor_holds_nor_turns_change(self) -> None:
        async with self.whole() as state:
            await state.accept([pending("a")])
            await passes(state, [asking("first", turn="t", rank=1)])
            await state.apply([held("h", held_by=LIMIT)], {0: 5})
            await let_go(state)
            for mark in (5, 3):
                effects = [held("h2", held_by=LIMIT), ended("first", 0)]
                assert await state.apply(effects, {0: mark}, [stood(gen=4, paused=True)], ["a"]) == 0
            assert await judged(state, [asking("b")]) == ["go"]
            asks = [asking("a"), asking("second", turn="t", rank=2)]
            assert await judged(state, asks) == ["go", "wait order"]
            assert (await state.statistics(NOW)).waiting == 0

    async def test_a_rebuild_forgets_endpoints_marks_turns_and_holds(self) -> None:
        async with self.whole() as state:
            await self._full(state)
            await (await state.rebuild()).seal({})
            assert (await state.standing((), [HOOK])).endpoints == [None]
            asks = [asking("fresh"), asking("marked"), asking("next", turn="t", rank=9)]
            assert await judged(state, asks) == ["go", "go", "go"]
            assert tuple(await state.claim(FAR, 10, LEASE))[:5] == ([], 0, 0, {}, 0)

    async def test_a_rebuild_holds_the_endpoints_marks_turns_and_holds_that_were_restored(self) -> None:
        async with self.whole() as state:
            rebuild = await state.rebuild()
            await rebuild.restore([keyed(Effect(pending("first")), "t", 1), Effect(pending("marked"))])
            row = stood(state="open", gen=7, probe_at=NOW)
            await rebuild.restore([held("h1"), held("h2"), ordered("b", "t", 2)], [row, stood(gen=6)], ["marked"])
            await rebuild.seal({})
            assert (await state.standing((), [HOOK])).endpoints == [row]
            asks = [asking("fresh"), asking("marked"), asking("c", OTHER, turn="t", rank=3)]
            assert await judged(state, asks) == ["hold breaker", "cancelled", "wait order"]
            found = await state.claim(NOW, 10, LEASE)
            assert [(claim.id, claim.probe) for claim in found.due] == [("h1", 7)]
            assert (dict(found.held), found.open_breakers) == ({BREAKER: 2, ORDER: 1}, 1)
            await state.apply([ended("first", 0)], {})
            assert [claim.id for claim in await due(state, NOW)] == ["b"]

    async def test_a_rebuild_that_follows_one_that_was_not_sealed_keeps_its_endpoints_and_marks_alone(self) -> None:
        async with self.whole() as state:
            await self._full(state)
            rebuild = await state.rebuild()
            row = stood(gen=9, paused=True)
            await rebuild.restore([Effect(pending("marked")), held("h3")], [row], ["marked"])
            later = await state.rebuild()
            asks = [asking("fresh"), asking("marked", OTHER), asking("next", OTHER, turn="t", rank=9)]
            assert await judged(state, asks) == ["hold pause", "cancelled", "go"]
            assert await stand(state, ["h3"]) == [None]
            await later.seal({})
            assert (await state.standing((), [HOOK])).endpoints == [row]
            assert (await state.statistics(NOW)).waiting == 0
            await (await state.rebuild()).seal({})
            assert await judged(state, [asking("a"), asking("marked", OTHER)]) == ["go", "go"]

    async def test_an_end_that_is_restored_gives_its_turn_and_its_mark_up(self) -> None:
        async with self.whole() as state:
            rebuild = await state.rebuild()
            await rebuild.restore([keyed(Effect(pending("a")), "t", 1), ordered("b", "t", 2)], (), ["a"])
            await rebuild.restore([ended("a", 0)])
            await rebuild.seal({})
            assert await stand(state, ["a"]) == [Standing(1, 0, ended=True)]
            assert [claim.id for claim in await due(state, NOW)] == ["b"]

    async def test_what_was_restored_after_its_mark_is_due_all_the_same(self) -> None:
        async with self.whole() as state:
            rebuild = await state.rebuild()
            await rebuild.restore((), (), ["w"])
            await rebuild.restore([waiting("w", 1, FAR)])
            await rebuild.seal({})
            assert [(claim.id, claim.why) for claim in await due(state, NOW)] == [("w", "cancelled")]

    async def test_holds_turns_and_marks_are_there_after_a_reopen_and_rows_when_they_are_given_again(self) -> None:
        async with self.whole() as state:
            row = await self._full(state)
        async with self.opened() as state:
            await self._still_full(state, row)

    async def _full(self, state: HotState) -> EndpointRow:
        """Something of everything."""
        row = stood(state="open", gen=7, probe_at=NOW)
        await knows(state, row)
        await state.accept([pending("marked")])
        await judged(state, [asking("first", OTHER, turn="t", rank=1), asking("second", OTHER, turn="t", rank=2)])
        await state.apply([held("h1"), held("h2"), ordered("third", "t", 3)], {0: 4}, (), ["marked"])
        await due(state, NOW)
        return row

    async def _still_full(self, state: HotState, row: EndpointRow) -> None:
        assert (await state.condition()).valid
        await knows(state, row)
        assert (await state.standing((), [HOOK])).endpoints == [row]
        asks = [asking("marked"), asking("fresh"), asking("fourth", OTHER, turn="t", rank=4)]
        assert await judged(state, asks) == ["cancelled", "hold breaker", "wait order"]
        found = await state.claim(NOW, 10, LEASE)
        assert [(claim.id, claim.why, claim.probe) for claim in found.due] == [("h1", "admitted", 7)]
        assert dict(found.held) == {BREAKER: 2, ORDER: 1}
        await state.apply([ended("first", 0)], {0: 5})
        assert await judged(state, [asking("second", OTHER, turn="t", rank=2)]) == ["go"]
        await state.apply([ended("second", 0)], {0: 6})
        assert [claim.id for claim in await due(state, NOW)] == ["third"]
