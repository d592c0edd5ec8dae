"""What the door takes and answers, declared once as types: a table of routes comes in, an OpenAPI 3.1 document goes
out.

The tests read every answer with the type that is declared here, so that the document can't say something else.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, get_args

from msgspec import UNSET, Raw, Struct, UnsetType, defstruct, field
from msgspec.json import encode, schema_components
from msgspec.structs import fields

from howk._version import __version__
from howk.domain.windows import Window
from howk.flow.ingest import NOT_BUILT, Enqueue
from howk.web.health import Health

JSON = "application/json"
PROBLEM = "application/problem+json"
TEXT = "text/plain"


class Accepted(Struct, frozen=True, forbid_unknown_fields=True):
    """The webhook is on disk and will be delivered."""

    webhook_id: str
    status: str


def _built_fields() -> Iterator[tuple[str, Any] | tuple[str, Any, Any]]:
    """The fields of the body that this version acts on. What is kept raw may be any JSON."""
    for each in fields(Enqueue):
        if each.name in NOT_BUILT:
            continue
        raw = each.type is Raw or Raw in get_args(each.type)
        kind = Any if raw else each.type
        if each.required:
            yield each.name, kind
        else:
            yield each.name, kind, UNSET if raw else each.default


Webhook = defstruct(
    "Webhook",
    list(_built_fields()),
    namespace={"__doc__": "One webhook to deliver. Give either payload or payload_base64."},
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
)
Batch = defstruct(
    "Batch",
    [("webhooks", list[Webhook])],  # pyright: ignore[reportInvalidTypeForm] - made above
    namespace={"__doc__": "Webhooks that are taken together; each is judged alone."},
    frozen=True,
    forbid_unknown_fields=True,
)


class BatchItem(Struct, frozen=True, forbid_unknown_fields=True):
    """One webhook of a batch: its id and status, or why it was refused."""

    index: int
    webhook_id: str | UnsetType = UNSET
    status: str | UnsetType = UNSET
    code: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class BatchAnswer(Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome of a batch, in the order of the request."""

    accepted: int
    failed: int
    webhooks: list[BatchItem]


class StatusAnswer(Struct, frozen=True, forbid_unknown_fields=True):
    """A delivery as it stands. Times are RFC 3339."""

    webhook_id: str
    config_id: str
    state: str
    attempts: int
    max_attempts: int
    last_attempt_at: str | None
    last_status_code: int | None
    last_error: str | None
    next_retry_at: str | None
    held_by: str | None
    delivered_at: str | None
    reason_type: str | None


class StatsAnswer(Struct, frozen=True, forbid_unknown_fields=True):
    """What happened in the hour and the day that end now, true to the second."""

    last_1h: Window
    last_24h: Window


class Alive(Struct, frozen=True, forbid_unknown_fields=True):
    """The process lives."""

    status: str
    version: str


class Ready(Struct, frozen=True, forbid_unknown_fields=True):
    """The process does its work."""

    status: str


class ProblemField(Struct, frozen=True, forbid_unknown_fields=True):
    """A field that is to blame."""

    field: str
    message: str


class ProblemDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """A refusal, as RFC 9457 has it. `code` is stable."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[ProblemField] = field(default_factory=list[ProblemField])


class Route(NamedTuple):
    """A route and everything it may answer: by status and media type, the type of the body; None is any text."""

    method: str
    path: str
    summary: str
    answers: Mapping[int, Mapping[str, Any]]
    takes: Any = None
    needs_key: bool = False


_PROBLEM = {PROBLEM: ProblemDocument}
# What any route may say of a request as HTTP.
_ANY = dict.fromkeys((400, 403, 405, 408, 414, 421, 431, 500, 503), _PROBLEM)
_BODY = dict.fromkeys((413, 415, 422), _PROBLEM)
_KEY = dict.fromkeys((401, 429), _PROBLEM)

ROUTES = (
    Route(
        "POST",
        "/webhooks/{config_id}/enqueue",
        "Take one webhook to deliver; it is on disk when the answer comes.",
        {202: {JSON: Accepted}, **_ANY, **_BODY, **_KEY},
        Webhook,
        needs_key=True,
    ),
    Route(
        "POST",
        "/webhooks/{config_id}/enqueue/batch",
        "Take several webhooks; those accepted are on disk together. 422 when none was.",
        {202: {JSON: BatchAnswer}, **_ANY, **_BODY, **_KEY, 422: {JSON: BatchAnswer, **_PROBLEM}},
        Batch,
        needs_key=True,
    ),
    Route(
        "GET",
        "/webhooks/{webhook_id}/status",
        "How a delivery stands.",
        {200: {JSON: StatusAnswer}, 404: _PROBLEM, **_ANY, **_KEY},
        needs_key=True,
    ),
    Route(
        "GET",
        "/stats",
        "What happened in the last hour and the last day, in windows that move on by the second.",
        {200: {JSON: StatsAnswer}, **_ANY, **_KEY},
        needs_key=True,
    ),
    Route("GET", "/health", "Whether the process lives.", {200: {JSON: Alive}, **_ANY}),
    Route("GET", "/healthz", "The same as /health.", {200: {JSON: Alive}, **_ANY}),
    Route("GET", "/ready", "Whether the process does its work; 503 says why not.", {200: {JSON: Ready}, **_ANY}),
    Route(
        "GET",
        "/health/dependencies",
        "Each dependency, asked now; 503 when one is not well.",
        {200: {JSON: Health}, **_ANY, 503: {JSON: Health, **_PROBLEM}},
    ),
    Route("GET", "/metrics", "Metrics in Prometheus' text format.", {200: {TEXT: None}, **_ANY}),
    Route("GET", "/openapi.json", "This document.", {200: {JSON: dict[str, Any]}, **_ANY}),
)

_DESCRIPTIONS = {
    202: "Accepted",
    400: "Malformed",
    401: "No key, or one that is not known",
    403: "A page of another site",
    404: "Not found",
    405: "Another method is needed",
    408: "The request came too slowly",
    413: "Too large",
    414: "The URL is too long",
    415: "Not JSON by its Content-Type, or encoded",
    421: "A name this door does not answer to",
    422: "Refused; `errors` names the fields",
    429: "This key asks too often",
    431: "The headers are too large or too many",
    500: "howk failed",
    503: "Not now; try again",
}
_HEADERS = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    405: {"Allow": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"schema": {"type": "integer"}}},
    503: {"Retry-After": {"schema": {"type": "integer"}}},
}


@lru_cache(maxsize=1)
def document() -> bytes:
    """The document as JSON."""
    types = list(dict.fromkeys(_types()))
    schemas, components = schema_components(types, ref_template="#/components/schemas/{name}")
    known = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known)
    return encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "howk", "version": __version__, "description": "Webhooks in, webhooks delivered."},
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _types() -> Iterator[Any]:
    for route in ROUTES:
        if route.takes is not None:
            yield route.takes
        for bodies in route.answers.values():
            yield from (body for body in bodies.values() if body is not None)


def _operation(route: Route, known: Mapping[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": route.summary, "operationId": _id(route)}
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if route.takes is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": known[route.takes]}}}
    # Where no key is set none is needed: an empty requirement says so.
    operation["security"] = [{"key": []}, {}] if route.needs_key else []
    operation["responses"] = {
        str(status): _response(status, bodies, known) for status, bodies in sorted(route.answers.items())
    }
    return operation


def _id(route: Route) -> str:
    words = [part.strip("{}").replace(".", "_") for part in route.path.split("/") if part]
    return "_".join([route.method.lower(), *words])


def _response(status: int, bodies: Mapping[str, Any], known: Mapping[Any, Any]) -> dict[str, Any]:
    content = {media: {"schema": {"type": "string"} if body is None else known[body]} for media, body in bodies.items()}
    response: dict[str, Any] = {"description": _DESCRIPTIONS.get(status, "OK"), "content": content}
    if status in _HEADERS:
        response["headers"] = _HEADERS[status]
    return response
