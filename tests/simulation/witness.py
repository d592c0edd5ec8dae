"""What howk promises, held against what happens: at each commit of the log, each answer of hot state, each call that
goes out and each answer to a client, and once more over everything at the end.

It stands outside the process and survives it. It decides nothing by howk's own rules but one: what a record says
(`domain.records`). What a promise leaves open is written beside the check that leaves it open.
"""

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar, cast

from tests.simulation.hot import SimulatedHot
from tests.simulation.workload import SECRET, Webhook
from tests.simulation.world import World

from howk.domain.delivery import DELIVER_AT, ENDED, Status
from howk.domain.endpoints import endpoint_id
from howk.domain.records import (
    CONTROL,
    DEADLETTER,
    PENDING,
    RESULTS,
    SLOW,
    STATE,
    ConfigRecord,
    DeadLetter,
    Delivery,
    EndpointRow,
    Result,
    Waiting,
    reader,
)
from howk.domain.settlement import ENDPOINT_COMMANDS
from howk.domain.signing import verify_standard
from howk.flow.attempt import Job
from howk.ports.log import Entry, Finish, Place, Record
from howk.ports.sender import Answer, Call
from howk.ports.state import Ask, Effect, Passage

_delivery = reader(Delivery)
_result = reader(Result)
_letter = reader(DeadLetter)
_waiting = reader(Waiting)
_endpoint = reader(EndpointRow)
_config = reader(ConfigRecord)

PROBE_LEASE = 5.0
"""Seconds: twice the timeout and the scheduler's lease, as the run's settings have them."""
_ROUNDING = 0.002
"""Seconds: what has to wait is woken at a whole millisecond."""
Gen = tuple[int, int]
Where = tuple[str, int, int]
"""The stream, partition and offset of a record."""
_T = TypeVar("_T")


@dataclass(slots=True)
class Trail:
    """Everything that was seen of one delivery."""

    id: str
    webhook: Webhook
    expires_at: int = 0
    skip_after: int = 0
    max_attempts: int = 0
    carried: set[Where] = field(default_factory=set)
    """Records that have it and are not finished."""
    waits: bool = False
    """It has a row in the table of what waits."""
    over: bool = False
    """Its end is in the log."""
    records: Counter[Gen] = field(default_factory=Counter)
    """How many times each came into the log; what has a time ahead first comes as the result *scheduled*."""
    results: dict[Gen, list[str]] = field(default_factory=dict)
    failed: int = 0
    letters: list[str] = field(default_factory=list)
    end: str = ""
    """The end that hot state was told first."""
    written: dict[Gen, tuple[int, float]] = field(default_factory=dict)
    """The life that wrote a record to be sent first, and when."""
    placed_at: int = -1
    """When its first attempt came into the fresh lane, in steps of the trace."""
    placed_again: int = -1
    """When it came for the last time: of two records of one, as of a key that was asked for again once its time had
    come, settle may know of a time that the first one knows nothing of."""
    passed: dict[Gen, tuple[int, float]] = field(default_factory=dict)
    """Which life's gate let it go, from when on, and it was not sent yet."""
    sent: list[tuple[Gen, int]] = field(default_factory=list)
    """By gen and life."""
    sent_of: dict[Where, list[int]] = field(default_factory=dict)
    """The lives in which each record of it was sent."""
    attempts: list[int] = field(default_factory=list)
    good: int = 0
    due: dict[Gen, int] = field(default_factory=dict)
    rested: dict[Gen, float] = field(default_factory=dict)
    """When its own delay is over, whatever is done to the wall clock."""
    """From when on a record may be sent."""
    shown: Gen = (0, 0)
    """The latest of which hot state was told."""
    told: str = ""
    """What its end has to be: settle has finished a delivered result of it before any other end."""
    rows: dict[Gen, bytes] = field(default_factory=dict)
    """What was written of it while it waited."""
    cancelled: bool = False
    """Settle has finished a cancel of it."""
    damaged: bool = False
    """A record of it can't be read any more."""

    @property
    def ended(self) -> bool:
        """Whether its end is in the log, or what settle will make it of."""
        return self.over or any("cancelled" in outcomes for outcomes in self.results.values())

    @property
    def unsettled(self) -> bool:
        """Whether settle has not finished a result of it."""
        return any(stream == RESULTS for stream, _, _ in self.carried)

    @property
    def repeated(self) -> bool:
        """Whether a record of it came into the log twice, as after an append of unknown end."""
        return any(count > 1 for count in self.records.values())


class Witness:
    """See the module. `number` is that of the life that runs."""

    def __init__(self, world: World, webhooks: Mapping[bytes, Webhook]) -> None:
        self._world = world
        self._webhooks = webhooks
        self._carriers: dict[Where, tuple[Trail, str, Gen]] = {}
        self._probes: dict[str, tuple[str, int, float]] = {}
        # What the hot state that there is now was told: the gen of each, and whether it has ended.
        self._told_hot: dict[str, tuple[Gen, bool]] = {}
        self._by_turn: dict[tuple[str, str], list[Trail]] = {}
        self.trails: dict[str, Trail] = {}
        self.open = 0
        """Deliveries in the log that have not ended."""
        self.number = 0
        self.ended_well: set[int] = set()
        """Lives that were stopped and cut nothing."""
        self.hot: SimulatedHot | None = None
        self.now: Callable[[], float] = lambda: 0.0
        self.wall: Callable[[], int] = lambda: 0
        self.most_in_flight = 0
        self.most_at: dict[str, int] = {}
        self._rows: dict[str, bytes] = {}
        """Of endpoints and marks, as the log has them now."""
        self._stops: dict[str, bytes] = {}
        """The same when this life began: what it knows of from its first attempt on."""
        self._told: list[Trail] = []
        """Those of which settle has finished a success that hot state was not told of yet."""
        self._calls: dict[str, dict[str, tuple[int, int]]] = {}
        """Under way in this life at each host, and what its config asked for when each of them began."""
        self._asked: dict[str, tuple[int, int]] = {}
        """By scope: how many calls at once its config asks for now, and how often it was set."""
        self._let_go: dict[str, set[Where]] = {}
        """Records that this life has let go of the queue of each endpoint and that are not finished."""
        self._restored: dict[str, None] = {}
        """What the rebuild under way has learned of."""

    def begin(self, number: int, now: Callable[[], float], wall: Callable[[], int], hot: SimulatedHot) -> None:
        """A life begins. What is known of probes dies with the one before."""
        self.number, self.now, self.wall, self.hot = number, now, wall, hot
        self._world.begin(now())
        self._probes.clear()
        self._told.clear()
        self._calls.clear()
        self._let_go.clear()
        self._stops = dict(self._rows)

    # The log

    def committed(self, entries: Sequence[Entry], rows: Sequence[Record], finish: Finish | None) -> None:
        touched: dict[str, Trail] = {}
        for entry in entries:
            trail = self._written(entry)
            if trail:
                touched[trail.id] = trail
        for row in rows:
            if row.stream == CONTROL:
                self._configured(row)
                continue
            trail = self.trails.get(row.key)
            if row.stream == STATE and trail:
                trail.waits = bool(row.value)
                self._waits(trail, row.value)
                touched[trail.id] = trail
            elif row.stream == STATE and row.value:
                self._rows[row.key] = row.value
            else:
                self._rows.pop(row.key, None)
        if finish is not None:
            for place, offsets in finish.offsets.items():
                self._finished(place, offsets, finish.group, touched)
        for trail in touched.values():
            if not (trail.carried or trail.waits or trail.over):
                self._accuse(trail, "I3: finished, and neither its outcome nor a row of it is in the log")
            # Of one whose record nobody can read, nothing is known after a kill but that it ends so.
            known = trail.cancelled and not trail.ended and not trail.damaged
            if known and f"cancel/{trail.id}" not in self._rows:
                self._accuse(trail, "I3: a cancel is finished, and neither a mark nor an end is in the log")

    def _configured(self, row: Record) -> None:
        scope = row.key.partition("/")[2]
        most = _config(row.value).max_in_flight if row.value else 0
        self._asked[scope] = most, self._asked.get(scope, (0, 0))[1] + 1

    def _waits(self, trail: Trail, value: bytes) -> None:
        """A row may be written again as it was, by an append of unknown end, and else only for a later gen."""
        if not value:
            return
        waiting = _waiting(value)
        delivery = waiting.delivery
        gen = (delivery.series, delivery.gen)
        before = trail.rows.setdefault(gen, value)
        rested = self.now() + (delivery.not_before - self.wall()) / 1000
        if waiting.held_by not in ("", DELIVER_AT):
            # What is put aside has had its delay, as far as it had one.
            rested = min(rested, trail.rested.get((delivery.series, delivery.gen - 1), rested))
        trail.rested.setdefault(gen, rested)
        if before != value or (max(trail.rows) > gen and list(trail.rows)[-1] == gen):
            self._accuse(trail, f"I2: an outcome that is over was applied: it waits at {gen} again")

    def _written(self, entry: Entry) -> Trail | None:
        place = (entry.stream, entry.partition, entry.offset)
        if entry.stream in (PENDING, SLOW):
            delivery = _delivery(entry.value)
            trail = self._trail(delivery)
            gen = (delivery.series, delivery.gen)
            self._came(trail, gen)
            trail.written.setdefault(gen, (self.number, self.now()))
            trail.due[gen] = delivery.not_before
            if delivery.admitted and not delivery.probe:
                self._count_let_go(place, trail, delivery)
            if entry.stream == PENDING:
                trail.placed_again = len(self._world.trace)
                trail.placed_at = trail.placed_again if trail.placed_at < 0 else trail.placed_at
            self._carry(place, trail, "", gen)
            return trail
        if entry.stream == RESULTS:
            result = _result(entry.value)
            if result.outcome in ENDPOINT_COMMANDS:
                return None
            trail = self._trail(result.delivery) if result.delivery else self.trails.get(result.id)
            if trail is None:
                self._world.accuse(f"a result of {result.id}, which never came in")
                return None
            if result.outcome == "scheduled":
                self._came(trail, (result.series, result.gen))
            if result.outcome != "cancel":
                trail.results.setdefault((result.series, result.gen), []).append(result.outcome)
            trail.over = trail.over or result.settled
            self._carry(place, trail, result.outcome, (result.series, result.gen))
            return trail
        if entry.stream == DEADLETTER:
            letter = _letter(entry.value)
            trail = self.trails[letter.id]
            trail.letters.append(letter.reason)
            trail.over = True
            return trail
        return None

    def _came(self, trail: Trail, gen: Gen) -> None:
        trail.records[gen] += 1
        # What waits is let go again where nobody can read that it was.
        if trail.records[gen] > 1 and not trail.damaged and not self._may_repeat():
            self._accuse(trail, f"I4: {gen} came into the log twice, and no append or lease was in doubt")

    def _may_repeat(self) -> bool:
        """Whether howk may write a record twice: an append raised though it happened, its client left, a lease ended
        before it could be released, progress was lost alone, a scheduler ran without the worker that knows better, or
        the run does it."""
        climate = self._world.climate
        unknown = climate.after or climate.before or climate.leaves or climate.twins or not climate.atomic
        late = (climate.delays and climate.longest_delay > 0.5) or climate.freezes
        return bool(unknown or late or climate.restarts)

    def _count_let_go(self, place: Where, trail: Trail, delivery: Delivery) -> None:
        endpoint = endpoint_id(delivery.scope, delivery.targets[0].endpoint)
        out = self._let_go.setdefault(endpoint, set())
        out.add(place)
        most = self.most_at[trail.webhook.endpoint.receiver.host]
        # A claim whose append is of unknown end is made again after its lease.
        if len(out) > most and not (self._world.climate.after or self._world.climate.before):
            self._accuse(trail, f"limit: {len(out)} holds of its endpoint are on their way, and {most} may be")

    def damaged(self, entry: Entry) -> None:
        """Nobody can read this record any more."""
        found = self._carriers.get((entry.stream, entry.partition, entry.offset))
        if found:
            found[0].damaged = True

    def _carry(self, place: Where, trail: Trail, outcome: str, gen: Gen) -> None:
        trail.carried.add(place)
        self._carriers[place] = (trail, outcome, gen)

    def _trail(self, delivery: Delivery) -> Trail:
        id_ = delivery.targets[0].id
        trail = self.trails.get(id_)
        body = delivery.body
        webhook = self._webhooks.get(body)
        if webhook is None:
            self._world.accuse(f"I6: the record of {id_} has a payload that nobody sent: {body!r}")
            webhook = next(iter(self._webhooks.values()))
        if trail is None:
            trail = self.trails[id_] = Trail(id_, webhook, delivery.expires_at, delivery.skip_after)
            trail.max_attempts = delivery.max_attempts
            self.open += 1
            if webhook.ordering_key:
                self._by_turn.setdefault(webhook.turn, []).append(trail)
            if webhook.key:
                others = [one.id for one in self.trails.values() if one.webhook is webhook and one.id != id_]
                if others:
                    self._accuse(trail, f"idempotency: the key {webhook.key} made {others[0]} as well")
        elif trail.webhook is not webhook:
            self._accuse(trail, f"I10: it carries the payload of #{trail.webhook.number} and of #{webhook.number}")
        return trail

    def _finished(self, place: Place, offsets: Sequence[int], group: str, touched: dict[str, Trail]) -> None:
        for offset in offsets:
            found = self._carriers.pop((place.stream, place.partition, offset), None)
            if found is None:
                continue
            trail, outcome, gen = found
            trail.carried.discard((place.stream, place.partition, offset))
            touched[trail.id] = trail
            for out in self._let_go.values():
                out.discard((place.stream, place.partition, offset))
            if group == "settle":
                if outcome == "delivered" and not trail.over:
                    trail.told = outcome
                    self._told.append(trail)
                trail.cancelled = trail.cancelled or outcome == "cancel"
                trail.over = trail.over or outcome in ("delivered", "cancelled")
                trail.failed += outcome == "failed"
            elif trail.damaged:
                continue
            elif gen not in trail.results and not trail.over and trail.records[gen] < 2 and not self._later(trail, gen):
                self._accuse(trail, f"I3: deliver has finished {gen} without an outcome of it")

    def _later(self, trail: Trail, gen: Gen) -> bool:
        return any(each > gen for each in (*trail.results, *trail.records))

    # Hot state

    def rebuilding(self) -> None:
        """A rebuild begins. What is known of probes dies with what was there before it, within a life too; and an end
        that settle had told and not finished in the log is known only once settle tells it again."""
        self._probes.clear()
        self._restored.clear()
        self._told_hot.clear()

    def gated(self, asks: Sequence[Ask], passages: Sequence[Passage]) -> None:
        for ask, passage in zip(asks, passages, strict=True):
            trail = self.trails.get(ask.id)
            if trail is None:
                self._world.accuse(f"the gate was asked about {ask.id}, which never came in")
            elif passage.verdict == "go":
                self._check_current(trail, (ask.series, ask.gen))
                trail.passed[ask.series, ask.gen] = (self.number, self.now() + passage.wait)
                if f"cancel/{trail.id}" in self._stops:
                    self._accuse(trail, "I5: it was let go, and had been marked to be cancelled when this life began")
                self._may_go(trail, ask, passage)

    def _check_current(self, trail: Trail, gen: Gen) -> None:
        """However often a record is in the log: none is let go once settle has told what became of the first."""
        assert self.hot is not None
        at, ended = self._told_hot.get(trail.id, (gen, False))
        if (ended or gen < at) and at_once(self.hot.condition()).valid:
            self._accuse(trail, f"I4: {gen} was let go, and is at {trail.shown} {trail.end}")

    def _tell_hot(self, status: Status) -> None:
        gen = (status.series, status.gen)
        at, ended = self._told_hot.get(status.id, (gen, False))
        self._told_hot[status.id] = (max(at, gen), ended or status.state in ENDED)

    def _may_go(self, trail: Trail, ask: Ask, passage: Passage) -> None:
        row = self._row(ask.endpoint)
        known = self._stops.get(ask.endpoint)
        if known and (row is None or row.circuit.gen < _endpoint(known).circuit.gen):
            self._accuse(trail, "I5: it was let go, and hot state had forgotten where its endpoint stood")
        if row is None:
            return
        circuit = row.circuit
        if circuit.paused or circuit.disabled:
            self._accuse(trail, "it was let go to an endpoint that is paused or disabled")
        if circuit.state == "closed":
            return
        if passage.probe != circuit.gen:
            self._accuse(trail, f"breaker: it was let go to an endpoint that is {circuit.state}, and is no probe")
        if ask.probe and self._is_lost(trail.written[ask.series, ask.gen]):
            return
        other, token, at = self._probes.get(ask.endpoint, ("", 0, 0.0))
        if other not in ("", ask.id) and token == passage.probe and self.now() < at + PROBE_LEASE:
            self._accuse(trail, f"breaker: {other} is a probe of the same endpoint at the same time")
        self._probes[ask.endpoint] = (ask.id, passage.probe, self.now())

    def _is_lost(self, written: tuple[int, float]) -> bool:
        """Whether another probe may go beside one that was let go then: it was on its way when the process ended, and
        nobody knows of it any more, or it has been for longer than its lease."""
        life, at = written
        return life < self.number or self.now() > at + PROBE_LEASE

    def _row(self, endpoint: str) -> EndpointRow | None:
        assert self.hot is not None
        return at_once(self.hot.standing((), (endpoint,))).endpoints[0]

    def applied(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            status = effect.status
            trail = self.trails.get(status.id)
            if trail is None:
                self._world.accuse(f"an effect on {status.id}, which never came in")
                continue
            for endpoint, (id_, _, _) in list(self._probes.items()):
                if id_ == status.id:
                    del self._probes[endpoint]
            self._moved(trail, status)
            self._tell_hot(status)
            if trail.end and (trail.damaged or trail.repeated):
                # Another record of it has ended it, and not the one that is on its way.
                for out in self._let_go.values():
                    out.difference_update(trail.carried)
        for trail in self._told:
            if not trail.end:
                self._accuse(trail, "I2: a success was finished, and has not ended it")
        self._told.clear()

    def restored(self, effects: Sequence[Effect]) -> None:
        """A rebuild has learned this, and perhaps of an end that hot state was never told before it was lost. What it
        makes of it all is asked when it is whole: the end of what nobody could read is what it learns last."""
        self._restored.update(dict.fromkeys([effect.status.id for effect in effects]))
        for effect in effects:
            self._tell_hot(effect.status)

    def sealed(self) -> None:
        assert self.hot is not None
        for status in at_once(self.hot.status(list(self._restored))):
            if status and status.state in ENDED and status.id in self.trails:
                self._moved(self.trails[status.id], status)
        self._restored.clear()

    def _moved(self, trail: Trail, status: Status) -> None:
        gen = (status.series, status.gen)
        if gen < trail.shown and status.state not in ENDED:
            self._accuse(trail, f"it was at {trail.shown}, and now waits at {gen} again")
        trail.shown = max(gen, trail.shown)
        if status.state in ENDED:
            if not trail.end:
                trail.end = status.state
                self.open -= 1
            elif trail.end != status.state:
                self._accuse(trail, f"I2: it ended {trail.end}, and now {status.state}")
        elif trail.end:
            self._accuse(trail, f"I2: it ended {trail.end}, and now is {status.state}")

    # The wire

    def sent(self, call: Call, in_flight: int, at_endpoint: int) -> None:
        id_, attempt = _header(call, b"webhook-id"), int(_header(call, b"X-Webhook-Attempt"))
        trail = self.trails.get(id_)
        if trail is None:
            self._world.accuse(f"I1: {id_} was sent and is not in the log")
            return
        self._world.trace.step(self.now(), "wire", "sent", id_[-6:], f"attempt {attempt}", call.origin.host)
        if call.body != trail.webhook.body:
            self._accuse(trail, f"I6: sent {call.body!r}, not {trail.webhook.body!r}")
        if trail.webhook.signed:
            self._check_signature(trail, call)
        if in_flight > self.most_in_flight:
            self._accuse(trail, f"I12: {in_flight} calls at once, and {self.most_in_flight} are allowed")
        if at_endpoint > self.most_at[call.origin.host]:
            self._accuse(trail, f"limit: {at_endpoint} calls at once to {call.origin.host}")
        self._check_limits(trail, call)
        self._check_repeat(trail, cast(Job, call.context), attempt)
        if trail.webhook.ordering_key:
            self._check_order(trail)

    def _check_limits(self, trail: Trail, call: Call) -> None:
        calls = self._calls.setdefault(call.origin.host, {})
        most = cast(Job, call.context).limits.max_in_flight
        asked = self._asked.get(trail.webhook.endpoint.scope, (0, 0))
        calls[trail.id] = asked
        # A limit that has just changed is kept by those that come after it.
        if most == asked[0] and 0 < most < len(calls) and set(calls.values()) == {asked}:
            self._accuse(trail, f"limit: {len(calls)} calls at once to an endpoint that takes {most}")

    def _check_signature(self, trail: Trail, call: Call) -> None:
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        headers = {name: _header(call, name.encode()) for name in names}
        wrong = verify_standard(SECRET, headers, call.body, int(headers["webhook-timestamp"]))
        if wrong:
            self._accuse(trail, f"its signature does not verify: {wrong}")

    def _check_repeat(self, trail: Trail, job: Job, attempt: int) -> None:
        gen = (job.delivery.series, job.delivery.gen)
        life, ready_at = trail.passed.pop(gen, (0, 0.0))
        if life != self.number:
            self._accuse(trail, "it was sent, and the gate did not let it go in this life")
            return
        if self.now() < ready_at - _ROUNDING:
            self._accuse(trail, f"rate: it was sent {ready_at - self.now():.3f} s before its token came")
        # A start after the clock was set back goes by the delay alone, and by nothing once it was set right.
        if (
            not self._world.corrected
            and self._world.furthest < trail.due[gen]
            and self.now() < trail.rested.get(gen, inf) - _ROUNDING
        ):
            self._accuse(trail, f"it was sent {trail.due[gen] - self._world.furthest} ms before its time")
        trail.attempts.append(attempt)
        before = [life for known, life in trail.sent if known == gen]
        trail.sent.append((gen, self.number))
        self._check_record(trail, job.batch.entry)
        if trail.repeated:
            # A delivery that stands in the log twice may be sent once for each, until the first outcome is settled.
            return
        # Where progress is an act of its own, a kill may have lost it alone: the record is read and sent again, and may
        # have passed the gate before settle told of its end.
        lost = not self._world.climate.atomic and before and max(before) < self.number
        if trail.end and not lost:
            self._accuse(trail, f"I2: it was sent though it had ended {trail.end}")
        if gen in trail.results and not lost:
            self._accuse(trail, f"I4: {gen} was sent though its outcome was durable")
        if self.number in before:
            self._accuse(trail, f"I4: {gen} was sent twice in one life")
        if attempt != 1 + len({known for known, _ in trail.sent if known != gen} & set(self._attempted(trail))):
            self._accuse(trail, f"it was sent as attempt {attempt}, after {self._attempted(trail)}")

    def _check_record(self, trail: Trail, entry: Entry) -> None:
        """A record that was found in the log is sent once in a life, and never again once it is finished or howk was
        stopped in order."""
        place = (entry.stream, entry.partition, entry.offset)
        before = trail.sent_of.setdefault(place, [])
        if place not in trail.carried:
            self._accuse(trail, f"I4: {entry.source} was sent though it was finished")
        if self.number in before:
            self._accuse(trail, f"I4: {entry.source} was sent twice in one life")
        if any(life in self.ended_well for life in before):
            self._accuse(trail, f"I4: {entry.source} was sent before howk was stopped in order, and again after it")
        before.append(self.number)

    def _attempted(self, trail: Trail) -> list[Gen]:
        return [gen for gen, outcomes in trail.results.items() if "failed" in outcomes]

    def _check_order(self, trail: Trail) -> None:
        """Who was answered before this one was asked for has ended, or is skipped. What has a time takes its place when
        it is due, and comes into the fresh lane."""
        mine = trail.webhook
        begun = trail.placed_at if mine.timed else mine.begun_at
        for other in self._by_turn[mine.turn]:
            if other is trail or other.end:
                continue
            placed = other.placed_again if other.webhook.timed else other.webhook.answered_at
            if 0 <= placed < begun and not 0 < other.skip_after <= other.failed:
                self._accuse(trail, f"order: it was sent before {other.id}, which was accepted before it, has ended")

    def answered(self, call: Call, answer: Answer, taken: bool) -> None:
        trail = self.trails.get(_header(call, b"webhook-id"))
        said = answer.failure or str(answer.status)
        self._world.trace.step(self.now(), "wire", "answered", trail.id[-6:] if trail else "", said)
        if trail and 200 <= answer.status < 300:
            trail.good += 1
        if trail:
            self._calls[call.origin.host].pop(trail.id, None)

    # Clients

    def acknowledged(self, webhook: Webhook, id_: str, replayed: bool) -> None:
        trail = self.trails.get(id_)
        if trail is None:
            self._world.accuse(f"I1: #{webhook.number} was answered with {id_}, which is not in the log")
            return
        if trail.webhook is not webhook:
            self._accuse(trail, f"#{webhook.number} was answered with the id of #{trail.webhook.number}")
        if webhook.id and webhook.id != id_:
            self._accuse(trail, f"idempotency: #{webhook.number} was answered with {webhook.id} and then with {id_}")
        webhook.id = id_
        if webhook.answered_at < 0:
            webhook.answered_at = len(self._world.trace)
        webhook.first_answers += not replayed
        if webhook.first_answers > 1:
            self._accuse(trail, f"idempotency: #{webhook.number} was answered as the first more than once")

    # The end

    def finish(self, statuses: Mapping[str, Status | None], unfinished: Sequence[str], rows: Sequence[str]) -> None:
        """Everything is over: nothing may be left, and each end has what says why."""
        if unfinished:
            self._world.accuse(f"records are not finished at the end: {' '.join(unfinished)}")
        left = [key for key in rows if key in self.trails or key.startswith("cancel/")]
        if left:
            self._world.accuse(f"rows are left at the end: {' '.join(left)}")
        for id_, trail in self.trails.items():
            status = statuses[id_]
            if status is None and trail.end and self._world.climate.forgets:
                continue
            if status is None or status.state not in ENDED:
                self._accuse(trail, f"I2: it has not ended: {status.state if status else 'it is not known'}")
            else:
                self._check_end(trail, status)

    def _check_end(self, trail: Trail, status: Status) -> None:
        if status.state != trail.end:
            self._accuse(trail, f"I2: it ended {trail.end} and is shown as {status.state}")
        if trail.told and status.state != trail.told:
            self._accuse(trail, f"I2: settle has finished a result that says {trail.told}, and it is {status.state}")
        outcomes = [outcome for each in trail.results.values() for outcome in each]
        if status.state == "delivered":
            if not trail.good or "delivered" not in outcomes:
                self._accuse(trail, "it is shown as delivered, and no receiver has said so")
        elif trail.letters != ([status.reason_type] if status.state == "dead" else []):
            # An append that raised though it happened is made again, and so is one whose progress was lost.
            again = self._world.climate.after or not self._world.climate.atomic
            if not again or set(trail.letters) != {status.reason_type}:
                self._accuse(trail, f"I2: {status.state} {status.reason_type}, with dead letters {trail.letters}")
        if status.state == "cancelled" and not trail.webhook.cancel_asked:
            self._accuse(trail, "it was cancelled, and nobody asked for it")
        if status.state == "dead":
            self._check_reason(trail, status)

    def _check_reason(self, trail: Trail, status: Status) -> None:
        reason = status.reason_type
        if not reason or (reason == "undecodable" and not trail.damaged):
            self._accuse(trail, f"I2: dead, with the reason {reason!r}")
        if reason == "exhausted" and max(trail.attempts, default=0) != trail.max_attempts:
            self._accuse(trail, f"exhausted after attempts {trail.attempts} of {trail.max_attempts}")
        if reason == "expired" and not trail.expires_at:
            self._accuse(trail, "expired, and it never expires")

    def _accuse(self, trail: Trail, what: str) -> None:
        self._world.accuse(f"{trail.id} (#{trail.webhook.number}): {what}")


def at_once(call: Coroutine[object, None, _T]) -> _T:
    """What a call answers that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def _header(call: Call, name: bytes) -> str:
    _, _, rest = (b"\r\n" + call.head).partition(b"\r\n" + name + b": ")
    return rest.partition(b"\r\n")[0].decode()
