"""Decisions about shares and bounds: who gets how much of what is free."""

from collections.abc import Sequence


class Shares:
    """Deals out free places among lanes by weight; all of them to those that ask, when others do not.

    What rounding withholds from a lane is kept for its next turn, so that one free place at a time is dealt
    in the same ratio as many.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = tuple(weights)
        self._credit = [0.0] * len(self._weights)

    def deal(self, free: int, asking: Sequence[bool]) -> list[int]:
        """Places for each lane, `free` in all when any lane asks."""
        total = sum([weight for weight, asks in zip(self._weights, asking, strict=True) if asks])
        places = [0] * len(self._weights)
        if not total:
            return places
        for lane, asks in enumerate(asking):
            if asks:
                self._credit[lane] += free * self._weights[lane] / total
                places[lane] = max(0, int(self._credit[lane]))
                self._credit[lane] -= places[lane]
            else:
                self._credit[lane] = 0.0
        for _ in range(free - sum(places)):
            lane = max((i for i, asks in enumerate(asking) if asks), key=lambda i: self._credit[i])
            places[lane] += 1
            self._credit[lane] -= 1
        return places
