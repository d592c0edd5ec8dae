"""Bytes to a file descriptor whose reader may be slow or stalled, without ever waiting for it: what it does not take is
held up to a bound, and what does not fit is dropped and counted."""

import os
import select
import stat
import time
from collections import deque

_MOST_HELD = 4 << 20


class Outlet:
    """`dropped` counts lines; it only rises."""

    def __init__(self, descriptor: int, most: int = _MOST_HELD) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._most = most
        self._held: deque[bytes] = deque()
        self._size = 0
        # A file takes everything at once, and can't be polled.
        self._file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._poll: select.poll | None = None

    @property
    def held(self) -> int:
        """Bytes that wait for the reader."""
        return self._size

    def put(self, lines: bytes) -> None:
        """Write whole lines, or hold them."""
        if self._size + len(lines) > self._most:
            self.flush()
        if self._size + len(lines) > self._most:
            self.dropped += lines.count(b"\n")
            return
        self._held.append(lines)
        self._size += len(lines)
        self.flush()

    def flush(self, seconds: float = 0.0) -> bool:
        """Whether nothing is held any more. Waits for the reader only for as long as it is told to, in all."""
        until = time.monotonic() + seconds if seconds else 0.0
        try:
            while self._held and (self._file or self._writable(until)):
                self._write_some()
        except BlockingIOError:
            pass
        except OSError:
            # The reader is gone.
            self.dropped += sum([piece.count(b"\n") for piece in self._held])
            self._held.clear()
            self._size = 0
        return not self._held

    def _write_some(self) -> None:
        piece = self._held[0]
        written = os.write(self._descriptor, piece if self._file else _a_bite(piece))
        self._size -= written
        if written == len(piece):
            self._held.popleft()
        else:
            self._held[0] = piece[written:]

    def _writable(self, until: float) -> bool:
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._descriptor, select.POLLOUT)
        return bool(self._poll.poll(max(until - time.monotonic(), 0.0) * 1000 if until else 0))


def _a_bite(piece: bytes) -> bytes:
    """What a pipe that polls writable takes without blocking (POSIX: PIPE_BUF bytes), in whole lines where they fit."""
    most = select.PIPE_BUF
    if len(piece) <= most:
        return piece
    return piece[: piece.rfind(b"\n", 0, most) + 1 or most]
