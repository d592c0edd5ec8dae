"""Single enqueues that come in one turn of the loop share a task and an append: alone, each would pay for both."""

from collections.abc import Coroutine
from typing import Any, Protocol

from uvicorn._types import ASGI3Application

from howk.flow.ingest import New
from howk.web.app import App
from howk.web.messages import Reply, Request
from howk.web.problems import Problem

_MOST = 128
_MOST_BYTES = 256 << 10


class Exchange(Protocol):
    """A request that came whole, and where its answer goes."""

    @property
    def request(self) -> Request: ...

    def give(self, reply: Reply, *, close: bool = False) -> None:
        """Write the answer, now or when there is room for it; the last of its connection where it is to `close`."""
        ...

    def go_on(self, answering: Coroutine[Any, Any, Reply]) -> None:
        """Write what comes of this, in a task of its own."""
        ...


class Group:
    """What came in one turn, or as much of it as is decided at once."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._left: list[Exchange] = []
        self._bytes = 0
        self._begun = False

    @property
    def closed(self) -> bool:
        """Whether the next one belongs to another group."""
        return self._begun or len(self._left) >= _MOST or self._bytes >= _MOST_BYTES

    def add(self, exchange: Exchange) -> None:
        """Answer this one, too."""
        self._left.append(exchange)
        self._bytes += len(exchange.request.body)

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Under uvicorn's name, so that a connection can start it as it starts a request."""
        self._begun = True
        left = self._left
        left.reverse()
        waiting: list[Exchange] = []
        begun: list[New] = []
        try:
            while left:
                found = await self._app.begin(left[-1].request)
                exchange = left.pop()
                if isinstance(found, New):
                    begun.append(found)
                    waiting.append(exchange)
                elif isinstance(found, Reply):
                    exchange.give(found)
                else:
                    exchange.go_on(found)
            if begun:
                ending, begun = begun, []
                replies = await self._app.end(ending)
                waiting.reverse()
                for reply in replies:
                    waiting.pop().give(reply)
        finally:
            # A fault goes on to whoever looks after the task; no client is left without an answer.
            self._app.drop(begun)
            for exchange in (*waiting, *left):
                failed = Problem(500, "internal", "howk failed to answer this request")
                exchange.give(self._app.refuse(failed), close=True)


class Together:
    """Those of a door."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._last: Group | None = None

    def add(self, exchange: Exchange) -> Group | None:
        """Answer this request together with what else comes in this turn; the group where that is new, to be run."""
        if self._last is not None and not self._last.closed:
            self._last.add(exchange)
            return None
        self._last = group = Group(self._app)
        group.add(exchange)
        return group
