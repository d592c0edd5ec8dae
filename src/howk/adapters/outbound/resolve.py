"""From the name of a receiver to the addresses that may be dialled: a name or a literal enters, vetted addresses leave.
Every address a name has is judged each time a connection is made, so a name that moves inside is refused then too.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

from howk.domain.addresses import literal_address
from howk.ports.sender import Failure

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to addresses as text, best first. Raises OSError when there are none."""


class Unreachable(Exception):
    """No connection came about; `failure` says at which step, the text why, fit for the tenant's eyes."""

    def __init__(self, failure: Failure, error: str) -> None:
        super().__init__(error)
        self.failure: Failure = failure
        self.error = error


async def vetted(host: str, port: int, resolve: Resolve, reason_of: Callable[[str], str]) -> list[str]:
    """The addresses of `host` that may be dialled, at least one. `reason_of` is "" for an address that may."""
    literal = literal_address(host)
    if literal is not None:
        found = [literal]
    else:
        try:
            found = await resolve(host, port)
        except TimeoutError:
            raise
        except (OSError, UnicodeError) as error:
            raise Unreachable("dns", f"the name could not be resolved: {_words(error)}") from error
    reasons = {address: reason_of(address) for address in found}
    good = [address for address, reason in reasons.items() if not reason]
    if not good:
        if not reasons:
            raise Unreachable("dns", "the name has no address")
        raise Unreachable("blocked_address", f"not allowed to connect to: {next(iter(reasons.values()))}")
    return good


def _words(error: OSError | UnicodeError) -> str:
    text = error.strerror if isinstance(error, OSError) else "not a valid name"
    return (text or type(error).__name__).lower()


class SystemResolver:
    """getaddrinfo on threads of its own: one lookup a name at a time, its answer good for a few seconds.

    Threads of its own, because a lookup can't be cancelled and one that hangs would hold up whatever else uses the
    loop's threads. A full table refuses new names rather than queue them.
    """

    def __init__(self, threads: int = 32, fresh_for: float = 5.0, max_names: int = 1024) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="howk-dns")
        self._fresh_for = fresh_for
        self._max_names = max_names
        self._lookups: dict[str, asyncio.Future[list[str]]] = {}
        self._known: dict[str, tuple[float, list[str]]] = {}

    async def __call__(self, host: str, port: int) -> list[str]:
        until, addresses = self._known.get(host, (0.0, []))
        if until > monotonic():
            return addresses
        lookup = self._lookups.get(host)
        if lookup is None:
            if len(self._lookups) >= self._max_names:
                raise OSError(0, "too many names are being resolved")
            lookup = asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)
            self._lookups[host] = lookup
            lookup.add_done_callback(lambda done: self._keep(host, done))
        return await asyncio.shield(lookup)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _keep(self, host: str, lookup: "asyncio.Future[list[str]]") -> None:
        del self._lookups[host]
        self._known.pop(host, None)
        if lookup.cancelled() or lookup.exception() is not None:
            return
        if len(self._known) >= self._max_names:
            del self._known[next(iter(self._known))]
        self._known[host] = (monotonic() + self._fresh_for, lookup.result())


def _look_up(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))
