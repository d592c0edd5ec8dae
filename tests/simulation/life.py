"""One life of the process: the shipped rooms over simulated engines, wired and started as the service does it, until it
is killed, stopped, or everything is over. Clients run beside it on the same loop and outlive it.
"""

import asyncio
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from typing import Any

from tests.simulation.hot import HotDurable, HotSettings, SimulatedHot
from tests.simulation.log import DISK, LogDurable, SimulatedLog
from tests.simulation.loop import Stuck, VirtualLoop
from tests.simulation.network import SimulatedSender
from tests.simulation.ports import Faults, FaultyHot, FaultyLog
from tests.simulation.witness import Witness
from tests.simulation.workload import Ask, Cancel, Command, Configure, Happening, Item, Misuse, Webhook, Workload
from tests.simulation.world import Ear, NoMeter, World
from tests.support import TRIAL, settings

from howk.domain.errors import Full, HowkError, Rejected, Transient
from howk.domain.records import PENDING, RESULTS, SLOW
from howk.domain.sealing import KEY_BYTES, Sealer
from howk.flow import deliver, settle
from howk.flow.ingest import Request
from howk.flow.keyed import Accepted
from howk.runtime.clock import SystemClock
from howk.runtime.roles import EVERY, Role
from howk.runtime.settings import Settings
from howk.runtime.stages import Stages
from howk.runtime.wiring import Engines, House, Tools, wire

_SEALER = Sealer(bytes(range(KEY_BYTES)))
_TIMEOUT = 1.5
_LEASE = 2.0
DRAIN = 4.0
_REQUESTS_END_WITHIN = 5.0
_FLUSH_WITHIN = 5.0
_MOST_TRIES = 40
LONGEST = 200.0
"""Seconds of virtual time after which what is not over never will be."""


PARTS: tuple[frozenset[Role], ...] = (
    frozenset(("api",)),
    frozenset(("worker",)),
    frozenset(("scheduler",)),
    frozenset(("api", "worker")),
    frozenset(("worker", "scheduler")),
)
"""What may run for a while without the rest."""


@lru_cache(maxsize=64)
def tree(slots: int, per_endpoint: int, batch: int, drain: float = DRAIN, kept: float = 0.0) -> Settings:
    """Settings whose times are short, so that a run is."""
    values: dict[str, Any] = {
        "scheduler__poll_interval": 1.0,
        "scheduler__lock_timeout": _LEASE,
        "scheduler__batch_size": batch,
        "delivery__timeout": _TIMEOUT,
        "delivery__max_in_flight": slots,
        "delivery__drain": drain,
        "retry__base_delay": 0.4,
        "retry__max_delay": 3.0,
        "retry__max_attempts": 4,
        "circuit_breaker__failure_threshold": 3,
        "circuit_breaker__failure_window": 10.0,
        "circuit_breaker__recovery_timeout": 1.5,
        "circuit_breaker__probe_interval": 0.7,
        "concurrency__max_inflight_per_endpoint": per_endpoint,
    }
    if kept:
        # An end is known for as long as what came before it.
        values |= {"retention__pending": kept, "retention__results": kept, "retention__deadletter": 10 * kept}
    return settings(Path("simulated"), **values)


@dataclass(slots=True)
class Ground:
    """What one life leaves to the next."""

    world: World
    settings: Settings
    work: Workload
    log: LogDurable
    hot: HotDurable
    witness: Witness
    agenda: list[tuple[float, int, Item]] = field(default_factory=list)
    asked: int = 0
    deaths: list[int] = field(default_factory=list)
    """Calls of ports until the next kill, the next one last."""
    calls: int = 0

    def left(self) -> str:
        """What is not over."""
        trails = [f"{one.id} (#{one.webhook.number})" for one in self.witness.trails.values() if not one.end]
        return " ".join([*trails, *[_named(item) for _, _, item in self.agenda]])

    def plan(self, item: Item, at: float) -> None:
        self.asked += 1
        heappush(self.agenda, (at, self.asked, item))


def unfinished(log: LogDurable) -> list[str]:
    """Who has not finished what, of each partition."""
    return [
        f"{group} {place.stream}/{place.partition}"
        for stream, group in ((PENDING, deliver.GROUP), (SLOW, deliver.GROUP), (RESULTS, settle.GROUP))
        for place in log.places(stream)
        if log.of_group(group, place).next < log.streams[stream][place.partition].end
    ]


class SimulatedClock(SystemClock):
    """The shipped clock on the loop's time and the world's wall clock: how a life takes a step back is its own."""

    def __init__(self, world: World, loop: VirtualLoop) -> None:
        super().__init__(lambda: world.wall(loop.time()), loop.time)
        self._world = world

    def now(self) -> int:
        return self._world.shown(super().now())


def house_over(world: World, tree: Settings, engines: Engines, clock: SimulatedClock) -> House:
    """The shipped rooms over any engines."""
    return wire(tree, TRIAL, engines, Tools(clock, world.random, NoMeter(), Ear(world)))


class Life:
    """See the module. `how` says how it ended: "killed", "stopped", "over", or that it failed."""

    def __init__(self, ground: Ground, number: int) -> None:
        self.ground = ground
        self.world = ground.world
        self.number = number
        self.dead = False
        self.how = ""
        self.loop = VirtualLoop(self.world.time)
        self._roles, self._from_beginning = self._asked_to_run()
        self._asking: dict[int, Item] = {}
        self._clients: set[asyncio.Task[None]] = set()

    def _asked_to_run(self) -> tuple[frozenset[Role], bool]:
        """Which parts of howk, and whether it reads the log from its beginning. What is not whole is stopped soon."""
        ground, chance = self.ground, self.world.operators
        if not ground.world.climate.restarts or self.world.quiet or self.number == 1:
            return EVERY, False
        roles = chance.choice((EVERY, EVERY, *PARTS))
        if roles != EVERY:
            ground.plan(Happening(0.0, "stop"), self.world.time + 2 * chance.random())
        return roles, chance.random() < 0.3

    # What the ports ask of their host

    def now(self) -> float:
        return self.loop.time()

    def may_die(self, where: str) -> bool:
        ground = self.ground
        if self.dead:
            return True
        if self.world.quiet:
            return False
        ground.calls += 1
        if not ground.deaths or ground.calls < ground.deaths[-1]:
            return False
        ground.deaths.pop()
        self.world.trace.step(self.now(), "world", "KILLED", where)
        self.dead = True
        self.how = "killed"
        self.loop.halt()
        return True

    # From beginning to end

    def run(self) -> None:
        """Until it ends."""
        world, loop = self.world, self.loop
        world.now = self.now
        world.trace.step(self.now(), "world", f"life {self.number}")
        main = loop.create_task(self._main(), name="main")
        try:
            loop.run_while(lambda: not main.done() and not world.violations)
        except Stuck as error:
            world.accuse(f"stuck: {error}")
        except Exception:  # noqa: BLE001 - whatever it is, it is told with the trace that led to it
            world.accuse(f"the simulation failed: {traceback.format_exc()}")
        if self.dead or world.violations:
            self._bury()
        else:
            self._look_at(main)
        world.time = loop.time()
        world.now = lambda: world.time
        world.violations += [f"the loop says: {problem}" for problem in loop.problems]

    def _look_at(self, main: "asyncio.Task[None]") -> None:
        error = main.exception()
        if error is not None:
            self.world.accuse(f"the process ended by itself: {error!r} {getattr(error, 'exceptions', '')}")

    def _bury(self) -> None:
        """What is under way at its clients has no answer; what is in the log's hands has happened or not."""
        self.dead = self._sender.dead = True
        fates = self._log.kill(self.world.faults)
        if fates:
            self.world.trace.step(self.now(), "world", "appends under way", " ".join(fates))
        self.loop.bury()
        for item in list(self._asking.values()):
            self._unanswered(item)

    async def _main(self) -> None:
        ground, world = self.ground, self.world
        clock = SimulatedClock(world, self.loop)
        faults = Faults(self)
        self._log = SimulatedLog(ground.log, clock, pause=self._pause, chance=world.order, atomic=world.climate.atomic)
        self._hot = SimulatedHot(ground.hot, _hot_settings(ground.settings), clock)
        ground.witness.begin(self.number, self.now, clock.now, self._hot)
        hosts = {endpoint.receiver.host: endpoint.receiver for endpoint in ground.work.endpoints}
        self._sender = SimulatedSender(hosts, world.network, ground.witness, self.may_die)
        log, hot = FaultyLog(self._log, faults), FaultyHot(self._hot, faults, ground.witness)
        engines = Engines(log, hot, self._sender, _SEALER)
        self._house = house_over(world, ground.settings, engines, clock)
        await self._serve(Stages(self._house, self._roles, NoMeter(), Ear(world)))
        await self._sender.close()
        await self._hot.close()
        await self._log.close()

    def _pause(self) -> float:
        """How long what waits for the disk waits for company."""
        climate, chance = self.world.climate, self.world.order
        return (
            0.001
            if chance.random() < 0.8 or self.world.quiet
            else 0.001 + 0.5 * climate.longest_delay * chance.random()
        )

    async def _serve(self, stages: Stages) -> None:
        """As `service` does it, but for sockets and signals."""
        await stages.learn_configs()
        async with asyncio.TaskGroup() as group:
            stages.start(group, from_beginning=self._from_beginning)
            clients = group.create_task(self._meet_clients(), name="clients")
            await self._until_stop(stages)
            await self._drain(stages)
            clients.cancel()
            stages.cancel()

    async def _drain(self, stages: Stages) -> None:
        self.world.trace.step(self.now(), "world", "stopping", self._sender.in_flight(), "in flight")
        stages.close()
        drained = asyncio.ensure_future(self._drained(stages))
        await asyncio.wait({drained}, timeout=self.ground.settings.delivery.drain)
        if not drained.done():
            self._sender.abort()
            await asyncio.wait({asyncio.ensure_future(self._house.deliver_stage.flushed())}, timeout=_FLUSH_WITHIN)
        else:
            drained.result()
        if not self._house.deliver.cut_off:
            self.ground.witness.ended_well.add(self.number)
        self.world.trace.step(self.now(), "world", "stopped", self._house.deliver.cut_off, "cut off")
        drained.cancel()

    async def _drained(self, stages: Stages) -> None:
        if self._clients:
            await asyncio.wait(self._clients, timeout=_REQUESTS_END_WITHIN)
        await stages.drained()

    # What happens outside

    async def _until_stop(self, stages: Stages) -> None:
        """Until it is to be stopped: in the midst of it by the climate, at the end when everything is over. Commands
        are still to be settled while a start is being made again."""
        while self.how == "":
            recovered = stages.recovered
            await asyncio.sleep(0.25)
            if self.world.quiet and self._roles != EVERY:
                self.how = self.how or "stopped"
            if recovered and self._is_over():
                self.how = "over"
            elif self.now() > LONGEST:
                self.world.accuse(f"after {LONGEST:.0f} s it is not over: {self.ground.left()}")

    def _is_over(self) -> bool:
        ground = self.ground
        if not self.world.quiet or ground.agenda or self._asking or ground.witness.open:
            return False
        # Another record of what has ended may still wait for its place.
        return not unfinished(ground.log)

    def _happen(self, item: Happening) -> None:
        world = self.world
        world.trace.step(self.now(), "world", item.what, item.amount or "")
        if item.what == "jump":
            world.step_clock(item.amount)
        elif item.what == "freeze":
            self.loop.freeze(item.amount / 1000)
        elif item.what == "stop":
            self.how = self.how or "stopped"
        else:
            world.quiet = True
            world.right_clock(self.now())
            self.ground.log.disk = DISK
            for endpoint in self.ground.work.endpoints:
                # Once more after every command that is still under way.
                for wait in (0.0, 4.0):
                    self.ground.plan(Command(item.at, endpoint, "enable"), self.now() + wait)

    async def _meet_clients(self) -> None:
        ground = self.ground
        while True:
            while ground.agenda and ground.agenda[0][0] <= self.now():
                self._meet(heappop(ground.agenda)[2])
            wait = ground.agenda[0][0] - self.now() if ground.agenda else 0.25
            await asyncio.sleep(min(max(wait, 0.0), 0.25))

    def _meet(self, item: Item) -> None:
        if isinstance(item, Happening):
            self._happen(item)
            return
        if isinstance(item, Command) and item.name == "pause" and self.world.quiet:
            return
        if self.how or ("api" not in self._roles):
            # The door is closed.
            self.ground.plan(item, self.now() + 0.3)
            return
        self._asking[id(item)] = item
        task = self.loop.create_task(self._answer(item), name="client")
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        chance, climate = self.world.clients, self.world.climate
        if climate.leaves and not self.world.quiet and chance.random() < climate.leaves:
            # Most while an append is under way.
            self.loop.call_later(chance.choice((0.0, 0.0005, 0.002, 1.0)) * chance.random(), self._leave, item, task)

    def _leave(self, item: Item, task: "asyncio.Task[None]") -> None:
        """Its client is gone before it has an answer."""
        if self.dead or task.done() or not task.cancel():
            return
        self.world.trace.step(self.now(), "client", "left", _named(item))
        self._asking.pop(id(item), None)
        self._unanswered(item)

    async def _answer(self, item: Item) -> None:
        match item:
            case Ask():
                await self._ask(item)
            case Cancel():
                await self._command(item, partial(self._cancel, item.webhook))
            case Command():
                act = partial(self._house.command.endpoint, item.endpoint.scope, item.endpoint.url, item.name)
                await self._command(item, act)
            case Configure():
                await self._command(item, partial(self._configure, item))
            case Misuse():
                await self._misuse(item.webhook)
            case Happening():
                pass
        self._asking.pop(id(item), None)

    async def _command(self, item: Item, act: Any) -> None:
        """Commands are asked for until they are answered."""
        try:
            await act()
            self.world.trace.step(self.now(), "client", "commanded", _named(item))
        except Transient:
            self.ground.plan(item, self.now() + 0.4)

    async def _cancel(self, webhook: Webhook) -> None:
        webhook.cancel_asked = True
        if webhook.id:
            await self._house.command.cancel(webhook.id)

    async def _misuse(self, webhook: Webhook) -> None:
        """Another request under the key of one that was answered."""
        if not webhook.id:
            return
        other = Request(webhook.enqueue, webhook.key, "another body")
        try:
            (answer,) = await self._house.ingest.accept_keyed(webhook.endpoint.scope, [other], "simulated")
        except HowkError:
            return
        self.world.trace.step(self.now(), "client", "misused", f"#{webhook.number}", type(answer).__name__)
        if isinstance(answer, Accepted):
            self.world.accuse(f"idempotency: the key of #{webhook.number} was taken for another request")

    async def _configure(self, item: Configure) -> None:
        if item.asked is None:
            await self._house.configs.remove(item.scope)
        else:
            await self._house.configs.put(item.scope, item.asked)

    async def _ask(self, item: Ask) -> None:
        for webhook in item.webhooks:
            if webhook.begun_at < 0:
                webhook.begun_at = len(self.world.trace)
        scope = item.webhooks[0].endpoint.scope
        item.tries += 1
        try:
            answers = await self._enqueue(scope, item.webhooks)
        except Full:
            # Nothing was taken.
            self._again(item, item.webhooks)
            return
        except HowkError as error:
            self.world.trace.step(self.now(), "client", "refused", _named(item), error)
            self._again(item, [webhook for webhook in item.webhooks if webhook.key])
            return
        late: list[Webhook] = []
        for webhook, answer in zip(item.webhooks, answers, strict=True):
            self._take(webhook, answer, late)
        self._again(item, late)

    async def _enqueue(
        self, scope: str, webhooks: Sequence[Webhook]
    ) -> Sequence[str | Accepted | Rejected | Transient]:
        ingest = self._house.ingest
        if any(webhook.key for webhook in webhooks):
            requests = [Request(w.enqueue, w.key or None, f"body of {w.number}") for w in webhooks]
            return await ingest.accept_keyed(scope, requests, "simulated")
        if len(webhooks) == 1:
            new = ingest.prepare(scope, webhooks[0].enqueue)
            await ingest.accept_together((new,), "simulated")
            return [new.id]
        return await ingest.accept(scope, [webhook.enqueue for webhook in webhooks], "simulated")

    def _take(self, webhook: Webhook, answer: "str | Accepted | Rejected | Transient", late: list[Webhook]) -> None:
        if self.dead:
            return
        if isinstance(answer, Transient):
            late.append(webhook)
        elif isinstance(answer, Rejected):
            self.world.accuse(f"#{webhook.number} was refused: {answer.code} {answer}")
        else:
            id_, replayed = (answer.id, answer.replayed) if isinstance(answer, Accepted) else (answer, False)
            self.world.trace.step(self.now(), "client", "accepted", f"#{webhook.number}", id_, "again" * replayed)
            self.ground.witness.acknowledged(webhook, id_, replayed)

    def _again(self, item: Ask, webhooks: list[Webhook]) -> None:
        if not webhooks:
            return
        if item.tries > _MOST_TRIES:
            self.world.accuse(f"{_named(item)} was not answered in {item.tries} tries")
            return
        wait = 0.1 + 0.2 * item.tries
        self.ground.plan(Ask(item.at, webhooks, item.tries), self.now() + wait)

    def _unanswered(self, item: Item) -> None:
        """The connection broke: whoever has a key asks again, whoever has none can't know."""
        if isinstance(item, Ask):
            self._again(item, [webhook for webhook in item.webhooks if webhook.key])
        elif not isinstance(item, Misuse):
            self.ground.plan(item, self.now() + 0.4)


def _hot_settings(settings: Settings) -> HotSettings:
    ttl, held = settings.ttl, settings.concurrency
    return HotSettings(
        status_ttl=round(ttl.status_ttl * 1000),
        status_max=ttl.status_max,
        key_ttl=round(ttl.idempotency_ttl * 1000),
        most_out=held.max_inflight_per_endpoint,
        ramp=held.slow_lane_rate,
        probe_lease=2 * settings.delivery.timeout + settings.scheduler.lock_timeout,
        idle_after=ttl.circuit_state_ttl,
    )


def _named(item: Item) -> str:
    match item:
        case Ask(webhooks=webhooks):
            return " ".join([f"#{webhook.number}" for webhook in webhooks])
        case Cancel(webhook=webhook):
            return f"cancel #{webhook.number}"
        case Command(endpoint=endpoint, name=name):
            return f"{name} {endpoint.url}"
        case Configure(scope=scope):
            return f"config {scope}"
        case Misuse(webhook=webhook):
            return f"misuse #{webhook.number}"
        case Happening(what=what):
            return what


def deaths_of(chance: Random, count: int) -> list[int]:
    """After how many calls of ports the process is killed: anywhere, and often again while it starts."""
    at, found = 0, list[int]()
    for _ in range(count):
        at += chance.choice((chance.randrange(1, 600), chance.randrange(1, 60)))
        found.append(at)
    return found[::-1]
