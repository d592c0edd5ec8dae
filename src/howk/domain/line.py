"""Who may bring a large body in, and who stands in line: so many bytes at once, first come, first in.

Bytes are set aside for a body when it is let in. Whoever takes long to bring it keeps set aside only what has come, so
that slow senders are no obstacle to fast ones.
"""

from collections.abc import Iterator
from typing import NamedTuple

from howk.domain.budget import CROWDED
from howk.domain.errors import Full


class LineBounds(NamedTuple):
    """`most` bytes are let in at once, and those that stand hold `most_held`, each at most `first_read` of them; both
    times in seconds: a body is `slow` that is not there by then, and nobody stands longer than `patience`."""

    most: int
    most_held: int
    first_read: int
    slow: float
    patience: float


class Visitor:
    """A body of `size` bytes; `since` is when it asked, or was let in."""

    __slots__ = ("came", "charge", "held", "since", "size", "slow", "standing")

    def __init__(self, size: int, since: float) -> None:
        self.size = size
        self.since = since
        self.came = 0
        self.charge = 0
        self.held = 0
        self.standing = True
        self.slow = False

    @property
    def reserved(self) -> int:
        """What is set aside for it."""
        return min(self.charge, self.came) if self.slow else self.charge


class Line:
    """The line, and the bytes that are let in."""

    def __init__(self, bounds: LineBounds) -> None:
        self._bounds = bounds
        self._standing: dict[Visitor, None] = {}
        self._fresh: dict[Visitor, None] = {}
        self._held = 0
        self.used = 0

    @property
    def standing(self) -> int:
        """How many stand."""
        return len(self._standing)

    def ask(self, size: int, now: float) -> Visitor:
        """One more, let in where nobody stands before it and there is room. Raises `Full` where the line is."""
        bounds, visitor = self._bounds, Visitor(size, now)
        # One of any size comes in when half of the room is free.
        visitor.charge = min(size, bounds.most // 2)
        visitor.held = min(size, bounds.first_read)
        if self._held + visitor.held > bounds.most_held:
            raise Full(f"{len(self._standing)} large requests wait to be read: try again in a moment")
        first = not self._standing
        self._standing[visitor] = None
        self._held += visitor.held
        if first:
            # Behind others it has to wait for what they are told.
            self._let_in(now)
        return visitor

    @property
    def crowded(self) -> bool:
        """Whether those that stand hold nearly as much as they may."""
        return self._held > self._bounds.most_held * CROWDED

    def brought(self, visitor: Visitor, size: int, *, whole: bool = False) -> None:
        """So much of it is there by now; `whole`, it is no more than that."""
        before = visitor.reserved
        visitor.came = size
        if whole:
            visitor.charge = min(visitor.charge, size)
        if not visitor.standing:
            self.used += visitor.reserved - before

    def leave(self, visitor: Visitor, now: float) -> list[Visitor]:
        """It is answered, or gone; who is let in for it."""
        if visitor.standing:
            self._stand_no_more(visitor)
        else:
            self.used -= visitor.reserved
            self._fresh.pop(visitor, None)
        return list(self._let_in(now))

    def look(self, now: float) -> tuple[list[Visitor], list[Visitor]]:
        """Who is let in by now, and who has stood too long and leaves."""
        overdue = [visitor for visitor in self._standing if now - visitor.since >= self._bounds.patience]
        for visitor in overdue:
            self._stand_no_more(visitor)
        return self._let_in(now), overdue

    def _let_in(self, now: float) -> list[Visitor]:
        self._release_slow(now)
        let_in: list[Visitor] = []
        for visitor in self._standing:
            if self.used + visitor.charge > self._bounds.most:
                break
            let_in.append(visitor)
            self.used += visitor.charge
        for visitor in let_in:
            self._stand_no_more(visitor)
            visitor.standing = False
            visitor.since = now
            self._fresh[visitor] = None
        return let_in

    def _release_slow(self, now: float) -> None:
        for visitor in list(self._slow_by(now)):
            del self._fresh[visitor]
            self.used -= visitor.reserved
            visitor.slow = True
            self.used += visitor.reserved

    def _slow_by(self, now: float) -> Iterator[Visitor]:
        for visitor in self._fresh:
            if now - visitor.since < self._bounds.slow:
                return
            yield visitor

    def _stand_no_more(self, visitor: Visitor) -> None:
        self._held -= visitor.held
        visitor.held = 0
        self._standing.pop(visitor, None)
