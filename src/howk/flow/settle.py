"""Settle: the only writer of a delivery's state. Results and commands come in; waiting rows, marks, rows of endpoints,
tombstones and dead letters go to the log with its own progress, and after that the same decisions to hot state with
their watermark.

Decisions are `domain.settlement`; knows neither the sender nor the schedule, only that something may go.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import cast

from msgspec.structs import replace

from howk.domain.delivery import cancelled_result
from howk.domain.records import EndpointRow
from howk.domain.settlement import Rules, undecodable
from howk.flow import journal
from howk.flow.projection import Judged, Judgement, effect_of, judge, judge_results, marks_of, watermark_of
from howk.flow.stage import Emission, Emit
from howk.ports.log import Entry, Record
from howk.ports.state import Effect, HotState
from howk.ports.telemetry import (
    CIRCUIT_MOVES,
    DEAD,
    DELIVERIES,
    END_TO_END,
    RETRIES,
    Event,
    Meter,
    Reporter,
)

GROUP = "settle"


class Settle:
    """The room; its stage runs it one batch at a time. `on_due` gets the time from which the schedule may find
    something, `on_end` is called when deliveries have ended."""

    def __init__(
        self,
        state: HotState,
        rules: Rules,
        meter: Meter,
        reporter: Reporter,
        on_due: Callable[[int], None] = lambda _: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._state = state
        self._rules = rules
        self._meter = meter
        self._reporter = reporter
        self._on_due = on_due
        self._on_end = on_end
        # Of the batch in hand: there is only one at a time.
        self._endpoints: list[EndpointRow] = []
        self._marks: list[str] = []

    async def take(self, batch: Sequence[Entry], emit: Emit) -> None:
        self._end(await judge(batch, self._state, self._rules), emit)

    async def refuse(self, entry: Entry, error: str, emit: Emit) -> None:
        """A dead letter for the delivery that the key names."""
        result = undecodable(entry.source, entry.key, entry.value, entry.at, error)
        self._end(await judge_results((entry,), (result,), self._state, self._rules), emit)

    def _end(self, judgement: Judgement, emit: Emit) -> None:
        # All of them before the first is emitted: what raises here leaves none half done.
        items = judgement.items
        emissions = [_emission(item) for item in items]
        self._endpoints += judgement.endpoints
        self._marks += marks_of(items)
        for emission in emissions:
            emit(emission)
        self._measure(items)

    async def settled(self, emissions: Sequence[Emission]) -> None:
        effects = [cast(Effect, emission.effect) for emission in emissions if emission.effect is not None]
        watermark = watermark_of([emission.entry for emission in emissions])
        due = await self._state.apply(effects, watermark, self._endpoints, self._marks)
        self._endpoints, self._marks = [], []
        if due:
            self._on_due(due)
        self._on_end()

    def _measure(self, items: Sequence[Judged]) -> None:
        retries: Counter[str] = Counter()
        ends: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        latencies: list[float] = []
        for item in items:
            result, decided = item.result, item.decided
            moved = decided.moved
            if decided.row is not None:
                self._tell(decided.row, decided.turned)
            if moved is None:
                continue
            if moved.waiting is not None:
                if not moved.waiting.held_by:
                    retries["http" if result.status_code else "transport"] += 1
                continue
            ends[moved.status.state] += 1
            if moved.dead is not None:
                reasons[moved.dead.reason] += 1
            elif moved.status.state == "delivered":
                latencies.append((result.at - max(result.created_at, result.deliver_at)) / 1000)
        for reason, count in retries.items():
            self._meter.count(RETRIES, count, reason)
        for reason, count in reasons.items():
            self._meter.count(DEAD, count, reason)
        for state, count in ends.items():
            self._meter.count(DELIVERIES, count, state)
        self._meter.observe(END_TO_END, latencies)

    def _tell(self, row: EndpointRow, turned: str) -> None:
        """Say what became of an endpoint; probes in between are only counted."""
        if turned in _MOVES:
            self._meter.count(CIRCUIT_MOVES, 1, turned)
        said = _SAID.get(turned)
        if said is not None:
            event, text = said
            self._reporter.say(event, text, endpoint=row.endpoint, config_id=row.scope, endpoint_id=row.id)


_MOVES = frozenset({"open", "half_open", "closed"})
_SAID: dict[str, tuple[Event, str]] = {
    "open": ("breaker_opened", "too many calls fail: what is for this endpoint is held, and it is tried now and then"),
    "closed": ("breaker_closed", "the breaker of this endpoint is closed: what was held for it goes out"),
    "disabled": ("endpoint_disabled", "the endpoint answered 410: nothing is sent to it until it is enabled"),
    "enabled": ("endpoint_enabled", "the endpoint is enabled"),
    "paused": ("endpoint_paused", "the endpoint is paused: what is for it is held until it is enabled"),
}


def _emission(item: Judged) -> Emission:
    """Nobody waits for a success without an ordering key that ends what never waited."""
    records = records_of(item)
    awaited = bool(records) or journal.is_ordered(item.entry.key)
    return Emission(item.entry, records, effect_of(item), awaited=awaited)


def records_of(item: Judged) -> list[Record]:
    """What a judged result adds to the log. A delivery that waited before has a row to take back when it ends."""
    decided = item.decided
    moved, before = decided.moved, decided.before
    records: list[Record] = []
    if decided.row is not None:
        records.append(journal.stands(decided.row))
    if decided.mark is not None:
        records.append(journal.marks(decided.mark))
    if moved is None:
        return records
    if moved.waiting is not None:
        records.append(journal.waits(moved.waiting))
        return records
    if before is not None and (before.gen or before.series > 1):
        records.append(journal.waits_no_more(moved.status.id))
    if before is None or before.marked:
        # One that is not known any more, as after a kill, may have a mark all the same.
        records.append(journal.marks_no_more(moved.status.id))
    if moved.dead is not None:
        records.append(journal.dead(moved.dead))
    elif moved.status.state == "cancelled" and item.result.outcome != "cancelled":
        ordering_key = item.result.delivery.ordering_key if item.result.delivery else ""
        # What could not be read ends the gen that is current, whatever it was of itself.
        result = replace(item.result, series=moved.status.series, gen=moved.status.gen)
        records.append(journal.outcome(cancelled_result(result), ordering_key))
    return records
