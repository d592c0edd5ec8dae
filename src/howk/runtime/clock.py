"""The machine's clocks. Due times, ages and windows run on a time that never steps back while a process lives: what is
due in a minute is due in a minute, whatever somebody does to the wall clock meanwhile.
"""

import threading
import time
from collections.abc import Callable

_STEP = 1_000
"""Milliseconds. Less than this is the machine's own correction, which is taken as it is."""


def _wall() -> int:
    return time.time_ns() // 1_000_000


class SystemClock:
    """The `Clock` port. A step forward is followed, as after a machine slept; after a step back `now` goes on from
    where it was, ahead of the wall clock until that is set forward again or the process is started anew."""

    def __init__(self, wall: Callable[[], int] = _wall, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.wall = wall
        self.monotonic = monotonic
        self._ahead = 0
        self._offset = wall() - round(monotonic() * 1000)
        self._stepping = threading.Lock()

    def now(self) -> int:
        """See the port."""
        wall = self.wall()
        offset = wall - round(self.monotonic() * 1000)
        if not -_STEP < offset - self._offset < _STEP:
            # Called by several threads: each step counts once.
            with self._stepping:
                self._ahead = max(0, self._ahead + self._offset - offset)
                self._offset = offset
        return wall + self._ahead
