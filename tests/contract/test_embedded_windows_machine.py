"""Random histories of the embedded windows against plain lists of what happened: through repeats, restarts, kills and
rebuilds every event counts once, and at its own time."""

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.state import EmbeddedState, Keep
from howk.domain.delivery import Status
from howk.domain.windows import DAY, HOUR, KIND_OF, Window
from howk.ports.state import Effect
from howk.testing.clock import ManualClock
from howk.testing.state_suite import ask, dead, deferred, ended, pending, waiting

KEEP = Keep(1 << 40, 1 << 30)
STATES = {
    "delivered": lambda id_, gen: ended(id_, gen),
    "dead": lambda id_, gen: dead(id_, gen),
    "failed": lambda id_, gen: waiting(id_, gen + 1, 10),
    "deferred": lambda id_, gen: replaced_gen(deferred(id_), gen + 1),
}


def replaced_gen(effect: Effect, gen: int) -> Effect:
    return replace(effect, status=replace(effect.status, gen=gen))


@dataclass
class Known:
    """A delivery as the log would tell of it."""

    status: Status
    begun: bool = False
    ended: bool = False


class WindowsMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.place = Path(self.folder.name) / "0"
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.known: dict[str, Known] = {}
        self.applied: list[Effect] = []
        self.watermark = 0
        self.runner.run(self.open())
        self.runner.run(self.rebuilt())

    async def open(self) -> None:
        self.directory = Directory.open(self.place)
        self.state = EmbeddedState.open(self.directory, KEEP, self.clock)
        self.directory.opened()

    async def close(self) -> None:
        await self.state.close()
        self.directory.close()

    async def rebuilt(self) -> None:
        rebuild = await self.state.rebuild()
        await rebuild.restore([Effect(one.status) for one in self.known.values() if not one.begun])
        await rebuild.count(self.applied)
        await rebuild.restore([replace(effect, at=0, accepted_at=0) for effect in self.applied])
        await rebuild.seal({0: self.watermark})

    def teardown(self) -> None:
        self.runner.run(self.close())
        self.runner.close()
        self.folder.cleanup()

    @rule(number=st.integers(1, 3), ago=st.sampled_from([0, 0, 5, HOUR, DAY]), gated=st.booleans())
    def accept(self, number: int, ago: int, gated: bool) -> None:
        at = self.clock.now() - ago * 1_000
        new = [pending(f"d{len(self.known) + n}", at=at) for n in range(number)]
        for status in new:
            self.known[status.id] = Known(status)
        if gated:
            # A fast reader is ahead of the door's word.
            self.runner.run(self.state.gate([replace(ask(status.id), created_at=at) for status in new], 7))
        self.runner.run(self.state.accept(new))

    @rule(
        drawn=st.lists(st.tuples(st.integers(0, 30), st.sampled_from(sorted(STATES)), st.integers(0, 5)), max_size=5),
        late=st.sampled_from([0, 0, 1, HOUR - 1, HOUR, DAY]),
    )
    def apply(self, drawn: list[tuple[int, str, int]], late: int) -> None:
        at = self.clock.now() - late * 1_000
        effects: list[Effect] = []
        for number, state, endpoint in drawn:
            one = self.known.get(f"d{number}")
            if one is None or one.ended:
                continue
            effect = STATES[state](one.status.id, len(self.applied) + len(effects))
            first = 0 if one.begun else one.status.created_at
            effects.append(replace(effect, at=at, accepted_at=first, endpoint=f"ep_{endpoint}" if endpoint else ""))
            one.begun, one.ended = True, state in ("delivered", "dead")
        self.watermark += 1
        self.applied += effects
        for _ in range(2):
            self.runner.run(self.state.apply(effects, {0: self.watermark}))

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.close())
        self.runner.run(self.open())

    @rule()
    def kill(self) -> None:
        left = self.place.with_name(str(int(self.place.name) + 1))
        shutil.copytree(self.place, left)
        self.runner.run(self.close())
        shutil.rmtree(self.place)
        self.place = left
        self.runner.run(self.open())
        self.reconcile()

    @rule()
    def reconcile(self) -> None:
        unfinished = [one.status for one in self.known.values() if not one.begun]
        found = self.runner.run(self.state.standing([status.id for status in unfinished])).deliveries
        unknown = [status for status, standing in zip(unfinished, found, strict=True) if standing is None]
        self.runner.run(self.state.accept(unknown))

    @rule()
    def rebuild(self) -> None:
        self.runner.run(self.rebuilt())

    @rule(seconds=st.sampled_from([1, 59, 60, 1_800, HOUR, DAY // 2]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds * 1_000)

    def expected(self, length: int) -> Window:
        until = self.clock.now() // 1_000

        def inside(at: int) -> bool:
            return until - length < at // 1_000 <= until

        happened = [effect for effect in self.applied if inside(effect.at)]
        kinds = [KIND_OF[effect.status.state] for effect in happened]
        return Window(
            received=sum(inside(one.status.created_at) for one in self.known.values()),
            delivered=kinds.count("delivered"),
            failed=kinds.count("failed"),
            exhausted=kinds.count("exhausted"),
            deferred=kinds.count("deferred"),
            # What is held names the endpoint that it waits for, and called none.
            unique_endpoints=len({e.endpoint for e in happened if e.endpoint and not e.status.held_by}),
        )

    @invariant()
    def the_windows_are_what_a_plain_list_says(self) -> None:
        found = self.runner.run(self.state.statistics(self.clock.now()))
        assert (found.last_1h, found.last_24h) == (self.expected(HOUR), self.expected(DAY))


TestWindowsMachine = WindowsMachine.TestCase
TestWindowsMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
