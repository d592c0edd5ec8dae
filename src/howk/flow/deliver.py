"""Deliver: pending and slow records come in, one attempt each goes out, its outcome goes to `results`.

The gate asks hot state once a batch what may go; what has to wait a moment for its endpoint or its turn waits here, and
what has to wait longer becomes the outcome *held*. Knows neither what settle makes of an outcome nor when a retry
comes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from msgspec import Struct
from msgspec.structs import replace

from howk.domain.breaker import verdict_of
from howk.domain.delivery import LIMIT, ORDER, put_aside, unsent
from howk.domain.errors import whereabouts
from howk.domain.outcome import judge_answer
from howk.domain.pacing import PaceLimits, Pacing
from howk.domain.records import Result
from howk.domain.sealing import Sealer
from howk.domain.settlement import undecodable
from howk.domain.turns import TurnLimits, Turns
from howk.flow import journal
from howk.flow.attempt import (
    Addressing,
    Batch,
    DeliverOptions,
    Job,
    Key,
    ask_of,
    call_of,
    jobs_of,
    line_of,
    read_delivery,
    result_of,
    undecodable_target,
)
from howk.flow.stage import Emission, Emit, attempted
from howk.ports.clock import Clock
from howk.ports.directory import Directory
from howk.ports.log import Entry
from howk.ports.sender import Answer, Call, Sender
from howk.ports.state import HotState, Passage
from howk.ports.telemetry import (
    ATTEMPT_LEVELS,
    ATTEMPTS,
    DURATION,
    ERRORS,
    POISON,
    STALE,
    Meter,
    Reporter,
)

GROUP = "deliver"
_FAULT = "howk failed on this answer"
_LONGEST_PAUSE = 0.25
_SHORTEST_PAUSE = 0.001
_NO_ATTEMPT = frozenset({"held", "cancelled"})


class Patience(NamedTuple):
    """What may wait in the room: for its endpoint, and for its turn."""

    pace: PaceLimits
    turns: TurnLimits


class _Begun(NamedTuple):
    """An entry of a batch that a bug broke off, with some of its jobs in hand already."""

    batch: Batch
    keys: set[Key]


class _Ended(NamedTuple):
    """An outcome, kept until its line is written."""

    result: Result
    job: Job | None
    answer: Answer | None


class _Going(Struct, frozen=True):
    """A job that may go after `wait` seconds."""

    job: Job
    wait: float


class _Plan(NamedTuple):
    """What becomes of the jobs of a batch. A None is the end of one that needs no outcome."""

    going: list[_Going]
    turning: list[Job]
    over: list[tuple[Job, Result | None]]


class Deliver:
    """The room. `wake` has `turn` called at a time in milliseconds."""

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
        patience: Patience,
        wake: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._state = state
        self._sender = sender
        self._addressing = Addressing(sealer)
        self._clock = clock
        self._directory = directory
        self._meter = meter
        self._reporter = reporter
        self._options = options
        self._wake = wake
        self._hosts = patience.pace.per_domain > 0
        self._pacing: Pacing[Job] = Pacing(patience.pace)
        self._turns: Turns[Job] = Turns(patience.turns)
        self._turns_open = False
        self._stopped = False
        self._said = frozenset(outcome for outcome, level in ATTEMPT_LEVELS.items() if reporter.wants(level))
        self._in_hand: set[Key] = set()
        self._starting: list[Job] = []
        self._begun: dict[str, _Begun] = {}
        self._ended: list[_Ended] = []
        self._outcomes: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._durations: list[float] = []
        self.cut_off = 0

    def appetite(self) -> int:
        """How many more records are worth fetching now."""
        return self._pacing.appetite()

    def open_turns(self) -> None:
        """Hot state knows every turn from now on: what has an ordering key may go."""
        self._turns_open = True
        self._wake(0)

    def ended(self) -> None:
        """Some deliveries have ended: it may be another's turn."""
        if self._turns:
            self._wake(0)

    def stop(self) -> None:
        """Give back what waits, and what still comes: it stays unfinished in the log."""
        self._stopped = True
        waiting = [*self._pacing.drain(), *self._turns.drain()]
        # Only now, when nothing is left that their places could be given to.
        starting, self._starting = self._starting, []
        for job in starting:
            self._pacing.finished(job.endpoint, job.host, job, None, self._clock.monotonic())
        for job in (*starting, *waiting):
            self._give_back(job)

    def _give_back(self, job: Job) -> None:
        self._in_hand.discard(job.key)
        if len(job.delivery.targets) == 1:
            job.batch.give_back()
        else:
            self._done(job, self._held(job, LIMIT))

    async def take(self, batch: Sequence[Entry], emit: Emit) -> None:
        jobs, unreadable = jobs_of(batch, emit, self._directory.limits, hosts=self._hosts)
        if self._begun:
            jobs = self._not_begun(jobs)
        fresh, stale = self._sorted(jobs)
        asked = [job for job in fresh if self._may_ask(job)]
        passages = await self._state.gate([ask_of(job) for job in asked], self._clock.now())
        going, turning, over = self._plan(asked, passages)
        if len(asked) < len(fresh):
            known = {id(job) for job in asked}
            turning += [job for job in fresh if id(job) not in known]
        # Up to here nothing is in hand or emitted.
        if self._stopped:
            # It may have to go after one that was given back.
            for job in (*turning, *(each.job for each in going)):
                self._give_back(job)
            going, turning = [], []
        over += self._enter(going, turning, self._call)
        for entry, error in unreadable:
            self._end_unreadable(entry, error, emit)
        for job, result in over:
            self._done(job, result)
        for job in stale:
            self._done(job, None)
        if self._begun:
            for entry in batch:
                self._begun.pop(entry.source, None)

    async def turn(self) -> float:
        """Let go what may, and put aside what has waited too long; in how many seconds to look again at the latest."""
        clock = self._clock.monotonic()
        starting, overdue = self._pacing.tick(clock)
        starting, self._starting = [*self._starting, *starting], []
        self._start(starting)
        for job in overdue:
            self._leave(job, self._held(job, LIMIT))
        if self._turns:
            await self._turn_on(clock)
        pause = min(self._pacing.next_tick(clock), _LONGEST_PAUSE)
        return max(pause, _SHORTEST_PAUSE)

    async def refuse(self, entry: Entry, error: str, emit: Emit) -> None:
        """End every delivery of the record that is not in hand."""
        begun = self._begun.pop(entry.source, None)
        raw = undecodable(entry.source, entry.key, entry.value, self._clock.now(), error)
        delivery = attempted(lambda: read_delivery(entry.value))
        if delivery is None or not delivery.targets:
            self._note(raw)
            emit(Emission(entry, [journal.outcome(raw)]))
            return
        batch = begun.batch if begun else Batch(entry, emit, len(delivery.targets))
        for target in delivery.targets:
            if begun and (target.id, delivery.series, delivery.gen) in begun.keys:
                continue
            result = undecodable_target(raw, delivery, target)
            self._note(result)
            batch.done(journal.outcome(result, delivery.ordering_key))
            # One copy of the record is enough.
            raw = replace(raw, raw_base64="")

    async def settled(self, emissions: Sequence[Emission]) -> None:
        """The outcomes are settle's now; what was counted since the last time is measured at once."""
        if self._ended:
            ended, self._ended = self._ended, []
            self._reporter.attempts([line_of(*each) for each in ended])
        for outcome, count in self._outcomes.items():
            self._meter.count(ATTEMPTS, count, outcome)
        for failure, count in self._failures.items():
            self._meter.count(ERRORS, count, failure)
        self._meter.observe(DURATION, self._durations)
        self._outcomes.clear()
        self._failures.clear()
        self._durations.clear()

    def _sorted(self, jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
        """Those that are new, and those whose twin is in hand or in this very batch."""
        fresh: dict[Key, Job] = {}
        stale: list[Job] = []
        for job in jobs:
            if job.key in self._in_hand or job.key in fresh:
                stale.append(job)
            else:
                fresh[job.key] = job
        if stale:
            self._meter.count(STALE, len(stale))
        return list(fresh.values()), stale

    def _may_ask(self, job: Job) -> bool:
        """Whether it has no turn to wait for, as far as is known here."""
        return not job.delivery.ordering_key or (self._turns_open and not self._turns.waits(ask_of(job).turn))

    def _plan(self, jobs: Sequence[Job], passages: Sequence[Passage]) -> _Plan:
        now = self._clock.now()
        plan = _Plan([], [], [])
        stale = 0
        for job, (verdict, held_by, wait, probe) in zip(jobs, passages, strict=True):
            if verdict == "go":
                plan.going.append(_Going(replace(job, probe=probe) if probe else job, wait))
            elif verdict == "wait":
                plan.turning.append(job)
            elif verdict == "stale":
                stale += 1
                plan.over.append((job, None))
            elif verdict == "hold":
                plan.over.append((job, self._held(job, held_by)))
            else:
                why = "cancelled" if verdict == "cancelled" else "endpoint_disabled"
                plan.over.append((job, unsent(job.cut, why, now)))
        if stale:
            self._meter.count(STALE, stale)
        return plan

    def _enter(
        self, going: Sequence[_Going], turning: Sequence[Job], call: Callable[[Job, int], Call | Result]
    ) -> list[tuple[Job, Result | None]]:
        """Send what starts now and keep what waits; what found no place is held, and what can't be sent refused."""
        clock, now = self._clock.monotonic(), self._clock.now()
        before = self._sender.in_flight()
        starting: list[Job] = []
        calls: list[Call] = []
        waiting: list[Job] = []
        over: list[tuple[Job, Result | None]] = []
        whole = False
        try:
            for job in turning:
                turn, back = ask_of(job).turn, job.delivery.gen > 0
                if self._turns.enter(job, turn, len(job.body), clock, back=back):
                    self._keep(job, waiting)
                    if back:
                        # Its turn may have come: those that are new and wait already are not before it.
                        self._turns.stir(turn, clock)
                        self._wake(0)
                else:
                    over.append((job, self._held(job, ORDER)))
            for each in going:
                job = each.job
                where = self._place(job, each.wait, clock)
                if where == "start":
                    starting.append(job)
                elif where == "wait":
                    self._keep(job, waiting)
                else:
                    over.append((job, self._held(job, LIMIT)))
            refused: list[Job] = []
            for job in starting:
                made = call(job, now)
                if isinstance(made, Call):
                    calls.append(made)
                else:
                    refused.append(job)
                    over.append((job, made))
            self._in_hand.update([job.key for job in starting])
            self._sender.send(calls, self._answered)
            whole = True
        finally:
            if not whole:
                self._remember(starting, self._sender.in_flight() - before, calls, waiting)
        for job in refused:
            self._in_hand.discard(job.key)
            self._start(self._pacing.finished(job.endpoint, job.host, job, None, clock))
        return over

    def _place(self, job: Job, wait: float, clock: float) -> str:
        if wait:
            self._wake(self._clock.now() + round(wait * 1000))
        return self._pacing.enter(
            job,
            job.endpoint,
            job.host,
            len(job.body),
            clock,
            cap=job.limits.max_in_flight,
            ready_at=clock + wait if wait else 0.0,
            patient=job.probe > 0 or job.delivery.admitted,
        )

    def _keep(self, job: Job, waiting: list[Job]) -> None:
        self._in_hand.add(job.key)
        waiting.append(job)

    async def _turn_on(self, clock: float) -> None:
        """Ask for the first of each turn, and put aside who has waited too long. These are asked about too: only who
        has entered its turn may leave the room, or those behind it would pass."""
        if not self._turns_open:
            return
        late = {id(job): job for job in self._turns.overdue(clock)}
        heads = [job for job in self._turns.heads(clock) if id(job) not in late]
        jobs = [*late.values(), *heads]
        # What a config sets may have changed since they came in.
        limited = [replace(job, limits=self._directory.limits(job.delivery.scope)) for job in jobs]
        passages = await self._state.gate([ask_of(job) for job in limited], self._clock.now())
        ready: list[tuple[Job, Passage]] = []
        for job, now_limited, passage in zip(jobs, limited, passages, strict=True):
            waits = passage.verdict == "wait"
            if (waits and id(job) not in late) or not self._turns.leave(job):
                continue
            if waits:
                self._leave(job, self._held(job, ORDER))
            else:
                ready.append((now_limited, passage))
        going, _, over = self._plan([job for job, _ in ready], [passage for _, passage in ready])
        for job, result in (*over, *self._enter(going, (), self._call_or_fault)):
            self._leave(job, result)

    def _not_begun(self, jobs: Sequence[Job]) -> list[Job]:
        """Without those that were in hand before a bug broke their batch off; their siblings join the entry as it
        was."""
        left: list[Job] = []
        for job in jobs:
            begun = self._begun.get(job.batch.entry.source)
            if begun is None:
                left.append(job)
            elif job.key not in begun.keys:
                left.append(replace(job, batch=begun.batch))
        return left

    def _remember(self, starting: Sequence[Job], sent: int, calls: Sequence[Call], waiting: Sequence[Job]) -> None:
        """A bug broke a batch off: what waits and what was sent is in hand for all that, and the rest is not."""
        flying = [cast(Job, call.context) for call in calls[:sent]]
        for job in (*waiting, *flying):
            self._begun.setdefault(job.batch.entry.source, _Begun(job.batch, set())).keys.add(job.key)
        known = {id(job) for job in flying}
        for job in starting:
            if id(job) not in known:
                self._in_hand.discard(job.key)
                self._start(self._pacing.finished(job.endpoint, job.host, job, None, self._clock.monotonic()))

    def _start(self, jobs: Sequence[Job]) -> None:
        """Send what has waited. One that can't be sent leaves its place to the next."""
        if not jobs:
            return
        now, clock = self._clock.now(), self._clock.monotonic()
        calls: list[Call] = []
        starting = list(jobs)
        # One net for all, and one for each only where something fell into it.
        together = attempted(lambda: [self._call(job, now) for job in jobs])
        for position, job in enumerate(starting):
            known = together is not None and position < len(together)
            made = together[position] if together is not None and known else self._call_or_fault(job, now)
            if isinstance(made, Call):
                calls.append(made)
                continue
            starting += self._pacing.finished(job.endpoint, job.host, job, None, clock)
            self._leave(job, made)
        self._sender.send(calls, self._answered)

    def _call(self, job: Job, now: int) -> Call | Result:
        return call_of(job, now, self._addressing, self._options)

    def _call_or_fault(self, job: Job, now: int) -> Call | Result:
        made = attempted(lambda: self._call(job, now), lambda error: self._tell_fault(job, error))
        return made if made is not None else result_of(job, now, "failed", error=_FAULT)

    def _held(self, job: Job, held_by: str) -> Result:
        return put_aside(job.cut, held_by, job.endpoint, self._clock.now())

    def _leave(self, job: Job, result: Result | None) -> None:
        """The end of a job that was in hand."""
        self._in_hand.discard(job.key)
        self._stir(job)
        self._done(job, result)

    def _stir(self, job: Job) -> None:
        """Its turn may be another's once settle has its outcome."""
        if job.delivery.ordering_key and self._turns:
            self._turns.stir(ask_of(job).turn, self._clock.monotonic())

    def _done(self, job: Job, result: Result | None) -> None:
        """The end of a job that was not sent: stale, or with a result."""
        if result is None:
            job.batch.done(None)
            return
        self._note(result, job)
        job.batch.done(journal.outcome(result, job.delivery.ordering_key))

    def _end_unreadable(self, entry: Entry, error: str, emit: Emit) -> None:
        result = undecodable(entry.source, entry.key, entry.value, self._clock.now(), error)
        self._note(result)
        emit(Emission(entry, [journal.outcome(result)]))

    def _note(self, result: Result, job: Job | None = None, answer: Answer | None = None) -> None:
        if result.outcome not in _NO_ATTEMPT:
            self._outcomes[result.outcome] += 1
        if result.outcome in self._said:
            self._ended.append(_Ended(result, job, answer))

    def _answered(self, call: Call, answer: Answer) -> None:
        job = cast(Job, call.context)
        self._in_hand.discard(job.key)
        self._stir(job)
        if answer.failure == "cancelled":
            # Left unfinished: the next start sends it again under the same id.
            self.cut_off += 1
            self._pacing.finished(job.endpoint, job.host, job, None, self._clock.monotonic())
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
            result = result_of(job, now, outcome, answer, error=_FAULT)
        self._note(result, job, answer)
        job.batch.done(journal.outcome(result, job.delivery.ordering_key))
        good = verdict_of(answer.status, result.outcome)
        self._freed(self._pacing.finished(job.endpoint, job.host, job, good, self._clock.monotonic()))

    def _freed(self, jobs: Sequence[Job]) -> None:
        """These may start: at the next turn, together with those that the other answers of this moment let go."""
        if jobs:
            if not self._starting:
                self._wake(0)
            self._starting += jobs

    def _judged(self, job: Job, answer: Answer, now: int) -> Result:
        retry = job.delivery.retry
        on_status = retry.on_status if retry else ()
        outcome, reason, error = judge_answer(answer.status, answer.failure, answer.error, on_status)
        return result_of(job, now, outcome, answer, reason, error, self._options)

    def _tell_fault(self, job: Job, error: Exception) -> None:
        source = job.batch.entry.source
        self._reporter.fail("poison", f"{_FAULT}: {whereabouts(error)}", stage=GROUP, source=source)
        self._meter.count(POISON, 1, GROUP)
