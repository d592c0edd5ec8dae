"""A tunnel through the forward proxy: the vetted addresses of a receiver enter, a socket whose other end is one of
them leaves, or `Unreachable` says why the proxy opened none. What the proxy says is never taken for an answer.

The head of its answer is taken off the socket and not a byte more, so what follows is still there for the tunnel.
"""

import asyncio
import socket
from time import monotonic

from howk.adapters.outbound.resolve import Resolve, Unreachable
from howk.adapters.outbound.tcp import connected
from howk.domain.addresses import literal_address
from howk.domain.forward_proxy import MAX_ANSWER, UNAUTHORIZED, ForwardProxy, connect_answer, connect_request, refusal


async def tunnelled(
    proxy: ForwardProxy, resolve: Resolve, addresses: list[str], port: int, limit: float, *, last: bool
) -> socket.socket:
    """The first address to which the proxy connects, each on a connection of its own, all of it until `limit`."""
    failed = Unreachable("connect", "no address")
    for position, address in enumerate(addresses):
        sock = await _to_proxy(proxy, resolve, limit, last=last)
        opened = False
        try:
            async with asyncio.timeout((limit - monotonic()) / (len(addresses) - position)):
                status = await _asked(sock, connect_request(proxy, address, port))
            words = refusal(status, proxy)
            opened = not words
            if opened:
                return sock
            failed = Unreachable("connect", words)
            if status in UNAUTHORIZED:
                break
        except TimeoutError as error:
            failed = Unreachable("timeout" if last else "connect_timeout", "the proxy did not answer in time")
            failed.__cause__ = error
        except Unreachable as error:
            failed = error
        finally:
            if not opened:
                sock.close()
    raise failed


async def _to_proxy(proxy: ForwardProxy, resolve: Resolve, limit: float, *, last: bool) -> socket.socket:
    """The operator chose the proxy, so its addresses aren't vetted. Its name is nothing for a tenant's eyes."""
    literal = literal_address(proxy.host)
    try:
        async with asyncio.timeout(limit - monotonic()):
            found = [literal] if literal else await resolve(proxy.host, proxy.port)
    except TimeoutError as error:
        words = "the name of the proxy was not resolved in time"
        raise Unreachable("timeout" if last else "connect_timeout", words) from error
    except (OSError, UnicodeError) as error:
        raise Unreachable("connect", "the name of the proxy could not be resolved") from error
    try:
        return await connected(found, proxy.port, limit, last=last)
    except Unreachable as error:
        raise Unreachable(error.failure, f"the proxy can't be reached: {error.error}") from error


async def _asked(sock: socket.socket, request: bytes) -> int:
    """The status of the proxy's answer."""
    try:
        await asyncio.get_running_loop().sock_sendall(sock, request)
        return await _answer(sock)
    except TimeoutError:
        raise
    except OSError as error:
        raise Unreachable("connect", "the proxy broke off the connection") from error
    except ValueError as error:
        raise Unreachable("connect", f"the proxy's answer {error}") from error


async def _answer(sock: socket.socket) -> int:
    taken = b""
    while True:
        await _readable(sock)
        try:
            there = sock.recv(MAX_ANSWER - len(taken), socket.MSG_PEEK)
        except BlockingIOError:
            continue
        if not there:
            raise ConnectionError
        answer = connect_answer(taken + there)
        if answer is not None:
            sock.recv(answer.size - len(taken))
            return answer.status
        taken += sock.recv(len(there))


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)
