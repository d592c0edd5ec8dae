"""Decisions about shares and bounds: who gets how much of what is free, and who has to wait."""

from collections.abc import Sequence
from typing import NamedTuple


class Bucket(NamedTuple):
    """Tokens that were left at an instant, in seconds."""

    tokens: float
    at: float


def take_token(bucket: Bucket | None, rate: float, burst: float, now: float) -> tuple[Bucket, float]:
    """Take one token of a bucket that gains `rate` a second up to `burst`, at least 1; None is a full one.

    The bucket afterwards, and 0.0 where a token was there, else the seconds until one is. A refusal takes nothing. A
    clock that steps back gains nothing and loses nothing.
    """
    if bucket is None:
        return Bucket(burst - 1, now), 0.0
    tokens = min(burst, bucket.tokens + max(0.0, now - bucket.at) * rate)
    # What is owed by less than rounding is there: a caller that waited as it was told comes in.
    if tokens >= 1 - 1e-9:
        return Bucket(max(0.0, tokens - 1), now), 0.0
    return Bucket(tokens, now), (1 - tokens) / rate


def refilled(bucket: Bucket | None, rate: float, burst: float, now: float) -> Bucket:
    """The bucket as it stands now; None is a full one."""
    if bucket is None:
        return Bucket(burst, now)
    return Bucket(min(burst, bucket.tokens + max(0.0, now - bucket.at) * rate), max(now, bucket.at))


def reserve_token(
    bucket: Bucket | None, rate: float, burst: float, now: float, patience: float
) -> tuple[Bucket, float | None]:
    """Take one token, or one that comes within `patience` seconds: the seconds until it may be used. None where it
    would come later; nothing is taken then."""
    full = refilled(bucket, rate, burst, now)
    wait = max(0.0, (1 - full.tokens) / rate)
    if wait > patience:
        return full, None
    return Bucket(full.tokens - 1, full.at), wait


class Rates:
    """A token bucket for each caller, with a burst of one second. At most `most` are kept; the one longest unasked is
    dropped, and begins full when it is back."""

    def __init__(self, rate: float, most: int) -> None:
        self._rate = rate
        self._burst = max(1.0, rate)
        self._most = most
        self._buckets: dict[str, Bucket] = {}

    def take(self, caller: str, now: float) -> float:
        """0.0 where the caller may go on, else the seconds it has to wait."""
        bucket, wait = take_token(self._buckets.pop(caller, None), self._rate, self._burst, now)
        self._keep(caller, bucket)
        return wait

    def grant(self, caller: str, now: float, asked: int) -> int:
        """How many of those that the caller asks for it may have now."""
        bucket, granted = grant_tokens(self._buckets.pop(caller, None), self._rate, self._burst, now, asked)
        self._keep(caller, bucket)
        return granted

    def _keep(self, caller: str, bucket: Bucket) -> None:
        self._buckets[caller] = bucket
        if len(self._buckets) > self._most:
            del self._buckets[next(iter(self._buckets))]


def grant_tokens(bucket: Bucket | None, rate: float, burst: float, now: float, asked: int) -> tuple[Bucket, int]:
    """Take as many tokens as are there, at most `asked`: the bucket afterwards, and how many."""
    full = refilled(bucket, rate, burst, now)
    granted = min(asked, int(full.tokens))
    return Bucket(full.tokens - granted, full.at), granted


class Shares:
    """Deals out free places among lanes by weight; all of them to those that ask, when others do not.

    What does not divide evenly goes place by place to the lane that is owed most (smooth weighted round robin). What
    each is owed is kept for its next turn, so that one free place at a time is dealt in the same ratio as many.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = tuple(weights)
        self._credit = [0] * len(self._weights)

    def deal(self, free: int, asking: Sequence[bool]) -> list[int]:
        """Places for each lane, `free` in all when any lane asks."""
        self._credit = [credit if asks else 0 for credit, asks in zip(self._credit, asking, strict=True)]
        lanes = [lane for lane, asks in enumerate(asking) if asks]
        total = sum([self._weights[lane] for lane in lanes])
        places = [0] * len(self._weights)
        if not total:
            return places
        rounds, rest = divmod(free, total)
        for lane in lanes:
            places[lane] = rounds * self._weights[lane]
        for _ in range(rest):
            for lane in lanes:
                self._credit[lane] += self._weights[lane]
            lane = max(lanes, key=self._credit.__getitem__)
            self._credit[lane] -= total
            places[lane] += 1
        return places


class Allowance:
    """So many a second, and a count of those that came on top."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = 0
        self._taken = 0
        self._left_out = 0

    def take(self, now: int) -> int | None:
        """None for one too many at this time in milliseconds; else how many were left out since the last that was
        not."""
        second = now // 1000
        if second != self._second:
            self._second, self._taken = second, 0
        if self._taken >= self._per_second:
            self._left_out += 1
            return None
        self._taken += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
