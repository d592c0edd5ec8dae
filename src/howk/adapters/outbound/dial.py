"""One new connection: an origin enters, a connected `Connection` leaves, or `Unreachable` says which step failed. The
socket goes to a vetted address and to nothing else, by way of the forward proxy where there is one; the name is kept
for Host and SNI.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from howk.adapters.outbound.connection import Connection, words_of
from howk.adapters.outbound.options import SenderOptions
from howk.adapters.outbound.resolve import Resolve, Unreachable, vetted
from howk.adapters.outbound.tcp import connected
from howk.adapters.outbound.tunnel import tunnelled
from howk.ports.sender import Failure, Origin

MAX_ADDRESSES = 8
# A receiver that doesn't answer a TLS farewell holds a socket for no longer than this.
_FAREWELL = 1.0


class Means(NamedTuple):
    """What every dial of one sender shares."""

    options: SenderOptions
    resolve: Resolve
    reason_of: Callable[[str], str]
    tls: ssl.SSLContext


class Dial:
    """One attempt, for one call: `run` once, as a task."""

    __slots__ = ("_deadline", "_make", "_means", "_origin", "_sock")

    def __init__(self, means: Means, origin: Origin, make: Callable[[], Connection], deadline: float) -> None:
        """To be over by `deadline` (monotonic)."""
        self._means = means
        self._origin = origin
        self._make = make
        self._deadline = deadline
        self._sock: socket.socket | None = None

    async def run(self) -> Connection:
        """Raises Unreachable."""
        means, origin = self._means, self._origin
        began = monotonic()
        limit = min(began + means.options.connect_timeout, self._deadline)
        last = limit == self._deadline
        try:
            async with asyncio.timeout(limit - began):
                addresses = await vetted(origin.host, origin.port, means.resolve, means.reason_of)
        except TimeoutError as error:
            failure: Failure = "timeout" if last else "dns"
            raise Unreachable(failure, "the name was not resolved in time") from error
        resolved = monotonic()
        self._sock = await self._reached(addresses[:MAX_ADDRESSES], limit, last=last)
        reached = monotonic()
        if origin.scheme != "https":
            _, connection = await asyncio.get_running_loop().create_connection(self._make, sock=self._sock)
            connection.phases = (resolved - began, reached - resolved, 0.0)
        else:
            connection = await self._secured(self._sock)
            connection.phases = (resolved - began, reached - resolved, monotonic() - reached)
        return connection

    def give_up(self, task: "asyncio.Task[Connection]") -> None:
        """Ends `run` soon. A loop that has the socket is not to be interrupted: uvloop would close it twice."""
        if self._sock is None:
            task.cancel()
            return
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It is closed already.
            pass

    async def _reached(self, addresses: list[str], limit: float, *, last: bool) -> socket.socket:
        means, port = self._means, self._origin.port
        proxy = means.options.proxy
        if proxy is None:
            return await connected(addresses, port, limit, last=last)
        return await tunnelled(proxy, means.resolve, addresses, port, limit, last=last)

    async def _secured(self, sock: socket.socket) -> Connection:
        left = max(self._deadline - monotonic(), 0.001)
        patience = min(self._means.options.tls_handshake_timeout, left)
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                self._make,
                sock=sock,
                ssl=self._means.tls,
                server_hostname=self._origin.host,
                ssl_handshake_timeout=patience,
                ssl_shutdown_timeout=_FAREWELL,
            )
        except ssl.SSLCertVerificationError as error:
            raise Unreachable("tls", f"the certificate is not valid: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise Unreachable("tls", f"TLS handshake: {words_of(error)}") from error
        except (OSError, ValueError) as error:
            # What the loop raises when its handshake timer fires.
            if isinstance(error, ConnectionAbortedError):
                failure: Failure = "timeout" if patience == left else "tls"
                raise Unreachable(failure, "the TLS handshake took too long") from error
            raise Unreachable("tls", "the receiver broke off the TLS handshake") from error
        return connection
