"""What the door takes and answers, declared once as types: a table of routes comes in, an OpenAPI 3.1 document goes
out.

The tests read every answer with the type that is declared here, so that the document can't say something else.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, get_args

from msgspec import UNSET, Raw, Struct, UnsetType, defstruct, field
from msgspec.json import encode, schema_components
from msgspec.structs import fields

from howk._version import __version__
from howk.domain.config_defaults import ConfigRequest
from howk.domain.windows import Window
from howk.flow.ingest import Enqueue
from howk.web.commands import Cancelling, EndpointCommanded, EndpointShown
from howk.web.configs import ConfigShown
from howk.web.envelope import EndpointAsked
from howk.web.health import Health
from howk.web.words import EXAMPLES, FIELDS, PARAMETERS, SCHEMAS, STATUSES

JSON = "application/json"
PROBLEM = "application/problem+json"
TEXT = "text/plain"
HTML = "text/html"


class Accepted(Struct, frozen=True, forbid_unknown_fields=True):
    """The webhook is on disk and will be delivered."""

    webhook_id: str
    status: str


def _built_fields() -> Iterator[tuple[str, Any] | tuple[str, Any, Any]]:
    """The fields of the body. What is kept raw may be any JSON."""
    for each in fields(Enqueue):
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
    replayed: bool | UnsetType = UNSET
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
    """A route and everything it may answer: by status and media type, the type of the body; None is any text.
    `headers` are those of the request that mean something to it."""

    method: str
    path: str
    summary: str
    answers: Mapping[int, Mapping[str, Any]]
    takes: Any = None
    needs_key: bool = False
    asks: tuple[str, ...] = ()
    """Parameters of the query, each of them required."""
    headers: Sequence[str] = ()


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
        headers=("Idempotency-Key",),
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
        "POST",
        "/webhooks/{webhook_id}:cancel",
        "End a delivery that has not ended; what became of it is its status.",
        {202: {JSON: Cancelling}, 404: _PROBLEM, 409: _PROBLEM, **_ANY, **_KEY},
        needs_key=True,
    ),
    Route(
        "PUT",
        "/config/{config_id}",
        "Replace what a config sets for its deliveries; it holds from this answer on.",
        {200: {JSON: ConfigShown}, **_ANY, **_BODY, **_KEY, 507: _PROBLEM},
        ConfigRequest,
        needs_key=True,
    ),
    Route(
        "GET",
        "/config/{config_id}",
        "What a config sets; secrets are never shown.",
        {200: {JSON: ConfigShown}, 404: _PROBLEM, **_ANY, **_KEY},
        needs_key=True,
    ),
    Route(
        "DELETE",
        "/config/{config_id}",
        "Let a config set nothing any more.",
        {204: {}, 404: _PROBLEM, **_ANY, **_KEY},
        needs_key=True,
    ),
    Route(
        "GET",
        "/stats",
        "What happened in the last hour and the last day, in windows that move on by the second.",
        {200: {JSON: StatsAnswer}, **_ANY, **_KEY},
        needs_key=True,
    ),
    Route(
        "GET",
        "/config/{config_id}/endpoints",
        "How an endpoint stands: its breaker, and whether it is disabled or paused.",
        {200: {JSON: EndpointShown}, 422: _PROBLEM, **_ANY, **_KEY},
        needs_key=True,
        asks=("endpoint",),
    ),
    *[
        Route(
            "POST",
            f"/config/{{config_id}}/endpoints:{name}",
            summary,
            {202: {JSON: EndpointCommanded}, **_ANY, **_BODY, **_KEY},
            EndpointAsked,
            needs_key=True,
        )
        for name, summary in (
            ("enable", "Let an endpoint that is disabled or paused work again."),
            ("pause", "Hold what is for an endpoint until it is enabled."),
            ("release", "Close the breaker of an endpoint: what it holds goes out, slowly at first."),
        )
    ],
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
    Route("GET", "/openapi.json", "The routes as OpenAPI 3.1.", {200: {JSON: dict[str, Any]}, **_ANY}),
    Route("GET", "/docs", "The routes as a page for people.", {200: {HTML: None}, **_ANY}),
)

_HEADERS = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    405: {"Allow": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"schema": {"type": "integer"}}},
    503: {"Retry-After": {"schema": {"type": "integer"}}},
}
_TAGS = {
    "webhooks": "Webhooks",
    "stats": "Running it",
    "health": "Running it",
    "healthz": "Running it",
    "ready": "Running it",
    "metrics": "Running it",
    "openapi.json": "This interface",
    "docs": "This interface",
}
"""What routes are gathered under, by the first part of their path; any other under that part itself."""


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
            "tags": [{"name": name} for name in dict.fromkeys(map(_tag, ROUTES))],
            "components": {
                "schemas": {name: _worded(name, schema) for name, schema in components.items()},
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


def _worded(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with the words there are for it."""
    words = FIELDS.get(name, {})
    fields_of = {
        field: {**kind, "description": words[field]} if field in words else kind
        for field, kind in schema.get("properties", {}).items()
    }
    return {
        **schema,
        **({"description": SCHEMAS[name]} if name in SCHEMAS else {}),
        **({"properties": fields_of} if fields_of else {}),
        **({"examples": [EXAMPLES[name]]} if name in EXAMPLES else {}),
    }


def _tag(route: Route) -> str:
    first = route.path.split("/")[1]
    return _TAGS.get(first, first)


def _parameter(name: str, where: str) -> dict[str, Any]:
    description, example = PARAMETERS.get(name, ("", ""))
    return {
        "name": name,
        "in": where,
        "required": where != "header",
        "schema": {"type": "string"},
        **({"description": description, "example": example} if description else {}),
    }


def _operation(route: Route, known: Mapping[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": route.summary, "operationId": _id(route), "tags": [_tag(route)]}
    parameters = [_parameter(name, "path") for name in re.findall(r"\{(\w+)\}", route.path)]
    parameters += [_parameter(name, "query") for name in route.asks]
    parameters += [_parameter(name, "header") for name in route.headers]
    if parameters:
        operation["parameters"] = parameters
    if route.takes is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": known[route.takes]}}}
    # Where no key is set none is needed: an empty requirement says so.
    operation["security"] = [{"key": []}, {}] if route.needs_key else []
    operation["responses"] = {
        str(status): _response(status, bodies, known) for status, bodies in sorted(route.answers.items())
    }
    if "Idempotency-Key" in route.headers:
        operation["responses"]["202"]["headers"] = {"Idempotent-Replayed": {"schema": {"const": "true"}}}
    return operation


def _id(route: Route) -> str:
    words = [re.sub(r"\W+", "_", part).strip("_") for part in route.path.split("/") if part]
    return "_".join([route.method.lower(), *words])


def _response(status: int, bodies: Mapping[str, Any], known: Mapping[Any, Any]) -> dict[str, Any]:
    content = {media: {"schema": {"type": "string"} if body is None else known[body]} for media, body in bodies.items()}
    response: dict[str, Any] = {"description": STATUSES.get(status, "OK"), "content": content}
    if status in _HEADERS:
        response["headers"] = _HEADERS[status]
    return response
