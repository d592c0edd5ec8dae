"""Reconcile: makes hot state what the log says, at start or after it was lost, before settle and the slow lane go on.

Reads `state`, `deadletter`, `results` and what is unfinished of `pending` and `slow`; judges by (series, gen) with
settle's own fold, never by clock. The door and first attempts go on meanwhile.
"""

from base64 import b64encode
from collections.abc import AsyncIterator, Sequence

from howk.domain.delivery import Status, dead_status, move, pending_status, waiting_status
from howk.domain.errors import Undecodable
from howk.domain.records import (
    DEADLETTER,
    PENDING,
    RESULTS,
    SLOW,
    STATE,
    VERSION,
    DeadLetter,
    Delivery,
    Waiting,
    encode,
    reader,
)
from howk.domain.retry import RetryPolicy
from howk.domain.settlement import read_result
from howk.flow import journal
from howk.flow.journal import Journal
from howk.flow.projection import counted_again, effect_of, judge, watermark_of
from howk.flow.stage import each
from howk.ports.clock import Clock
from howk.ports.log import Entry, Place
from howk.ports.state import Claim, Condition, Effect, HotState, Rebuild
from howk.ports.telemetry import REBUILD, Meter, Reporter

_read_delivery = reader(Delivery)
_read_waiting = reader(Waiting)
_read_dead = reader(DeadLetter)


class Reconcile:
    """The room. `deliver` and `settle` are the names of the groups whose progress says what is unfinished."""

    def __init__(
        self,
        journal: Journal,
        state: HotState,
        policy: RetryPolicy,
        clock: Clock,
        meter: Meter,
        reporter: Reporter,
        *,
        deliver: str,
        settle: str,
    ) -> None:
        self._journal = journal
        self._state = state
        self._policy = policy
        self._clock = clock
        self._meter = meter
        self._reporter = reporter
        self._deliver = deliver
        self._settle = settle

    async def recover(self, *, from_beginning: bool = False) -> None:
        """Bring hot state up to what settle has finished; idempotent, to be called again after `Transient`."""
        self._meter.gauge(REBUILD, 0.0)
        condition = await self._state.condition()
        finished = await self._settled()
        reason = "it was asked for" if from_beginning else await self._why_rebuild(condition, finished)
        if reason:
            await self._rebuild(reason, finished)
        else:
            await self._catch_up(condition, finished)
        await each(self._unfinished(SLOW), self._mark_queued)
        await each(self._unfinished(PENDING), self._note_pending)
        self._meter.gauge(REBUILD, 1.0)

    async def _settled(self) -> dict[Place, int]:
        progress = await self._journal.log.progress(RESULTS, self._settle)
        return {place: done.next for place, done in progress.items()}

    async def _why_rebuild(self, condition: Condition, finished: dict[Place, int]) -> str:
        if not condition.valid:
            return condition.reason
        bounds = await self._journal.log.bounds(RESULTS)
        for place, end in finished.items():
            mark = condition.watermark.get(place.partition, 0)
            first, last = bounds[place]
            # Ahead of what settle has finished is well: progress without a record is written a little later.
            if mark > last:
                return "it is ahead of the log"
            if mark < end and mark < first:
                return "the results it lacks are no longer kept"
        return ""

    async def _catch_up(self, condition: Condition, finished: dict[Place, int]) -> None:
        for place, end in finished.items():
            start = condition.watermark.get(place.partition, 0)
            await each(self._journal.read(RESULTS, place.partition, start, end), self._settle_again)

    async def _settle_again(self, batch: Sequence[Entry]) -> None:
        # What these decisions append is in the log: they were finished in the same act.
        judged = await judge(batch, self._state, self._policy)
        await self._state.apply([effect for item in judged if (effect := effect_of(item))], watermark_of(batch))

    async def _rebuild(self, reason: str, finished: dict[Place, int]) -> None:
        first_start = not any(finished.values())
        if not first_start:
            self._reporter.say("rebuild_started", f"hot state is rebuilt from the log: {reason}")
        rebuild = await self._state.rebuild()
        # Later rows stand over earlier ones: queued, then delivered, then given up, then waiting.
        for lane in (PENDING, SLOW):
            await each(self._unfinished(lane), lambda batch: _restore_pending(rebuild, batch))
        self._meter.gauge(REBUILD, 0.25)
        for place, end in finished.items():
            start = (await self._journal.log.bounds(RESULTS))[place][0]
            results = self._journal.read(RESULTS, place.partition, start, end)
            await each(results, lambda batch: self._restore_results(rebuild, batch))
        self._meter.gauge(REBUILD, 0.5)
        await each(self._journal.all(DEADLETTER), lambda batch: self._restore_dead(rebuild, batch))
        self._meter.gauge(REBUILD, 0.75)
        await each(self._journal.replay(STATE), lambda batch: self._restore_waiting(rebuild, batch))
        await rebuild.seal({place.partition: end for place, end in finished.items()})
        if not first_start:
            self._reporter.say("rebuild_finished", "hot state is whole again")

    async def _restore_results(self, rebuild: Rebuild, batch: Sequence[Entry]) -> None:
        results = [read_result(entry.value, entry.source, entry.key, entry.at, entry.damage) for entry in batch]
        delivered = {result.id: result for result in reversed(results) if result.outcome == "delivered"}
        known = await self._state.standing(list(delivered))
        fresh = [r for r, standing in zip(delivered.values(), known, strict=True) if not (standing and standing.ended)]
        await rebuild.restore([Effect(move(result, self._policy).status) for result in fresh])
        await rebuild.count(counted_again(results, self._policy, self._clock.now()))

    async def _restore_dead(self, rebuild: Rebuild, batch: Sequence[Entry]) -> None:
        effects: list[Effect] = []
        for entry in batch:
            try:
                effects.append(Effect(dead_status(_read_dead(entry.value))))
            except Undecodable as error:
                self._reporter.warn("undecodable", str(error), source=entry.source)
        await rebuild.restore(effects)

    async def _restore_waiting(self, rebuild: Rebuild, batch: Sequence[Entry]) -> None:
        effects: list[Effect] = []
        lost: list[DeadLetter] = []
        for entry in batch:
            try:
                if entry.damage:
                    raise Undecodable(entry.damage)
                waiting = _read_waiting(entry.value)
            except Undecodable as error:
                lost.append(self._lost(entry, str(error)))
                continue
            effects.append(Effect(waiting_status(waiting), waiting.due_at, encode(waiting.delivery)))
        await rebuild.restore([*effects, *(Effect(dead_status(letter)) for letter in lost)])
        if lost:
            records = [(journal.dead(letter), journal.waits_no_more(letter.id)) for letter in lost]
            await self._journal.append([record for pair in records for record in pair])

    def _lost(self, entry: Entry, error: str) -> DeadLetter:
        source = f"{entry.stream}/{entry.key}"
        self._reporter.warn("undecodable", error, source=source)
        raw = b64encode(entry.value).decode()
        now = self._clock.now()
        return DeadLetter(
            v=VERSION, id=entry.key, scope="", reason="undecodable", at=now, error=error, source=source, raw_base64=raw
        )

    async def _mark_queued(self, batch: Sequence[Entry]) -> None:
        await self._state.release([Claim(d.targets[0].id, d.series, d.gen, b"", 0) for d in _deliveries(batch)])

    async def _note_pending(self, batch: Sequence[Entry]) -> None:
        statuses = _pending(batch)
        known = await self._state.standing([status.id for status in statuses])
        # What is known needs no note, and noted twice it would count twice as received.
        await self._state.accept([status for status, found in zip(statuses, known, strict=True) if found is None])

    def _unfinished(self, stream: str) -> AsyncIterator[Sequence[Entry]]:
        return self._journal.unfinished(stream, self._deliver)


def _deliveries(batch: Sequence[Entry]) -> list[Delivery]:
    """The readable ones; deliver dead-letters the others when it meets them."""
    found: list[Delivery] = []
    for entry in batch:
        try:
            delivery = _read_delivery(entry.value)
        except Undecodable:
            continue
        if delivery.targets:
            found.append(delivery)
    return found


def _pending(batch: Sequence[Entry]) -> list[Status]:
    return [pending_status(delivery, target.id) for delivery in _deliveries(batch) for target in delivery.targets]


async def _restore_pending(rebuild: Rebuild, batch: Sequence[Entry]) -> None:
    await rebuild.restore([Effect(status) for status in _pending(batch)])
