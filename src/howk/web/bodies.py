"""How the body of a request is read: of the kind and size that it may have, and of all that are being read a bounded
sum."""

from collections.abc import Mapping
from typing import NamedTuple

from howk.domain.budget import CROWDED
from howk.domain.errors import Full
from howk.web.large import LARGE, Visit
from howk.web.messages import Gone, Receive, Request
from howk.web.problems import Problem

_MOST_BEING_READ = 256 << 20
_CROWDED = round(_MOST_BEING_READ * CROWDED)


class Bound(NamedTuple):
    """The most bytes of a body, and the setting that says so."""

    limit: int
    setting: str


def check_body(request: Request, bound: Bound) -> int:
    """The bytes that its body is said to have. Raises `Problem` for what is not JSON or too much."""
    _check_kind(request.headers)
    declared = int(request.headers.get(b"content-length", b"0"))
    if declared > bound.limit or len(request.body) > bound.limit:
        raise _too_large(bound)
    return declared


class Bodies:
    """Those of a door that are being read."""

    def __init__(self) -> None:
        self._being_read = 0

    @property
    def crowded(self) -> bool:
        """Whether most of the bytes that may be read at once are."""
        return self._being_read > _CROWDED

    async def read(self, request: Request, bound: Bound, visit: Visit | None = None) -> bytes:
        """The JSON body. Raises `Problem`, `Full`, and `Gone` where the client left."""
        declared = check_body(request, bound)
        if request.receive is not None:
            return await self._read_on(request.receive, declared, bound, visit)
        if visit is not None and len(request.body) > LARGE:
            await visit.enter(len(request.body))
            visit.brought(len(request.body), whole=True)
            await visit.turn(len(request.body))
        return request.body

    async def _read_on(self, receive: Receive, declared: int, bound: Bound, visit: Visit | None) -> bytes:
        """A body that comes in pieces."""
        chunks: list[bytes] = []
        size = 0
        try:
            if visit is not None and declared > LARGE:
                await visit.enter(declared)
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                self._being_read += len(chunk)
                if size > bound.limit:
                    raise _too_large(bound)
                if self._being_read > _MOST_BEING_READ:
                    raise Full(f"{self._being_read >> 20} MiB of requests are being read: try again in a moment")
                chunks.append(chunk)
                more = message.get("more_body", False)
                if visit is not None:
                    if size > LARGE and not visit.entered:
                        # Nobody said how much it will be.
                        await visit.enter(bound.limit if more else size)
                    visit.brought(size, whole=not more)
                if not more:
                    break
            if visit is not None and visit.entered:
                await visit.turn(size)
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        finally:
            self._being_read -= size


def _check_kind(headers: Mapping[bytes, bytes]) -> None:
    """Asking for the content type is what keeps a web page's plain form from posting here."""
    given = headers.get(b"content-type", b"")
    media = given if given == b"application/json" else given.partition(b";")[0].strip().lower()
    if media != b"application/json" and not (media.startswith(b"application/") and media.endswith(b"+json")):
        raise Problem(415, "unsupported_media_type", "send the body as Content-Type: application/json")
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise Problem(415, "unsupported_media_type", "send the body without Content-Encoding")


def _too_large(bound: Bound) -> Problem:
    return Problem(413, "request_too_large", f"the request is larger than {bound.limit} bytes ({bound.setting})")
