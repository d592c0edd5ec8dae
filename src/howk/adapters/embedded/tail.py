"""One group's reading of one stream: handed what is committed while it keeps up, reading the file when it does not."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from howk.domain.offsets import Finished
from howk.ports.log import Entry

_MAX_AHEAD = 4_096
_MAX_AHEAD_BYTES = 16 << 20
# Whoever takes them reads all of them before the loop goes on.
_FETCH_BYTES = 1 << 20

Read = Callable[[int, int], Awaitable[Sequence[Entry]]]


class Tail:
    """The embedded `Consumer`. `read(start, limit)` gives stored entries from `start` on, `end()` the next offset."""

    def __init__(self, finished: Finished, read: Read, end: Callable[[], int], wake: Callable[[], None]) -> None:
        self.wake = wake
        self._finished = finished
        self._read = read
        self._end = end
        self._position = finished.next
        self._ahead: deque[Entry] = deque()
        self._ahead_bytes = 0

    def wants(self, base: int) -> bool:
        """Whether a commit that begins at `base` continues what this consumer holds, and there is room for it."""
        return base == self._position and len(self._ahead) < _MAX_AHEAD and self._ahead_bytes < _MAX_AHEAD_BYTES

    def offer(self, base: int, entries: Sequence[Entry]) -> None:
        """Take freshly committed entries where `wants` says so; otherwise they are read from the file later."""
        if self.wants(base):
            self._ahead.extend(entries)
            self._ahead_bytes += sum(len(entry.value) for entry in entries)
            self._position = base + len(entries)

    def ready(self) -> bool:
        return bool(self._ahead) or self._position < self._end()

    def backlog(self) -> int:
        return len(self._ahead) + self._end() - self._position

    async def fetch(self, limit: int) -> Sequence[Entry]:
        # What is read may all be finished already: then there may still be more behind it.
        while not self._ahead and self._position < self._end():
            await self._fill(limit)
        taken: list[Entry] = []
        size = 0
        while self._ahead and len(taken) < limit and size < _FETCH_BYTES:
            entry = self._ahead.popleft()
            size += len(entry.value)
            taken.append(entry)
        self._ahead_bytes -= size
        return taken

    async def _fill(self, limit: int) -> None:
        # A commit during the read finds `_position` elsewhere and stays in the file, so nothing comes twice.
        start, end = self._position, self._end()
        stored = await self._read(start, limit)
        self._position = stored[-1].offset + 1 if stored else end
        known = self._finished
        fresh = [entry for entry in stored if entry.offset not in known]
        self._ahead.extend(fresh)
        self._ahead_bytes += sum(len(entry.value) for entry in fresh)
