"""Random histories of what deliveries have to wait for, endpoints, turns and marks, against a plain model. A claim has
to give everything that the rules let go at that very moment: a wake-up that is missed shows."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.endpoints import Holding
from howk.adapters.embedded.state import EmbeddedState, Keep
from howk.domain.admission import Share, admit
from howk.domain.admission import release as may_release
from howk.domain.breaker import Circuit
from howk.domain.delivery import BREAKER, LIMIT, OF_ENDPOINT, ORDER, PAUSE, Standing, Status, is_current
from howk.domain.records import NEWER, EndpointRow
from howk.ports.state import Ask, Claim, Effect, HotState
from howk.testing.clock import ManualClock
from howk.testing.state_samples import FAR, NOW

HOLDING = Holding(6, 20.0, 60.0)
KEEP = Keep(1 << 40, 1 << 30, holding=HOLDING)
LOST_AFTER = 600.0
ENDPOINTS = ("x", "y")
PLACES = {f"k{rank}": ("x", "turn", rank) for rank in (1, 2, 3)} | {
    f"{endpoint}{n}": (endpoint, "", 0) for endpoint in ENDPOINTS for n in range(8)
}
IDS = tuple(PLACES)

ids = st.sampled_from(IDS)
endpoints = st.sampled_from(ENDPOINTS)


@dataclass
class Row:
    """A delivery that waits."""

    due: int
    held_by: str
    endpoint: str = ""
    until: float = -1.0
    token: int = 0


@dataclass
class Line:
    """What is known of an endpoint beside its row."""

    circuit: Circuit = field(default_factory=Circuit)
    share: Share = field(default_factory=Share)
    probing: float = 0.0
    out: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])


@dataclass
class Delivery:
    """Where a known delivery stands, and what the record in the stream says."""

    series: int = 1
    gen: int = 0
    ended: bool = False
    admitted: bool = False
    probe: int = 0
    skipped: bool = False


@dataclass
class Model:
    """Hot state as plain dictionaries; `rows` in the order in which they came to wait."""

    known: dict[str, Delivery] = field(default_factory=dict[str, Delivery])
    rows: dict[str, Row] = field(default_factory=dict[str, Row])
    lines: dict[str, Line] = field(default_factory=lambda: {id_: Line() for id_ in ENDPOINTS})
    entered: set[str] = field(default_factory=set[str])
    marks: set[str] = field(default_factory=set[str])

    def held(self, endpoint: str) -> list[str]:
        return [id_ for id_, row in self.rows.items() if row.endpoint == endpoint]

    def standing(self, id_: str) -> Standing | None:
        known = self.known.get(id_)
        return known and Standing(known.series, known.gen, known.ended, id_ in self.marks)

    def lowest(self) -> int:
        return min((PLACES[id_][2] for id_ in self.entered), default=0)

    def call_next(self, now: int) -> None:
        for id_ in self.entered:
            row = self.rows.get(id_)
            if row and row.held_by == ORDER and PLACES[id_][2] == self.lowest():
                row.due = min(row.due, now)

    def judge(self, id_: str, known: Delivery, now: int, clock: float) -> str:
        endpoint, turn, rank = PLACES[id_]
        line = self.lines[endpoint]
        waits = bool(turn) and not known.skipped and self.lowest() < rank
        found = admit(
            line.circuit,
            now,
            behind=bool(self.held(endpoint)),
            probing=line.probing > clock,
            admitted=known.admitted,
            probe=known.probe,
        )
        if found.verdict == "disabled":
            return "disabled"
        if waits:
            return "wait" if found.verdict == "go" else f"hold {ORDER}"
        if found.verdict == "hold":
            return f"hold {found.held_by}"
        if found.probe:
            line.probing = clock + HOLDING.probe_lease
        return f"go {found.probe}"


class HoldingMachine(RuleBasedStateMachine):
    spoil: Callable[[HotState], HotState] = staticmethod(lambda state: state)
    """What a test of this machine puts between it and the engine."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.model = Model()
        self.claims: list[Claim] = []
        self.watermark = 0
        self.runner.run(self.open())
        self.runner.run(self.rebuilt())

    def teardown(self) -> None:
        self.runner.run(self.close())
        self.runner.close()
        self.folder.cleanup()

    async def open(self) -> None:
        self.directory = Directory.open(Path(self.folder.name))
        self.state = self.spoil(EmbeddedState.open(self.directory, KEEP, self.clock))
        self.directory.opened()

    async def close(self) -> None:
        await self.state.close()
        self.directory.close()

    async def rebuilt(self) -> None:
        rebuild = await self.state.rebuild()
        model = self.model
        rowless = [id_ for id_ in model.known if id_ not in model.rows]
        await rebuild.restore([self.effect(id_, model.known[id_], None) for id_ in rowless], (), list(model.marks))
        effects = [self.effect(id_, model.known[id_], row) for id_, row in model.rows.items()]
        await rebuild.restore(effects, self.endpoint_rows())
        await rebuild.seal({0: self.watermark})

    def endpoint_rows(self) -> list[EndpointRow]:
        return [EndpointRow(v=NEWER, id=id_, circuit=line.circuit) for id_, line in self.model.lines.items()]

    def effect(self, id_: str, known: Delivery, row: Row | None, good: bool | None = None) -> Effect:
        endpoint, turn, rank = PLACES[id_]
        status = Status(
            id=id_,
            scope="app",
            state="dead" if known.ended else "deferred" if row else "pending",
            series=known.series,
            gen=known.gen,
            held_by=row.held_by if row else "",
            ended_at=NOW if known.ended else 0,
        )
        stays = id_ in self.model.entered and not known.ended and not known.skipped
        due = row.due if row else 0
        place = (turn, rank) if stays else ("", 0)
        return Effect(status, due, b"{}", endpoint, turn=place[0], rank=place[1], good=good)

    @rule(asked=st.lists(st.tuples(ids, st.sampled_from([0, 0, 0, 1])), max_size=5))
    def gate(self, asked: list[tuple[str, int]]) -> None:
        self.ask(asked)

    def ask(self, asked: list[tuple[str, int]]) -> None:
        model, clock = self.model, self.clock.monotonic()
        asks: list[Ask] = []
        for id_, ahead in asked:
            endpoint, turn, rank = PLACES[id_]
            known = model.known.get(id_, Delivery())
            place = ("", 0) if known.skipped else (turn, rank)
            series, gen = known.series, known.gen + ahead
            asks.append(Ask(id_, series, gen, "app", 1, 5, 7, endpoint, *place, known.admitted, known.probe))
        current = [is_current(model.standing(ask.id), ask.series, ask.gen) for ask in asks]
        model.entered |= {ask.id for ask, yes in zip(asks, current, strict=True) if yes and ask.turn}
        expected: list[str] = []
        for ask, yes in zip(asks, current, strict=True):
            if not yes:
                expected.append("stale")
            elif ask.id in model.marks:
                expected.append("cancelled")
            else:
                known = model.known.setdefault(ask.id, Delivery())
                expected.append(model.judge(ask.id, known, self.clock.now(), clock))
        found = self.runner.run(self.state.gate(asks, self.clock.now()))
        said = [f"{p.verdict} {p.probe}" if p.verdict == "go" else p.verdict for p in found]
        said = [f"hold {p.held_by}" if word == "hold" else word for word, p in zip(said, found, strict=True)]
        assert said == expected

    @rule(endpoint=endpoints, most=st.integers(2, 8))
    def many_are_held(self, endpoint: str, most: int) -> None:
        for n in range(most):
            self.settle(f"{endpoint}{n}", "held")

    @rule(id_=ids, what=st.sampled_from(["held", "ordered", "retry", "skip", "good", "good", "good", "bad", "again"]))
    def settle_one(self, id_: str, what: str) -> None:
        self.settle(id_, what)

    @rule(good=st.booleans(), most=st.integers(1, 9))
    def those_that_were_let_go_come_back(self, good: bool, most: int) -> None:
        out = [id_ for line in self.model.lines.values() for id_ in line.out if id_ not in self.model.rows]
        for id_ in out[:most]:
            self.settle(id_, "good" if good else "bad")

    @rule(most=st.integers(1, 9))
    def what_was_let_go_is_asked_for(self, most: int) -> None:
        out = [id_ for line in self.model.lines.values() for id_ in line.out if id_ not in self.model.rows]
        self.ask([(id_, 0) for id_ in out[:most]])

    def settle(self, id_: str, what: str) -> None:
        model, now = self.model, self.clock.now()
        known = model.known.get(id_, Delivery())
        endpoint, turn, _ = PLACES[id_]
        if known.ended != (what == "again") or (what in ("ordered", "skip") and (not turn or known.skipped)):
            return
        row: Row | None = None
        good = {"good": True, "bad": False, "retry": False, "skip": False}.get(what)
        if what == "again":
            known, row = Delivery(known.series + 1), Row(now + 2_000, "")
        elif what in ("good", "bad"):
            known = Delivery(known.series, known.gen, ended=True)
        else:
            known = Delivery(known.series, known.gen + 1, skipped=known.skipped or what == "skip")
            row = Row(now + 2_000, "") if what in ("retry", "skip") else Row(FAR, ORDER)
            if what == "held":
                circuit = model.lines[endpoint].circuit
                reason = PAUSE if circuit.paused else LIMIT if circuit.state == "closed" else BREAKER
                row = Row(FAR if id_ != "y7" else now + 4_000, reason, endpoint)
        model.known[id_] = known
        if turn and not known.ended and not known.skipped:
            model.entered.add(id_)
        else:
            model.entered.discard(id_)
        effect = self.effect(id_, known, row, good)
        self.stored(id_, known, row, good)
        self.watermark += 1
        self.runner.run(self.state.apply([effect], {0: self.watermark}))

    def stored(self, id_: str, known: Delivery, row: Row | None, good: bool | None) -> None:
        model = self.model
        model.rows.pop(id_, None)
        if row:
            model.rows[id_] = row
        line = model.lines[PLACES[id_][0]]
        out = line.out.pop(id_, None)
        if out and out[1] > self.clock.monotonic():
            line.share = line.share.after(good, HOLDING.most_out)
        if known.ended:
            model.marks.discard(id_)
        elif id_ in model.marks and row:
            row.due = 1
        model.call_next(self.clock.now())

    @rule(
        endpoint=endpoints,
        step=st.sampled_from([1, 1, 1, 0, -1]),
        state=st.sampled_from(["closed", "closed", "open", "half_open"]),
        wait=st.sampled_from([0, 0, 5_000]),
        paused=st.sampled_from([False] * 5 + [True]),
        disabled=st.sampled_from([""] * 7 + ["gone"]),
    )
    def endpoint_moves(self, endpoint: str, step: int, state: str, wait: int, paused: bool, disabled: str) -> None:
        line = self.model.lines[endpoint]
        circuit = Circuit(
            state=state,  # pyright: ignore[reportArgumentType]
            gen=line.circuit.gen + step,
            probe_at=0 if state == "closed" else self.clock.now() + wait,
            paused=paused,
            disabled=disabled,
        )
        if step == 0:
            circuit = replace(line.circuit, window=((1, 1, 1),))
        self.runner.run(self.state.apply((), {}, [EndpointRow(v=NEWER, id=endpoint, circuit=circuit)]))
        if circuit.gen < line.circuit.gen:
            return
        if circuit.gen > line.circuit.gen:
            line.probing = 0.0
            line.share = Share() if state != "closed" else line.share
        line.circuit = circuit

    @rule(marked=st.lists(ids, max_size=2))
    def mark(self, marked: list[str]) -> None:
        model = self.model
        marked = [id_ for id_ in marked if id_ in model.known]
        self.runner.run(self.state.apply((), {}, (), marked))
        for id_ in marked:
            if model.known[id_].ended:
                continue
            model.marks.add(id_)
            if id_ in model.rows:
                model.rows[id_].due = 1

    @rule(keep=st.sampled_from([0, 1, 1, 2, 3]))
    def claim(self, keep: int) -> None:
        self.take(keep)

    def take(self, keep: int) -> None:
        """Claim everything, and release none, all, or all but some."""
        now, clock = self.clock.now(), self.clock.monotonic()
        found = self.runner.run(self.state.claim(now, 100, 5.0))
        token = found.due[0].token if found.due else 0
        expected = [*self.due(now, clock, token)]
        for endpoint in ENDPOINTS:
            expected += self.let_go(endpoint, now, clock, token)
        assert sorted((claim.id, claim.why, claim.probe) for claim in found.due) == sorted(expected)
        for endpoint in ENDPOINTS:
            order = [id_ for id_ in self.model.rows if self.model.rows[id_].endpoint == endpoint]
            given = [
                claim.id for claim in found.due if claim.id in order and claim.why in ("admitted", "endpoint_disabled")
            ]
            assert given == sorted(given, key=order.index)
        assert all(claim.gen == self.model.known[claim.id].gen for claim in found.due)
        self.claims += found.due
        self.release(list(found.due)[: len(found.due) - keep + 1] if keep else [])

    def due(self, now: int, clock: float, token: int) -> list[tuple[str, str, int]]:
        given: list[tuple[str, str, int]] = []
        for id_, row in self.model.rows.items():
            if row.due <= now and row.until <= clock:
                row.until, row.token = clock + 5.0, token
                why = "expired" if row.held_by in OF_ENDPOINT else "due"
                given.append((id_, "cancelled" if id_ in self.model.marks else why, 0))
        return given

    def let_go(self, endpoint: str, now: int, clock: float, token: int) -> list[tuple[str, str, int]]:
        line, rows = self.model.lines[endpoint], self.model.rows
        line.out = {id_: out for id_, out in line.out.items() if out[1] > clock}
        free = [id_ for id_ in self.model.held(endpoint) if rows[id_].until <= clock]
        share = line.share.within(HOLDING.most_out)
        found = may_release(
            line.circuit, now, out=len(line.out), share=share, probing=line.probing - clock, tokens=None, rate=0.0
        )
        most, probe = (len(free), 0) if line.circuit.disabled else (found.most, found.probe)
        for id_ in free[:most]:
            rows[id_].until, rows[id_].token = clock + 5.0, token
            if not line.circuit.disabled:
                line.out[id_] = (token, clock + 5.0)
        if probe and free:
            line.probing = clock + HOLDING.probe_lease
        why = "endpoint_disabled" if line.circuit.disabled else "admitted"
        return [(id_, why, probe) for id_ in free[:most]]

    @rule(n=st.integers(0, 30))
    def release_an_old_claim(self, n: int) -> None:
        if n < len(self.claims):
            self.release([self.claims[-1 - n]])

    def release(self, claims: list[Claim]) -> None:
        self.runner.run(self.state.release(claims))
        for claim in claims:
            row, known = self.model.rows.get(claim.id), self.model.known[claim.id]
            if row and row.token == claim.token:
                del self.model.rows[claim.id]
                known.admitted, known.probe = claim.why == "admitted", claim.probe
            line = self.model.lines[PLACES[claim.id][0]]
            if line.out.get(claim.id, (0, 0.0))[0] == claim.token:
                line.out[claim.id] = (claim.token, self.clock.monotonic() + LOST_AFTER)
                if claim.probe and claim.probe == line.circuit.gen:
                    line.probing = self.clock.monotonic() + HOLDING.probe_lease

    @rule(seconds=st.sampled_from([1, 2, 5, 60, 600]), keep=st.integers(0, 2))
    def time_passes_and_more_is_claimed(self, seconds: int, keep: int) -> None:
        self.clock.advance(seconds * 1000)
        self.take(keep)

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.close())
        self.runner.run(self.open())
        self.runner.run(self.state.apply((), {}, self.endpoint_rows()))
        self.forget()

    @rule()
    def rebuild(self) -> None:
        for row in self.model.rows.values():
            row.due = FAR if row.held_by == ORDER else row.due
        self.runner.run(self.rebuilt())
        self.forget()
        for id_ in self.model.marks & set(self.model.rows):
            self.model.rows[id_].due = 1
        self.model.call_next(self.clock.now())

    def forget(self) -> None:
        """What is known in memory alone."""
        for line in self.model.lines.values():
            line.share, line.probing, line.out = Share(), 0.0, {}
        for row in self.model.rows.values():
            row.until, row.token = -1.0, 0

    @invariant()
    def hot_state_is_what_the_model_is(self) -> None:
        model = self.model
        found = self.runner.run(self.state.standing(IDS, ENDPOINTS))
        assert list(found.deliveries) == [model.standing(id_) for id_ in IDS]
        circuits = [row.circuit if row else Circuit() for row in found.endpoints]
        assert circuits == [line.circuit for line in model.lines.values()]
        claims = self.runner.run(self.state.claim(self.clock.now(), 0, 5.0))
        reasons = [row.held_by for row in model.rows.values()]
        assert claims.waiting == len(reasons)
        assert dict(claims.held) == {reason: reasons.count(reason) for reason in reasons if reason}
        assert claims.open_breakers == sum(circuit.state != "closed" for circuit in circuits)


TestHoldingMachine = HoldingMachine.TestCase
TestHoldingMachine.settings = settings(
    max_examples=50, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
