"""Deliver: pending and slow records come in, one attempt each goes out, its outcome goes to `results`.

The gate asks hot state once a batch what is still current; the rest is finished unsent. Knows neither what settle
makes of an outcome nor when a retry comes.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, cast
from urllib.parse import unquote_to_bytes

from msgspec.structs import replace

from howk.domain.endpoints import Endpoint, endpoint_id, parse_endpoint, public_form, rejoin
from howk.domain.errors import Undecodable, whereabouts
from howk.domain.outcome import capture, judge_answer, next_state, retry_after
from howk.domain.records import VERSION, Delivery, Result, Target, reader
from howk.domain.sealing import Sealer, Secrets
from howk.domain.settlement import undecodable
from howk.domain.signing import signed_head, signing_keys
from howk.flow import journal
from howk.flow.stage import Emission, Emit, attempted
from howk.ports.clock import Clock
from howk.ports.directory import Directory
from howk.ports.log import Entry, Record
from howk.ports.sender import Answer, Call, Origin, Sender, Timings
from howk.ports.state import Ask, HotState
from howk.ports.telemetry import (
    ATTEMPT_LEVELS,
    ATTEMPTS,
    DURATION,
    ERRORS,
    POISON,
    STALE,
    Attempt,
    Meter,
    Reporter,
)

GROUP = "deliver"
_FAULT = "howk failed on this answer"

_NOTHING = Secrets()
_read = reader(Delivery)


class DeliverOptions(NamedTuple):
    """`timeout` in seconds, for a scope that sets none, `capture` in bytes; `redact` are lower-case names of headers
    whose values are secret."""

    timeout: float
    capture: int
    user_agent: str
    redact: frozenset[str]


class _Batch:
    """An entry in hand: emitted when the last of its targets has an outcome."""

    __slots__ = ("emit", "entry", "left", "records")

    def __init__(self, entry: Entry, emit: Emit, left: int) -> None:
        self.entry = entry
        self.emit = emit
        self.left = left
        self.records: list[Record] = []

    def done(self, record: Record | None) -> None:
        if record is not None:
            self.records.append(record)
        self.left -= 1
        if self.left == 0:
            self.emit(Emission(self.entry, self.records))


_Key = tuple[str, int, int]
"""(id, series, gen) of a delivery."""


class _Begun(NamedTuple):
    """An entry of a batch that a bug broke off, with some of its calls sent already."""

    batch: _Batch
    keys: set[_Key]


class _Ended(NamedTuple):
    """An outcome, kept until its line is written."""

    result: Result
    job: "_Job | None"
    answer: Answer | None


class _Job(NamedTuple):
    """One target of an entry."""

    batch: _Batch
    delivery: Delivery
    target: Target
    body: bytes
    key: _Key


class Deliver:
    """The room."""

    def __init__(
        self,
        state: HotState,
        sender: Sender,
        sealer: Sealer,
        clock: Clock,
        meter: Meter,
        reporter: Reporter,
        options: DeliverOptions,
        directory: Directory,
    ) -> None:
        self._state = state
        self._sender = sender
        self._sealer = sealer
        self._clock = clock
        self._meter = meter
        self._reporter = reporter
        self._options = options
        self._directory = directory
        self._said = frozenset(outcome for outcome, level in ATTEMPT_LEVELS.items() if reporter.wants(level))
        self._flying: set[_Key] = set()
        self._begun: dict[str, _Begun] = {}
        self._ended: list[_Ended] = []
        self._outcomes: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._durations: list[float] = []
        self.cut_off = 0

    async def take(self, batch: Sequence[Entry], emit: Emit) -> None:
        jobs, unreadable = _jobs(batch, emit)
        if self._begun:
            jobs = self._not_begun(jobs)
        fresh = [job for job in jobs if job.key not in self._flying]
        passed = await self._state.gate([_ask(job) for job in fresh])
        going = {id(job) for job, current in zip(fresh, passed, strict=True) if current}
        calls: list[Call] = []
        unsent: list[tuple[_Job, Result | None]] = []
        leaving: set[_Key] = set()
        stale = 0
        now = self._clock.now()
        for job in jobs:
            # A twin may be in this very batch.
            if id(job) not in going or job.key in self._flying or job.key in leaving:
                stale += 1
                unsent.append((job, None))
                continue
            call = self._call(job, now)
            if isinstance(call, Call):
                leaving.add(job.key)
                calls.append(call)
            else:
                unsent.append((job, call))
        # Up to here a bug has sent nothing and emitted nothing.
        self._send(calls, leaving)
        self._emit_unreadable(unreadable, emit)
        for job, result in unsent:
            self._done(job, result)
        if self._begun:
            for entry in batch:
                self._begun.pop(entry.source, None)
        if stale:
            self._meter.count(STALE, stale)

    async def refuse(self, entry: Entry, error: str, emit: Emit) -> None:
        """End every delivery of the record that has not been sent."""
        begun = self._begun.pop(entry.source, None)
        raw = undecodable(entry.source, entry.key, entry.value, self._clock.now(), error)
        delivery = attempted(lambda: _read(entry.value))
        if delivery is None or not delivery.targets:
            self._note(raw)
            emit(Emission(entry, [journal.outcome(raw)]))
            return
        batch = begun.batch if begun else _Batch(entry, emit, len(delivery.targets))
        for target in delivery.targets:
            if begun and (target.id, delivery.series, delivery.gen) in begun.keys:
                continue
            result = _undecodable_one(raw, delivery, target)
            self._note(result)
            batch.done(journal.outcome(result, delivery.ordering_key))
            # One copy of the record is enough.
            raw = replace(raw, raw_base64="")

    async def settled(self, emissions: Sequence[Emission]) -> None:
        """The outcomes are settle's now; what was counted since the last time is measured at once."""
        if self._ended:
            ended, self._ended = self._ended, []
            self._reporter.attempts([_attempt_of(*each) for each in ended])
        for outcome, count in self._outcomes.items():
            self._meter.count(ATTEMPTS, count, outcome)
        for failure, count in self._failures.items():
            self._meter.count(ERRORS, count, failure)
        self._meter.observe(DURATION, self._durations)
        self._outcomes.clear()
        self._failures.clear()
        self._durations.clear()

    def _emit_unreadable(self, unreadable: Sequence[tuple[Entry, str]], emit: Emit) -> None:
        for entry, error in unreadable:
            result = undecodable(entry.source, entry.key, entry.value, self._clock.now(), error)
            self._note(result)
            emit(Emission(entry, [journal.outcome(result)]))

    def _not_begun(self, jobs: Sequence[_Job]) -> list[_Job]:
        """Without those that were sent before a bug broke their batch off; their siblings join the entry as it was."""
        left: list[_Job] = []
        for job in jobs:
            begun = self._begun.get(job.batch.entry.source)
            if begun is None:
                left.append(job)
            elif job.key not in begun.keys:
                left.append(job._replace(batch=begun.batch))
        return left

    def _send(self, calls: Sequence[Call], keys: set[_Key]) -> None:
        before = self._sender.in_flight()
        self._flying |= keys
        whole = False
        try:
            self._sender.send(calls, self._answered)
            whole = True
        finally:
            if not whole:
                self._remember(calls, self._sender.in_flight() - before)

    def _remember(self, calls: Sequence[Call], begun: int) -> None:
        for position, call in enumerate(calls):
            job = cast(_Job, call.context)
            if position < begun:
                batch = job.batch
                self._begun.setdefault(batch.entry.source, _Begun(batch, set())).keys.add(job.key)
            else:
                self._flying.discard(job.key)

    def _done(self, job: _Job, result: Result | None) -> None:
        """An entry's target that was not sent: stale, or refused with a result."""
        if result is None:
            job.batch.done(None)
            return
        self._note(result, job)
        job.batch.done(journal.outcome(result, job.delivery.ordering_key))

    def _note(self, result: Result, job: _Job | None = None, answer: Answer | None = None) -> None:
        self._outcomes[result.outcome] += 1
        if result.outcome in self._said:
            self._ended.append(_Ended(result, job, answer))

    def _call(self, job: _Job, now: int) -> Call | Result:
        delivery, target = job.delivery, job.target
        try:
            secrets = self._sealer.open(target.sealed, target.id) if target.sealed else _NOTHING
        except Undecodable as error:
            return self._refused(job, "undecodable", str(error))
        try:
            endpoint = parse_endpoint(rejoin(target.endpoint, "", secrets.query))
            head = signed_head(
                webhook_id=target.id,
                attempt=delivery.attempt,
                timestamp=now // 1000,
                body=job.body,
                keys=signing_keys(target.profile, secrets.signing),
                user_agent=self._options.user_agent,
                content_type=delivery.content_type,
                headers=_headers(target, secrets),
                profile=target.profile,
                ed25519_key=secrets.ed25519_key,
            )
        except ValueError as error:
            return self._refused(job, "invalid_endpoint", str(error))
        timeout = self._directory.limits(delivery.scope).timeout or self._options.timeout
        return _request(endpoint, head, job, timeout)

    def _refused(self, job: _Job, reason: str, error: str) -> Result:
        return _result(job, self._clock.now(), "rejected", reason=reason, error=error)

    def _answered(self, call: Call, answer: Answer) -> None:
        job = cast(_Job, call.context)
        self._flying.discard(job.key)
        if answer.failure == "cancelled":
            # Left unfinished: the next start sends it again under the same id.
            self.cut_off += 1
            return
        now = self._clock.now()
        self._durations.append(answer.timings.total)
        if answer.failure:
            self._failures[answer.failure] += 1
        result = attempted(lambda: self._judged(job, answer, now), lambda error: self._tell_fault(job, error))
        if result is None:
            # Without an outcome the entry would stay in hand for ever. What was delivered is not sent again for it.
            outcome = "delivered" if 200 <= answer.status < 300 else "failed"
            answer = Answer(status=answer.status)
            result = _result(job, now, outcome, answer, error=_FAULT)
        self._note(result, job, answer)
        job.batch.done(journal.outcome(result, job.delivery.ordering_key))

    def _judged(self, job: _Job, answer: Answer, now: int) -> Result:
        retry = job.delivery.retry
        on_status = retry.on_status if retry else ()
        outcome, reason, error = judge_answer(answer.status, answer.failure, answer.error, on_status)
        return _result(job, now, outcome, answer, reason, error, self._options)

    def _tell_fault(self, job: _Job, error: Exception) -> None:
        source = job.batch.entry.source
        self._reporter.fail("poison", f"{_FAULT}: {whereabouts(error)}", stage=GROUP, source=source)
        self._meter.count(POISON, 1, GROUP)


def _jobs(batch: Sequence[Entry], emit: Emit) -> tuple[list[_Job], list[tuple[Entry, str]]]:
    jobs: list[_Job] = []
    unreadable: list[tuple[Entry, str]] = []
    for entry in batch:
        try:
            if entry.damage:
                raise Undecodable(entry.damage)
            delivery = _read(entry.value)
            body = delivery.body
            if not delivery.targets:
                raise Undecodable("the delivery names no target")
        except Undecodable as error:
            unreadable.append((entry, str(error)))
            continue
        held = _Batch(entry, emit, len(delivery.targets))
        for target in delivery.targets:
            jobs.append(_Job(held, delivery, target, body, (target.id, delivery.series, delivery.gen)))
    return jobs, unreadable


def _undecodable_one(raw: Result, delivery: Delivery, target: Target) -> Result:
    return replace(
        raw,
        id=target.id,
        scope=delivery.scope,
        series=delivery.series,
        gen=delivery.gen,
        attempt=delivery.attempt,
        max_attempts=delivery.max_attempts,
        created_at=delivery.created_at,
    )


def _attempt_of(result: Result, job: _Job | None, answer: Answer | None) -> Attempt:
    """What the line of an attempt says."""
    timings = answer.timings if answer else Timings()
    delivery = job.delivery if job else None
    return Attempt(
        result.id,
        result.scope,
        result.attempt,
        result.max_attempts,
        result.series,
        result.gen,
        result.outcome,
        next_state(result.outcome, result.attempt, result.max_attempts),
        result.at,
        public_form(job.target.endpoint) if job else "",
        result.status_code,
        result.reason,
        result.error,
        _milliseconds(timings.total),
        _milliseconds(timings.dns),
        _milliseconds(timings.connect),
        _milliseconds(timings.tls),
        _milliseconds(timings.first_byte),
        len(job.body) if job else 0,
        answer.size if answer else 0,
        delivery.event_id if delivery else "",
        result.source,
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2) if seconds else 0


def _ask(job: _Job) -> Ask:
    delivery = job.delivery
    return Ask(
        job.target.id,
        delivery.series,
        delivery.gen,
        delivery.scope,
        delivery.attempt,
        delivery.max_attempts,
        delivery.created_at,
    )


def _headers(target: Target, secrets: Secrets) -> dict[str, str]:
    headers = {**target.headers, **secrets.headers}
    if secrets.userinfo and not any(name.lower() == "authorization" for name in headers):
        user = b64encode(unquote_to_bytes(secrets.userinfo)).decode()
        headers["Authorization"] = f"Basic {user}"
    return headers


def _request(endpoint: Endpoint, head: bytes, job: _Job, timeout: float) -> Call:
    origin = Origin(endpoint.scheme, endpoint.host, endpoint.port)
    return Call(origin, endpoint.target, head, job.body, timeout, job)


def _result(
    job: _Job,
    now: int,
    outcome: str,
    answer: Answer | None = None,
    reason: str = "",
    error: str = "",
    options: DeliverOptions | None = None,
) -> Result:
    delivery, target = job.delivery, job.target
    status = answer.status if answer else 0
    duration = round(answer.timings.total * 1000) if answer else 0
    endpoint = endpoint_id(delivery.scope, target.endpoint)
    if outcome == "delivered":
        return Result(
            v=VERSION,
            id=target.id,
            scope=delivery.scope,
            outcome="delivered",
            at=now,
            series=delivery.series,
            gen=delivery.gen,
            attempt=delivery.attempt,
            max_attempts=delivery.max_attempts,
            created_at=delivery.created_at,
            duration=duration,
            status_code=status,
            deliver_at=delivery.deliver_at,
            endpoint=endpoint,
        )
    response = None
    if answer and answer.status and options:
        response = capture(answer.headers, answer.body, options.redact, options.capture, truncated=answer.truncated)
    cut = delivery if len(delivery.targets) == 1 else replace(delivery, targets=(target,))
    return Result(
        v=VERSION,
        id=target.id,
        scope=delivery.scope,
        outcome="rejected" if outcome == "rejected" else "failed",
        at=now,
        series=delivery.series,
        gen=delivery.gen,
        attempt=delivery.attempt,
        max_attempts=delivery.max_attempts,
        created_at=delivery.created_at,
        duration=duration,
        status_code=status,
        reason=reason,
        error=error,
        retry_after=retry_after(status, answer.headers, now) if answer else 0,
        response=response,
        delivery=cut,
        endpoint=endpoint,
    )
