"""One HTTP/1.1 connection: a call is written to it at once, and what the receiver makes of it is reported once
to the `Owner`. Framing is the parser's; bounds, interim answers, ends of stream and fitness for reuse are decided here.

Once the status line and headers of a final answer have come whole, its status stands, whatever becomes of the
body (broken off, malformed, over the bound, out of time): the receiver has spoken. Such an answer is `truncated`.
"""

import asyncio
import re
import ssl
from collections import deque
from time import monotonic
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from howk.adapters.outbound.options import SenderOptions
from howk.ports.sender import Answer, Answered, Call, Failure, Origin, Timings

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_INTERIM = 16
UNASKED = "the receiver sent what nobody asked for"
_NEVER = float("inf")
_LARGE = 64 << 10
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_KEEP_ALIVE = re.compile(rb"\btimeout=([0-9]{1,6})\b")


class Pool:
    """The connections of one origin. `size` counts those that are lent, idle or being dialled."""

    __slots__ = ("idle", "origin", "preamble", "size", "waiting")

    def __init__(self, origin: Origin) -> None:
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        if origin.port != DEFAULT_PORTS[origin.scheme]:
            host += f":{origin.port}"
        self.origin = origin
        self.preamble = b" HTTP/1.1\r\nHost: %b\r\n" % host.encode()
        self.size = 0
        self.idle: list[Connection] = []
        """The one used last is at the end, and is used next."""
        self.waiting: deque[tuple[Answered, Call]] = deque()


class Owner(Protocol):
    """Who lends connections to calls. All are called on the event loop."""

    def opened(self, connection: "Connection") -> None: ...

    def answer(self, answered: Answered, call: Call, answer: Answer) -> None: ...

    def free(self, connection: "Connection", now: float) -> None:
        """The connection is fit for its next call."""
        ...

    def retire(self, connection: "Connection") -> None:
        """The connection serves no further call; it is being closed."""
        ...

    def stale(self, pool: Pool, answered: Answered, call: Call, started: float) -> None:
        """A connection used before ended before a byte of this answer: the call is due a new one."""
        ...

    def closed(self, connection: "Connection") -> None:
        """The socket is gone."""
        ...


def words_of(error: ssl.SSLError) -> str:
    """What OpenSSL says, as words."""
    return (error.reason or "failed").replace("_", " ").lower()


class _Refused(Exception):
    """Stops the parser."""


class Connection(asyncio.Protocol):
    """`deadline` is when `expire` is due: of the call, or of being idle. `ended` says why no call may use it."""

    __slots__ = (
        "_answered",
        "_body_size",
        "_call",
        "_complete",
        "_first",
        "_has_status",
        "_headers",
        "_interim",
        "_keep",
        "_mark",
        "_marked_body",
        "_odd",
        "_options",
        "_owner",
        "_parser",
        "_pieces",
        "_problem",
        "_received",
        "_sent",
        "_started",
        "_status",
        "_transport",
        "deadline",
        "ended",
        "idle_timeout",
        "phases",
        "pool",
        "uses",
    )

    def __init__(self, owner: Owner, pool: Pool, options: SenderOptions) -> None:
        self._owner = owner
        self._options = options
        self._transport: asyncio.Transport
        self._parser = HttpResponseParser(self)
        self._call: Call | None = None
        self._answered: Answered
        self._started = 0.0
        self._sent = 0.0
        self.pool = pool
        self.uses = 0
        self._problem = ""
        self.deadline = _NEVER
        self.ended = ""
        self.idle_timeout = options.idle_timeout
        self.phases = (0.0, 0.0, 0.0)
        self._reset()

    def _reset(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._status = 0
        self._received = 0
        self._body_size = 0
        self._interim = 0
        self._mark = 0
        self._marked_body = 0
        self._has_status = False
        self._complete = False
        self._keep = False
        self._odd = False
        self._first = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)

    def begin(self, answered: Answered, call: Call, started: float, now: float) -> None:
        """Sends `call`, whose clock runs since `started`."""
        self._call = call
        self._answered = answered
        self.uses += 1
        self._started = started
        self._sent = now
        self.deadline = started + call.timeout
        body = call.body
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        if len(body) > _LARGE:
            # Written as it is: a copy would be held until the receiver has taken it.
            head = b"".join((b"POST ", call.target, self.pool.preamble, call.head, length))
            self._transport.writelines((head, body))
            return
        self._transport.write(b"".join((b"POST ", call.target, self.pool.preamble, call.head, length, body)))

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        if self._call is None:
            self.end("idle for too long", gently=True)
        elif self._has_status:
            self._finish(now, reusable=False)
        else:
            self._fail("timeout", f"no answer within {self._call.timeout:g} s", now)

    def cancel(self) -> None:
        """Gives up the call, if there is one, as `cancelled`."""
        if self._call is not None:
            self._fail("cancelled", "given up by the sender", monotonic())

    def end(self, why: str, *, gently: bool = False) -> None:
        """Closes the connection; `gently` says farewell in TLS."""
        if self.ended:
            return
        self.ended = why
        self.deadline = _NEVER
        if gently:
            self._transport.close()
        else:
            self._transport.abort()
        self._owner.retire(self)

    def kill(self) -> None:
        """Closes the socket without a farewell, though one may be under way."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._call is None:
            self.end(UNASKED)
            return
        now = monotonic()
        if not self._received:
            self._first = now
        room = self._options.max_header - self._received
        if not self._has_status and len(data) > room:
            # Whether the head fits must not depend on how it was cut into reads.
            head, data = data[:room], data[room:]
            if not self._read(head, now):
                return
            if not self._has_status:
                text = f"the headers of the answer are larger than {self._options.max_header} bytes"
                self._fail("protocol", text, now)
                return
        if self._read(data, now):
            if self._complete:
                self._finish(now, reusable=self._keep)
            else:
                self._bound(now)

    def _read(self, data: bytes, now: float) -> bool:
        """Whether the parser took it."""
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._unreadable(error, now)
            return False
        return True

    def eof_received(self) -> None:
        self._broken_off()

    def connection_lost(self, exc: Exception | None) -> None:
        self._broken_off(exc)
        self._owner.closed(self)
        # Each holds the other.
        del self._parser

    def on_message_begin(self) -> None:
        if self._complete:
            raise _Refused

    def on_status(self, reason: bytes) -> None:
        # The parser takes it, others end the answer there: what is read in two ways is not built upon.
        if _CONTROL.search(reason):
            self._odd = True

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes later is a trailer.
        if not self._has_status:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._status = status
            self._has_status = True
        elif status == 101 or status < 100:
            self._problem = f"an answer with status {status} is not one to a webhook"
            raise _Refused

    def on_body(self, data: bytes) -> None:
        room = self._options.capture - self._body_size
        self._body_size += len(data)
        if room > 0:
            self._pieces.append(data[:room])

    def on_message_complete(self) -> None:
        if self._has_status:
            self._complete = True
            self._keep = not self._odd and self._parser.should_keep_alive()
            return
        self._headers.clear()
        self._interim += 1
        if self._interim > MAX_INTERIM:
            self._problem = f"more than {MAX_INTERIM} interim answers"
            raise _Refused

    def _bound(self, now: float) -> None:
        """Bounds what goes on after the head: the body, and what is neither (chunk extensions, trailers)."""
        if not self._has_status:
            return
        options = self._options
        if self._body_size != self._marked_body or not self._mark:
            self._marked_body = self._body_size
            self._mark = self._received
        framing = self._received - self._mark
        if self._received > options.max_header + options.drain_limit or framing > options.max_header:
            self._finish(now, reusable=False)

    def _unreadable(self, error: Exception, now: float) -> None:
        if self._has_status:
            self._finish(now, reusable=False)
        else:
            self._fail("protocol", self._problem or f"the answer is not HTTP/1.1: {error}", now)

    def _broken_off(self, error: Exception | None = None) -> None:
        """The receiver has closed its side, or the connection is gone."""
        call = self._call
        if call is None:
            self.end("the receiver closed the connection")
            return
        now = monotonic()
        if self._has_status:
            self._complete = self._ends_with_stream()
            self._finish(now, reusable=False)
        elif isinstance(error, ssl.SSLError) and (self._received or self.uses == 1):
            self._fail("tls", f"TLS: {words_of(error)}", now)
        elif self._received:
            self._fail("reset", "the connection was closed within the headers of the answer", now)
        elif self.uses > 1:
            self._call = None
            # First, so that it takes this one's place before anything that waits.
            self._owner.stale(self.pool, self._answered, call, self._started)
            self.end("the receiver closed the connection")
        else:
            self._fail("reset", "the connection was closed without an answer", now)

    def _ends_with_stream(self) -> bool:
        """RFC 9112, section 6.3: neither chunked nor of a given length."""
        for name, value in self._headers:
            if name == b"content-length" or (
                name == b"transfer-encoding" and value.lower().rstrip().endswith(b"chunked")
            ):
                return False
        return True

    def _finish(self, now: float, *, reusable: bool) -> None:
        call = self._call
        assert call is not None  # noqa: S101 - for the type checker
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        truncated = not self._complete or self._body_size > len(body)
        answer = Answer(self._status, "", "", self._headers, body, truncated, self._timings(now), self._body_size)
        if self.uses == 1:
            self._heed_keep_alive()
        # An answer may come before the whole request was written, and then the rest never is.
        whole = self._complete and not self._transport.get_write_buffer_size()
        self._call = None
        self._reset()
        self._owner.answer(self._answered, call, answer)
        if reusable and whole:
            self._owner.free(self, now)
        else:
            self.end("the answer was the last", gently=whole)

    def _fail(self, failure: Failure, error: str, now: float) -> None:
        call = self._call
        assert call is not None  # noqa: S101 - for the type checker
        answer = Answer(0, failure, error, (), b"", False, self._timings(now))
        self._call = None
        self._owner.answer(self._answered, call, answer)
        self.end(error)

    def _timings(self, now: float) -> Timings:
        first = self._first - self._sent if self._received else 0.0
        if self.uses > 1:
            return Timings(0.0, 0.0, 0.0, first, now - self._started)
        dns, connect, tls = self.phases
        return Timings(dns, connect, tls, first, now - self._started)

    def _heed_keep_alive(self) -> None:
        """A receiver that says when it closes idle connections is left a second before that."""
        for name, value in self._headers:
            if name == b"keep-alive" and (found := _KEEP_ALIVE.search(value)):
                self.idle_timeout = min(self.idle_timeout, max(int(found.group(1)) - 1.0, 0.0))
