"""When a failed delivery is tried again. The time and the jitter derive from the record, so a decision that is
replayed is the same decision."""

from typing import NamedTuple
from zlib import crc32


class RetryPolicy(NamedTuple):
    """Exponential back-off; times in milliseconds, `jitter` a fraction of the delay."""

    base_delay: int = 10_000
    max_delay: int = 86_400_000
    jitter: float = 0.2

    def delay(self, attempt: int, seed: str) -> int:
        """Milliseconds to wait after attempt number `attempt` (from 1) failed.

        min(base * 2^n, max) with n = 0 at the first retry, then jitter of plus or minus `jitter`, spread by `seed`.
        """
        doublings = min(attempt - 1, 62)
        plain = min(self.base_delay << doublings, self.max_delay)
        spread = crc32(f"{seed}/{attempt}".encode()) / 0xFFFFFFFF * 2 - 1
        return max(0, round(plain * (1 + self.jitter * spread)))

    def due(self, at: int, attempt: int, seed: str, retry_after: int) -> int:
        """The instant of the next try; the receiver's own `retry_after` is honoured up to `max_delay`."""
        return at + max(self.delay(attempt, seed), min(retry_after, self.max_delay))
