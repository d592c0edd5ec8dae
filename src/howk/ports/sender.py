"""Sending: one attempt of one delivery to one receiver.

`send(calls)` starts every call and returns at once. For each call it calls `answered(call, answer)` exactly once, on
the event loop, no later than the call's timeout after its request began to be sent or dialled, whatever the receiver
does; never from inside `send`. A call that waits for a free connection of its origin does not use up its timeout. A
sender raises nothing for what a receiver or the network does: that is an `Answer` with `failure` set. Should `send`
raise (a bug), the calls before the one it raised at have begun and are answered, and no other: `in_flight`, which
counts calls begun and not yet answered, says how many.

The sender resolves names itself, vets every address at each new connection, and connects to the vetted address; behind
a forward proxy it asks that for the vetted address. What the proxy refuses or fails at is failure `connect`,
`connect_timeout` or `timeout`, and never a status.
It follows no redirects, captures the first bytes of an answer, drains the rest up to a bound, and keeps connections
for the next call of the same origin where that is safe. A pooled connection that turns out closed before a byte of
an answer came is replaced once, within the same call.

Headers are bytes and are the caller's whole: the sender adds only Host, Content-Length and Connection.

`drain(timeout)` waits until nothing is in flight; `abort()` answers what is left with failure `cancelled`; `close()`
ends the idle connections.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

Failure = Literal[
    "",
    "invalid_endpoint",
    "blocked_address",
    "dns",
    "connect",
    "connect_timeout",
    "tls",
    "timeout",
    "reset",
    "protocol",
    "cancelled",
]


class Origin(NamedTuple):
    """Where a connection goes: the unit of pooling. `host` is a name or an address literal without brackets."""

    scheme: str
    host: str
    port: int


class Call(Struct, frozen=True):
    """One request. `head` holds the encoded header lines, each ended by CRLF, in the order to send them."""

    origin: Origin
    target: bytes
    """Path and query as they stand on the request line."""
    head: bytes
    body: bytes
    timeout: float
    """Seconds from dial or first byte to the end of the answer."""
    context: object = None
    """The caller's own; comes back with the answer."""


class Timings(Struct, frozen=True, gc=False):
    """Seconds spent in each phase; 0 for one that did not happen."""

    dns: float = 0.0
    connect: float = 0.0
    tls: float = 0.0
    first_byte: float = 0.0
    total: float = 0.0


class Answer(Struct, frozen=True):
    """What came of a call. `status` is 0 when no answer came; `failure` and `error` say why.

    `headers` are as received, in order, names in lower case; `body` is the first bytes of it, `truncated` when there
    was more.
    """

    status: int = 0
    failure: Failure = ""
    error: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    truncated: bool = False
    timings: Timings = Timings()
    size: int = 0
    """Bytes of the body that came, captured or not."""


Answered = Callable[[Call, Answer], None]


class Connections(NamedTuple):
    """What a sender did with connections. The first three only rise."""

    dials: int
    reuses: int
    stale: int
    """Kept ones that turned out closed."""
    open: int
    idle: int


class Sender(Protocol):
    """See the module for the contract."""

    def send(self, calls: Sequence[Call], answered: Answered) -> None: ...

    def in_flight(self) -> int: ...

    def connections(self) -> Connections: ...

    async def drain(self, timeout: float) -> bool:
        """Whether everything was answered within `timeout` seconds."""
        ...

    def abort(self) -> None: ...

    async def close(self) -> None: ...
