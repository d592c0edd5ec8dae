"""Random histories of the embedded hot state against a plain model of what the port promises."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from msgspec.structs import replace

from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.state import EmbeddedState, Keep
from howk.domain.delivery import ENDED, Standing, Status, is_current
from howk.ports.state import Ask, Claim, Effect, HotState
from howk.testing.clock import ManualClock
from howk.testing.state_suite import LEASE, OVER, dead, ended, waiting

IDS = ("a", "b", "c", "d")
KEEP = Keep(1_000, 2)

ids = st.sampled_from(IDS)
series = st.integers(1, 2)
gens = st.integers(0, 3)
dues = st.integers(1, 9)


def _rank(status: Status) -> tuple[int, bool, int]:
    return status.series, status.state in ENDED, status.gen


@dataclass
class Row:
    """A waiting delivery as the model knows it; `token` is the one of its lease."""

    series: int
    gen: int
    due: int
    record: bytes
    token: int = 0
    leased: bool = False


@dataclass
class Model:
    """Hot state as plain dictionaries."""

    statuses: dict[str, Status] = field(default_factory=dict[str, Status])
    rows: dict[str, Row] = field(default_factory=dict[str, Row])
    in_flight: set[str] = field(default_factory=set[str])
    settled: set[str] = field(default_factory=set[str])
    watermark: int = 0

    def shown(self, id_: str) -> Status | None:
        status = self.statuses.get(id_)
        if status is None or status.state in ENDED or id_ not in self.in_flight:
            return status
        return replace(status, state="delivering")

    def standing(self, id_: str) -> Standing | None:
        status = self.statuses.get(id_)
        return status and Standing(status.series, status.gen, status.state in ENDED)

    def put(self, effect: Effect) -> None:
        status = effect.status
        self.statuses[status.id] = status
        self.rows.pop(status.id, None)
        self.in_flight.discard(status.id)
        self.settled.add(status.id)
        if effect.due_at:
            self.rows[status.id] = Row(status.series, status.gen, effect.due_at, effect.record)

    def drop_old(self, now: int) -> None:
        over = sorted((s.ended_at, s.id) for s in self.statuses.values() if s.state in ENDED)
        kept = [(at, id_) for at, id_ in over[max(0, len(over) - KEEP.most) :] if at >= now - KEEP.ttl]
        for _, id_ in set(over) - set(kept):
            del self.statuses[id_]


class HotStateMachine(RuleBasedStateMachine):
    claims: Bundle[Claim] = Bundle("claims")
    spoil: Callable[[HotState], HotState] = staticmethod(lambda state: state)
    """What a test of this machine puts between it and the engine."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.model = Model()
        self.runner.run(self.open())
        self.runner.run(self.rebuilt([]))

    async def open(self) -> None:
        self.directory = Directory.open(Path(self.folder.name))
        self.state = self.spoil(EmbeddedState.open(self.directory, KEEP, self.clock))
        self.directory.opened()

    async def close(self) -> None:
        await self.state.close()
        self.directory.close()

    async def rebuilt(self, effects: list[Effect]) -> None:
        rebuild = await self.state.rebuild()
        half = len(effects) // 2
        await rebuild.restore(effects[:half])
        await rebuild.restore(effects[half:])
        await rebuild.seal({0: self.model.watermark})

    def teardown(self) -> None:
        self.runner.run(self.close())
        self.runner.close()
        self.folder.cleanup()

    def effect(self, kind: str, id_: str, series_: int, gen: int, due: int) -> Effect:
        # Every end has an instant of its own, so that "oldest first" has one meaning.
        self.clock.advance(1)
        now = self.clock.now()
        if kind == "waits":
            return waiting(id_, gen, due, b"%s/%d/%d" % (id_.encode(), series_, gen) * 50, series=series_)
        return (ended if kind == "delivered" else dead)(id_, gen, now, series=series_)

    @rule(id_=ids, series_=series)
    def accept(self, id_: str, series_: int) -> None:
        if id_ in self.model.settled and id_ not in self.model.statuses:
            # It has ended and was forgotten: the contract leaves open whether a word of its beginning is heard.
            return
        status = Status(id=id_, scope="app", state="pending", series=series_)
        self.runner.run(self.state.accept([status, status]))
        self.model.statuses.setdefault(id_, status)

    @rule(asked=st.lists(st.tuples(ids, series, gens), max_size=4))
    def gate(self, asked: list[tuple[str, int, int]]) -> None:
        asks = [Ask(id_, series_, gen, "app", gen + 1, 5, 7) for id_, series_, gen in asked]
        passed = [passage.verdict == "go" for passage in self.runner.run(self.state.gate(asks, 10))]
        expected: list[bool] = []
        for ask in asks:
            current = is_current(self.model.standing(ask.id), ask.series, ask.gen)
            expected.append(current)
            if current:
                fresh = Status(id=ask.id, scope="app", state="pending", max_attempts=5, created_at=7)
                self.model.statuses.setdefault(ask.id, fresh)
                self.model.in_flight.add(ask.id)
        assert list(passed) == expected

    @rule(
        drawn=st.lists(st.tuples(st.sampled_from(["waits", "delivered", "dead"]), ids, series, gens, dues), max_size=4),
        step=st.integers(-1, 2),
    )
    def apply(self, drawn: list[tuple[str, str, int, int, int]], step: int) -> None:
        effects = [self.effect(*parts) for parts in drawn]
        mark = max(0, self.model.watermark + step)
        self.runner.run(self.state.apply(effects, {0: mark}))
        if mark <= self.model.watermark:
            return
        self.model.watermark = mark
        for effect in effects:
            self.model.put(effect)
        self.model.drop_old(self.clock.now())

    @rule(target=claims, now=dues, limit=st.integers(1, 4), over=st.booleans())
    def claim(self, now: int, limit: int, over: bool) -> object:
        found, next_due, *_ = self.runner.run(self.state.claim(now, limit, OVER if over else LEASE))
        free = {id_: row for id_, row in self.model.rows.items() if not row.leased}
        due = sorted(row.due for row in free.values() if row.due <= now)
        assert [free[claim.id].due for claim in found] == due[:limit]
        for claim in found:
            row = free[claim.id]
            assert (claim.series, claim.gen, claim.record) == (row.series, row.gen, row.record)
            row.token, row.leased = claim.token, not over
        assert next_due == min((row.due for row in self.model.rows.values() if not row.leased), default=0)
        return multiple(*found)

    @rule(released=st.lists(claims, max_size=3))
    def release(self, released: list[Claim]) -> None:
        self.runner.run(self.state.release(released))
        for claim in released:
            row = self.model.rows.get(claim.id)
            if row and row.token == claim.token:
                del self.model.rows[claim.id]

    @rule(keys=st.lists(st.tuples(ids, series, gens), max_size=4))
    def queued(self, keys: list[tuple[str, int, int]]) -> None:
        self.runner.run(self.state.release([Claim(*key, b"", 0) for key in keys]))
        for id_, series_, gen in keys:
            row = self.model.rows.get(id_)
            if row and (row.series, row.gen) == (series_, gen):
                del self.model.rows[id_]

    @rule(drawn=st.lists(st.tuples(st.sampled_from(["waits", "delivered"]), ids, series, gens, dues), max_size=6))
    def rebuild(self, drawn: list[tuple[str, str, int, int, int]]) -> None:
        effects = [self.effect(*parts) for parts in drawn]
        self.runner.run(self.rebuilt(effects))
        self.model = Model(watermark=self.model.watermark)
        for effect in effects:
            known = self.model.statuses.get(effect.status.id)
            if known is None or _rank(effect.status) >= _rank(known):
                self.model.put(effect)

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.close())
        self.runner.run(self.open())
        # Leases and what is in flight are their process's.
        self.model.in_flight.clear()
        self.model.settled.clear()
        for row in self.model.rows.values():
            row.token, row.leased = 0, False

    @rule(milliseconds=st.sampled_from([1, 300, 5_000]))
    def time_passes(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds)

    @invariant()
    def hot_state_is_what_the_model_is(self) -> None:
        assert list(self.runner.run(self.state.status(IDS))) == [self.model.shown(id_) for id_ in IDS]
        assert list(self.runner.run(self.state.standing(IDS)).deliveries) == [self.model.standing(id_) for id_ in IDS]
        found = self.runner.run(self.state.statistics(self.clock.now()))
        over = sum([status.state in ENDED for status in self.model.statuses.values()])
        assert (found.waiting, found.ended) == (len(self.model.rows), over)
        assert self.runner.run(self.state.condition()) == (True, "", {0: self.model.watermark})


TestHotStateMachine = HotStateMachine.TestCase
TestHotStateMachine.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
