"""One reading of a table: its rows page by page, then the last value of each key that changed meanwhile or later."""

from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from howk.ports.log import Entry

Rows = Callable[[str | None, int], Awaitable[Sequence[Entry]]]
"""From (the last key that was given, a limit) the next rows in the order of their keys. Where it gives none, every
commit that it has seen was offered."""


class Follow:
    """The embedded `Follower`."""

    def __init__(self, rows: Rows, wake: Callable[[], None]) -> None:
        self._rows = rows
        self._wake = wake
        self._last: str | None = None
        self._reading = True
        self._changed: dict[str, Entry] = {}

    def offer(self, entries: Sequence[Entry]) -> None:
        """Take what was committed; a value that was not fetched yet is replaced."""
        for entry in entries:
            self._changed[entry.key] = entry
        self._wake()

    def ready(self) -> bool:
        return self._reading or bool(self._changed)

    async def fetch(self, limit: int) -> Sequence[Entry]:
        if self._reading:
            # Where it was cancelled it goes on from the same key: a page counts only once it is handed out.
            if batch := await self._rows(self._last, limit):
                self._last = batch[-1].key
                return batch
            self._reading = False
        keys = list(islice(self._changed, limit))
        return [self._changed.pop(key) for key in keys]
