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


class Dialler(NamedTuple):
    """What every dial of one sender shares."""

    options: SenderOptions
    resolve: Resolve
    reason_of: Callable[[str], str]
    tls: ssl.SSLContext

    async def dial(self, origin: Origin, make: Callable[[], Connection], deadline: float) -> Connection:
        """By `deadline` (monotonic) at the latest."""
        began = monotonic()
        limit = min(began + self.options.connect_timeout, deadline)
        last = limit == deadline
        try:
            async with asyncio.timeout(limit - began):
                addresses = await vetted(origin.host, origin.port, self.resolve, self.reason_of)
        except TimeoutError as error:
            failure: Failure = "timeout" if last else "dns"
            raise Unreachable(failure, "the name was not resolved in time") from error
        resolved = monotonic()
        sock = await _connected(addresses[:MAX_ADDRESSES], origin.port, limit, last=last)
        connected = monotonic()
        connection = await self._spoken_for(sock, origin, make, deadline)
        tls = monotonic() - connected if origin.scheme == "https" else 0.0
        connection.phases = (resolved - began, connected - resolved, tls)
        return connection

    async def _spoken_for(
        self, sock: socket.socket, origin: Origin, make: Callable[[], Connection], deadline: float
    ) -> Connection:
        """A connection around the socket, with TLS where the origin wants it."""
        loop = asyncio.get_running_loop()
        if origin.scheme != "https":
            _, connection = await loop.create_connection(make, sock=sock)
            return connection
        patience = max(min(self.options.tls_handshake_timeout, deadline - monotonic()), 0.001)
        try:
            _, connection = await loop.create_connection(
                make,
                sock=sock,
                ssl=self.tls,
                server_hostname=origin.host,
                ssl_handshake_timeout=patience,
                ssl_shutdown_timeout=_FAREWELL,
            )
        except ssl.SSLCertVerificationError as error:
            raise Unreachable("tls", f"the certificate is not valid: {error.verify_message}") from error
        except ssl.SSLError as error:
            reason = (error.reason or "failed").replace("_", " ").lower()
            raise Unreachable("tls", f"TLS handshake: {reason}") from error
        except (OSError, ValueError) as error:
            if monotonic() >= deadline:
                raise Unreachable("timeout", "the TLS handshake took too long") from error
            if isinstance(error, ConnectionAbortedError):
                raise Unreachable("tls", "the TLS handshake took too long") from error
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
