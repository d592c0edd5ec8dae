"""The hand on the wall clock of a howk that a test runs: see `clock/sitecustomize.py`."""

import os
import struct
import time
from pathlib import Path

_RECORD = struct.Struct("=d")


class WallClock:
    """Stands right until it is `set`. `settings` are what the process needs in its environment to have it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.ahead = 0.0
        path.write_bytes(_RECORD.pack(0.0))

    @property
    def settings(self) -> dict[str, str]:
        path = [str(Path(__file__).parent / "clock"), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "WALL_CLOCK": str(self._path),
            "PYTHONPATH": os.pathsep.join(
                str(Path(part).absolute()) for part in os.pathsep.join(path).split(os.pathsep)
            ),
        }

    def set(self, ahead: float) -> None:
        """So many seconds ahead of the right time from now on, behind it where negative."""
        self.ahead = ahead
        with self._path.open("r+b") as file:
            file.write(_RECORD.pack(ahead))

    def now(self) -> float:
        """What it says."""
        return time.time() + self.ahead
