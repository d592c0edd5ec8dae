"""The server of the door: uvicorn's lifecycle over connections that have deadlines. Signals are the service's."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from ssl import SSLContext
from typing import Any, cast

import uvicorn

from howk.web.app import App
from howk.web.connection import TICK, Bounds, Connection, Shared

_UVICORN_TICK = 0.1
_FAREWELL = 2.0


class Server(uvicorn.Server):
    """Serves `app` until `should_exit`; then requests under way have `grace` seconds to end. `renew` is called about
    once a second."""

    def __init__(
        self,
        app: App,
        bounds: Bounds,
        grace: int,
        tls: SSLContext | None = None,
        renew: Callable[[], None] = lambda: None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=grace,
        )
        config.load()
        super().__init__(config)
        self._tls = tls
        self._read_timeout = bounds.read_timeout
        self._renew = renew
        self._shared = Shared(app, bounds, self.server_state)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, on bound sockets."""
        loop = asyncio.get_running_loop()
        self._shared.now = loop.time()

        def connection() -> Connection:
            return Connection(self.config, self.server_state, loop, self._shared)

        # A handshake is part of the request's time; a server without TLS refuses to be told.
        within: dict[str, Any] = {}
        if self._tls is not None:
            within = {"ssl_handshake_timeout": self._read_timeout, "ssl_shutdown_timeout": _FAREWELL}
        await self.lifespan.startup()
        self.servers = [
            await loop.create_server(connection, sock=door, ssl=self._tls, **within) for door in sockets or ()
        ]
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; every few of them all connections are looked at."""
        if counter % round(TICK / _UVICORN_TICK) == 0:
            self._shared.now = asyncio.get_running_loop().time()
            for connection in tuple(cast(set[Connection], self.server_state.connections)):
                connection.look()
        if counter % round(1 / _UVICORN_TICK) == 0:
            self._renew()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are handled by the service."""
        yield
