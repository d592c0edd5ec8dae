"""What a request is to the door, and what goes back; ASGI's shapes beside them."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NamedTuple

from howk.web.problems import Headers

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = (b"content-type", b"application/json")
PLAIN: Headers = [JSON]
"""The headers of an answer that has no others of its own; always this very list."""


class Reply(NamedTuple):
    """What goes back. `route` is the pattern, for the metric."""

    status: int
    body: bytes
    route: str
    headers: Headers = []  # noqa: RUF012 - never changed; a NamedTuple default


class Request(NamedTuple):
    """A request whose head is known. `receive` reads its body; None where all of it is in `body` already."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    receive: Receive | None = None
    body: bytes = b""
    query: bytes = b""


class Gone(Exception):
    """The client left before its request was whole."""


async def send_reply(send: Send, reply: Reply) -> None:
    """A reply as ASGI's messages."""
    # RFC 9110, 8.6: an answer that can have no content says no length.
    length = [] if reply.status == 204 else [(b"content-length", b"%d" % len(reply.body))]
    headers = [*reply.headers, *length]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
