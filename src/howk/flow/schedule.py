"""Schedule: claims the retries that are due, puts them into the slow lane, and lets their leases go.

Append first, release after: a crash in between claims the same retry again, which deliver's gate tells apart by
(series, gen).
"""

from howk.domain.records import Delivery, reader
from howk.flow import journal
from howk.flow.journal import Journal
from howk.ports.clock import Clock
from howk.ports.state import HotState
from howk.ports.telemetry import RETRY_DEPTH, SLOW_LANE, Meter

_read = reader(Delivery)
_REPEAT_AT_ONCE = 0.0


class Schedule:
    """The room; a ticker calls `turn`. `poll` is the longest pause, `lease` how long a claim is kept, in seconds."""

    def __init__(
        self,
        log: Journal,
        state: HotState,
        clock: Clock,
        meter: Meter,
        *,
        batch: int = 500,
        poll: float = 1.0,
        lease: float = 30.0,
    ) -> None:
        self._journal = log
        self._state = state
        self._clock = clock
        self._meter = meter
        self._batch = batch
        self._poll = poll
        self._lease = lease

    async def turn(self) -> float:
        """One claim; answers with the seconds until the next one is worth while, 0 when a full batch was due."""
        until = self._clock.monotonic() + self._lease
        due, next_due, waiting = await self._state.claim(self._clock.now(), self._batch, self._lease)
        self._meter.gauge(RETRY_DEPTH, waiting)
        if due and self._clock.monotonic() < until:
            await self._journal.append([journal.slow(_read(claim.record), claim.record) for claim in due])
            self._meter.count(SLOW_LANE, len(due))
            await self._state.release(due)
        if len(due) >= self._batch:
            return _REPEAT_AT_ONCE
        wait = (next_due - self._clock.now()) / 1000 if next_due else self._poll
        return min(max(wait, 0.001), self._poll)
