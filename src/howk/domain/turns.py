"""The deliver room's other queue: jobs with an ordering key that wait for those before them, each turn first in, first
out. Bounded as a whole, and no turn takes more than a share of what is free.

Those that come `back`, after a failure or a hold, stand beside those that are new and not behind them: they come before
them by right, and only hot state knows by how much. Time is monotonic seconds and passed in; a job is known by its
identity.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

J = TypeVar("J")

_SHARE = 16
_LOOK_EVERY = 0.25
_STIRS_FOR = 1.0
_IN_ROTATION = 16


class TurnLimits(NamedTuple):
    """How many jobs and bytes may wait in all, and for how many seconds each."""

    window: int
    window_bytes: int
    patience: float = 2.0


class _Waiting(NamedTuple, Generic[J]):
    job: J
    turn: str
    size: int
    since: float
    back: bool


class Turns(Generic[J]):
    """The queue."""

    def __init__(self, limits: TurnLimits) -> None:
        self._limits = limits
        # Those that are new, and those that come back.
        self._queues: dict[str, OrderedDict[int, _Waiting[J]]] = {}
        self._back: dict[str, OrderedDict[int, _Waiting[J]]] = {}
        # All of them, longest waiting first.
        self._all: OrderedDict[int, _Waiting[J]] = OrderedDict()
        self._bytes = 0
        # Turns that may be another's by now, and since when.
        self._stirred: dict[str, float] = {}
        self._look_at = 0.0

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, job: J, turn: str, size: int, now: float, *, back: bool = False) -> bool:
        """Wait behind the others of the turn that are new, or that come back as well; False where there is no room."""
        queues = self._back if back else self._queues
        queue = queues.get(turn)
        free = self._limits.window - len(self._all)
        free_bytes = self._limits.window_bytes - self._bytes
        if free <= 0 or size > free_bytes:
            return False
        if queue and (_SHARE * (len(queue) + 1) > free or _SHARE * _size(queue, size) > free_bytes):
            return False
        if queue is None:
            queue = queues[turn] = OrderedDict()
        queue[id(job)] = self._all[id(job)] = _Waiting(job, turn, size, now, back)
        self._bytes += size
        return True

    def waits(self, turn: str) -> bool:
        """Whether anybody waits for this turn."""
        return turn in self._queues or turn in self._back

    def stir(self, turn: str, now: float) -> None:
        """One that had this turn has come back: somebody may be waiting for it."""
        if self.waits(turn):
            self._stirred[turn] = now

    def heads(self, now: float) -> list[J]:
        """Who may be the first of each turn that is worth asking for, to be asked for together: of those that were
        stirred lately, of a few in rotation, and a few times a second of all of them, since not every end is known
        here."""
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            before = now - _STIRS_FOR
            self._stirred = {turn: at for turn, at in self._stirred.items() if at > before and self.waits(turn)}
            return self._first_of([*self._queues, *self._back])
        asked = [turn for turn in self._stirred if self.waits(turn)]
        for queues in (self._queues, self._back):
            for turn in list(islice(queues, _IN_ROTATION)):
                # To the end of the rotation.
                queues[turn] = queues.pop(turn)
                asked.append(turn)
        return self._first_of(asked)

    def _first_of(self, turns: Sequence[str]) -> list[J]:
        return [
            next(iter(queue.values())).job
            for turn in dict.fromkeys(turns)
            for queue in (self._queues.get(turn), self._back.get(turn))
            if queue
        ]

    def leave(self, job: J) -> bool:
        """The job waits no longer; False where it did not."""
        waiting = self._all.pop(id(job), None)
        if waiting is None:
            return False
        queues = self._back if waiting.back else self._queues
        queue = queues[waiting.turn]
        del queue[id(job)]
        # Whoever is the next has somebody before it again.
        self._stirred.pop(waiting.turn, None)
        if not queue:
            del queues[waiting.turn]
        self._bytes -= waiting.size
        return True

    def overdue(self, now: float) -> list[J]:
        """Those that have waited too long, longest first."""
        late: list[J] = []
        for waiting in self._all.values():
            if now - waiting.since < self._limits.patience:
                break
            late.append(waiting.job)
        return late

    def drain(self) -> list[J]:
        """Forget and give back everything."""
        found = [waiting.job for waiting in self._all.values()]
        self._queues.clear()
        self._back.clear()
        self._all.clear()
        self._stirred.clear()
        self._bytes = 0
        return found


def _size(queue: OrderedDict[int, _Waiting[J]], more: int) -> int:
    # The oldest stands for all: a turn is of one sender and of like sizes, and the whole is bounded in any case.
    return (len(queue) + 1) * max(more, next(iter(queue.values())).size)
