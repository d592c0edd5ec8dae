"""The outbound HTTP sender: calls enter in batches and go to a pooled connection of their origin, to a new one, or wait
for one; answers leave in batches on the event loop. Contract: `howk.ports.sender`.

A call on an idle connection costs no task, future or timer: one timer serves all deadlines, within `TICK`
seconds. What waits for an origin at its limit is bounded by the caller only: by how much it has in flight.
"""

import asyncio
import re
import ssl
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from time import monotonic
from typing import NamedTuple

from howk.adapters.outbound.connection import DEFAULT_PORTS, UNASKED, Connection, Pool
from howk.adapters.outbound.dial import Dial, Means
from howk.adapters.outbound.options import SenderOptions
from howk.adapters.outbound.resolve import Resolve, SystemResolver, Unreachable
from howk.domain.addresses import AddressPolicy, blocked_reason
from howk.ports.sender import Answer, Answered, Call, Connections, Failure, Origin, Timings

TICK = 0.02
_NEVER = float("inf")
_CLOSING = 2.0
_TARGET = re.compile(rb"/[\x21-\x7e]*")
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,255}")


class _Dialled(NamedTuple):
    """The call that a dial is for."""

    dial: Dial
    pool: Pool
    answered: Answered
    call: Call
    started: float


class OutboundSender:
    """A `Sender`. Made on the running event loop; `resolve` replaces the system's resolver.

    The counters only rise: `dials`, `reuses` of idle connections, `stale_retries`.
    """

    def __init__(self, options: SenderOptions, resolve: Resolve | None = None) -> None:
        self.dials = 0
        self.reuses = 0
        self.stale_retries = 0
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._system = SystemResolver()
        self._means = Means(
            options,
            resolve or self._system,
            _judge(options.policy),
            options.tls or ssl.create_default_context(),
        )
        self._pools: dict[Origin, Pool] = {}
        self._open: set[Connection] = set()
        # The one idle for longest is first.
        self._idle: OrderedDict[Connection, None] = OrderedDict()
        self._dialling: dict[asyncio.Task[Connection], _Dialled] = {}
        self._given_up: dict[asyncio.Task[Connection], Pool] = {}
        self._answers: deque[tuple[Answered, Call, Answer]] = deque()
        self._flushing = False
        self._in_flight = 0
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._next_check = _NEVER
        self._drained: asyncio.Event | None = None
        self._all_gone: asyncio.Event | None = None

    @property
    def open_connections(self) -> int:
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    @property
    def origins(self) -> int:
        """How many origins have a connection or a call that waits."""
        return len(self._pools)

    def send(self, calls: Sequence[Call], answered: Answered) -> None:
        now = monotonic()
        limit = self._options.max_per_origin
        for call in calls:
            if self._closed:
                self._fail(answered, call, "cancelled", "the sender is closed", 0.0)
            elif not _well_formed(call):
                self._fail(answered, call, "invalid_endpoint", "the path or a header can't be sent", 0.0)
            elif (pool := self._pools.get(call.origin) or self._new_pool(call.origin)) is None:
                self._fail(answered, call, "invalid_endpoint", "not an HTTP origin", 0.0)
            elif pool.idle:
                connection = pool.idle.pop()
                del self._idle[connection]
                self.reuses += 1
                self._begin(connection, answered, call, now, now)
            elif pool.size < limit:
                self._dial(pool, answered, call, now)
            else:
                pool.waiting.append((answered, call))
            # Only now: a bug before this leaves nothing counted that is never answered.
            self._in_flight += 1

    def in_flight(self) -> int:
        return self._in_flight

    def connections(self) -> Connections:
        return Connections(self.dials, self.reuses, self.stale_retries, len(self._open), len(self._idle))

    async def drain(self, timeout: float) -> bool:
        if not self._in_flight:
            return True
        if self._drained is None:
            self._drained = asyncio.Event()
        try:
            async with asyncio.timeout(timeout):
                await self._drained.wait()
        except TimeoutError:
            return False
        return True

    def abort(self) -> None:
        for pool in list(self._pools.values()):
            waiting, pool.waiting = pool.waiting, deque()
            for answered, call in waiting:
                self._fail(answered, call, "cancelled", "given up by the sender", 0.0)
        dialling, self._dialling = self._dialling, {}
        for task, (dial, pool, answered, call, _) in dialling.items():
            self._fail(answered, call, "cancelled", "given up by the sender", 0.0)
            self._given_up[task] = pool
            dial.give_up(task)
        for connection in list(self._open):
            connection.cancel()

    async def close(self) -> None:
        """Gives up what is in flight, then waits until no connection and no task is left. Later calls fail."""
        self._closed = True
        self.abort()
        if self._given_up:
            await asyncio.wait(list(self._given_up), timeout=_CLOSING)
        await self.drain(_CLOSING)
        for connection in list(self._open):
            connection.end("the sender is closed", gently=True)
        await self._wait_for_farewells()
        if self._timer is not None:
            self._timer.cancel()
        self._system.close()

    async def _wait_for_farewells(self) -> None:
        self._all_gone = asyncio.Event()
        for _ in range(2):
            if not self._open:
                return
            try:
                async with asyncio.timeout(_CLOSING):
                    await self._all_gone.wait()
            except TimeoutError:
                for connection in list(self._open):
                    connection.kill()

    # What follows is called by connections: the `Owner` of each.

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def answer(self, answered: Answered, call: Call, answer: Answer) -> None:
        self._answers.append((answered, call, answer))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def free(self, connection: Connection, now: float) -> None:
        pool = connection.pool
        if pool.waiting:
            answered, call = pool.waiting.popleft()
            self.reuses += 1
            self._begin(connection, answered, call, now, now)
            return
        pool.idle.append(connection)
        self._idle[connection] = None
        connection.deadline = now + connection.idle_timeout
        if connection.deadline < self._next_check:
            self._check_at(connection.deadline, now)
        if len(self._idle) > self._options.max_idle:
            next(iter(self._idle)).end("too many idle connections", gently=True)

    def retire(self, connection: Connection) -> None:
        pool = connection.pool
        if connection in self._idle:
            del self._idle[connection]
            pool.idle.remove(connection)
        # One never lent is still counted as being dialled.
        if connection.uses:
            self._release(pool)

    def stale(self, pool: Pool, answered: Answered, call: Call, started: float) -> None:
        self.stale_retries += 1
        self._dial(pool, answered, call, started)

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._open and self._all_gone is not None:
            self._all_gone.set()

    def _begin(self, connection: Connection, answered: Answered, call: Call, started: float, now: float) -> None:
        connection.begin(answered, call, started, now)
        if connection.deadline < self._next_check:
            self._check_at(connection.deadline, now)

    def _new_pool(self, origin: Origin) -> Pool | None:
        if origin.scheme not in DEFAULT_PORTS or not _HOST.fullmatch(origin.host) or not 1 <= origin.port <= 65535:
            return None
        pool = self._pools[origin] = Pool(origin)
        return pool

    def _release(self, pool: Pool) -> None:
        """One connection fewer: the next that waits may dial, and a pool with nothing in it goes."""
        pool.size -= 1
        limit = self._options.max_per_origin
        while pool.waiting and pool.size < limit:
            answered, call = pool.waiting.popleft()
            self._dial(pool, answered, call, monotonic())
        self._prune(pool)

    def _prune(self, pool: Pool) -> None:
        if not pool.size and not pool.waiting:
            self._pools.pop(pool.origin, None)

    def _dial(self, pool: Pool, answered: Answered, call: Call, started: float) -> None:
        # It may have been pruned since the call was sent.
        self._pools[pool.origin] = pool
        pool.size += 1
        self.dials += 1
        deadline = started + call.timeout
        dial = Dial(self._means, pool.origin, lambda: Connection(self, pool, self._options), deadline)
        task = self._loop.create_task(dial.run())
        self._dialling[task] = _Dialled(dial, pool, answered, call, started)
        task.add_done_callback(self._dialled)

    def _dialled(self, task: "asyncio.Task[Connection]") -> None:
        dialled = self._dialling.pop(task, None)
        if dialled is None:
            self._release(self._given_up.pop(task))
            if not task.cancelled() and task.exception() is None:
                task.result().end("given up by the sender")
            return
        _, pool, answered, call, started = dialled
        now = monotonic()
        if task.cancelled():
            self._fail(answered, call, "cancelled", "the dial was cancelled", now - started)
        elif (error := task.exception()) is not None:
            if isinstance(error, Unreachable):
                self._fail(answered, call, error.failure, error.error, now - started)
            else:
                self._fail(answered, call, "connect", "the sender failed to connect", now - started)
                self._loop.call_exception_handler({"message": "a dial failed unforeseen", "exception": error})
        elif (connection := task.result()).ended:
            failure: Failure = "protocol" if connection.ended == UNASKED else "reset"
            self._fail(answered, call, failure, connection.ended, now - started)
        else:
            self._begin(connection, answered, call, started, now)
            return
        self._release(pool)

    def _fail(self, answered: Answered, call: Call, failure: Failure, error: str, total: float) -> None:
        self.answer(answered, call, Answer(0, failure, error, timings=Timings(total=total)))

    def _flush(self) -> None:
        """Hands over the answers of one turn of the loop. An exception out of `answered` goes to the loop's handler."""
        answers = self._answers
        try:
            for _ in range(len(answers)):
                answered, call, answer = answers.popleft()
                self._in_flight -= 1
                answered(call, answer)
        finally:
            self._flushing = bool(answers)
            if answers:
                self._loop.call_soon(self._flush)
            if not self._in_flight and self._drained is not None:
                self._drained.set()
                self._drained = None

    def _check_at(self, deadline: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_check = deadline
        self._timer = self._loop.call_later(max(deadline - now, 0.0), self._check)

    def _check(self) -> None:
        """Ends what is over its deadline. Deadlines are rarely met, so looking at all is cheaper than an order."""
        now = monotonic()
        self._timer = None
        self._next_check = _NEVER
        soonest = _NEVER
        for connection in list(self._open):
            if connection.deadline <= now:
                connection.expire(now)
            elif connection.deadline < soonest:
                soonest = connection.deadline
        if soonest < self._next_check:
            self._check_at(max(soonest, now + TICK), now)


def _judge(policy: AddressPolicy) -> Callable[[str], str]:
    @lru_cache(maxsize=4096)
    def reason_of(address: str) -> str:
        return blocked_reason(address, policy)

    return reason_of


def _well_formed(call: Call) -> bool:
    """Whether nothing in the request line or the headers can end them before their end."""
    head = call.head
    lines = head.count(b"\r\n")
    return (
        _TARGET.fullmatch(call.target) is not None
        and head.count(b"\n") == lines
        and head.count(b"\r") == lines
        and (not head or (head.endswith(b"\r\n") and b"\n\r" not in head and head[0] != 13))
    )
