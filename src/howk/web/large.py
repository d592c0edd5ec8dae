"""How large bodies come in: a bounded number of bytes at once, read by the socket only then, and a few in each turn of
the loop, so that small requests beside them wait for a few and not for all. Small ones know nothing of it.
"""

import asyncio
from collections import deque
from typing import Self

from howk.domain.errors import Full
from howk.domain.line import Line, LineBounds, Visitor

LARGE = 16 << 10
"""Bytes from which on a body is large."""
BOUNDS = LineBounds(most=32 << 20, most_held=128 << 20, first_read=256 << 10, slow=1.0, patience=10.0)
A_TURN = 256 << 10
"""Bytes of bodies that are read into requests in one turn of the loop, or one body."""
_LOOK_EVERY = 0.25


class LargeBodies:
    """All those of a door."""

    def __init__(self, bounds: LineBounds = BOUNDS) -> None:
        self._line = Line(bounds)
        self._waiting: dict[Visitor, asyncio.Future[None]] = {}
        self._looking = False
        self._turns: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._turned = 0
        self._turning = False

    @property
    def inside(self) -> int:
        """Bytes set aside for those that were let in."""
        return self._line.used

    @property
    def standing(self) -> int:
        """How many stand in line."""
        return self._line.standing

    def visit(self) -> "Visit":
        """For one request, until it is answered."""
        return Visit(self)

    async def enter(self, visit: "Visit", size: int) -> None:
        """Returns when it may be read. Raises `Full` where it would have to wait too long."""
        loop = asyncio.get_running_loop()
        visit.visitor = visitor = self._line.ask(size, loop.time())
        if not visitor.standing:
            return
        self._waiting[visitor] = future = loop.create_future()
        if not self._looking:
            self._looking = True
            loop.call_later(_LOOK_EVERY, self._look, loop)
        await future

    @property
    def crowded(self) -> bool:
        """See `Line.crowded`."""
        return self._line.crowded

    def brought(self, visitor: Visitor, size: int, *, whole: bool) -> None:
        """See `Line.brought`."""
        self._line.brought(visitor, size, whole=whole)

    async def turn(self, size: int) -> None:
        """Returns in a turn of the loop that has room for what so many bytes take to be read."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            self._turned = 0
            loop.call_soon(self._next_turn, loop)
        if not self._turns and (not self._turned or self._turned + size <= A_TURN):
            self._turned += size
            return
        future: asyncio.Future[None] = loop.create_future()
        self._turns.append((size, future))
        await future

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turned = 0
        while self._turns and (not self._turned or self._turned + self._turns[0][0] <= A_TURN):
            size, future = self._turns.popleft()
            if not future.done():
                future.set_result(None)
                self._turned += size
        self._turning = self._turned > 0
        if self._turning:
            loop.call_soon(self._next_turn, loop)

    def leave(self, visitor: Visitor) -> None:
        """It is answered, or gone."""
        self._waiting.pop(visitor, None)
        self._let_in(self._line.leave(visitor, asyncio.get_running_loop().time()))

    def _let_in(self, visitors: list[Visitor]) -> None:
        for visitor in visitors:
            future = self._waiting.pop(visitor, None)
            if future is not None and not future.done():
                future.set_result(None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        let_in, overdue = self._line.look(loop.time())
        self._let_in(let_in)
        for visitor in overdue:
            future = self._waiting.pop(visitor, None)
            if future is not None and not future.done():
                future.set_exception(Full("too many large requests came at once: try again in a moment"))
        self._looking = self._line.standing > 0
        if self._looking:
            loop.call_later(_LOOK_EVERY, self._look, loop)


class Visit:
    """One request's, a context. It costs nothing before its body is known to be large."""

    __slots__ = ("_all", "visitor")

    def __init__(self, all_: LargeBodies) -> None:
        self._all = all_
        self.visitor: Visitor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.visitor is not None:
            self._all.leave(self.visitor)

    @property
    def entered(self) -> bool:
        """Whether it has been let in."""
        return self.visitor is not None

    async def enter(self, size: int) -> None:
        """See `LargeBodies.enter`."""
        await self._all.enter(self, size)

    def brought(self, size: int, *, whole: bool) -> None:
        """So much of the body is there by now, or all of it."""
        if self.visitor is not None:
            self._all.brought(self.visitor, size, whole=whole)

    async def turn(self, size: int) -> None:
        """See `LargeBodies.turn`."""
        await self._all.turn(size)
