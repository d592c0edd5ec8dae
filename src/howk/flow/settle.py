"""Settle: the only writer of a delivery's state. Results come in; waiting rows, tombstones and dead letters go to the
log with its own progress, and after that the same decisions to hot state with their watermark.

Decisions are `domain.settlement`; knows neither the sender nor the schedule, only that something is due.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import cast

from howk.domain.delivery import Moved, Standing
from howk.domain.retry import RetryPolicy
from howk.domain.settlement import undecodable
from howk.flow import journal
from howk.flow.projection import Judged, effect_of, judge, judge_results, watermark_of
from howk.flow.stage import Emission, Emit
from howk.ports.log import Entry, Record
from howk.ports.state import Effect, HotState
from howk.ports.telemetry import DEAD, DELIVERIES, END_TO_END, RETRIES, Meter

GROUP = "settle"


class Settle:
    """The room; its stage runs it one batch at a time."""

    def __init__(
        self, state: HotState, policy: RetryPolicy, meter: Meter, on_due: Callable[[int], None] = lambda _: None
    ) -> None:
        self._state = state
        self._policy = policy
        self._meter = meter
        self._on_due = on_due

    async def take(self, batch: Sequence[Entry], emit: Emit) -> None:
        self._end(await judge(batch, self._state, self._policy), emit)

    async def refuse(self, entry: Entry, error: str, emit: Emit) -> None:
        """A dead letter for the delivery that the key names."""
        result = undecodable(entry.source, entry.key, entry.value, entry.at, error)
        self._end(await judge_results((entry,), (result,), self._state, self._policy), emit)

    def _end(self, judged: Sequence[Judged], emit: Emit) -> None:
        # All of them before the first is emitted: what raises here leaves none half done.
        emissions = [Emission(item.entry, records_of(item.moved, item.before), effect_of(item)) for item in judged]
        for emission in emissions:
            emit(emission)
        self._measure(judged)

    async def settled(self, emissions: Sequence[Emission]) -> None:
        effects = [cast(Effect, emission.effect) for emission in emissions if emission.effect is not None]
        await self._state.apply(effects, watermark_of([emission.entry for emission in emissions]))
        due = [effect.due_at for effect in effects if effect.due_at]
        if due:
            self._on_due(min(due))

    def _measure(self, judged: Sequence[Judged]) -> None:
        retries: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        latencies: list[float] = []
        for _, result, moved, _ in judged:
            if moved is None:
                continue
            if moved.waiting is not None:
                if not moved.waiting.held_by:
                    retries["http" if result.status_code else "transport"] += 1
            elif moved.dead is not None:
                reasons[moved.dead.reason] += 1
            else:
                latencies.append((result.at - max(result.created_at, result.deliver_at)) / 1000)
        for reason, count in retries.items():
            self._meter.count(RETRIES, count, reason)
        for reason, count in reasons.items():
            self._meter.count(DEAD, count, reason)
        self._meter.count(DELIVERIES, reasons.total(), "dead")
        self._meter.count(DELIVERIES, len(latencies), "delivered")
        self._meter.observe(END_TO_END, latencies)


def records_of(moved: Moved | None, before: Standing | None) -> list[Record]:
    """What a move adds to the log. A delivery that waited before has a row to take back when it ends."""
    if moved is None:
        return []
    if moved.waiting is not None:
        return [journal.waits(moved.waiting)]
    waited = before is not None and (before.series, before.gen) > (1, 0)
    taken_back = [journal.waits_no_more(moved.status.id)] if waited else []
    return taken_back + ([journal.dead(moved.dead)] if moved.dead is not None else [])
