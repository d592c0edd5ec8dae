"""Schedule: claims the retries that are due and the holds that their endpoint admits, puts them into the slow lane, and
lets their leases go. What waited in vain ends here, by a result.

Append first, release after: a crash in between claims the same retry again, which deliver's gate tells apart by
(series, gen).
"""

from msgspec.structs import replace

from howk.domain.delivery import BREAKER, LIMIT, ORDER, PAUSE, unsent
from howk.domain.records import SLOW, Delivery, encode, reader
from howk.domain.settlement import forgotten
from howk.flow import journal
from howk.flow.journal import Journal
from howk.ports.clock import Clock
from howk.ports.log import Record
from howk.ports.state import Claim, HotState
from howk.ports.telemetry import CIRCUITS_OPEN, HELD, RETRY_DEPTH, SLOW_LANE, Meter

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
        due, next_due, waiting, held, open_breakers, idle = await self._state.claim(
            self._clock.now(), self._batch, self._lease
        )
        self._meter.gauge(RETRY_DEPTH, waiting - sum(held.values()))
        self._meter.gauge(CIRCUITS_OPEN, open_breakers)
        for reason in (BREAKER, LIMIT, PAUSE, ORDER):
            self._meter.gauge(HELD, held.get(reason, 0), reason)
        if idle:
            await self._journal.append([journal.outcome(forgotten(row, self._clock.now())) for row in idle])
        if due and self._clock.monotonic() < until:
            records = [_onward(claim, self._clock.now()) for claim in due]
            await self._journal.append(records)
            self._meter.count(SLOW_LANE, sum([record.stream == SLOW for record in records]))
            await self._state.release(due)
        if len(due) >= self._batch:
            return _REPEAT_AT_ONCE
        wait = (next_due - self._clock.now()) / 1000 if next_due else self._poll
        return min(max(wait, 0.001), self._poll)


def _onward(claim: Claim, now: int) -> Record:
    delivery = _read(claim.record)
    if claim.why == "due":
        return journal.slow(delivery, claim.record)
    if claim.why == "admitted":
        delivery = replace(delivery, admitted=True, probe=claim.probe)
        return journal.slow(delivery, encode(delivery))
    return journal.outcome(unsent(delivery, claim.why, now), delivery.ordering_key)
