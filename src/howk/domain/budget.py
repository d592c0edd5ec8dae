"""How full the log may get, and who is let in when it nearly is: decisions on figures and times that are handed in.

Finished history goes first and unfinished work never does, so that only what has not ended can come near the bound.
From `CROWDED` on those who brought most lately have to wait, at the bound everybody.
"""

from typing import Literal, NamedTuple

CROWDED = 0.8
"""From this share of a budget on, whoever is over its share is sent away."""
FOR_FIRST_USE = 0.70
FOR_REBUILDS = 0.73
FOR_PEOPLE = 0.76
"""From these shares on, finished records are dropped before their time: those that nothing asks for any more, those
that a rebuild of hot state reads, and those that people do. All below `CROWDED`: history turns nobody away."""

Level = Literal["roomy", "pressed", "crowded", "closed"]

_RISES: tuple[tuple[Level, float, float], ...] = (
    ("closed", 1.0, 0.95),
    ("crowded", CROWDED, 0.77),
    ("pressed", FOR_FIRST_USE, 0.67),
)
"""Each level, the share from which on it is reached, and the one at which it is left again."""
_RESERVE = 128 << 20
_RESERVE_SHARE = 16
_SLACK = 1.25


class Budget(NamedTuple):
    """Bytes in use, and how many may be. `by_disk`: it is what is left on the disk that bounds them."""

    used: int
    most: int
    by_disk: bool

    @property
    def fill(self) -> float:
        return self.used / self.most if self.most > 0 else 1.0

    def left(self, share: float) -> int:
        """Bytes until this share of it is in use."""
        return max(0, int(self.most * share) - self.used)


def budget(used: int, room: int, disk: int, asked: int) -> Budget:
    """The smaller one of what was `asked` for and what the disk can still take. Of the disk a part is kept back, so
    that what was accepted can be brought to its end behind a closed door."""
    by_disk = used + room - min(_RESERVE, disk // _RESERVE_SHARE)
    return Budget(used, min(asked, by_disk), by_disk < asked)


def level_of(fill: float, before: Level) -> Level:
    """How full it is. A level is left a little below where it is reached, so that it does not come and go."""
    was = [level for level, _, _ in _RISES]
    for position, (level, reached, left) in enumerate(_RISES):
        if fill >= reached or (before in was[: position + 1] and fill > left):
            return level
    return "roomy"


class Fullness(NamedTuple):
    """How full the log was when it was last measured, in words why the door is closed, and after how many more bytes
    it is crowded and full: those that come before it is measured again are counted at the door."""

    level: Level = "roomy"
    fill: float = 0.0
    closed: str = ""
    crowded_after: int = 1 << 62
    full_after: int = 1 << 62


def fullness(found: Budget, before: Level, why: str) -> Fullness:
    """How full it is after a measurement; `why` says it in words where the door is closed."""
    level = level_of(found.fill, before)
    return Fullness(level, found.fill, why if level == "closed" else "", found.left(CROWDED), found.left(1))


class Intake:
    """Bytes that each scope brought in during the last one to two halves of `window` seconds.

    At most `most` scopes are told apart: one that is not among them has brought nothing, as far as is known.
    """

    def __init__(self, window: float, most: int) -> None:
        self._half = window / 2
        self._most = most
        self._ends = 0.0
        self._lately: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self._total = 0

    def took(self, scope: str, size: int, now: float) -> None:
        """So much came of a scope."""
        if now >= self._ends:
            self._turn(now)
        if size <= 0 or (scope not in self._lately and len(self._lately) >= self._most):
            return
        self._lately[scope] = self._lately.get(scope, 0) + size
        self._now[scope] = self._now.get(scope, 0) + size
        self._total += size

    def wait(self, scope: str, now: float) -> float:
        """Seconds that a scope has to wait that has brought clearly more than an equal part of what came of all who
        brought anything; 0.0 for every other one."""
        if now >= self._ends:
            self._turn(now)
        mine = self._lately.get(scope, 0)
        if mine * len(self._lately) <= self._total * _SLACK:
            return 0.0
        return max(0.001, self._ends - now)

    def _turn(self, now: float) -> None:
        """Forget what is too old."""
        long_ago = now >= self._ends + self._half
        for past in (self._before, self._now) if long_ago else (self._before,):
            for scope, size in past.items():
                self._total -= size
                self._lately[scope] -= size
                if not self._lately[scope]:
                    del self._lately[scope]
        self._before, self._now = {} if long_ago else self._now, {}
        self._ends = now + self._half if long_ago else self._ends + self._half
