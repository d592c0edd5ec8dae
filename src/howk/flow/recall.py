"""Recall: keeps hot state's idempotency keys what `howk.keys` says, from the offset that hot state has reached.

At start, and after hot state was lost, no request with a key is answered before a turn has come to the end of the
stream; from then on turns carry on what the door has confirmed, and drop from the stream what is older than a key
lives. Knows nothing of requests.
"""

from collections.abc import Mapping, Sequence

from howk.domain.errors import NewerRecord, Undecodable
from howk.domain.idempotency import scoped
from howk.domain.records import KEYS, KeyRecord, reader
from howk.flow.journal import Journal
from howk.flow.stage import each
from howk.ports.clock import Clock
from howk.ports.log import Entry, Place
from howk.ports.state import Follow, HotState, KeyEnd
from howk.ports.telemetry import Reporter

_read = reader(KeyRecord)
_STALLED = 60.0
_SOON = 0.05
_LOOK_AGAIN = 60_000


class Recall:
    """The room; a ticker calls `turn`. `problem` says why keys can't be recalled, "" when they can; `ttl` is how long
    they live, in milliseconds."""

    def __init__(
        self, journal: Journal, state: HotState, clock: Clock, reporter: Reporter, *, ttl: int, poll: float = 0.5
    ) -> None:
        self.problem = ""
        self._journal = journal
        self._state = state
        self._clock = clock
        self._reporter = reporter
        self._ttl = ttl
        self._poll = poll
        self._reached: Mapping[int, int] = {}
        # Nothing of a partition is too old before this.
        self._look_at: dict[int, int] = {}

    async def turn(self) -> float:
        """Read what is new to its end; the seconds until it is worth while again."""
        self._reached = await self._state.accept(())
        bounds = await self._journal.log.bounds(KEYS)
        ends: dict[int, int] = {}
        try:
            for place, (first, end) in bounds.items():
                start = self._reached.get(place.partition, first)
                ends[place.partition] = end
                # A mark beyond the end is of another log.
                start = max(first, start) if start <= end else first
                await each(self._journal.read(KEYS, place.partition, start, end), self._apply)
        except NewerRecord as error:
            self._stall(str(error))
            return _STALLED
        await self._state.accept((), (), Follow(self._reached, ends, whole=True))
        dropped = [await self._drop_old(place, first, end) for place, (first, end) in bounds.items()]
        return _SOON if any(dropped) else self._poll

    async def _apply(self, batch: Sequence[Entry]) -> None:
        reached = {**self._reached, batch[-1].partition: batch[-1].offset + 1}
        ends = [end for entry in batch if (end := self._end(entry))]
        self._reached = await self._state.accept((), ends, Follow(self._reached, reached))

    async def _drop_old(self, place: Place, first: int, end: int) -> bool:
        """A bounded number of records a turn, as many as the log can drop; whether there were any."""
        now = self._clock.now()
        if first == end or now < self._look_at.get(place.partition, 0):
            return False
        if await self._journal.log.trim(KEYS, place.partition, end, now - self._ttl + 1) > first:
            return True
        self._look_at[place.partition] = now + _LOOK_AGAIN
        return False

    def _end(self, entry: Entry) -> KeyEnd | None:
        try:
            if entry.damage:
                raise Undecodable(entry.damage)
            record = _read(entry.value)
        except Undecodable as error:
            self._reporter.warn("undecodable", f"an idempotency key is lost: {error}", source=entry.source)
            return None
        return KeyEnd(scoped(record.scope, record.key), record.body, record.id, record.accepted_at)

    def _stall(self, problem: str) -> None:
        if not self.problem:
            self._reporter.warn("stage_stalled", problem, stage="keys")
        self.problem = problem
