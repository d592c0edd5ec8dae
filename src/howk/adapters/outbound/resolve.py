"""From the name of a receiver to the addresses that may be dialled: a name or a literal enters, vetted addresses leave.
Every address a name has is judged each time a connection is made, so a name that moves inside is refused then too.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from howk.adapters.outbound.lookups import Lookup, Lookups, Shares
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

    A full table refuses new names rather than queue them.
    """

    def __init__(self, shares: Shares | None = None, fresh_for: float = 5.0, max_names: int = 4096) -> None:
        """The names of the last `max_names` answers are taken for such that answer."""
        self._fresh_for = fresh_for
        self._max_names = max_names
        self._lookups = Lookups(shares or Shares(), self._keep)
        # Those that answered last are at the end.
        self._known: dict[str, tuple[float, list[str]]] = {}

    async def __call__(self, host: str, port: int) -> list[str]:
        until, addresses = self._known.get(host, (0.0, []))
        if until > monotonic():
            return addresses
        lookup = self._lookups.begin(host, is_proven=bool(until))
        lookup.waiters += 1
        try:
            return await asyncio.shield(lookup.found)
        finally:
            lookup.waiters -= 1
            if not lookup.waiters:
                self._lookups.leave(lookup)

    def close(self) -> None:
        self._lookups.close()

    def _keep(self, lookup: Lookup) -> None:
        self._known.pop(lookup.host, None)
        if lookup.found.exception() is not None:
            return
        if len(self._known) >= self._max_names:
            del self._known[next(iter(self._known))]
        self._known[lookup.host] = (monotonic() + self._fresh_for, lookup.found.result())
