"""What is outside the process and outlives it: time, chance, the trace, and what may go wrong when.

Everything is drawn from one seed, from streams of their own, so that what the workload is does not change when a fault
is drawn more. A run has a *climate*: which faults there are at all, and how often. Runs with few kinds of them are
strict about what may happen; runs with many find what comes of their meeting.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from howk.ports.telemetry import Attempt, Event, Level, Metric

BEGINNING = 1_790_000_000_000
DAMAGED = "simulated: a byte has flipped"
"""What the log says of a record that was damaged on purpose."""
"""2026-09-21T14:13:20Z, in milliseconds."""


class Violation(Exception):
    """Something happened that howk promises never happens."""


class Trace:
    """One line for each step, made only when somebody reads it."""

    def __init__(self) -> None:
        self._steps: list[tuple[float, str, str, tuple[object, ...]]] = []

    def step(self, at: float, actor: str, what: str, *details: object) -> None:
        self._steps.append((at, actor, what, details))

    def __len__(self) -> int:
        return len(self._steps)

    def lines(self, last: int = 0) -> list[str]:
        """The last so many steps, all of them for 0."""
        return [
            f"{at:10.4f}  {actor:<10} {what:<16} {' '.join([str(detail) for detail in details])}".rstrip()
            for at, actor, what, details in self._steps[-last:]
        ]


@dataclass(frozen=True, slots=True)
class Climate:
    """What may go wrong in a run. Rates are for each call of a port."""

    crashes: int = 0
    machine_crashes: int = 0
    stops: int = 0
    before: float = 0.0
    """`Transient` before the act."""
    after: float = 0.0
    """`Transient` though the act happened."""
    full: float = 0.0
    delays: float = 0.0
    longest_delay: float = 0.0
    jumps: int = 0
    partitions: int = 1
    atomic: bool = True
    moody: bool = False
    """Whether receivers fail."""
    cancels: float = 0.06
    """The share of webhooks whose end is asked for."""
    twins: float = 0.0
    """How often a record to be sent comes into the log once more, a while later."""
    damage: float = 0.0
    """How often a record that is not finished is found damaged after the machine was down."""
    leaves: float = 0.0
    """How often a client leaves before it has its answer."""
    freezes: int = 0
    """How often everything stands still for seconds, as under SIGSTOP."""
    restarts: int = 0
    """Stops right after one another, some of which meet a start. What begins after one may be a part of howk (roles),
    or read the log from its beginning."""
    hurried: bool = False
    """Whether a stop waits for less than an attempt may take."""
    steps: int = 0
    """How often the wall clock is set by an hour or more, either way."""
    busy_owners: bool = False
    """Whether owners command their endpoints and set their configs again and again."""
    ordered: float = 0.35
    """The share of webhooks with an ordering key."""
    kept: float = 0.0
    """Seconds for which finished records are kept, 0 for days."""
    disk: int = 0
    """The bytes that the disk of the log takes, 0 for more than are ever written."""

    @property
    def calm(self) -> bool:
        """Nothing goes wrong in howk or under it."""
        return not (self.crashes or self.machine_crashes or self.stops or self.before or self.after or self.full)

    @property
    def forgets(self) -> bool:
        """Whether the log drops what has ended, so that a rebuild does not know of it any more."""
        return bool(self.kept or self.disk)


def climate_of(seed: int) -> Climate:
    """Each kind of fault is there or not, by itself."""
    chance = Random(f"{seed}/climate")

    def maybe(share: float, value: float) -> float:
        return value if chance.random() < share else 0.0

    crashing = chance.random() < 0.6
    climate = Climate(
        crashes=chance.choice((1, 1, 2, 4)) if crashing else 0,
        machine_crashes=chance.choice((0, 0, 1)) if crashing else 0,
        stops=chance.choice((0, 0, 0, 1)),
        before=maybe(0.35, chance.choice((0.01, 0.05, 0.2))),
        after=maybe(0.35, chance.choice((0.01, 0.05, 0.15))),
        full=maybe(0.2, 0.05),
        delays=maybe(0.6, chance.choice((0.05, 0.3))),
        longest_delay=chance.choice((0.005, 0.1, 2.5)),
        jumps=chance.choice((0, 0, 0, 1, 3)),
        partitions=chance.choice((1, 1, 3)),
        atomic=chance.random() < 0.85,
        moody=chance.random() < 0.85,
        cancels=chance.choice((0.06, 0.06, 0.06, 0.5)),
        damage=chance.choice((0.0, 0.0, 0.5)),
    )
    return replace(
        climate,
        leaves=maybe(0.2, chance.choice((0.1, 0.5))),
        freezes=chance.choice((0, 0, 0, 0, 1, 3)),
        restarts=chance.choice((0, 0, 0, 0, 0, 0, 2, 5)),
        hurried=chance.random() < 0.3,
        steps=chance.choice((0, 0, 0, 0, 0, 1, 2)),
        busy_owners=chance.random() < 0.2,
        ordered=chance.choice((0.35, 0.35, 0.35, 0.9)),
        kept=maybe(0.2, chance.choice((0.5, 4.0))),
        disk=chance.choice((0, 0, 0, 0, 0, 24_000, 60_000)),
    )


STORMS = {
    "repeats": Climate(delays=0.4, longest_delay=2.5, moody=True, twins=0.7),
    "cancels": Climate(
        crashes=4, machine_crashes=1, delays=0.3, longest_delay=0.5, partitions=3, moody=True, cancels=0.5
    ),
    "damage": Climate(crashes=4, machine_crashes=1, delays=0.3, longest_delay=0.5, moody=True, damage=0.5),
    "restarts": Climate(crashes=4, before=0.05, restarts=5, steps=2, moody=True, busy_owners=True),
    "owners": Climate(delays=0.1, longest_delay=0.5, moody=True, busy_owners=True, ordered=0.7),
}
"""Climates for what those that are drawn bring too seldom."""


class SimulatedRandom:
    """The `Random` port. Ids and nonces of all lives come from one stream."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def bytes(self, count: int) -> bytes:
        return self._chance.randbytes(count)


class NoMeter:
    """The `Meter` port: figures are not what is looked at here."""

    def count(self, metric: Metric, amount: int = 1, label: str = "", second: str = "") -> None:
        pass

    def observe(self, metric: Metric, values: Sequence[float]) -> None:
        pass

    def gauge(self, metric: Metric, value: float, label: str = "") -> None:
        pass


class World:
    """Time and wall clock, chance, trace, and what was found to be wrong."""

    def __init__(self, seed: int, climate: Climate) -> None:
        self.seed = seed
        self.climate = climate
        self.trace = Trace()
        self.violations: list[str] = []
        self.faults = Random(f"{seed}/faults")
        self.network = Random(f"{seed}/network")
        self.order = Random(f"{seed}/order")
        self.damage = Random(f"{seed}/damage")
        self.twins = Random(f"{seed}/twins")
        self.clients = Random(f"{seed}/clients")
        self.operators = Random(f"{seed}/operators")
        self.random = SimulatedRandom(Random(f"{seed}/random"))
        self.time = 0.0
        """At which the last life ended."""
        self.now: Callable[[], float] = lambda: self.time
        self.clock_error = 0
        """Milliseconds by which the wall clock is wrong."""
        self.furthest = 0
        self.behind = False
        """A life began while the wall clock was behind what it had shown."""
        self.corrected = False
        """It has been set ahead since: what that life had put off by it is due at once."""
        self.quiet = False
        """No fault happens any more."""

    def wall(self, time: float) -> int:
        return BEGINNING + round(time * 1000) + self.clock_error

    def shown(self, now: int) -> int:
        """The same, once howk has gone by it."""
        self.furthest = max(self.furthest, now)
        return now

    def begin(self, time: float) -> None:
        """Another life begins."""
        self.behind = self.behind or self.wall(time) < self.furthest

    def step_clock(self, amount: int) -> None:
        """Somebody sets the wall clock."""
        self.clock_error += amount
        self.corrected = self.corrected or (self.behind and amount > 0)

    def right_clock(self, time: float) -> None:
        """End the error of the wall clock; what it has shown stays in the past."""
        self.step_clock(max(0, self.furthest - (BEGINNING + round(time * 1000))) - self.clock_error)

    def accuse(self, what: str) -> None:
        """Note that a promise is broken."""
        self.violations.append(what)


class Ear:
    """The `Reporter` port: what is said goes into the trace, and a fault of howk's own is a violation."""

    def __init__(self, world: World) -> None:
        self._world = world

    def wants(self, level: Level) -> bool:
        return level != "debug"

    def attempts(self, attempts: Sequence[Attempt]) -> None:
        pass

    def say(self, event: Event, message: str, **fields: str | int | float) -> None:
        self._world.trace.step(self._world.now(), "howk", event, message)

    def warn(self, event: Event, message: str, **fields: str | int | float) -> None:
        self._world.trace.step(self._world.now(), "howk", event, fields.get("stage", ""), message)
        # A record that was damaged on purpose is told, and dead-lettered like any other.
        if event == "stage_stalled" or (event == "undecodable" and DAMAGED not in message):
            self._world.accuse(f"{event}: {message}")

    def fail(self, event: Event, message: str, **fields: str | int | float) -> None:
        self._world.trace.step(self._world.now(), "howk", event, message)
        self._world.accuse(f"{event}: {message} {fields}")
