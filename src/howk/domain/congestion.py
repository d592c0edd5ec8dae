"""How many calls at once an endpoint bears, learned from how its calls end.

As a congestion window of TCP (RFC 5681): slow start, then additive increase, halved on congestion. Time is monotonic
seconds and passed in.
"""

from math import inf

_FIRST_LIMIT = 4
_BETWEEN_CUTS = 1.0


class Congestion:
    """The `limit` of one endpoint, from 1 to its `ceiling`."""

    __slots__ = ("_cut_at", "_grown", "_slow_start", "ceiling", "limit")

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.limit = min(_FIRST_LIMIT, ceiling)
        self._slow_start = True
        self._grown = 0
        self._cut_at = -inf

    def grow(self) -> None:
        """A call went well while the limit was what limits."""
        if self.limit >= self.ceiling:
            return
        self._grown += 1
        if self._slow_start or self._grown >= self.limit:
            self.limit += 1
            self._grown = 0

    def cut(self, now: float) -> None:
        """A sign of congestion; several of one second are one."""
        if now - self._cut_at >= _BETWEEN_CUTS:
            self.limit = max(1, self.limit // 2)
            self._slow_start = False
            self._grown = 0
            self._cut_at = now

    def cap(self, ceiling: int) -> bool:
        """Another ceiling from now on. Whether the limit had to come down for it."""
        self.ceiling = ceiling
        lowered = self.limit > ceiling
        if lowered:
            self.limit = ceiling
        return lowered
