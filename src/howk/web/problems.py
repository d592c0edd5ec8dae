"""Errors as `application/problem+json` (RFC 9457): what howk raises comes in, status, headers and body go out."""

from collections.abc import Sequence
from math import ceil

from msgspec.json import encode

from howk.domain.errors import Conflict, FieldProblem, Full, HowkError, OverShare, Rejected, Transient
from howk.web.envelope import MALFORMED

Headers = list[tuple[bytes, bytes]]

_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}
_STATUS = {MALFORMED: 400, "payload_too_large": 413, "too_many_configs": 507}


class Problem(Exception):
    """A refusal that only a door knows: of the request as HTTP, not of what it asks."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[FieldProblem] = (),
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = tuple(headers)

    def body(self) -> bytes:
        """The JSON document. `type` is a name, not a page: it is as stable as `code`."""
        document: dict[str, object] = {
            "type": f"urn:howk:problem:{self.code}",
            "title": _TITLES[self.status],
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.errors:
            document["errors"] = [{"field": field, "message": message} for field, message in self.errors]
        return encode(document)


def problem_of(error: HowkError) -> Problem:
    """How an error of a room looks from outside."""
    if isinstance(error, Rejected):
        return Problem(_STATUS.get(error.code, 422), error.code, str(error), error.problems)
    if isinstance(error, Conflict):
        return Problem(409, "conflict", str(error))
    if isinstance(error, Transient):
        headers = [(b"retry-after", b"%d" % max(1, ceil(error.retry_after)))]
        if isinstance(error, OverShare):
            return Problem(429, error.code, str(error), headers=headers)
        code = error.code if isinstance(error, Full) else "unavailable"
        return Problem(503, code, str(error), headers=headers)
    return Problem(500, "stopped", str(error))


def too_little_memory() -> Problem:
    """For a request that can't be held in memory."""
    text = "howk has too little memory for this request: try again in a moment"
    return Problem(503, "unavailable", text, headers=[(b"retry-after", b"5")])
