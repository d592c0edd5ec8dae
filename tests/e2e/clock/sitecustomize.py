"""A wall clock that a test may set: put on PYTHONPATH, it adds the seconds that the file $WALL_CLOCK holds to what
every reading of the wall clock answers. The monotonic clock stays what it is, as when somebody sets the machine's.
"""

import mmap
import os
import struct
import time

_RECORD = struct.Struct("=d")

if _path := os.environ.get("WALL_CLOCK"):
    with open(_path, "rb") as _file:
        _ahead = mmap.mmap(_file.fileno(), _RECORD.size, access=mmap.ACCESS_READ)
    _time, _time_ns = time.time, time.time_ns

    def _seconds() -> float:
        return _RECORD.unpack(_ahead)[0]

    time.time = lambda: _time() + _seconds()
    time.time_ns = lambda: _time_ns() + int(_seconds() * 1e9)
