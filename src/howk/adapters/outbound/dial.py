"""One new connection: an origin enters, a connected `Connection` leaves, or `Unreachable` says which step failed. The
socket goes to a vetted address and to nothing else; the name is kept for Host and SNI.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from howk.adapters.outbound.connection import Connection
from howk.adapters.outbound.options import SenderOptions
from howk.adapters.outbound.resolve import Resolve, Unreachable, vetted
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
        self._sock = await _connected(addresses[:MAX_ADDRESSES], origin.port, limit, last=last)
        connected = monotonic()
        if origin.scheme != "https":
            _, connection = await asyncio.get_running_loop().create_connection(self._make, sock=self._sock)
            connection.phases = (resolved - began, connected - resolved, 0.0)
        else:
            connection = await self._secured(self._sock)
            connection.phases = (resolved - began, connected - resolved, monotonic() - connected)
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
            reason = (error.reason or "failed").replace("_", " ").lower()
            raise Unreachable("tls", f"TLS handshake: {reason}") from error
        except (OSError, ValueError) as error:
            # What the loop raises when its handshake timer fires.
            if isinstance(error, ConnectionAbortedError):
                failure: Failure = "timeout" if patience == left else "tls"
                raise Unreachable(failure, "the TLS handshake took too long") from error
            raise Unreachable("tls", "the receiver broke off the TLS handshake") from error
        return connection


async def _connected(addresses: list[str], port: int, limit: float, *, last: bool) -> socket.socket:
    """A socket connected to the first address that takes it; each gets its share of the time that is left."""
    failed = Unreachable("connect", "no address")
    for position, address in enumerate(addresses):
        share = (limit - monotonic()) / (len(addresses) - position)
        try:
            return await _tcp(address, port, share)
        except TimeoutError as error:
            failed = Unreachable("timeout" if last else "connect_timeout", "connecting took too long")
            failed.__cause__ = error
        except OSError as error:
            words = os.strerror(error.errno).lower() if error.errno else type(error).__name__
            failed = Unreachable("connect", words)
            failed.__cause__ = error
    raise failed


async def _tcp(address: str, port: int, seconds: float) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    connected = False
    try:
        sock.setblocking(False)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        connected = True
        return sock
    finally:
        if not connected:
            sock.close()
