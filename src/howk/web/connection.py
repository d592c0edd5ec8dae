"""One connection of the door: uvicorn's parsing and order, with the deadlines and bounds it lacks, and a short way for
the two hot routes.

An enqueue whose request came whole in one read is answered without ASGI messages, in the same place of the same
pipeline; everything else goes the way uvicorn goes. A head that came before on the same connection, byte for byte but
for the length of the body, is not parsed again. No timer belongs to a connection: `look` is called now and then.
"""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, NamedTuple, cast

from uvicorn._types import ASGI3Application, HTTPScope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from howk.web.app import App
from howk.web.known_head import KnownHead, learn
from howk.web.large import LARGE
from howk.web.messages import PLAIN, Reply, Request
from howk.web.problems import Problem, too_little_memory
from howk.web.together import Together

TICK = 0.5
"""Seconds between two looks at a connection, and so how late a deadline may be."""

_MAX_URL = 8 << 10
_MAX_HEAD = 32 << 10
_MAX_HEADERS = 100
_HOT = (b"/enqueue", b"/enqueue/batch")
_SINGLE = b"/enqueue"
_SLASHES_OF_SINGLE = 3
_LESSONS = 8
_SHORT = 256


class Bounds(NamedTuple):
    """Seconds for a whole request, for taking an answer, and between two requests; and how many connections."""

    read_timeout: float
    write_timeout: float
    keep_alive: float
    connections: int


class Shared:
    """What all connections of a door have in common. `now` is the loop's time as of the last look."""

    def __init__(self, app: App, bounds: Bounds, state: ServerState) -> None:
        self.app = app
        self.bounds = bounds
        self.now = 0.0
        self.together = Together(app)
        self._state = state
        self._seen: object = None
        self._common = b""
        self._accepted: dict[int, bytes] = {}

    def write(self, reply: Reply, *, close: bool) -> bytes:
        """An answer's bytes."""
        if self._seen is not self._state.default_headers:
            self._seen = self._state.default_headers
            self._common = b"".join([b"%b: %b\r\n" % header for header in self._state.default_headers])
            self._accepted.clear()
        body = reply.body
        if close or reply.status != 202 or reply.headers is not PLAIN or len(body) > _SHORT:
            return self._head(reply, close=close) + body
        # These are many and of few lengths.
        head = self._accepted.get(len(body))
        if head is None:
            head = self._accepted[len(body)] = self._head(reply, close=False)
        return head + body

    def _head(self, reply: Reply, *, close: bool) -> bytes:
        headers = b"".join([b"%b: %b\r\n" % header for header in reply.headers])
        end = b"connection: close\r\n\r\n" if close else b"\r\n"
        length = b"content-length: %d\r\n" % len(reply.body)
        return b"".join((STATUS_LINE[reply.status], self._common, headers, length, end))


class _TooMuch(Exception):
    """A bound of the head is passed; stops the parser."""


class _Exchange(RequestResponseCycle):
    """A request that came whole and its answer, in a place of uvicorn's pipeline. What uvicorn reads of a cycle is
    here; what belongs to ASGI is not. A `single` one is a small enqueue, which is answered together with others."""

    # Nobody waits for it: a request that is whole has no further message.
    message_event = asyncio.Event()
    response_complete = False
    response_started = False
    disconnected = False
    more_body = False

    def __init__(self, connection: "Connection", request: Request, *, keep_alive: bool, single: bool) -> None:
        self._connection = connection
        self._answering: Coroutine[Any, Any, Reply] | None = None
        self.request = request
        self.keep_alive = keep_alive
        self.single = single

    def give(self, reply: Reply, *, close: bool = False) -> None:
        """See `Together`."""
        if close:
            self.keep_alive = False
        if self._connection.flow.write_paused:
            self.go_on(_known(reply))
        else:
            self._connection.answer(self, reply)

    def go_on(self, answering: Coroutine[Any, Any, Reply]) -> None:
        """See `Together`."""
        self._answering = answering
        self._connection.start_alone(self)

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Under uvicorn's name, so that its pipeline can start it."""
        connection = self._connection
        reply = None
        try:
            reply = await (self._answering or connection.shared.app.respond(self.request))
            if connection.flow.write_paused:
                await connection.flow.drain()
        finally:
            # A fault goes on to whoever looks after the task; the client is not left without an answer.
            if reply is None:
                self.keep_alive = False
                reply = connection.shared.app.refuse(Problem(500, "internal", "howk failed to answer this request"))
            connection.answer(self, reply)


async def _known(reply: Reply) -> Reply:
    return reply


class Connection(HttpToolsProtocol):
    """The protocol. `shared` is the same for all connections of a door."""

    def __init__(self, config: Config, state: ServerState, loop: asyncio.AbstractEventLoop, shared: Shared) -> None:
        super().__init__(config, state, {}, loop)
        self.shared = shared
        self._app = cast(ASGI3Application, shared.app)
        self.url = b""
        self._since = 0.0
        self._stuck_since = 0.0
        self._fresh = True
        self._reading = False
        self._taken = 0
        self._head_open = False
        self._head_size = 0
        self._silent = 0
        self._hot: list[bytes] | None = None
        self._known: KnownHead | None = None
        self._lesson: Request | None = None
        self._lessons = _LESSONS
        self._deaf = False
        self._problem: Problem | None = None
        self._last_words: Reply | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._since = self.shared.now
        most = self.shared.bounds.connections
        if len(self.connections) > most:
            wait = [(b"retry-after", b"1")]
            self._refuse(Problem(503, "unavailable", f"{most} connections are open: try again", headers=wait))

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._known is not None and not self._reading:
            try:
                request = self._known.read(data)
            except MemoryError:
                self._refuse(too_little_memory())
                return
            if request is not None and len(request.body) <= LARGE:
                self._begin(_Exchange(self, request, keep_alive=True, single=True))
                return
        taken, begins = self._taken, not self._reading
        super().data_received(data)
        if self._lesson is not None:
            request, self._lesson = self._lesson, None
            if begins:
                self._lessons -= 1
                self._known = learn(data, request)
        if self._hot is not None:
            self._go_the_long_way(self._hot)
        if self._reading and not self._deaf:
            # The parser gathers a header until it ends, so what it was given and has not passed on is bounded here.
            self._silent = self._silent + len(data) if self._taken == taken else 0
            if self._silent > _MAX_HEAD:
                self._refuse(_head_too_large())

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A client may close its side once it has asked: what is under way is answered first."""
        if not self._busy() or self.cycle.more_body or self.scheme == "https":
            return False
        self.cycle.keep_alive = False
        return True

    # What the parser calls

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._fresh = False
        self._reading = True
        self._silent = 0
        self._head_open = True
        self._head_size = 0
        self._since = self.shared.now

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._taken += len(url)
        self._head_size += len(url)
        if len(self.url) > _MAX_URL:
            self._stop(Problem(414, "uri_too_long", f"the URL is longer than {_MAX_URL} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        size = len(name) + len(value) + 4
        self._taken += size
        self._head_size += size
        # A trailer comes after the decisions that its name may be about: it is counted, and no more.
        if self._head_open:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            elif name == b"host" and any(known == b"host" for known, _ in self.headers):
                self._stop(Problem(400, "malformed_request", "the request names two hosts"))
            self.headers.append((name, value))
        if self._head_size > _MAX_HEAD or len(self.headers) > _MAX_HEADERS:
            self._stop(_head_too_large())

    def on_headers_complete(self) -> None:
        self._head_open = False
        parser = cast(Any, self.parser)
        url = self.url
        if (
            url.endswith(_HOT)
            and url.startswith(b"/webhooks/")
            and b"%" not in url
            and b"?" not in url
            and not self.expect_100_continue
            and parser.get_method() == b"POST"
            and not parser.should_upgrade()
        ):
            self._hot = []
        else:
            self._begin_cycle()

    def on_body(self, body: bytes) -> None:
        self._taken += len(body)
        if self._hot is not None:
            self._hot.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading = False
        if self._hot is None:
            super().on_message_complete()
            return
        pieces, self._hot = self._hot, None
        request = Request(
            "POST", self.url.decode(), dict(self.headers), None, pieces[0] if len(pieces) == 1 else b"".join(pieces)
        )
        parser = cast(Any, self.parser)
        keep = parser.should_keep_alive() and parser.get_http_version() != "1.0"
        url = self.url
        single = len(request.body) <= LARGE and url.endswith(_SINGLE) and url.count(b"/") == _SLASHES_OF_SINGLE
        if single and keep and self._lessons:
            self._lesson = request
        self._begin(_Exchange(self, request, keep_alive=keep, single=single))

    def _begin(self, exchange: _Exchange) -> None:
        waits = self._busy()
        self.cycle = exchange
        if waits:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self._app))
        else:
            self._start(exchange, self._app)

    def _start(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if isinstance(cycle, _Exchange) and cycle.single:
            group = self.shared.together.add(cycle)
            if group is not None:
                self._start_asgi_task(cast(RequestResponseCycle, group), app)
        else:
            self._start_asgi_task(cycle, app)

    def start_alone(self, exchange: _Exchange) -> None:
        """Give an exchange a task of its own."""
        self._start_asgi_task(exchange, self._app)

    # What the cycles call

    def answer(self, exchange: _Exchange, reply: Reply) -> None:
        """Write an answer whose turn it is."""
        exchange.response_complete = True
        if self.transport.is_closing():
            return
        self.transport.write(self.shared.write(reply, close=not exchange.keep_alive))
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """Begin the next request that is here. Unlike uvicorn's, it reads on only when none is left, so that what
        waits is never more than one read brought."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._since = self.shared.now
        if self.pipeline:
            self._start(*self.pipeline.pop())
        elif self._last_words is not None:
            self._say_and_close(self._last_words)
        else:
            self.flow.resume_reading()

    # Deadlines and refusals

    def look(self) -> None:
        """Cut a client that takes too long; called every `TICK`."""
        now = self.shared.now
        bounds = self.shared.bounds
        if self.transport.get_write_buffer_size():
            if not self._stuck_since:
                self._stuck_since = now
            elif now - self._stuck_since >= bounds.write_timeout:
                self.transport.abort()
            return
        self._stuck_since = 0.0
        if self.transport.is_closing() or self.pipeline or (self._busy() and not self.cycle.more_body):
            return
        waited = now - self._since - TICK
        if self._reading:
            if self.flow.read_paused:
                # A body that stands in line: nothing of it is read, so its sender can't be late.
                self._since += TICK
            elif waited > bounds.read_timeout:
                seconds = f"{bounds.read_timeout:g} s"
                self._refuse(
                    Problem(408, "request_timeout", f"the request was not whole in {seconds} (api.read_timeout)")
                )
        elif waited > (bounds.read_timeout if self._fresh else bounds.keep_alive):
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser stops; the answer is a problem, and in its turn."""
        # The parser hides what a call of its own ended with.
        if isinstance(getattr(sys.exception(), "__context__", None), MemoryError):
            self._refuse(too_little_memory())
            return
        self._refuse(self._problem or Problem(400, "malformed_request", "this is not HTTP/1.1 as RFC 9112 has it"))

    def _unsupported_upgrade_warning(self) -> None:
        """A client must not write into howk's log: the request is answered as if it had not asked for an upgrade."""
        # What comes next is the parser's to judge.
        self._known, self._lessons = None, 0

    def _stop(self, problem: Problem) -> None:
        self._problem = problem
        raise _TooMuch

    def _refuse(self, problem: Problem) -> None:
        """Hear no more of this client, and say why when what it asked before is answered."""
        self._deaf = True
        self._hot = None
        self.flow.pause_reading()
        reply = self.shared.app.refuse(problem)
        broken = self.cycle if self._busy() and self.cycle.more_body else None
        if broken is not None and self.pipeline:
            self.pipeline.popleft()
            self._last_words = reply
        elif broken is not None:
            broken.disconnected = True
            broken.message_event.set()
            if broken.response_started:
                self.transport.close()
            else:
                self._say_and_close(reply)
        elif self._busy():
            self._last_words = reply
        else:
            self._say_and_close(reply)

    def _say_and_close(self, reply: Reply) -> None:
        self.transport.write(self.shared.write(reply, close=True))
        self.transport.close()

    def _busy(self) -> bool:
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    def _go_the_long_way(self, pieces: list[bytes]) -> None:
        """A hot request did not come whole: uvicorn reads the rest of it."""
        self._hot = None
        self._begin_cycle()
        for piece in pieces:
            super().on_body(piece)

    def _begin_cycle(self) -> None:
        # The method and the path come next.
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "root_path": self.root_path,
            "headers": self.headers,
            "state": {},
        }
        self.scope = cast(HTTPScope, scope)
        super().on_headers_complete()


def _head_too_large() -> Problem:
    return Problem(
        431, "head_too_large", f"at most {_MAX_HEADERS} headers are taken, and {_MAX_HEAD} bytes of them with the URL"
    )
