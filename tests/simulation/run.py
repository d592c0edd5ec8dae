"""One seed, one run: lives of the process one after the other until everything is over, and then the reckoning."""

import copy
from collections.abc import Container
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from msgspec import structs
from tests.simulation.hot import HotDurable, HotSettings, SimulatedHot
from tests.simulation.life import DRAIN, LONGEST, Ground, Life, SimulatedClock, deaths_of, house_over, tree, unfinished
from tests.simulation.log import DISK, ROW, LogDurable, SimulatedLog
from tests.simulation.loop import Stuck, VirtualLoop
from tests.simulation.network import SimulatedSender
from tests.simulation.witness import Witness
from tests.simulation.workload import LASTS, Happening, by_number, workload_of
from tests.simulation.world import Climate, World, climate_of

from howk.domain.delivery import CLOCK_STEP, ENDED, ORDER
from howk.domain.records import DEADLETTER, PENDING, RESULTS, SLOW, STATE, DeadLetter, Result, reader
from howk.flow import deliver
from howk.ports.log import Place
from howk.runtime.wiring import Engines

_SHOWN = 60
_result = reader(Result)
_letter = reader(DeadLetter)


@dataclass(slots=True)
class Report:
    """What came of a seed."""

    seed: int
    world: World
    lives: int
    ends: set[str]
    """The reasons of what is dead, and the states of what ended otherwise."""
    calls: int

    @property
    def failed(self) -> bool:
        return bool(self.world.violations)

    def text(self, last: int = _SHOWN) -> str:
        """What is wrong, how it came to it, and how to see it again."""
        lines = self.world.trace.lines(last)
        left = len(self.world.trace) - len(lines)
        return "\n".join(
            [
                f"seed {self.seed}: {self.world.climate}",
                *[f"VIOLATION {each}" for each in self.world.violations],
                f"... {left} steps before; the last {len(lines)}:" if left else "every step:",
                *lines,
                f"again, with every step: python -m tests.simulation --seed {self.seed} --trace",
            ]
        )


def simulate(seed: int, climate: Climate | None = None) -> Report:
    """Run a seed to its end."""
    world = World(seed, climate or climate_of(seed))
    ground = _ground(world)
    number = 0
    try:
        while not world.violations:
            number += 1
            life = Life(ground, number)
            life.run()
            if life.how == "over":
                break
            _between(ground, life)
        if not world.violations:
            _reckon(ground)
    except Stuck as error:
        world.accuse(f"stuck: {error}; not over: {ground.left()}")
    trails = ground.witness.trails.values()
    ends = {reason for trail in trails for reason in trail.letters or (trail.end,)}
    return Report(seed, world, number, ends, ground.calls)


def _ground(world: World) -> Ground:
    chance, climate = Random(f"{world.seed}/ground"), world.climate
    work = workload_of(world.seed, climate.moody, climate.cancels, climate.ordered, busy_owners=climate.busy_owners)
    drain = 0.3 if climate.hurried else DRAIN
    settings = tree(chance.choice((2, 4, 512)), chance.choice((1, 3, 50)), chance.choice((2, 500)), drain, climate.kept)
    witness = Witness(world, by_number(work.webhooks))
    witness.most_in_flight = settings.delivery.max_in_flight
    for endpoint in work.endpoints:
        witness.most_at[endpoint.receiver.host] = settings.concurrency.max_inflight_per_endpoint
    deaths = deaths_of(world.faults, climate.crashes)
    log = LogDurable(climate.partitions, witness.committed, row=2 if climate.kept or climate.disk else ROW)
    log.disk = climate.disk or DISK
    ground = Ground(world, settings, work, log, HotDurable(), witness, deaths=deaths)
    for item in work.items:
        ground.plan(item, item.at)
    for _ in range(climate.jumps):
        amount = chance.choice((-1, 1)) * chance.choice((200, 3_000, 60_000))
        ground.plan(Happening(0.0, "jump", amount), LASTS * chance.random())
    for _ in range(climate.stops):
        ground.plan(Happening(0.0, "stop"), 1 + LASTS * chance.random())
    _plan_more(ground)
    ground.plan(Happening(0.0, "quiet"), LASTS + 1)
    return ground


def _plan_more(ground: Ground) -> None:
    """What the machine and its operators do."""
    chance, climate = ground.world.operators, ground.world.climate
    for _ in range(climate.steps):
        amount = chance.choice((-1, 1)) * chance.choice((3_600_000, 30_000_000))
        ground.plan(Happening(0.0, "jump", amount), LASTS * chance.random())
    for _ in range(climate.freezes):
        ground.plan(Happening(0.0, "freeze", chance.choice((300, 3_000, 12_000))), LASTS * chance.random())
    at = LASTS * chance.random()
    for _ in range(climate.restarts):
        ground.plan(Happening(0.0, "stop"), at)
        at += chance.choice((0.0, 0.3, 2.0)) * chance.random()


def _between(ground: Ground, life: Life) -> None:
    """What happens while no process runs."""
    world = ground.world
    if world.time > LONGEST:
        raise Stuck(f"{LONGEST:.0f} s have passed")
    if life.how == "killed" and world.climate.machine_crashes and not world.quiet and world.faults.random() < 0.5:
        world.trace.step(world.time, "world", "MACHINE DOWN", "hot state is lost")
        _compare_rebuilt(ground)
        ground.hot.lose("another boot")
        _damage(ground)
    world.time += world.faults.choice((0.0, 0.05, 1.0, 4.0))


def _damage(ground: Ground) -> None:
    """A byte of a record that deliver has not finished has flipped. One with an ordering key has no id in its key, so
    that nobody could tell whose end it is."""
    world, log = ground.world, ground.log
    for stream in (PENDING, SLOW):
        for entry in log.everything(stream):
            done = log.of_group(deliver.GROUP, Place(stream, entry.partition))
            if entry.damage or entry.offset in done or "/=" in entry.key:
                continue
            if world.damage.random() < world.climate.damage:
                world.trace.step(world.time, "world", "DAMAGED", entry.source)
                log.damage(entry)
                ground.witness.damaged(entry)


def _reckon(ground: Ground) -> None:
    """The end of a run in which nothing was found on the way."""
    durable, witness = ground.log, ground.witness
    hot = ground.hot
    statuses = {id_: hot.statuses.get(id_) for id_ in witness.trails}
    witness.finish(statuses, unfinished(durable), list(durable.tables[STATE]))
    _compare_rebuilt(ground)


def _compare_rebuilt(ground: Ground) -> None:
    """I5: what a rebuild makes of the log is what hot state was, once that has caught up."""
    # Its life is over.
    ground.hot.owner = None
    kept = copy.deepcopy(ground.hot)
    if not kept.valid:
        return
    caught_up, rebuilt = _recovered(ground, kept), _recovered(ground, HotDurable())
    # What settle has not finished it judges again, before anything builds on it.
    settled = {id_ for id_, trail in ground.witness.trails.items() if not trail.unsettled}
    settled -= _forgotten(ground, caught_up)
    for what in ("statuses", "rows"):
        before, after = _of(ground, caught_up, what, settled), _of(ground, rebuilt, what, settled)
        for id_ in sorted(before.keys() | after.keys()):
            if before.get(id_) != after.get(id_):
                ground.world.accuse(f"I5: in {what} {id_} was {before.get(id_)} and is rebuilt as {after.get(id_)}")
    before, after = sorted(caught_up.marks & settled), sorted(rebuilt.marks & settled)
    if before != after:
        ground.world.accuse(f"I5: marks were {before} and are rebuilt as {after}")
    once = {id_ for id_ in settled if not ground.witness.trails[id_].repeated}
    for turn, places in caught_up.turns.items():
        # What was not asked about yet is entered by a rebuild already.
        now = rebuilt.turns.get(turn, {})
        if any(now.get(id_) != rank for id_, rank in places.items() if id_ in once):
            ground.world.accuse(f"I5: the order of {turn} was {places} and is rebuilt as {now}")


def _forgotten(ground: Ground, durable: HotDurable) -> set[str]:
    """Ended deliveries of whose end the log keeps nothing any more, or not the first of several that came of it."""
    forgets = ground.world.climate.forgets
    several = {id_ for id_, trail in ground.witness.trails.items() if trail.repeated and forgets}
    ended = {id_ for id_, status in durable.statuses.items() if status.state in ENDED}
    results = [_result(entry.value) for entry in ground.log.everything(RESULTS)]
    letters = [_letter(entry.value).id for entry in ground.log.everything(DEADLETTER)]
    kept = {result.id for result in results if result.outcome in ENDED} | set(letters)
    return (ended - kept) | (ended & several)


def _of(ground: Ground, durable: HotDurable, what: str, ids: Container[str]) -> dict[str, Any]:
    found = {id_: each for id_, each in getattr(durable, what).items() if id_ in ids}
    trails = ground.witness.trails
    moving = {trail.webhook.turn for trail in trails.values() if trail.unsettled}
    now = ground.world.wall(ground.world.time)
    ahead = {id_ for id_, status in durable.statuses.items() if status.last_attempt_at > now + CLOCK_STEP}
    for id_ in found.keys() & ahead:
        # The clock was set back since: a retry waits for its own delay from the start that rebuilt it.
        found[id_] = replace(found[id_], due=0) if what == "rows" else structs.replace(found[id_], next_retry_at=0)
    for id_ in found.keys() & durable.rows.keys():
        if what == "rows" and found[id_].held_by == ORDER and trails[id_].webhook.turn in moving:
            # Whether it may go is what settle says of the one before it.
            found[id_] = replace(found[id_], due=0)
    for id_ in found.keys() & durable.statuses.keys():
        if what == "statuses" and trails[id_].repeated:
            # Two records of one delivery, accepted twice under its key: either time is that of its acceptance.
            found[id_] = structs.replace(found[id_], created_at=0)
    return found


def _recovered(ground: Ground, durable: HotDurable) -> HotDurable:
    """Hot state as a start leaves it, without a fault, and closed so that all of it is there."""
    world = World(ground.world.seed, Climate())
    world.clock_error = ground.world.clock_error
    loop = VirtualLoop(ground.world.time)
    clock = SimulatedClock(world, loop)

    async def recover() -> None:
        hot = SimulatedHot(durable, HotSettings(), clock)
        log = SimulatedLog(ground.log, clock)
        sender = SimulatedSender({}, Random(0), ground.witness, lambda _: False)
        house = house_over(world, ground.settings, Engines(log, hot, sender, None), clock)  # pyright: ignore[reportArgumentType]
        await house.reconcile.recover()
        await hot.close()

    loop.run_until_complete(recover())
    return durable
