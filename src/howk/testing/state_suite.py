"""The conformance suite of the `HotState` port: an engine is done when it passes.

Subclass `StateSuite` under a name that begins with `Test` and say how the engine is opened; `howk.testing.log_suite`
says how it is collected. Only the port is used; how an engine meets a crash, another boot or a damaged file belongs
beside the subclass.
"""

import asyncio

from msgspec.structs import replace

from howk.domain.delivery import Standing, Status
from howk.domain.errors import Transient
from howk.domain.idempotency import End, Verdict
from howk.domain.windows import DAY, HOUR, Window
from howk.ports.state import Ask, Claim, Effect, Follow
from howk.testing.clock import ManualClock
from howk.testing.holding_suite import HoldingSuite
from howk.testing.state_samples import (
    LEASE,
    NOW,
    OVER,
    ask,
    asked,
    conflicts,
    counts,
    dead,
    deferred,
    due,
    end_of,
    ended,
    happened,
    nothing_due,
    passes,
    pending,
    read_whole,
    stand,
    states,
    verdicts,
    waiting,
    waits_for_keys,
    windows,
)


class StateSuite(HoldingSuite):
    """What every hot state promises; see `howk.ports.state` for the words. Each test has a storage of its own."""

    # Accept

    async def test_what_is_accepted_is_shown_as_it_was_given(self) -> None:
        async with self.whole() as state:
            given = pending("a")
            await state.accept([given])
            assert list(await state.status(["a"])) == [given]

    async def test_accepting_a_known_delivery_changes_nothing(self) -> None:
        async with self.whole() as state:
            known = [pending("pending"), waiting("waiting", 1, 10).status, ended("ended", 0).status]
            await state.accept(known[:1])
            await state.apply([waiting("waiting", 1, 10), ended("ended", 0)], {0: 1})
            await state.accept([pending(status.id, scope="another") for status in known])
            assert list(await state.status([status.id for status in known])) == known

    async def test_of_a_delivery_accepted_twice_in_one_call_the_first_stands(self) -> None:
        async with self.whole() as state:
            await state.accept([pending("a", scope="first"), pending("a", scope="second")])
            assert list(await state.status(["a"])) == [pending("a", scope="first")]

    async def test_an_accept_that_comes_after_the_gate_leaves_the_delivery_in_flight(self) -> None:
        async with self.whole() as state:
            await passes(state, [ask("a")])
            await state.accept([pending("a")])
            assert await states(state, ["a"]) == ["delivering"]

    # Gate

    async def test_the_gate_lets_a_current_record_pass_and_shows_it_in_flight(self) -> None:
        async with self.whole() as state:
            await state.accept([pending("fresh")])
            await state.apply([waiting("retried", 2, 10)], {0: 1})
            assert await passes(state, [ask("fresh"), ask("retried", gen=2)]) == [True, True]
            assert await states(state, ["fresh", "retried"]) == ["delivering", "delivering"]

    async def test_the_gate_stops_what_is_no_longer_current(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("waits", 2, 10), ended("ended", 1)], {0: 1})
            asks = [
                ask("waits", gen=1),
                ask("waits", gen=3),
                ask("waits", gen=2, series=2),
                ask("ended", gen=1),
                ask("ended", gen=0),
                ask("ended", gen=2),
            ]
            assert await passes(state, asks) == [False] * len(asks)
            assert await states(state, ["waits", "ended"]) == ["failed", "delivered"]

    async def test_the_gate_lets_an_unknown_first_attempt_pass_and_knows_it_from_then_on(self) -> None:
        async with self.whole() as state:
            asked = Ask("a", 1, 0, "app", 1, 5, 77)
            assert await passes(state, [asked]) == [True]
            shown = Status(id="a", scope="app", state="delivering", max_attempts=5, created_at=77)
            assert list(await state.status(["a"])) == [shown]
            assert await stand(state, ["a"]) == [Standing(1, 0, False)]

    async def test_an_unknown_first_attempt_in_a_turn_is_known_with_its_ordering_key(self) -> None:
        async with self.whole() as state:
            asked = Ask("a", 1, 0, "app", 1, 5, 77, "ep_1", "ep_1/cart/42", 3)
            assert await passes(state, [asked]) == [True]
            (shown,) = await state.status(["a"])
            assert shown is not None
            assert shown.ordering_key == "cart/42"

    async def test_the_gate_stops_an_unknown_later_attempt_and_learns_nothing_of_it(self) -> None:
        async with self.whole() as state:
            assert await passes(state, [ask("a", gen=1), ask("b", series=2)]) == [False, False]
            assert await stand(state, ["a", "b"]) == [None, None]

    async def test_the_gate_judges_each_record_of_a_batch_in_its_place(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("w", 1, 10)], {0: 1})
            asks = [ask("a"), ask("w", gen=0), ask("a", gen=1), ask("w", gen=1), ask("b", gen=4)]
            assert await passes(state, asks) == [True, False, False, True, False]

    async def test_a_record_that_comes_twice_stays_current_while_it_is_in_flight(self) -> None:
        # A crash repeats what was in flight: the repeat must pass, or the delivery would hang.
        async with self.whole() as state:
            assert await passes(state, [ask("a"), ask("a")]) == [True, True]
            assert await passes(state, [ask("a")]) == [True]
            assert (await state.statistics(7)).last_1h.received == 1

    # Standing and status

    async def test_standings_come_in_the_order_they_were_asked_for(self) -> None:
        async with self.whole() as state:
            await state.accept([pending("p")])
            await state.apply([waiting("w", 3, 10), ended("e", 1), dead("d", 2)], {0: 1})
            found = await stand(state, ["d", "?", "w", "p", "e", "w"])
        assert found == [
            Standing(1, 2, True),
            None,
            Standing(1, 3, False),
            Standing(1, 0, False),
            Standing(1, 1, True),
            Standing(1, 3, False),
        ]

    async def test_statuses_come_in_the_order_they_were_asked_for_and_unknown_ones_are_none(self) -> None:
        async with self.whole() as state:
            effects = [waiting("w", 1, 10), ended("e", 0), dead("d", 2)]
            await state.apply(effects, {0: 1})
            found = await state.status(["d", "?", "e", "w", "d"])
        w, e, d = (effect.status for effect in effects)
        assert list(found) == [d, None, e, w, d]

    # Apply

    async def test_effects_and_their_watermark_are_stored_together(self) -> None:
        async with self.whole() as state:
            effect = waiting("a", 1, 50)
            await state.apply([effect], {0: 7})
            assert list(await state.status(["a"])) == [effect.status]
            assert dict((await state.condition()).watermark) == {0: 7}

    async def test_of_two_effects_on_one_delivery_the_later_stands(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10), waiting("a", 2, 20), ended("b", 0), waiting("c", 1, 5)], {0: 3})
            await state.apply([ended("c", 1)], {0: 4})
            assert await states(state, ["a", "b", "c"]) == ["failed", "delivered", "delivered"]
            assert [(claim.id, claim.gen) for claim in await due(state, 1_000)] == [("a", 2)]

    async def test_an_apply_at_or_below_the_watermark_changes_nothing(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 2, 10)], {0: 5})
            for mark in (5, 4, 0):
                await state.apply([ended("a", 1), waiting("b", 1, 20)], {0: mark})
            assert await states(state, ["a", "b"]) == ["failed", None]
            assert [claim.id for claim in await due(state, 1_000)] == ["a"]
            assert dict((await state.condition()).watermark) == {0: 5}

    async def test_a_watermark_moves_on_without_effects(self) -> None:
        async with self.whole() as state:
            await state.apply([], {0: 9})
            assert dict((await state.condition()).watermark) == {0: 9}

    async def test_an_end_takes_the_waiting_record_away(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10)], {0: 1})
            await state.apply([dead("a", 1)], {0: 2})
            assert await due(state, 1_000) == []
            assert (await state.statistics(NOW)).waiting == 0

    async def test_a_new_due_time_replaces_the_one_before(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10, b"one")], {0: 1})
            await state.apply([waiting("a", 2, 500, b"two")], {0: 2})
            assert await nothing_due(state, 499) == 500
            (claim,) = await due(state, 500)
            assert (claim.gen, claim.record) == (2, b"two")

    # Claim, lease, release

    async def test_a_claim_carries_the_record_byte_for_byte(self) -> None:
        records = {"small": b"\x00{}<>&", "large": b'{"a":"' + b"x" * 100_000 + b'\x00\xff"}', "edge": b"z" * 512}
        async with self.whole() as state:
            await state.apply([waiting(id_, 3, 10, record, series=2) for id_, record in records.items()], {0: 1})
            claims = await due(state, 10)
        assert {claim.id: claim.record for claim in claims} == records
        assert {(claim.series, claim.gen) for claim in claims} == {(2, 3)}

    async def test_what_is_due_is_claimed_earliest_first_up_to_the_limit(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting(f"d{at}", 1, at) for at in (40, 10, 30, 20, 50)], {0: 1})
            first, next_due, *_ = await state.claim(45, 3, LEASE)
            assert [claim.id for claim in first] == ["d10", "d20", "d30"]
            assert next_due == 40
            second, next_due, *_ = await state.claim(45, 3, LEASE)
            assert [claim.id for claim in second] == ["d40"]
            assert next_due == 50

    async def test_nothing_is_claimed_before_it_is_due(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 100)], {0: 1})
            assert await nothing_due(state, 99) == 100
            assert [claim.id for claim in await due(state, 100)] == ["a"]

    async def test_without_anything_that_waits_nothing_is_due_ever(self) -> None:
        async with self.whole() as state:
            await state.accept([pending("a")])
            await state.apply([ended("b", 0)], {0: 1})
            assert await nothing_due(state, 1 << 50) == 0

    async def test_what_is_leased_is_not_claimed_again(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10), waiting("b", 1, 20)], {0: 1})
            assert [claim.id for claim in await due(state, 10)] == ["a"]
            assert [claim.id for claim in await due(state, 100)] == ["b"]
            assert await due(state, 100) == []
            assert (await state.statistics(NOW)).waiting == 2

    async def test_what_is_released_is_no_longer_due(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10), waiting("b", 1, 20)], {0: 1})
            claims = await due(state, 100)
            await state.release(claims[:1])
            assert (await state.statistics(NOW)).waiting == 1
            await state.release(claims)
            await state.release(claims)
            assert (await state.statistics(NOW)).waiting == 0
            assert await nothing_due(state, 100) == 0
            assert await states(state, ["a", "b"]) == ["failed", "failed"]

    async def test_a_claim_whose_lease_has_ended_is_claimed_again(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10)], {0: 1})
            (first,) = await due(state, 10, OVER)
            (second,) = await due(state, 10)
            assert second._replace(token=first.token) == first
            assert second.token != first.token

    async def test_a_lost_lease_releases_nothing_that_was_claimed_again(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10)], {0: 1})
            lost = await due(state, 10, OVER)
            held = await due(state, 10)
            await state.release(lost)
            assert (await state.statistics(NOW)).waiting == 1
            await state.release(held)
            assert (await state.statistics(NOW)).waiting == 0

    async def test_a_release_does_not_touch_what_settle_has_scheduled_since(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10)], {0: 1})
            claims = await due(state, 10)
            await state.apply([waiting("a", 2, 20)], {0: 2})
            await state.release(claims)
            assert [(claim.id, claim.gen) for claim in await due(state, 20)] == [("a", 2)]

    async def test_claims_of_several_calls_are_released_together(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10), waiting("b", 1, 20), waiting("c", 1, 30)], {0: 1})
            claims = [*await due(state, 10), *await due(state, 20)]
            await state.release(claims)
            assert [claim.id for claim in await due(state, 100)] == ["c"]

    async def test_two_claims_at_once_share_nothing(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting(f"d{n:03}", 1, n + 1) for n in range(100)], {0: 1})
            rounds = await asyncio.gather(*[state.claim(1_000, 15, LEASE) for _ in range(8)])
            ids = [claim.id for claims in rounds for claim in claims.due]
        assert sorted(ids) == [f"d{n:03}" for n in range(100)]

    # Queued: released by one who holds no lease

    async def test_what_is_queued_already_is_no_longer_due(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10), waiting("b", 2, 10), waiting("c", 1, 10)], {0: 1})
            found = (("a", 1, 1), ("b", 1, 1), ("c", 2, 1), ("?", 1, 0))
            await state.release([Claim(*key, b"", 0) for key in found])
            assert sorted(claim.id for claim in await due(state, 100)) == ["b", "c"]
            assert await passes(state, [ask("a", gen=1)]) == [True]

    # Idempotency keys

    async def test_of_many_who_claim_a_key_at_once_one_holds_it(self) -> None:
        async with self.whole() as state:
            await read_whole(state)
            calls = [state.claim_keys([asked("k", id_=f"id{n}"), asked(f"own{n}")], NOW) for n in range(20)]
            found = [answer for answers in await asyncio.gather(*calls) for answer in answers]
        assert sorted(answer.verdict.value for answer in found) == ["busy"] * 19 + ["mine"] * 21
        assert all(bool(answer.settled) == (answer.verdict is Verdict.BUSY) for answer in found)

    async def test_a_key_that_comes_twice_in_a_call_is_held_by_the_first(self) -> None:
        async with self.whole() as state:
            await read_whole(state)
            assert await verdicts(state, [asked("k", id_="one"), asked("k", id_="two")]) == [
                (Verdict.MINE, "one"),
                (Verdict.BUSY, ""),
            ]

    async def test_a_kept_key_answers_repeats_and_refuses_another_body(self) -> None:
        async with self.whole() as state:
            await read_whole(state)
            await state.claim_keys([asked("k"), asked("other")], NOW)
            await state.accept([pending("id of k")], [end_of(asked("k"))])
            repeats = [asked("k", id_="new"), asked("k", "b"), asked("other")]
            expected = [(Verdict.REPLAY, "id of k"), (Verdict.REUSED, ""), (Verdict.BUSY, "")]
            assert await verdicts(state, repeats) == expected
            assert await states(state, ["id of k"]) == ["pending"]

    async def test_who_waits_for_a_key_is_woken_by_every_end_of_its_claim(self) -> None:
        ends: tuple[End, ...] = ("kept", "void", "unknown")
        async with self.whole() as state:
            await read_whole(state)
            for end in ends:
                ask = asked(end)
                await state.claim_keys([ask], NOW)
                settled = [(await state.claim_keys([ask], NOW))[0].settled for _ in range(3)]
                await state.accept((), [end_of(ask, end=end)])
                async with asyncio.timeout(5):
                    for future in settled:
                        assert future is not None
                        await future

    async def test_a_void_claim_leaves_its_key_free_for_any_body(self) -> None:
        async with self.whole() as state:
            await read_whole(state)
            await state.claim_keys([asked("k")], NOW)
            await state.accept((), [end_of(asked("k"), end="void")])
            assert await verdicts(state, [asked("k", "b", "second")]) == [(Verdict.MINE, "second")]

    async def test_a_claim_of_unknown_end_is_taken_up_under_its_own_id(self) -> None:
        async with self.whole() as state:
            await read_whole(state)
            await state.claim_keys([asked("k", id_="first")], NOW)
            for end in ("unknown", "void", "unknown"):
                await state.accept((), [end_of(asked("k"), "first", end=end)])
                assert await verdicts(state, [asked("k", "b")]) == [(Verdict.REUSED, "")]
                assert await verdicts(state, [asked("k", id_="second")]) == [(Verdict.MINE, "first")]
            await state.accept((), [end_of(asked("k"), "first")])
            assert await verdicts(state, [asked("k")]) == [(Verdict.REPLAY, "first")]

    async def test_a_claim_of_unknown_end_is_forgotten_in_time_where_the_log_does_not_have_it(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            await read_whole(state)
            await state.claim_keys([asked("lost", id_="l"), asked("logged", id_="g"), asked("held", id_="h")], NOW)
            await state.accept((), [end_of(asked(k), i, end="unknown") for k, i in (("lost", "l"), ("logged", "g"))])
            clock.advance(120_000)
            await read_whole(state)
            await read_whole(state, [end_of(asked("logged"), "g")], 1)
            asks = [asked("lost", "b", "new"), asked("logged"), asked("held")]
            expected = [(Verdict.MINE, "new"), (Verdict.REPLAY, "g"), (Verdict.BUSY, "")]
            assert await verdicts(state, asks, clock.now()) == expected

    async def test_no_key_is_claimed_before_the_log_was_read_to_its_end(self) -> None:
        async with self.whole() as state:
            assert await waits_for_keys(state)
            await state.accept((), [end_of(asked("k"), "logged")], Follow({}, {0: 3}))
            assert await waits_for_keys(state)
            assert dict(await state.accept(())) == {0: 3}
            await state.accept((), (), Follow({0: 3}, {0: 3}, whole=True))
            assert await verdicts(state, [asked("k"), asked("new")]) == [
                (Verdict.REPLAY, "logged"),
                (Verdict.MINE, "id of new"),
            ]

    async def test_what_was_read_from_elsewhere_than_where_it_ended_changes_nothing(self) -> None:
        async with self.whole() as state:
            await state.accept((), [end_of(asked("k"))], Follow({0: 2}, {0: 3}, whole=True))
            assert dict(await state.accept(())) == {}
            assert await waits_for_keys(state)

    async def test_keys_that_were_read_are_there_after_a_reopen_with_their_offset(self) -> None:
        async with self.whole() as state:
            await read_whole(state, [end_of(asked("read"))], 7)
        async with self.opened() as state:
            assert await waits_for_keys(state)
            assert dict(await state.accept(())) == {0: 7}
            await read_whole(state, (), 7)
            assert await verdicts(state, [asked("read")]) == [(Verdict.REPLAY, "id of read")]

    async def test_a_claim_is_void_at_the_next_open(self) -> None:
        async with self.whole() as state:
            await read_whole(state)
            await state.claim_keys([asked("k")], NOW)
        async with self.opened() as state:
            await read_whole(state)
            assert await verdicts(state, [asked("k", "b", "other")]) == [(Verdict.MINE, "other")]

    async def test_of_a_key_that_was_read_twice_the_later_stands(self) -> None:
        async with self.whole() as state:
            await read_whole(state, [end_of(asked("k"), "first"), end_of(asked("k"), "second")], 2)
            await read_whole(state, [end_of(asked("l"), "first")], 3)
            await read_whole(state, [end_of(asked("l"), "second")], 4)
            assert await verdicts(state, [asked("k"), asked("l")]) == [
                (Verdict.REPLAY, "second"),
                (Verdict.REPLAY, "second"),
            ]

    async def test_a_key_that_is_read_while_it_is_held_is_kept_whatever_its_holder_says(self) -> None:
        async with self.whole() as state:
            await read_whole(state)
            await state.claim_keys([asked("k")], NOW)
            await read_whole(state, [end_of(asked("k"))], 1)
            assert await verdicts(state, [asked("k")]) == [(Verdict.REPLAY, "id of k")]
            await state.accept((), [end_of(asked("k"), end="unknown")])
            assert await verdicts(state, [asked("k")]) == [(Verdict.REPLAY, "id of k")]

    async def test_a_key_is_free_after_its_time_and_not_before(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            await read_whole(state, [end_of(asked("read"))], 1)
            await state.claim_keys([asked("said")], NOW)
            await state.accept((), [end_of(asked("said"))])
            repeats = [asked("read", id_="r"), asked("said", id_="s")]
            clock.advance(self.key_ttl - 1)
            await read_whole(state, (), 1)
            assert [verdict for verdict, _ in await verdicts(state, repeats, clock.now())] == [Verdict.REPLAY] * 2
            clock.advance(1)
            await read_whole(state, (), 1)
            assert await verdicts(state, repeats, clock.now()) == [(Verdict.MINE, "r"), (Verdict.MINE, "s")]

    async def test_a_rebuild_forgets_keys_until_they_are_read_again_and_leaves_claims_to_their_holders(self) -> None:
        async with self.whole() as state:
            await read_whole(state, [end_of(asked("read"))], 5)
            await state.claim_keys([asked("held")], NOW)
            await (await state.rebuild()).seal({})
            assert await waits_for_keys(state)
            assert dict(await state.accept(())) == {}
            await read_whole(state)
            assert await verdicts(state, [asked("read", "b", "new"), asked("held")]) == [
                (Verdict.MINE, "new"),
                (Verdict.BUSY, ""),
            ]

    async def test_what_the_door_said_of_a_key_outlives_a_rebuild_and_the_reading_that_had_begun_before(self) -> None:
        async with self.whole() as state:
            await read_whole(state)
            await state.claim_keys([asked("k")], NOW)
            await (await state.rebuild()).seal({})
            await state.accept((), [end_of(asked("k"))])
            await (await state.rebuild()).seal({})
            await read_whole(state)
            assert await verdicts(state, [asked("k")]) == [(Verdict.REPLAY, "id of k")]

    # Counts

    async def test_statistics_say_how_many_wait_and_how_many_ended_ones_are_kept(self) -> None:
        async with self.whole() as state:
            assert await counts(state) == (0, 0)
            await state.accept([pending("p")])
            await passes(state, [ask("g")])
            await state.apply([waiting("w", 1, 10), ended("e", 0), dead("d", 0)], {0: 1})
            assert await counts(state) == (1, 2)

    # Windows

    async def test_what_happened_counts_for_an_hour_and_a_day_from_its_own_time(self) -> None:
        async with self.whole() as state:
            effects = [
                happened(ended("a", 0), NOW, "ep_a"),
                happened(waiting("b", 1, 10), NOW, "ep_b"),
                happened(dead("c", 0), NOW, "ep_a"),
                happened(deferred("d"), NOW),
            ]
            await state.apply(effects, {0: 1})
            once = Window(4, 1, 1, 1, 1, unique_endpoints=2)
            for length, place in ((HOUR, 0), (DAY, 1)):
                found = [await windows(state, NOW + length * 1000 + late) for late in (-1_000, 1_000)]
                assert [two[place] for two in found] == [once, Window()]
            assert await windows(state, NOW) == (once, once)
            assert await windows(state, NOW + HOUR * 1000 + 1_000) == (Window(), once)

    async def test_what_happened_earlier_and_is_applied_later_counts_where_it_belongs(self) -> None:
        # Results that are settled after a stop.
        async with self.whole() as state:
            late = [happened(ended(f"{n}", 0), NOW - n * 1_000, "ep_a") for n in (0, 3_598, 3_602, 86_398, 86_402)]
            await state.apply(late, {0: 1})
            hour, day = await windows(state, NOW)
            assert (hour.delivered, day.delivered) == (2, 4)
            assert (hour.received, day.received) == (2, 4)

    async def test_an_effect_below_the_watermark_counts_nothing_twice(self) -> None:
        async with self.whole() as state:
            await state.apply([happened(ended("a", 0), NOW, "ep_a")], {0: 5})
            await state.apply([happened(ended("a", 0), NOW, "ep_a")], {0: 5})
            assert (await windows(state, NOW))[0] == Window(1, 1, unique_endpoints=1)

    async def test_an_effect_that_says_no_time_is_not_counted(self) -> None:
        async with self.whole() as state:
            await state.apply([ended("a", 0), waiting("b", 1, 10)], {0: 1})
            assert await windows(state, NOW) == (Window(), Window())

    async def test_a_delivery_is_received_once_however_often_it_is_noted(self) -> None:
        async with self.whole() as state:
            status = pending("a", at=NOW)
            counted = Window(received=1)
            await state.accept([status, status])
            assert (await windows(state, NOW))[0] == counted
            await passes(state, [ask("a")])
            await state.accept([status])
            assert (await windows(state, NOW))[0] == counted
            assert (await windows(state, NOW + HOUR * 1000 + 1_000)) == (Window(), counted)
            await state.apply([happened(waiting("a", 1, 10), NOW)], {0: 1})
            await state.accept([status])
            await state.apply([replace(ended("a", 1), at=NOW)], {0: 2})
            assert (await windows(state, NOW))[0] == Window(1, 1, 1)

    async def test_an_endpoint_counts_from_the_last_time_it_was_called(self) -> None:
        async with self.whole() as state:
            calls = [("a", "ep_a", 0), ("b", "ep_b", 0), ("c", "ep_a", 600), ("d", "ep_a", 300)]
            for n, (id_, endpoint, second) in enumerate(calls):
                await state.apply([happened(ended(id_, 0), NOW + second * 1000, endpoint)], {0: n + 1})
            found = [await windows(state, NOW + second * 1000) for second in (600, 3_601, 4_199, 4_201)]
            assert [hour.unique_endpoints for hour, _ in found] == [2, 1, 1, 0]
            assert [day.unique_endpoints for _, day in found] == [2] * 4

    async def test_a_restart_changes_nothing_in_the_windows(self) -> None:
        async with self.whole() as state:
            await state.accept([pending("p", at=NOW), pending("a", at=NOW)])
            await state.apply([happened(ended("a", 0), NOW, "ep_a")], {0: 1})
            before = await windows(state, NOW)
            assert before[0] == Window(2, 1, unique_endpoints=1)
        async with self.opened() as state:
            assert await windows(state, NOW) == before
            await state.apply([happened(ended("p", 0), NOW, "ep_a")], {0: 2})
            assert (await windows(state, NOW))[0] == Window(2, 2, unique_endpoints=1)

    async def test_a_rebuild_counts_what_it_is_told_and_what_is_pending(self) -> None:
        async with self.whole() as state:
            await state.accept([pending("p", at=NOW)])
            await state.apply([happened(ended("forgotten", 0), NOW, "ep_b")], {0: 1})
            rebuild = await state.rebuild()
            await state.accept([pending("p", at=NOW)])
            await rebuild.restore([Effect(pending("p", at=NOW)), Effect(pending("a", at=NOW))])
            await rebuild.count([happened(waiting("w", 1, 10), NOW), happened(ended("a", 0), NOW, "ep_a")])
            await rebuild.restore([ended("a", 0)])
            await rebuild.restore([waiting("w", 1, 10)])
            await rebuild.seal({0: 1})
            assert (await windows(state, NOW))[0] == Window(3, 1, 1, unique_endpoints=1)
            await state.apply([happened(ended("p", 0), NOW, "ep_a")], {0: 2})
            assert (await windows(state, NOW))[0] == Window(3, 2, 1, unique_endpoints=1)

    async def test_there_are_no_statistics_while_they_are_rebuilt(self) -> None:
        async with self.whole() as state:
            rebuild = await state.rebuild()
            with_words = ""
            try:
                await state.statistics(NOW)
            except Transient as error:
                with_words = str(error)
            assert with_words
            await rebuild.seal({})
            assert await counts(state) == (0, 0)

    # Bounds

    async def test_over_the_bound_the_statuses_that_ended_first_are_dropped(self) -> None:
        many = self.status_max + 5
        async with self.whole() as state:
            await state.apply([waiting("waits", 1, 10)], {0: 1})
            await state.accept([pending("pending")])
            for n in range(many):
                await state.apply([ended(f"e{n:03}", 0, NOW - many + n)], {0: 2 + n})
            found = await state.status([f"e{n:03}" for n in range(many)])
            assert [status is not None for status in found] == [False] * 5 + [True] * self.status_max
            assert await states(state, ["waits", "pending"]) == ["failed", "pending"]
            assert await counts(state) == (1, self.status_max)

    async def test_a_delivery_that_ends_again_is_counted_once(self) -> None:
        async with self.whole() as state:
            await state.apply([ended("kept", 0, NOW - 100)], {0: 1})
            for n in range(self.status_max + 5):
                again = ended("again", 0, NOW - 50 + n, series=n + 1)
                await state.apply([waiting("again", 0, 10, series=n + 1)], {0: 2 + 2 * n})
                await state.apply([again], {0: 3 + 2 * n})
            assert await states(state, ["kept", "again"]) == ["delivered", "delivered"]

    async def test_an_ended_status_is_kept_for_its_time_and_a_waiting_one_for_ever(self) -> None:
        clock = ManualClock(NOW)
        async with self.whole(clock) as state:
            await state.apply([waiting("waits", 1, 10), ended("early", 0, NOW - 10), ended("late", 0)], {0: 1})
            clock.advance(self.status_ttl - 10)
            await state.apply([], {0: 2})
            assert await states(state, ["early", "late"]) == ["delivered", "delivered"]
            clock.advance(5)
            await state.apply([], {0: 3})
            assert await states(state, ["early", "late"]) == [None, "delivered"]
            clock.advance(self.status_ttl * 1_000)
            await state.apply([], {0: 4})
            assert await states(state, ["late", "waits"]) == [None, "failed"]
            assert [claim.id for claim in await due(state, 10)] == ["waits"]

    # Condition and rebuild

    async def test_a_missing_hot_state_is_not_valid_and_says_why(self) -> None:
        async with self.opened() as state:
            valid, reason, watermark = await state.condition()
        assert (valid, dict(watermark)) == (False, {})
        assert reason

    async def test_a_rebuild_is_not_valid_until_it_is_sealed(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10)], {0: 4})
            assert (await state.condition()).valid
            rebuild = await state.rebuild()
            valid, reason, watermark = await state.condition()
            assert (valid, dict(watermark)) == (False, {})
            assert reason
            await rebuild.restore([waiting("b", 1, 10)])
            assert not (await state.condition()).valid
            await rebuild.seal({0: 8})
            assert await state.condition() == (True, "", {0: 8})

    async def test_a_rebuild_forgets_everything_and_holds_what_was_restored(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("old", 1, 10), ended("gone", 0)], {0: 100})
            rebuild = await state.rebuild()
            restored = [waiting("w", 2, 20, b"record"), ended("e", 1), Effect(pending("p"))]
            await rebuild.restore(restored)
            await rebuild.seal({0: 3})
            assert list(await state.status(["old", "gone"])) == [None, None]
            assert list(await state.status(["w", "e", "p"])) == [effect.status for effect in restored]
            assert [(claim.id, claim.gen, claim.record) for claim in await due(state, 20)] == [("w", 2, b"record")]
            await state.apply([ended("w", 2)], {0: 4})
            assert await states(state, ["w"]) == ["delivered"]

    async def test_a_restore_never_goes_back_in_series_and_gen(self) -> None:
        async with self.whole() as state:
            rebuild = await state.rebuild()
            ahead = [waiting("a", 3, 30, b"ahead"), waiting("b", 0, 30, b"ahead", series=2), ended("c", 2)]
            await rebuild.restore(ahead)
            await rebuild.restore([waiting("a", 2, 20), ended("b", 9), waiting("c", 1, 20)])
            await rebuild.restore([Effect(pending("a")), Effect(pending("b")), Effect(pending("c"))])
            await rebuild.seal({})
            assert list(await state.status(["a", "b", "c"])) == [effect.status for effect in ahead]
            assert sorted((claim.id, claim.record) for claim in await due(state, 100)) == [
                ("a", b"ahead"),
                ("b", b"ahead"),
            ]

    async def test_within_one_restore_the_later_of_the_highest_stands(self) -> None:
        async with self.whole() as state:
            rebuild = await state.rebuild()
            await rebuild.restore(
                [
                    waiting("a", 1, 10, b"first"),
                    waiting("a", 1, 20, b"second"),
                    waiting("a", 0, 30, b"older"),
                    waiting("b", 1, 10),
                    ended("b", 1),
                    ended("c", 1),
                    waiting("c", 1, 10),
                ]
            )
            await rebuild.seal({})
            assert await states(state, ["a", "b", "c"]) == ["failed", "delivered", "delivered"]
            assert [(claim.id, claim.record) for claim in await due(state, 100)] == [("a", b"second")]

    async def test_a_restored_end_of_an_older_gen_stands_over_what_waited(self) -> None:
        async with self.whole() as state:
            rebuild = await state.rebuild()
            await rebuild.restore([waiting("a", 1, 10), Effect(pending("b"))])
            await rebuild.restore([ended("a", 0), ended("b", 0)])
            await rebuild.restore([waiting("a", 1, 10), Effect(pending("b"))])
            await rebuild.seal({})
            assert await states(state, ["a", "b"]) == ["delivered", "delivered"]
            assert await due(state, 100) == []

    async def test_a_later_rebuild_voids_the_one_before(self) -> None:
        async with self.whole() as state:
            first = await state.rebuild()
            await first.restore([waiting("first", 1, 10)])
            second = await state.rebuild()
            assert await conflicts(first.restore([waiting("late", 1, 10)]))
            assert await conflicts(first.seal({0: 99}))
            assert not (await state.condition()).valid
            await second.seal({0: 1})
            assert await state.condition() == (True, "", {0: 1})
            assert await counts(state) == (0, 0)
            assert await conflicts(first.seal({0: 99}))

    async def test_a_seal_that_a_new_rebuild_overtakes_leaves_hot_state_invalid(self) -> None:
        async with self.whole() as state:
            first = await state.rebuild()
            _, second = await asyncio.gather(conflicts(first.seal({0: 99})), state.rebuild())
            assert not (await state.condition()).valid
            await second.seal({0: 2})
            assert await state.condition() == (True, "", {0: 2})

    async def test_during_a_rebuild_the_door_and_first_attempts_go_on(self) -> None:
        async with self.whole() as state:
            rebuild = await state.rebuild()
            await state.accept([pending("accepted")])
            assert await passes(state, [ask("accepted"), ask("unknown"), ask("retry", gen=1)]) == [True, True, False]
            await rebuild.restore([waiting("retry", 1, 10)])
            await rebuild.seal({})
            assert await states(state, ["accepted", "unknown", "retry"]) == ["delivering", "delivering", "failed"]

    async def test_a_rebuild_takes_every_lease_away(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10)], {0: 1})
            lost = await due(state, 10)
            rebuild = await state.rebuild()
            await rebuild.restore([waiting("a", 1, 10)])
            await rebuild.seal({0: 1})
            await state.release(lost)
            assert [claim.id for claim in await due(state, 10)] == ["a"]

    # Reopen

    async def test_what_was_closed_cleanly_is_valid_and_as_it_was(self) -> None:
        async with self.whole() as state:
            effects = [waiting("w", 1, 10, b"record"), ended("e", 0)]
            await state.accept([pending("p")])
            await state.apply(effects, {0: 12})
        async with self.opened() as state:
            assert await state.condition() == (True, "", {0: 12})
            assert list(await state.status(["p", "w", "e"])) == [pending("p"), *(effect.status for effect in effects)]
            assert [(claim.id, claim.record) for claim in await due(state, 10)] == [("w", b"record")]

    async def test_a_rebuild_that_was_not_sealed_is_not_valid_at_the_next_open(self) -> None:
        async with self.whole() as state:
            await state.apply([waiting("a", 1, 10)], {0: 4})
            rebuild = await state.rebuild()
            await rebuild.restore([waiting("b", 1, 10)])
        async with self.opened() as state:
            valid, reason, watermark = await state.condition()
        assert (valid, dict(watermark)) == (False, {})
        assert reason
