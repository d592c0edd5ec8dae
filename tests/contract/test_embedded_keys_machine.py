"""Random histories of idempotency keys: claims, appends that fail or can't be told, kills, losses and expiry, against a
plain log. Whatever happens, a key that lives stands for one delivery, and a repeat is answered with that one."""

import asyncio
import tempfile
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.state import EmbeddedState, Keep
from howk.domain.errors import Transient
from howk.domain.idempotency import Verdict
from howk.ports.state import Follow, KeyAsk, KeyEnd
from howk.testing.clock import ManualClock

KEYS = ("k", "l")
TTL = 200_000

keys = st.sampled_from(KEYS)
bodies = st.sampled_from(["a" * 64, "b" * 64])


class Held(NamedTuple):
    """A claim that its holder has not ended."""

    body: str
    id: str
    at: int


class KeysMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.log: list[KeyEnd] = []
        self.held: dict[str, Held] = {}
        self.doubted: dict[str, set[str]] = {}
        self.asked = 0
        self.runner.run(self.open())

    async def open(self) -> None:
        self.directory = Directory.open(Path(self.folder.name))
        self.state = EmbeddedState.open(self.directory, Keep(1_000, 2, TTL), self.clock)
        self.directory.opened()
        self.whole = False
        if not (await self.state.condition()).valid:
            await (await self.state.rebuild()).seal({})

    async def close(self) -> None:
        await self.state.close()
        self.directory.close()

    def teardown(self) -> None:
        self.runner.run(self.close())
        self.runner.close()
        self.folder.cleanup()

    def alive(self, key: str) -> list[KeyEnd]:
        """What stands in the log of a key that has not expired."""
        return [end for end in self.log if end.key == key and self.clock.now() - end.accepted_at < TTL]

    @rule(key=keys, body=bodies)
    def claim(self, key: str, body: str) -> None:
        self.asked += 1
        ask = KeyAsk(key, body, f"id{self.asked}")
        try:
            ((verdict, id_, _),) = self.runner.run(self.state.claim_keys([ask], self.clock.now()))
        except Transient:
            assert not self.whole
            return
        assert self.whole
        assert (verdict is Verdict.BUSY) == (key in self.held)
        if verdict is Verdict.MINE:
            assert {end.id for end in self.alive(key)} <= {id_}
            self.held[key] = Held(body, id_, self.clock.now())
        elif verdict is Verdict.REPLAY:
            assert (self.alive(key)[-1].id, self.alive(key)[-1].body) == (id_, body)
        elif verdict is Verdict.REUSED:
            taken = {end.body for end in self.alive(key)} | self.doubted.get(key, set())
            assert taken - {body}

    @rule(key=keys, end=st.sampled_from(["kept", "void", "unknown"]), logged=st.booleans())
    def end(self, key: str, end: str, logged: bool) -> None:
        held = self.held.pop(key, None)
        if held is None:
            return
        said = KeyEnd(key, held.body, held.id, held.at, end)  # pyright: ignore[reportArgumentType]
        if end == "kept" or (end == "unknown" and logged):
            self.log.append(said._replace(end="kept"))
        if end == "unknown":
            self.doubted.setdefault(key, set()).add(held.body)
        self.runner.run(self.state.accept((), [said]))

    @rule(most=st.integers(0, 3))
    def read_some(self, most: int) -> None:
        before = self.runner.run(self.state.accept(()))
        start = before.get(0, 0)
        read = self.log[start : start + most]
        reached = {0: start + len(read)}
        self.runner.run(self.state.accept((), read, Follow(before, reached)))

    @rule()
    def read_all(self) -> None:
        before = self.runner.run(self.state.accept(()))
        self.runner.run(
            self.state.accept((), self.log[before.get(0, 0) :], Follow(before, {0: len(self.log)}, whole=True))
        )
        self.whole = True

    @rule(logged=st.sets(keys), lost=st.booleans())
    def die(self, logged: set[str], lost: bool) -> None:
        """Killed with claims held, of which some have come into the log."""
        self.log.extend(KeyEnd(key, held.body, held.id, held.at) for key, held in self.held.items() if key in logged)
        self.held.clear()
        self.runner.run(self.close())
        if lost:
            for path in Path(self.folder.name).glob("hot.db*"):
                path.unlink()
        self.runner.run(self.open())

    @rule()
    def rebuild(self) -> None:
        async def act() -> None:
            await (await self.state.rebuild()).seal({})

        self.runner.run(act())
        self.whole = False

    # As far as a life of a key and the lease of a claim, but never a life of a key without a reading: a turn is every
    # half second.
    @rule(milliseconds=st.sampled_from([1, 61_000, TTL]))
    def time_passes(self, milliseconds: int) -> None:
        self.read_all()
        self.clock.advance(milliseconds)
        self.read_all()

    @invariant()
    def a_key_that_lives_stands_for_one_delivery(self) -> None:
        for key in KEYS:
            assert len({end.id for end in self.alive(key)}) <= 1


TestKeysMachine = KeysMachine.TestCase
TestKeysMachine.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
