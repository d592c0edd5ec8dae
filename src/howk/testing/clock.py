"""A clock that stands still until it is told to go on, so that days of retries are tested in milliseconds."""


class ManualClock:
    """The `Clock` port, moved by hand."""

    def __init__(self, now: int = 1_750_000_000_000) -> None:
        self._now = now
        self._elapsed = 0.0

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def advance(self, milliseconds: int) -> None:
        """Let wall time and monotonic time pass."""
        self._now += milliseconds
        self._elapsed += milliseconds / 1000

    def step(self, milliseconds: int) -> None:
        """Set wall time back or ahead, as an operator does."""
        self._now += milliseconds
