"""Time and randomness, passed in wherever something is decided."""

from typing import Protocol


class Clock(Protocol):
    """Wall time, for due times and records, and a monotonic one for deadlines."""

    def now(self) -> int:
        """Unix time in milliseconds. It does not step back while a process lives, by more than a machine corrects by
        itself; between two of them it may."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed instant; never steps back."""
        ...


class Random(Protocol):
    """Randomness fit for secrets."""

    def bytes(self, count: int) -> bytes: ...
