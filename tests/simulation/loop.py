"""An event loop without a machine under it: no sockets, no threads, and a time that stands still while anything is
ready and else jumps to the next timer. What runs on it runs the same way every time.

It is what asyncio's own primitives need of a loop and nothing more: tasks, futures, timers, `asyncio.timeout`, task
groups and async generators run on it unchanged. Whoever waits for what no timer will bring is stuck, and the loop says
so instead of waiting.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from typing import Any

_MOST_STEPS_AT_ONCE = 100_000
Callback = Callable[..., object]


class Stuck(Exception):
    """Nothing is ready and no timer is set, and what was waited for has not come."""


class _Handle:
    """What `call_soon` and `call_at` give back."""

    __slots__ = ("_args", "_callback", "_context", "_when")

    def __init__(self, callback: Callback, args: tuple[Any, ...], context: contextvars.Context | None, when: float):
        self._callback: Callback | None = callback
        self._args = args
        self._context = context or contextvars.copy_context()
        self._when = when

    def run(self) -> None:
        callback = self._callback
        if callback is not None:
            self._context.run(callback, *self._args)

    def cancel(self) -> None:
        self._callback = None
        self._args = ()

    def cancelled(self) -> bool:
        return self._callback is None

    def when(self) -> float:
        return self._when


class VirtualLoop(asyncio.AbstractEventLoop):
    """`begun` is the time it starts at, in seconds. A task without a name has that of the task that made it."""

    def __init__(self, begun: float = 0.0) -> None:
        self.problems: list[str] = []
        self.halted = False
        self._now = begun
        self._ready: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._count = 0
        self._running = False
        self._closed = False

    # Running

    def halt(self) -> None:
        """Let nothing run any more after what runs now, as a kill does."""
        self.halted = True

    def freeze(self, seconds: float) -> None:
        """Let time pass in which nothing runs."""
        self._now += seconds

    def run_while(self, condition: Callable[[], bool]) -> None:
        """Run until the condition is false at the end of a step, or the loop is halted. Raises `Stuck`."""
        self._enter()
        ready, timers = self._ready, self._timers
        still = 0
        try:
            while condition() and not self.halted:
                if not ready:
                    self._jump(timers)
                    still = 0
                ready.popleft().run()
                still += 1
                if still > _MOST_STEPS_AT_ONCE:
                    raise Stuck(f"{still} steps without a moment passing: something spins")
        finally:
            self._leave()

    def run_until_complete(self, future: Any) -> Any:
        task = asyncio.ensure_future(future, loop=self)
        self.run_while(lambda: not task.done())
        return task.result()

    def bury(self) -> None:
        """End every task of a loop that was halted, without letting time pass."""
        self.halted = False
        self._timers.clear()
        for task in asyncio.all_tasks(self):
            task.cancel()
        self._enter()
        try:
            while self._ready:
                self._ready.popleft().run()
        finally:
            self._leave()
        left = asyncio.all_tasks(self)
        if left:
            self.problems.append(f"{len(left)} tasks do not end when they are cancelled")
        self._closed = True

    def _enter(self) -> None:
        if self._running:
            raise RuntimeError("the loop is running already")
        self._running = True
        asyncio._set_running_loop(self)  # noqa: SLF001 - "called by event loops", and exported for them

    def _leave(self) -> None:
        asyncio._set_running_loop(None)  # noqa: SLF001
        self._running = False

    def _jump(self, timers: "list[tuple[float, int, _Handle]]") -> None:
        while timers and timers[0][2].cancelled():
            heappop(timers)
        if not timers:
            raise Stuck("nothing is ready and no timer is set")
        when = timers[0][0]
        self._now = max(self._now, when)
        # All of one moment, in the order in which they were set.
        while timers and timers[0][0] <= when:
            self._ready.append(heappop(timers)[2])

    # What asyncio asks of a loop

    def time(self) -> float:
        return self._now

    def call_soon(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, callback: Callback, *args: Any, context: contextvars.Context | None = None
    ) -> _Handle:
        handle = _Handle(callback, args, context, self._now)
        self._ready.append(handle)
        return handle

    def call_later(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, delay: float, callback: Callback, *args: Any, context: contextvars.Context | None = None
    ) -> _Handle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, when: float, callback: Callback, *args: Any, context: contextvars.Context | None = None
    ) -> _Handle:
        handle = _Handle(callback, args, context, when)
        self._count += 1
        heappush(self._timers, (when, self._count, handle))
        return handle

    def call_soon_threadsafe(self, callback: Callback, *args: Any, context: contextvars.Context | None = None) -> Any:
        raise RuntimeError("a thread calls into the simulation: what it does can't be replayed")

    def run_in_executor(self, executor: Any, func: Callback, *args: Any) -> Any:
        raise RuntimeError("the simulation is asked for a thread: what that does can't be replayed")

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> "asyncio.Task[Any]":
        if name is None:
            maker = asyncio.current_task(self) if self._running else None
            name = maker.get_name() if maker else "world"
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.problems.append(f"{context.get('message')}: {error!r}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    async def shutdown_asyncgens(self) -> None:
        return

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        return
