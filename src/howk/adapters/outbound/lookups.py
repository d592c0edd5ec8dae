"""Threads that look names up, and who may have the next one: what hangs may hold some of them and never all.

`getaddrinfo` can't be cancelled, and a name server that never answers holds its thread for half a minute. So names that
answered before have threads that no other name can take, the names of one domain share a part of the rest, and what
nobody waits for any more is not looked up at all. The threads are daemons: the end of the process waits for none.
"""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple


class Shares(NamedTuple):
    """How many lookups run at once: in all, of names that never answered, and of those of one domain."""

    threads: int = 128
    unproven: int = 96
    per_domain: int = 24
    waiting: int = 1024


class Lookup:
    """One name that is being looked up, or waits for a thread; `waiters` want to know."""

    __slots__ = ("domain", "found", "host", "is_proven", "is_running", "waiters")

    def __init__(self, host: str, *, is_proven: bool) -> None:
        self.host = host
        self.domain = domain_of(host)
        self.is_proven = is_proven
        self.is_running = False
        self.waiters = 0
        self.found: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        # Nobody may be left to hear of a failure.
        self.found.add_done_callback(lambda done: done.cancelled() or done.exception())


def domain_of(host: str) -> str:
    """What is taken for the owner of a name: its last two labels."""
    return ".".join(host.lower().rstrip(".").rsplit(".", 2)[-2:])


class Lookups:
    """Belongs to one event loop. `done` is told of each lookup that has ended."""

    def __init__(self, shares: Shares, done: Callable[[Lookup], None]) -> None:
        self._shares = shares
        self._done = done
        self._waiting: dict[str, Lookup] = {}
        self._running: dict[str, Lookup] = {}
        self._unproven = 0
        self._of_domain: Counter[str] = Counter()
        self._work: SimpleQueue[Lookup | None] = SimpleQueue()
        self._threads = 0
        self._closed = False

    def begin(self, host: str, *, is_proven: bool) -> Lookup:
        """The lookup of this name that is under way, or a new one. Raises OSError when too many wait."""
        known = self._running.get(host) or self._waiting.get(host)
        if known is not None:
            return known
        if self._closed:
            raise OSError(0, "the resolver is closed")
        if len(self._waiting) >= self._shares.waiting:
            raise OSError(0, "too many names are being resolved")
        lookup = self._waiting[host] = Lookup(host, is_proven=is_proven)
        self._start()
        return lookup

    def leave(self, lookup: Lookup) -> None:
        """Its last waiter has gone: it is not begun any more."""
        if not lookup.is_running and not lookup.found.done():
            self._waiting.pop(lookup.host, None)
            lookup.found.cancel()

    def close(self) -> None:
        """Nothing is looked up any more; what hangs is left behind."""
        self._closed = True
        for lookup in (*self._waiting.values(), *self._running.values()):
            lookup.found.cancel()
        self._waiting.clear()
        for _ in range(self._threads):
            self._work.put(None)

    def _start(self) -> None:
        """Give threads to what may have one, in the order they came."""
        if self._closed or len(self._running) >= self._shares.threads:
            return
        for lookup in list(self._waiting.values()):
            if not self._may_run(lookup):
                continue
            del self._waiting[lookup.host]
            self._running[lookup.host] = lookup
            lookup.is_running = True
            if not lookup.is_proven:
                self._unproven += 1
                self._of_domain[lookup.domain] += 1
            if len(self._running) > self._threads:
                self._threads += 1
                loop = asyncio.get_running_loop()
                threading.Thread(target=self._serve, args=(loop,), name="howk-dns", daemon=True).start()
            self._work.put(lookup)
            if len(self._running) >= self._shares.threads:
                return

    def _may_run(self, lookup: Lookup) -> bool:
        if lookup.is_proven:
            return True
        return self._unproven < self._shares.unproven and self._of_domain[lookup.domain] < self._shares.per_domain

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """The life of a thread."""
        while (lookup := self._work.get()) is not None:
            addresses, error = _looked_up(lookup.host)
            try:
                loop.call_soon_threadsafe(self._ended, lookup, addresses, error)
            except RuntimeError:
                # The loop is closed, and so is everything that wanted to know.
                return

    def _ended(self, lookup: Lookup, addresses: list[str], error: OSError | UnicodeError | None) -> None:
        del self._running[lookup.host]
        if not lookup.is_proven:
            self._unproven -= 1
            self._of_domain -= Counter([lookup.domain])
        if not lookup.found.done():
            if error is not None:
                lookup.found.set_exception(error)
            else:
                lookup.found.set_result(addresses)
            self._done(lookup)
        self._start()


def _looked_up(host: str) -> tuple[list[str], OSError | UnicodeError | None]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return [], error
    return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found)), None
