"""What happened in the last hour and the last day: how time is cut into slices, which of them make up a window, and how
many different endpoints a bounded sample of them stands for. Pure; where slices are kept is the engine's business.

Counts are kept by the second and by the minute: a window is seconds at its two ends and minutes between them, so that
it moves on by the second and is summed from few rows. Distinct endpoints are a bottom-k sample (Bar-Yossef et al.,
"Counting distinct elements in a data stream", 2002) over the last time each was called: exact up to `SAMPLE` in a
window, above it with a standard error of 1 / sqrt(SAMPLE - 2), 2.2 %.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappush, heappushpop
from operator import itemgetter
from typing import Literal, NamedTuple, get_args

from msgspec import Struct

HOUR = 3_600
DAY = 86_400

Kind = Literal["received", "delivered", "failed", "exhausted", "deferred"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KIND_OF: Mapping[str, Kind] = {
    "delivered": "delivered",
    "failed": "failed",
    "dead": "exhausted",
    "deferred": "deferred",
}
"""What it counts as that a delivery has come into a state; any other counts as nothing."""

SAMPLE = 2_048
HASH_BITS = 56


class Window(Struct, frozen=True, forbid_unknown_fields=True):
    """What happened in a window of time.

    `received`: webhooks accepted, repeats of an idempotency key left out. `delivered`: deliveries that ended delivered.
    `failed`: attempts that failed and are to be made again. `exhausted`: deliveries given up. `deferred`: deliveries
    put aside for a time or a hold. `unique_endpoints`: endpoints called, exact up to 2 048, 2.2 % standard error above.
    """

    received: int = 0
    delivered: int = 0
    failed: int = 0
    exhausted: int = 0
    deferred: int = 0
    unique_endpoints: int = 0


class Slices(NamedTuple):
    """The slices of a width in seconds whose first seconds lie from `first` to `last`, both included."""

    width: int
    first: int
    last: int


WIDTHS = (1, 60)


def starts(second: int) -> Iterator[tuple[int, int]]:
    """The slices, by width and first second, that a second is counted in."""
    for width in WIDTHS:
        yield width, second - second % width


def cover(after: int, until: int) -> list[Slices]:
    """The slices that together are the seconds after `after`, up to `until`."""
    seconds, minutes = WIDTHS
    inner, outer = after + 1 + -(after + 1) % minutes, until + 1 - (until + 1) % minutes
    if inner >= outer:
        return [Slices(seconds, after + 1, until)] if until > after else []
    parts = [
        Slices(seconds, after + 1, inner - 1),
        Slices(minutes, inner, outer - minutes),
        Slices(seconds, outer, until),
    ]
    return [part for part in parts if part.first <= part.last]


def distinct(smallest: Sequence[int]) -> int:
    """How many endpoints there are, from the `SAMPLE` + 1 smallest of their hashes in order, or all of them."""
    if len(smallest) <= SAMPLE:
        return len(smallest)
    return round((SAMPLE - 1) * (1 << HASH_BITS) / (smallest[SAMPLE - 1] + 1))


def needed(called: Iterable[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Of (hash, second it was called last) those that a window may need, now or later: unless there are more than
    `SAMPLE` smaller ones that were called later. At most `most`, the ones called last."""
    smallest: list[int] = []
    kept: list[tuple[int, int]] = []
    for one in sorted(called, key=itemgetter(1), reverse=True):
        if len(smallest) <= SAMPLE:
            heappush(smallest, -one[0])
        elif one[0] < -smallest[0]:
            heappushpop(smallest, -one[0])
        else:
            continue
        kept.append(one)
        if len(kept) >= most:
            break
    return kept
