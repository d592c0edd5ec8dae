"""A TCP connection: addresses that may be dialled enter, a connected socket leaves, or `Unreachable` says why there is
none.
"""

import asyncio
import os
import socket
from time import monotonic

from howk.adapters.outbound.resolve import Unreachable


async def connected(addresses: list[str], port: int, limit: float, *, last: bool) -> socket.socket:
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
