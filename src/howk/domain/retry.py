"""When a failed delivery is tried again. The time and the jitter derive from the record, so a decision that is
replayed is the same decision."""

from math import ceil
from typing import Literal
from zlib import crc32

from msgspec import Struct

RetryType = Literal["exponential", "linear", "fixed", "schedule"]

_MOST_DOUBLINGS = 62


class RetryPolicy(Struct, frozen=True):
    """Times in milliseconds, `jitter` a fraction of the delay. A record that carries one carries every field of it:
    what the defaults are later does not change a delivery that was accepted."""

    base_delay: int = 10_000
    max_delay: int = 86_400_000
    jitter: float = 0.2
    type: RetryType = "exponential"
    delays: tuple[int, ...] = ()
    """Of a schedule: the delay before each retry; the last one is repeated."""
    on_status: tuple[int, ...] = ()
    """Statuses that are worth a retry beside those that always are."""

    def plain_delay(self, attempt: int) -> int:
        """Milliseconds to wait after attempt number `attempt` (from 1) failed, before jitter; `max_delay` at most.

        With n = 0 at the first retry: base * 2^n, base * (n + 1), base, or the n-th of the schedule.
        """
        retry = attempt - 1
        if self.type == "exponential":
            delay = self.base_delay << min(retry, _MOST_DOUBLINGS)
        elif self.type == "linear":
            delay = self.base_delay * (retry + 1)
        elif self.type == "schedule" and self.delays:
            delay = self.delays[min(retry, len(self.delays) - 1)]
        else:
            delay = self.base_delay
        return min(delay, self.max_delay)

    def delay(self, attempt: int, seed: str) -> int:
        """`plain_delay` moved by plus or minus `jitter`, spread by `seed`."""
        spread = crc32(f"{seed}/{attempt}".encode()) / 0xFFFFFFFF * 2 - 1
        return max(0, round(self.plain_delay(attempt) * (1 + self.jitter * spread)))

    @property
    def longest(self) -> int:
        """Milliseconds that no retry waits longer than."""
        return ceil(self.max_delay * (1 + self.jitter))

    def due(self, at: int, attempt: int, seed: str, retry_after: int) -> int:
        """The instant of the next try; the receiver's own `retry_after` is honoured up to `max_delay`."""
        return at + max(self.delay(attempt, seed), min(retry_after, self.max_delay))
