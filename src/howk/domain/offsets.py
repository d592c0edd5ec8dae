"""Progress out of order: the next offset of a partition and the runs that are finished beyond it."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence


class Finished:
    """What a group has finished of one partition. Everything below `next` is; `beyond` is sorted and disjoint."""

    __slots__ = ("_starts", "_stops", "next")

    def __init__(self, next_offset: int = 0, beyond: Iterable[tuple[int, int]] = ()) -> None:
        self.next = next_offset
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in beyond:
            self.add(start, stop)

    @property
    def beyond(self) -> tuple[tuple[int, int], ...]:
        """Half-open ranges past `next`, none touching another."""
        return tuple(zip(self._starts, self._stops, strict=True))

    def __contains__(self, offset: int) -> bool:
        if offset < self.next:
            return True
        index = bisect_right(self._starts, offset) - 1
        return index >= 0 and offset < self._stops[index]

    def copy(self) -> "Finished":
        """One that can be changed without changing this one."""
        twin = Finished(self.next)
        twin._starts, twin._stops = self._starts.copy(), self._stops.copy()
        return twin

    def add_all(self, offsets: Sequence[int]) -> None:
        """Finish these offsets, in any order; those finished before change nothing."""
        ordered = sorted(offsets)
        start = stop = ordered[0] if ordered else 0
        for offset in ordered:
            if offset > stop:
                self.add(start, stop)
                start = offset
            stop = offset + 1
        if ordered:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Finish the half-open range [start, stop)."""
        starts, stops = self._starts, self._stops
        if start <= self.next:
            self.next = max(self.next, stop)
            while starts and starts[0] <= self.next:
                self.next = max(self.next, stops.pop(0))
                starts.pop(0)
            return
        first = bisect_right(stops, start - 1)
        last = bisect_right(starts, stop)
        if first < last:
            start, stop = min(start, starts[first]), max(stop, stops[last - 1])
        starts[first:last] = [start]
        stops[first:last] = [stop]
