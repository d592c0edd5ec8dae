"""The simulation's hot state against the suite of the port, the random histories of the engine that ships, and what a
kill of the process leaves of it."""

from unittest import TestCase

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from tests.contract.test_embedded_holding_machine import HOLDING, HoldingMachine
from tests.contract.test_embedded_holding_machine import KEEP as HOLDING_KEEP
from tests.contract.test_embedded_keys_machine import TTL, KeysMachine
from tests.contract.test_embedded_keys_machine import keys as some_keys
from tests.contract.test_embedded_state_machine import KEEP, HotStateMachine
from tests.contract.test_embedded_windows_machine import WindowsMachine
from tests.simulation.hot import HotDurable, HotSettings, SimulatedHot

from howk.domain.errors import Transient
from howk.ports.clock import Clock
from howk.ports.state import HotState, KeyEnd
from howk.testing.clock import ManualClock
from howk.testing.state_samples import (
    NOW,
    OTHER,
    asking,
    due,
    ended,
    happened,
    held,
    judged,
    ordered,
    pending,
    states,
    waiting,
    windows,
)
from howk.testing.state_suite import StateSuite


class TestSimulatedState(StateSuite):
    def setup_method(self) -> None:
        self.durable = HotDurable()

    async def open_state(self, clock: Clock) -> HotState:
        settings = HotSettings(
            status_ttl=self.status_ttl,
            status_max=self.status_max,
            key_ttl=self.key_ttl,
            most_out=self.most_out,
            ramp=self.ramp,
            probe_lease=self.probe_lease,
            endpoints_max=self.endpoints_max,
        )
        return SimulatedHot(self.durable, settings, clock)


# What a kill leaves


async def begun() -> tuple[HotDurable, SimulatedHot]:
    durable = HotDurable()
    state = SimulatedHot(durable, HotSettings(), ManualClock(NOW))
    await (await state.rebuild()).seal({0: 1})
    return durable, state


def after(durable: HotDurable) -> SimulatedHot:
    """The next life of the process."""
    return SimulatedHot(durable, HotSettings(), ManualClock(NOW))


async def test_a_kill_leaves_what_was_applied_and_forgets_what_was_only_accepted() -> None:
    durable, state = await begun()
    await state.accept([pending("accepted", at=NOW)])
    await state.apply([happened(ended("ended", 0), NOW), waiting("waits", 1, 10, b"w")], {0: 2})
    await state.gate([asking("gated")], NOW)
    state = after(durable)
    assert (await state.condition()).watermark == {0: 2}
    assert await states(state, ["accepted", "ended", "waits", "gated"]) == [None, "delivered", "failed", None]
    assert (await windows(state, NOW))[0] == (await windows(state, NOW))[1]
    assert (await windows(state, NOW))[0].received == 1
    assert [claim.record for claim in await due(state, NOW)] == [b"w"]


async def test_a_kill_ends_leases_and_their_tokens_release_nothing_more() -> None:
    durable, state = await begun()
    await state.apply([waiting("a", 1, 10)], {})
    lost = await due(state, NOW)
    state = after(durable)
    assert [claim.id for claim in await due(state, NOW)] == ["a"]
    await state.release(lost)
    assert (await state.statistics(NOW)).waiting == 1


async def test_a_kill_leaves_the_places_in_a_turn_and_the_queues_of_endpoints() -> None:
    durable, state = await begun()
    await judged(state, [asking("first", OTHER, turn="t", rank=1)])
    await state.apply([ordered("second", "t", 2), held("h", held_by="limit")], {0: 2}, (), ["h"])
    state = after(durable)
    assert await judged(state, [asking("third", OTHER, turn="t", rank=3), asking("fresh")]) == [
        "wait order",
        "hold limit",
    ]
    assert [(claim.id, claim.why) for claim in await due(state, NOW)] == [("h", "cancelled")]
    await state.apply([ended("first", 0)], {0: 3})
    assert [claim.id for claim in await due(state, NOW)] == ["second"]


async def test_what_a_machine_has_lost_is_not_valid_until_it_is_rebuilt() -> None:
    durable, state = await begun()
    await state.apply([waiting("a", 1, 10)], {0: 2})
    durable.lose()
    state = after(durable)
    valid, reason, watermark = await state.condition()
    assert (valid, watermark, await states(state, ["a"])) == (False, {}, [None])
    assert reason
    await (await state.rebuild()).seal({0: 2})
    assert await state.condition() == (True, "", {0: 2})


async def test_a_life_that_was_killed_is_answered_nothing_more() -> None:
    durable, state = await begun()
    after(durable)
    with pytest.raises(Transient):
        await state.accept([pending("a")])


# The random histories of the embedded engine


class SimulatedHotStateMachine(HotStateMachine):
    async def open(self) -> None:
        if not hasattr(self, "durable"):
            self.durable = HotDurable()
        kept = HotSettings(status_ttl=KEEP.ttl, status_max=KEEP.most)
        self.state = self.spoil(SimulatedHot(self.durable, kept, self.clock))

    async def close(self) -> None:
        await self.state.close()


class SimulatedHoldingMachine(HoldingMachine):
    async def open(self) -> None:
        if not hasattr(self, "durable"):
            self.durable = HotDurable()
        kept = HotSettings(HOLDING_KEEP.ttl, HOLDING_KEEP.most, most_out=HOLDING.most_out)
        self.state = self.spoil(SimulatedHot(self.durable, kept, self.clock))

    async def close(self) -> None:
        await self.state.close()


class SimulatedKeysMachine(KeysMachine):
    async def open(self) -> None:
        if not hasattr(self, "durable"):
            self.durable = HotDurable()
        self.state = SimulatedHot(self.durable, HotSettings(key_ttl=TTL), self.clock)
        self.whole = False
        if not (await self.state.condition()).valid:
            await (await self.state.rebuild()).seal({})

    async def close(self) -> None:
        await self.state.close()

    @rule(logged=st.sets(some_keys), lost=st.booleans())
    def die(self, logged: set[str], lost: bool) -> None:
        self.log.extend(KeyEnd(key, held.body, held.id, held.at) for key, held in self.held.items() if key in logged)
        self.held.clear()
        if lost:
            self.durable.lose()
        self.runner.run(self.open())


class SimulatedWindowsMachine(WindowsMachine):
    async def open(self) -> None:
        if not hasattr(self, "durable"):
            self.durable = HotDurable()
        self.state = SimulatedHot(self.durable, HotSettings(1 << 40), self.clock)

    async def close(self) -> None:
        await self.state.close()

    @rule()
    def kill(self) -> None:
        self.runner.run(self.open())
        self.reconcile()


def as_tests(machine: type[RuleBasedStateMachine]) -> type[TestCase]:
    case = machine.TestCase
    case.settings = settings(
        max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    return case


TestSimulatedHotStateMachine = as_tests(SimulatedHotStateMachine)
TestSimulatedHoldingMachine = as_tests(SimulatedHoldingMachine)
TestSimulatedKeysMachine = as_tests(SimulatedKeysMachine)
TestSimulatedWindowsMachine = as_tests(SimulatedWindowsMachine)
