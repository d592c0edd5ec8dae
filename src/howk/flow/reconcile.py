"""Reconcile: makes hot state what the log says, at start or after it was lost, before settle and the slow lane go on.

Reads `state`, `deadletter`, `results` and what is unfinished of `pending` and `slow`; judges by (series, gen) with
settle's own fold, never by clock. The door goes on meanwhile, and so do first attempts once it knows which endpoints
are closed and what is to be cancelled.
"""

from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence

from msgspec.structs import replace

from howk.domain.delivery import (
    CLOCK_STEP,
    Status,
    dead_status,
    due_again,
    move,
    pending_status,
    ranked,
    turn_of,
    unsettled_status,
)
from howk.domain.endpoints import ENDPOINT_IDS
from howk.domain.errors import NewerRecord, Undecodable
from howk.domain.records import (
    DEADLETTER,
    PENDING,
    RESULTS,
    SLOW,
    STATE,
    VERSION,
    DeadLetter,
    Delivery,
    EndpointRow,
    Result,
    Waiting,
    reader,
)
from howk.domain.settlement import COMMANDS, Rules
from howk.flow import journal
from howk.flow.journal import Journal
from howk.flow.projection import counted_again, effects_of, judge, marks_of, restored, retold, watermark_of
from howk.flow.stage import each
from howk.ports.clock import Clock
from howk.ports.log import Entry, Place
from howk.ports.state import Claim, Condition, Effect, HotState, Rebuild
from howk.ports.telemetry import REBUILD, Meter, Reporter

_read_delivery = reader(Delivery)
_read_waiting = reader(Waiting)
_read_result = reader(Result)
_read_dead = reader(DeadLetter)
_read_endpoint = reader(EndpointRow)


class Reconcile:
    """The room. `deliver` and `settle` are the names of the groups whose progress says what is unfinished."""

    def __init__(
        self,
        journal: Journal,
        state: HotState,
        rules: Rules,
        clock: Clock,
        meter: Meter,
        reporter: Reporter,
        *,
        deliver: str,
        settle: str,
    ) -> None:
        self._journal = journal
        self._state = state
        self._rules = rules
        self._clock = clock
        self._meter = meter
        self._reporter = reporter
        self._deliver = deliver
        self._settle = settle
        self._rebuilt = False

    async def recover(self, *, from_beginning: bool = False, on_stops: Callable[[], None] = lambda: None) -> None:
        """Bring hot state up to what settle has finished; idempotent, to be called again after `Transient`. `on_stops`
        is called once it knows every endpoint and what is to be cancelled: no first attempt should be made before."""
        self._meter.gauge(REBUILD, 0.0)
        condition = await self._state.condition()
        finished = await self._settled()
        reason = await self._why_rebuild(condition, finished, from_beginning=from_beginning)
        if reason:
            await self._rebuild(reason, finished, on_stops)
        else:
            await self._catch_up(condition, finished)
            on_stops()
        for lane in (SLOW, PENDING):
            await each(self._unfinished(lane), self._note_queued)
        await each(self._journal.unfinished(RESULTS, self._settle), self._note_unsettled)
        self._meter.gauge(REBUILD, 1.0)

    async def _settled(self) -> dict[Place, int]:
        progress = await self._journal.log.progress(RESULTS, self._settle)
        return {place: done.next for place, done in progress.items()}

    async def _why_rebuild(self, condition: Condition, finished: dict[Place, int], *, from_beginning: bool) -> str:
        if not condition.valid:
            return condition.reason
        if self._rebuilt:
            # What comes after it failed and is done again: first attempts have begun, and go by what it knows.
            return ""
        if from_beginning:
            return "it was asked for"
        bounds = await self._journal.log.bounds(RESULTS)
        for place, end in finished.items():
            mark = condition.watermark.get(place.partition, 0)
            first, last = bounds[place]
            # Ahead of what settle has finished is well: progress without a record is written a little later.
            if mark > last:
                return "it is ahead of the log"
            if mark < end and mark < first:
                return "the results it lacks are no longer kept"
            if await self._was_later(place, first, last):
                return "the clock was set back"
        return ""

    async def _was_later(self, place: Place, first: int, last: int) -> bool:
        """Whether the newest result was written in what is the future now: then due times are off by as much."""
        newest = 0

        async def note(batch: Sequence[Entry]) -> None:
            nonlocal newest
            newest = max([newest, *(entry.at for entry in batch if not entry.damage)])

        await each(self._journal.read(RESULTS, place.partition, max(first, last - 1), last), note)
        return newest > self._clock.now() + CLOCK_STEP

    async def _catch_up(self, condition: Condition, finished: dict[Place, int]) -> None:
        lacking = [(place, condition.watermark.get(place.partition, 0), end) for place, end in finished.items()]
        # Known again first, as they were to settle: of what nobody knows a cancel would come to nothing this time.
        for take in (self._note_unsettled, self._settle_again):
            for place, start, end in lacking:
                if start < end:
                    await each(self._journal.read(RESULTS, place.partition, start, end), take)
        # Not judged again: that would need the windows as they were.
        await each(self._journal.replay(STATE, ENDPOINT_IDS), self._learn)
        # A cancel is judged by what is known of its delivery, and a first attempt is not known yet.
        await each(self._journal.replay(STATE, journal.MARK), self._learn_marks)

    async def _settle_again(self, batch: Sequence[Entry]) -> None:
        # What these decisions append is in the log: they were finished in the same act.
        items = (await judge(batch, self._state, self._rules)).items
        await self._state.apply(effects_of(items), watermark_of(batch), (), marks_of(items))

    async def _learn(self, batch: Sequence[Entry]) -> None:
        await self._state.apply((), {}, self._endpoints(batch))

    async def _learn_marks(self, batch: Sequence[Entry]) -> None:
        await self._state.apply((), {}, (), _marked(batch))

    async def _rebuild(self, reason: str, finished: dict[Place, int], on_stops: Callable[[], None]) -> None:
        first_start = not any(finished.values())
        if not first_start:
            self._reporter.say("rebuild_started", f"hot state is rebuilt from the log: {reason}")
        rebuild = await self._state.rebuild()
        for prefix in (ENDPOINT_IDS, journal.MARK):
            await each(self._journal.replay(STATE, prefix), lambda batch: self._restore_stops(rebuild, batch))
        on_stops()
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
        await each(self._journal.replay(STATE), lambda batch: self._restore_state(rebuild, batch))
        unsettled = self._journal.unfinished(RESULTS, self._settle)
        await each(unsettled, lambda batch: self._restore_last_ends(rebuild, batch))
        # Whatever an answer that does not come says of it: once it is valid again, this was it.
        self._rebuilt = True
        await rebuild.seal({place.partition: end for place, end in finished.items()})
        if not first_start:
            self._reporter.say("rebuild_finished", "hot state is whole again")

    async def _restore_results(self, rebuild: Rebuild, batch: Sequence[Entry]) -> None:
        self._tell_damage(batch)
        policy, now = self._rules.retry, self._clock.now()
        results, retried = retold(batch, policy, now)
        ends = {result.id: result for result in reversed(results) if result.outcome in ("delivered", "cancelled")}
        known = (await self._state.standing(list(ends))).deliveries
        fresh = [r for r, standing in zip(ends.values(), known, strict=True) if not (standing and standing.ended)]
        # What settle has ended, though a success of another record of it came in before it could say so.
        fresh += [result for result in results if result.settled]
        await rebuild.restore([Effect(move(result, self._rules.retry).status) for result in fresh])
        await rebuild.count([*counted_again(results, policy, now), *retried])

    def _tell_damage(self, batch: Sequence[Entry]) -> None:
        for entry in batch:
            if entry.damage:
                self._reporter.warn("undecodable", entry.damage, source=entry.source)

    async def _restore_dead(self, rebuild: Rebuild, batch: Sequence[Entry]) -> None:
        effects: list[Effect] = []
        for entry in batch:
            try:
                if entry.damage:
                    raise Undecodable(entry.damage)
                effects.append(Effect(dead_status(_read_dead(entry.value))))
            except Undecodable as error:
                self._reporter.warn("undecodable", str(error), source=entry.source)
        await rebuild.restore(effects)

    async def _restore_stops(self, rebuild: Rebuild, batch: Sequence[Entry]) -> None:
        """What keeps a first attempt from being made, before any of the deliveries."""
        await rebuild.restore((), self._endpoints(_of_endpoints(batch)), _marked(batch))

    async def _restore_state(self, rebuild: Rebuild, batch: Sequence[Entry]) -> None:
        """Rows of deliveries that wait, and marks of what is to be cancelled."""
        effects: list[Effect] = []
        lost: list[DeadLetter] = []
        now = self._clock.now()
        for entry in batch:
            if entry.key.startswith((ENDPOINT_IDS, journal.MARK)):
                continue
            try:
                if entry.damage:
                    raise Undecodable(entry.damage)
                waiting = _read_waiting(entry.value)
            except Undecodable as error:
                lost.append(self._lost(entry, str(error)))
                continue
            due = due_again(waiting, now)
            effects.append(restored(waiting if due == waiting.due_at else replace(waiting, due_at=due)))
        effects += [Effect(dead_status(letter)) for letter in lost]
        # The marks once more: what waits of these is due.
        await rebuild.restore(effects, marks=_marked(batch))
        if lost:
            records = [(journal.dead(letter), journal.waits_no_more(letter.id)) for letter in lost]
            await self._journal.append([record for pair in records for record in pair])

    async def _restore_last_ends(self, rebuild: Rebuild, batch: Sequence[Entry]) -> None:
        """What settle has ended cancelled in its last act: its row is gone, and what says so is not finished yet."""
        results = [result for entry in batch if (result := _later_cancelled(entry))]
        known = (await self._state.standing([result.id for result in results])).deliveries
        ended = [r for r, standing in zip(results, known, strict=True) if r.settled or standing is None]
        await rebuild.restore([Effect(move(result, self._rules.retry).status) for result in ended])

    def _endpoints(self, batch: Sequence[Entry]) -> list[EndpointRow]:
        """The readable ones: one that is not is as if its endpoint had never failed, and its next failures tell."""
        rows: list[EndpointRow] = []
        for entry in batch:
            try:
                if entry.damage:
                    raise Undecodable(entry.damage)
                rows.append(_read_endpoint(entry.value))
            except Undecodable as error:
                self._reporter.warn("undecodable", str(error), source=f"{entry.stream}/{entry.key}")
        return rows

    def _lost(self, entry: Entry, error: str) -> DeadLetter:
        source = f"{entry.stream}/{entry.key}"
        self._reporter.warn("undecodable", error, source=source)
        raw = b64encode(entry.value).decode()
        now = self._clock.now()
        return DeadLetter(
            v=VERSION, id=entry.key, scope="", reason="undecodable", at=now, error=error, source=source, raw_base64=raw
        )

    async def _note_queued(self, batch: Sequence[Entry]) -> None:
        """What is in a stream no longer waits, and what is new there is pending."""
        deliveries = _deliveries(batch)
        await self._state.release([Claim(d.targets[0].id, d.series, d.gen, b"", 0) for d in deliveries])
        # A later attempt that is not known has ended.
        statuses = _pending([delivery for delivery in deliveries if (delivery.series, delivery.gen) == (1, 0)])
        known = (await self._state.standing([status.id for status in statuses])).deliveries
        # What is known needs no note, and noted twice it would count twice as received.
        await self._state.accept([status for status, found in zip(statuses, known, strict=True) if found is None])

    async def _note_unsettled(self, batch: Sequence[Entry]) -> None:
        """What has a first outcome that hot state was not told of: a cancel before it is about a delivery that nobody
        knew any more."""
        results = [result for entry in batch if (result := _first_outcome(entry))]
        known = (await self._state.standing([result.id for result in results])).deliveries
        unknown = [result for result, found in zip(results, known, strict=True) if found is None]
        await self._state.accept([unsettled_status(result) for result in unknown])

    def _unfinished(self, stream: str) -> AsyncIterator[Sequence[Entry]]:
        return self._journal.unfinished(stream, self._deliver)


def _readable(entry: Entry) -> Result | None:
    """A result; what can't be read, or is too new, is settle's to meet."""
    if entry.damage:
        return None
    try:
        return _read_result(entry.value)
    except (Undecodable, NewerRecord):
        return None


def _later_cancelled(entry: Entry) -> Result | None:
    """The cancelled end of a delivery that had waited, or that settle has ended so."""
    result = _readable(entry)
    if result is None or result.outcome != "cancelled":
        return None
    return result if result.settled or (result.series, result.gen) != (1, 0) else None


def _first_outcome(entry: Entry) -> Result | None:
    """The outcome of a first attempt."""
    result = _readable(entry)
    if result is None:
        return None
    first = (result.series, result.gen) == (1, 0) and result.outcome not in COMMANDS
    return result if first and result.outcome != "undecodable" else None


def _of_endpoints(batch: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in batch if entry.key.startswith(ENDPOINT_IDS)]


def _marked(batch: Sequence[Entry]) -> list[str]:
    return [entry.key.removeprefix(journal.MARK) for entry in batch if entry.key.startswith(journal.MARK)]


def _deliveries(batch: Sequence[Entry]) -> list[Delivery]:
    """The readable ones, each with its rank; deliver dead-letters the others when it meets them."""
    found: list[Delivery] = []
    for entry in batch:
        try:
            delivery = _read_delivery(entry.value)
        except Undecodable:
            continue
        if delivery.targets:
            found.append(ranked(delivery, entry.offset))
    return found


def _pending(deliveries: Sequence[Delivery]) -> list[Status]:
    return [pending_status(delivery, target.id) for delivery in deliveries for target in delivery.targets]


async def _restore_pending(rebuild: Rebuild, batch: Sequence[Entry]) -> None:
    effects = [
        Effect(pending_status(delivery, target.id), turn=turn_of(delivery), rank=delivery.rank)
        for delivery in _deliveries(batch)
        for target in delivery.targets
    ]
    await rebuild.restore(effects)
