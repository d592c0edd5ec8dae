"""The deliver room's queue: which of the jobs in hand may be called now, so that no endpoint costs the others anything.

Jobs enter with the endpoint they are for, and are said to start, to wait here, or to be too many. Every job that was
started has to be `finished` exactly once; until then it is known by its identity, so it must be an object of its own
(two jobs may be equal, but not the same). Time is monotonic seconds and passed in; one thread uses it.
"""

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Generic, Literal, NamedTuple, TypeVar

from howk.domain.congestion import Congestion

J = TypeVar("J")

_OLD = 2.0
_MOST_IDLE = 16_384
_SHARE = 16
"""An endpoint gets one part in so many: of the free window for what waits, of the slots for calls that are old."""
_FREE_SHARE = 4
_STALE_TIMERS = 64
_PACED_OVER = 0.1
_BRISK = 1.0
"""An endpoint whose calls end so fast that all slots would go by in so many seconds is waited for; what comes for a
slower one is not, so that it fills its share of the window and others go on."""


class PaceLimits(NamedTuple):
    """`slots`: calls at once; `window`, `window_bytes`: what may wait; each over all endpoints together.

    `per_endpoint` and `per_domain` bound the calls at once to one of them, 0 for no bound on a domain. `patience`, more
    than 0, is how many seconds a job may wait here.
    """

    slots: int
    window: int
    window_bytes: int
    per_endpoint: int
    per_domain: int
    patience: float = 2.0


class _Endpoint(Congestion, Generic[J]):
    """What is known of an endpoint: how much it bears, its calls under way, and what waits for it."""

    __slots__ = (
        "domain",
        "ended",
        "in_flight",
        "key",
        "level",
        "marked",
        "offer",
        "old",
        "pace",
        "timer",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, key: str, domain: str, ceiling: int) -> None:
        super().__init__(ceiling)
        self.key = key
        self.domain = domain
        self.in_flight = 0
        self.old = 0
        self.waiting: OrderedDict[_Waiting[J], None] | None = None
        self.waiting_bytes = 0
        self.level = -1
        """Where only a slot is missing: the calls under way, which is the ring it stands in; else -1."""
        self.offer = 0
        """How many of its jobs go soon: they would start if there were slots, or it is brisk."""
        self.pace = inf
        self.ended = 0
        self.marked = 0.0
        """Calls a second that ended while others waited, and what it is measured from; at first it is taken for
        fast."""
        self.timer = inf
        """When it is looked at again because its first job may not start before."""


class _Waiting(Generic[J]):
    __slots__ = ("endpoint", "job", "patient", "ready_at", "since", "size")

    def __init__(
        self, job: J, endpoint: _Endpoint[J], size: int, since: float, ready_at: float, *, patient: bool
    ) -> None:
        self.job = job
        self.endpoint = endpoint
        self.size = size
        self.since = since
        self.ready_at = ready_at
        self.patient = patient


class Pacing(Generic[J]):
    """The queue. What waits is started by `finished` and `tick` alone, which say so once."""

    __slots__ = (
        "_brisk",
        "_by_domain",
        "_calls",
        "_endpoints",
        "_held_by_domain",
        "_idle",
        "_impatient",
        "_in_flight",
        "_limits",
        "_offered",
        "_old",
        "_order",
        "_ready",
        "_rings",
        "_slots",
        "_stalled",
        "_timers",
        "_waiting",
        "_waiting_bytes",
    )

    def __init__(self, limits: PaceLimits) -> None:
        self._limits = limits
        self._slots = limits.slots
        self._endpoints: dict[str, _Endpoint[J]] = {}
        # Least recently used first.
        self._idle: dict[str, _Endpoint[J]] = {}
        # By identity of the job: (job, endpoint, since when its age is counted, whether it is old), in that order.
        self._calls: dict[int, tuple[J, _Endpoint[J], float, bool]] = {}
        self._in_flight = 0
        self._old = 0
        self._by_domain: dict[str, int] = {}
        self._waiting = 0
        self._waiting_bytes = 0
        self._impatient: OrderedDict[_Waiting[J], None] = OrderedDict()
        # Endpoints whose next job lacks nothing but a slot, by their calls under way: fewest first, then in turn.
        self._rings: list[OrderedDict[_Endpoint[J], None]] = [
            OrderedDict() for _ in range(min(limits.per_endpoint, limits.slots + 1))
        ]
        self._ready = 0
        self._offered = 0
        self._brisk: dict[_Endpoint[J], None] = {}
        # Those held back by what is not their own doing alone; their own calls' ends would not wake them.
        self._stalled: dict[_Endpoint[J], None] = {}
        self._held_by_domain: dict[str, OrderedDict[_Endpoint[J], None]] = {}
        self._timers: list[tuple[float, int, _Endpoint[J]]] = []
        self._order = count()

    def appetite(self) -> int:
        """How many more jobs are worth fetching now: the free slots that nothing here will take in a moment. While
        there is only one endpoint, nobody waits for what it leaves over."""
        if len(self._endpoints) - len(self._idle) == 1:
            return max(0, self._slots - self._in_flight - self._waiting)
        return max(0, self._slots - self._in_flight - self._offered)

    def enter(
        self,
        job: J,
        key: str,
        domain: str,
        size: int,
        now: float,
        *,
        cap: int = 0,
        ready_at: float = 0.0,
        patient: bool = False,
    ) -> Literal["start", "wait", "full"]:
        """Whether a job starts now (and counts as started), waits here, or finds no place; `size` in bytes.

        `cap` is a bound of the endpoint's own on its calls at once, 0 for none. A job does not start before `ready_at`,
        nor before those of its endpoint that wait already. A `patient` one is owed its place: it needs room in the
        window only, and is never overdue.
        """
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            endpoint = self._met(key, domain)
        ceiling = self._limits.per_endpoint
        if 0 < cap < ceiling:
            ceiling = cap
        if ceiling != endpoint.ceiling:
            self._recap(endpoint, ceiling, now)
        if endpoint.waiting is None:
            in_flight = endpoint.in_flight
            if not in_flight:
                endpoint.domain = domain
            free = self._slots - self._in_flight
            if (
                ready_at <= now
                and free > 0
                and in_flight < endpoint.limit
                and _FREE_SHARE * (in_flight - 1) < free
                and not (endpoint.old and self._too_old(endpoint))
                and not (self._limits.per_domain and self._domain_full(endpoint))
            ):
                if not in_flight:
                    del self._idle[key]
                self._start(endpoint, job, now)
                return "start"
        if not self._has_room(endpoint, size, patient):
            return "full"
        self._queue(_Waiting(job, endpoint, size, now, ready_at, patient=patient), now)
        return "wait"

    def finished(self, key: str, domain: str, job: J, good: bool | None, now: float) -> list[J]:
        """A started job's call has ended: the jobs that start now in its place (and count as started).

        `job` is the very object that entered, `key` and `domain` what it entered with. `good` is False for what speaks
        of congestion (timeout, transport, 429, 5xx), None for what says nothing. KeyError for a job not under way.
        """
        _, endpoint, _, old = self._calls.pop(id(job))
        in_flight = endpoint.in_flight
        if good:
            if in_flight >= endpoint.limit:
                endpoint.grow()
        elif good is False:
            endpoint.cut(now)
        endpoint.in_flight = in_flight = in_flight - 1
        self._in_flight -= 1
        if old:
            endpoint.old -= 1
            self._old -= 1
        if endpoint.waiting is not None:
            endpoint.ended += 1
            if now - endpoint.marked >= _PACED_OVER:
                self._measure(endpoint, now)
            self._place(endpoint, now)
        elif not in_flight:
            self._rest(endpoint)
        if self._limits.per_domain:
            self._leave_domain(endpoint, now)
        if old and self._stalled and 2 * self._old < self._slots:
            for stalled in list(self._stalled):
                self._place(stalled, now)
        return self._dispatch(now) if self._ready else []

    def tick(self, now: float) -> tuple[list[J], list[J]]:
        """The jobs that start now, and those that waited too long and are no longer here.

        A job is not overdue while its endpoint would take more calls and only slots are missing: its patience begins
        anew.
        """
        self._age(now)
        for endpoint in list(self._brisk):
            if now - endpoint.marked >= _PACED_OVER:
                self._measure(endpoint, now)
                del self._brisk[endpoint]
                self._offer(endpoint)
        timers = self._timers
        while timers and timers[0][0] <= now:
            _, _, endpoint = heappop(timers)
            endpoint.timer = inf
            if endpoint.waiting is not None:
                self._place(endpoint, now)
        started = self._dispatch(now)
        overdue = self._overdue(now)
        if overdue:
            # What waited behind them may be ready earlier than they were.
            started += self._dispatch(now)
        return started, overdue

    def next_tick(self, now: float) -> float:
        """Seconds until `tick` has something to do at the soonest; infinite when nothing waits or is under way."""
        if self._next_ready() is not None:
            return 0.0
        soonest = inf
        for _, _, since, _ in self._calls.values():
            soonest = since + _OLD
            break
        for waiting in self._impatient:
            soonest = min(soonest, waiting.since + self._limits.patience)
            break
        timers = self._timers
        while timers:
            at, _, endpoint = timers[0]
            if endpoint.waiting is not None:
                soonest = min(soonest, at)
                break
            # Its queue has gone since.
            endpoint.timer = inf
            heappop(timers)
        return max(0.0, soonest - now)

    def drain(self) -> list[J]:
        """Forget and give back everything that waits, in order within an endpoint. What is under way stays so."""
        drained: list[J] = []
        for endpoint in list(self._endpoints.values()):
            if endpoint.waiting is None:
                continue
            drained += [waiting.job for waiting in endpoint.waiting]
            endpoint.waiting = None
            endpoint.waiting_bytes = 0
            endpoint.level = -1
            endpoint.offer = 0
            if not endpoint.in_flight:
                self._rest(endpoint)
        for ring in self._rings:
            ring.clear()
        for each in (self._impatient, self._stalled, self._held_by_domain, self._brisk):
            each.clear()
        self._waiting = self._waiting_bytes = self._ready = self._offered = 0
        self._forget_timers()
        return drained

    def _met(self, key: str, domain: str) -> _Endpoint[J]:
        endpoint = self._endpoints[key] = _Endpoint[J](key, domain, self._limits.per_endpoint)
        self._rest(endpoint)
        return endpoint

    def _rest(self, endpoint: _Endpoint[J]) -> None:
        """The endpoint has neither calls nor jobs: from now on it may be forgotten."""
        idle = self._idle
        idle[endpoint.key] = endpoint
        if len(idle) > _MOST_IDLE:
            forgotten = next(iter(idle))
            del idle[forgotten]
            del self._endpoints[forgotten]

    def _recap(self, endpoint: _Endpoint[J], ceiling: int, now: float) -> None:
        if endpoint.cap(ceiling) and endpoint.waiting is not None:
            self._place(endpoint, now)

    def _start(self, endpoint: _Endpoint[J], job: J, now: float) -> None:
        self._calls[id(job)] = (job, endpoint, now, False)
        endpoint.in_flight += 1
        self._in_flight += 1
        if self._limits.per_domain:
            self._by_domain[endpoint.domain] = self._by_domain.get(endpoint.domain, 0) + 1

    def _too_old(self, endpoint: _Endpoint[J]) -> bool:
        return endpoint.old >= max(1, self._slots // _SHARE) or 2 * self._old >= self._slots

    def _domain_full(self, endpoint: _Endpoint[J]) -> bool:
        return self._by_domain.get(endpoint.domain, 0) >= self._limits.per_domain

    def _has_room(self, endpoint: _Endpoint[J], size: int, patient: bool) -> bool:
        free = self._limits.window - self._waiting
        free_bytes = self._limits.window_bytes - self._waiting_bytes
        if free <= 0 or size > free_bytes:
            return False
        if patient or endpoint.waiting is None:
            return True
        count_after = len(endpoint.waiting) + 1
        return _SHARE * count_after <= free and _SHARE * (endpoint.waiting_bytes + size) <= free_bytes

    def _queue(self, waiting: _Waiting[J], now: float) -> None:
        endpoint = waiting.endpoint
        self._waiting += 1
        self._waiting_bytes += waiting.size
        endpoint.waiting_bytes += waiting.size
        if not waiting.patient:
            self._impatient[waiting] = None
        if endpoint.waiting is None:
            if not endpoint.in_flight:
                del self._idle[endpoint.key]
            endpoint.waiting = OrderedDict({waiting: None})
            endpoint.pace, endpoint.ended, endpoint.marked = inf, 0, now
            self._place(endpoint, now)
        else:
            endpoint.waiting[waiting] = None
            self._offer(endpoint)

    def _unqueue(self, waiting: _Waiting[J]) -> None:
        endpoint = waiting.endpoint
        queue = endpoint.waiting
        assert queue is not None  # noqa: S101 - a job that waits is in its endpoint's queue
        del queue[waiting]
        self._waiting -= 1
        self._waiting_bytes -= waiting.size
        endpoint.waiting_bytes -= waiting.size
        if not waiting.patient:
            self._impatient.pop(waiting, None)
        if not queue:
            endpoint.waiting = None

    def _place(self, endpoint: _Endpoint[J], now: float) -> None:
        """Put the endpoint where it belongs: into the ring of those that lack only a slot, or where it will be woken.

        One that is where it belongs keeps its turn.
        """
        self._move(endpoint, now)
        if endpoint.level < 0 and self._limits.per_domain:
            self._wake_domain(endpoint.domain, now)

    def _move(self, endpoint: _Endpoint[J], now: float) -> None:
        level = self._level(endpoint, now)
        if level != endpoint.level:
            if endpoint.level >= 0:
                del self._rings[endpoint.level][endpoint]
                self._ready -= 1
            if level >= 0:
                self._rings[level][endpoint] = None
                self._ready += 1
            endpoint.level = level
        self._offer(endpoint)

    def _level(self, endpoint: _Endpoint[J], now: float) -> int:
        self._stalled.pop(endpoint, None)
        if self._limits.per_domain:
            self._release_domain(endpoint)
        if endpoint.waiting is None:
            return -1
        first = next(iter(endpoint.waiting))
        if first.ready_at > now:
            self._set_timer(endpoint, first.ready_at)
        elif endpoint.in_flight >= endpoint.limit:
            # Woken by an end of its own calls, as there is one.
            pass
        elif endpoint.old and self._too_old(endpoint):
            self._stalled[endpoint] = None
        elif self._limits.per_domain and self._domain_full(endpoint):
            self._held_by_domain.setdefault(endpoint.domain, OrderedDict())[endpoint] = None
        else:
            return endpoint.in_flight
        return -1

    def _offer(self, endpoint: _Endpoint[J]) -> None:
        offer = 0
        if endpoint.waiting is not None:
            if endpoint.pace * _BRISK >= self._slots:
                offer = len(endpoint.waiting)
                self._brisk[endpoint] = None
            elif endpoint.level >= 0:
                offer = min(len(endpoint.waiting), endpoint.limit - endpoint.in_flight)
        self._offered += offer - endpoint.offer
        endpoint.offer = offer

    def _measure(self, endpoint: _Endpoint[J], now: float) -> None:
        endpoint.pace = endpoint.ended / (now - endpoint.marked)
        endpoint.ended, endpoint.marked = 0, now

    def _set_timer(self, endpoint: _Endpoint[J], ready_at: float) -> None:
        # One that is too early only looks, and is set again.
        if ready_at < endpoint.timer:
            endpoint.timer = ready_at
            heappush(self._timers, (ready_at, next(self._order), endpoint))
            if len(self._timers) > 2 * self._waiting + _STALE_TIMERS:
                self._forget_timers()

    def _forget_timers(self) -> None:
        """Drop the timers that an earlier one of the same endpoint replaced, and those of empty queues."""
        kept: dict[_Endpoint[J], tuple[float, int, _Endpoint[J]]] = {}
        for timer in self._timers:
            endpoint = timer[2]
            if endpoint.waiting is None:
                endpoint.timer = inf
            elif timer[0] == endpoint.timer:
                kept[endpoint] = timer
        self._timers[:] = kept.values()
        heapify(self._timers)

    def _next_ready(self) -> _Endpoint[J] | None:
        """The endpoint whose turn it is. Fewest calls first, so that those with none are never behind those with many;
        and none may take more than its share of what is free."""
        free = self._slots - self._in_flight
        if free <= 0 or not self._ready:
            return None
        for level, ring in enumerate(self._rings):
            if _FREE_SHARE * (level - 1) >= free:
                return None
            if ring:
                return next(iter(ring))
        return None

    def _dispatch(self, now: float) -> list[J]:
        started: list[J] = []
        while (endpoint := self._next_ready()) is not None:
            level = endpoint.level
            # What it shares with others may have been used up since it was placed.
            self._place(endpoint, now)
            if endpoint.level != level or endpoint.waiting is None:
                continue
            first = next(iter(endpoint.waiting))
            self._unqueue(first)
            self._start(endpoint, first.job, now)
            started.append(first.job)
            self._place(endpoint, now)
        return started

    def _age(self, now: float) -> None:
        """What is unfinished for long is congestion, and again as often as the same time has passed."""
        calls = self._calls
        while calls:
            identity, (job, endpoint, since, old) = next(iter(calls.items()))
            if since + _OLD > now:
                return
            del calls[identity]
            calls[identity] = (job, endpoint, now, True)
            if not old:
                endpoint.old += 1
                self._old += 1
            endpoint.cut(now)
            if endpoint.waiting is not None:
                self._place(endpoint, now)

    def _overdue(self, now: float) -> list[J]:
        overdue: list[J] = []
        patience = self._limits.patience
        impatient = self._impatient
        # Those excused go to the end, and are not asked again.
        for _ in range(len(impatient)):
            waiting = next(iter(impatient))
            if waiting.since + patience > now:
                break
            endpoint = waiting.endpoint
            if endpoint.level >= 0:
                waiting.since = now
                impatient.move_to_end(waiting)
                continue
            self._unqueue(waiting)
            overdue.append(waiting.job)
            self._place(endpoint, now)
            if endpoint.waiting is None and not endpoint.in_flight:
                self._rest(endpoint)
        return overdue

    def _leave_domain(self, endpoint: _Endpoint[J], now: float) -> None:
        left = self._by_domain[endpoint.domain] - 1
        if left:
            self._by_domain[endpoint.domain] = left
        else:
            del self._by_domain[endpoint.domain]
        if endpoint.level < 0:
            self._wake_domain(endpoint.domain, now)

    def _release_domain(self, endpoint: _Endpoint[J]) -> None:
        held = self._held_by_domain.get(endpoint.domain)
        if held is not None and endpoint in held:
            del held[endpoint]
            if not held:
                del self._held_by_domain[endpoint.domain]

    def _wake_domain(self, domain: str, now: float) -> None:
        """Where a domain has room again, one of those it held back gets ready; when that has gone, the next."""
        if self._by_domain.get(domain, 0) >= self._limits.per_domain:
            return
        held = self._held_by_domain.get(domain)
        while held:
            endpoint = next(iter(held))
            self._move(endpoint, now)
            if endpoint.level >= 0:
                return
