"""Request bodies: bytes come in, `Enqueue` comes out with its payload's exact bytes, or a refusal that names the field.

Strict where JSON readers differ: not UTF-8, a key given twice in the envelope, too deep a nesting are all refused, so
that what was checked is what is sent.
"""

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from msgspec import UNSET, DecodeError, Raw, Struct, ValidationError
from msgspec.json import Decoder

from howk.domain.config_defaults import ConfigRequest
from howk.domain.errors import FieldProblem, Rejected
from howk.domain.signing_request import Signing
from howk.domain.timing import RetryAsked
from howk.flow.ingest import Enqueue

MALFORMED = "malformed"
_MISSING = re.compile(r"missing required field `([^`]+)`(?: - at `\$\.?([^`]*)`)?")
_UNKNOWN = re.compile(r"unknown field `([^`]+)`(?: - at `\$\.?([^`]*)`)?")
_WRONG = re.compile(r"(.*) - at `\$\.?([^`]*)`")
_SPARE_DEPTH = 64
_INSIDE = ("headers", "signing", "retry", "rate_limit", "ordering")


class _Batch(Struct, forbid_unknown_fields=True):
    webhooks: list[Raw]


class EndpointAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """Which endpoint of the config is meant: its URL, of which userinfo and query do not matter."""

    endpoint: str


_decode = Decoder(Enqueue).decode
_decode_config = Decoder(ConfigRequest).decode
_decode_endpoint = Decoder(EndpointAsked).decode
_skip = Decoder(Raw).decode
_decode_batch = Decoder(_Batch).decode


def read_enqueue(body: bytes) -> Enqueue:
    """One request. Raises `Rejected`: code `malformed` for what is not JSON or not one object, else the field's."""
    _check_text(body)
    return _read(body)


def read_batch(body: bytes, most: int) -> list[Raw]:
    """The items of a batch as they came, for `read_item`. Raises `Rejected` for the envelope itself."""
    _check_text(body)
    items = _guarded(_decode_batch, body).webhooks
    if body.count(b'"webhooks"') > 1 or b"\\" in body[: body.find(b"[")]:
        _refuse_repeats(body)
    if not items or len(items) > most:
        message = f"{len(items)} items; from 1 to {most} are taken (api.max_batch)"
        raise Rejected("invalid_batch", message, [FieldProblem("webhooks", message)])
    return items


def read_config(body: bytes) -> ConfigRequest:
    """What a config is to set. Raises `Rejected` like `read_enqueue`."""
    _check_text(body)
    request = _guarded(_decode_config, body)
    _refuse_repeats(body)
    return request


def read_endpoint(body: bytes) -> str:
    """The URL of the endpoint that a command is about. Raises `Rejected` like `read_enqueue`."""
    _check_text(body)
    request = _guarded(_decode_endpoint, body)
    _refuse_repeats(body)
    return request.endpoint


def read_endpoint_query(query: bytes) -> str:
    """The same from a query: `endpoint`, once, and nothing else."""
    try:
        given = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_SPARE_DEPTH)
    except ValueError as error:
        raise Rejected(MALFORMED, "the query can't be read: percent-encode it as UTF-8") from error
    for name, _ in given:
        if name != "endpoint":
            raise _refusal("unknown_field", name[:80], "there is no such parameter")
    if len(given) > 1:
        raise Rejected(MALFORMED, "the parameter endpoint is given twice", [FieldProblem("endpoint", "given twice")])
    if not given:
        raise _refusal("missing_field", "endpoint", "this parameter is required")
    return given[0][1]


def read_item(item: Raw) -> Enqueue | Rejected:
    """A request, or why it is none."""
    try:
        return _read(bytes(item))
    except Rejected as refusal:
        return refusal


def _read(body: bytes) -> Enqueue:
    request = _guarded(_decode, body)
    payload = bytes(request.payload) if isinstance(request.payload, Raw) else b""
    _refuse_deep(payload)
    if _may_repeat(request, body, payload):
        _refuse_repeats(body)
    return request


def _refuse_deep(payload: bytes) -> None:
    """A payload that can just be read here could not be where it stands inside another record, or where more calls are
    under way: it has to be readable some levels deeper too."""
    if payload.count(b"[") + payload.count(b"{") > _SPARE_DEPTH:
        _guarded(_skip, b"[" * _SPARE_DEPTH + payload + b"]" * _SPARE_DEPTH)


def _check_text(body: bytes) -> None:
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise Rejected(MALFORMED, f"the body is not UTF-8 (byte {error.start})") from error


def _guarded(decode: Any, body: bytes) -> Any:
    try:
        return decode(body)
    except ValidationError as error:
        raise _field_refusal(str(error)) from error
    except DecodeError as error:
        raise Rejected(MALFORMED, f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise Rejected(MALFORMED, "the body is nested too deep") from error


def _field_refusal(message: str) -> Rejected:
    if found := _MISSING.search(message):
        return _refusal("missing_field", ".".join(filter(None, (found[2], found[1]))), "this field is required")
    if found := _UNKNOWN.search(message):
        return _refusal("unknown_field", ".".join(filter(None, (found[2], found[1]))), "there is no such field")
    if found := _WRONG.search(message):
        return _refusal("invalid_field", found[2], found[1])
    return Rejected(MALFORMED, f"the body has to be one JSON object: {message}")


def _refusal(code: str, field: str, message: str) -> Rejected:
    return Rejected(code, f"{field}: {message}", [FieldProblem(field, message)])


def _may_repeat(request: Enqueue, body: bytes, inside: bytes) -> bool:
    """Whether the envelope has more quotes than its fields account for, or escapes that could hide a key.

    A key that came twice has two quotes too many, at the top or inside `headers` or `signing`, so "no" is certain.
    """
    if b"\\" in body and body.count(b"\\") != inside.count(b"\\"):
        return True
    quotes = body.count(b'"') - inside.count(b'"')
    # One after the other, because each webhook passes here: a loop over them takes three times as long.
    expected = 6 if request.payload is not UNSET else 4
    if request.signing_secret is not None:
        expected += 4
    if request.idempotency_key is not None:
        expected += 4
    if request.headers is not None:
        expected += 2 + 4 * len(request.headers)
    if request.max_attempts is not None:
        expected += 2
    if request.content_type is not None:
        expected += 4
    if request.ordering_key is not None:
        expected += 4
    if request.deliver_at is not None:
        expected += 4
    if request.payload_base64 is not UNSET:
        expected += 4
    if request.signing is not None:
        expected += _signing_quotes(request.signing)
    if request.require_script is not None:
        expected += 2
    if request.max_age is not None:
        expected += 2 + _quotes(request.max_age)
    if request.retry is not None:
        expected += 2 + _quotes_of(request.retry)
    return quotes != expected


def _signing_quotes(signing: Signing) -> int:
    quotes = 2 + 4 * sum([text is not None for text in (signing.profile, signing.ed25519_key)])
    return quotes + (2 + 2 * len(signing.secrets) if signing.secrets is not None else 0)


def _quotes_of(asked: RetryAsked) -> int:
    """The quotes of a policy: of its keys, and of the values that are texts."""
    given = [value for name in asked.__struct_fields__ if (value := getattr(asked, name)) is not None]
    return sum([2 + _quotes(value) for value in given]) + sum([_quotes(delay) for delay in asked.delays or ()])


def _quotes(value: object) -> int:
    return 2 if isinstance(value, str) else 0


class _Object(list[tuple[str, Any]]):
    """A JSON object with every key as it came."""

    def repeated(self) -> str | None:
        seen: set[str] = set()
        for key, _ in self:
            if key in seen:
                return key
            seen.add(key)
        return None


def _refuse_repeats(body: bytes) -> None:
    try:
        # Numbers stay text: a payload's may be longer than Python converts.
        found = json.loads(body, object_pairs_hook=_Object, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise Rejected(MALFORMED, f"the body is not JSON that every reader reads alike: {error}") from error
    envelopes: Sequence[_Object] = [found, *(value for key, value in found if key in _INSIDE)]
    for envelope in envelopes:
        key = envelope.repeated() if isinstance(envelope, _Object) else None
        if key is not None:
            raise Rejected(MALFORMED, f"the key {key[:80]!r} is given twice", [FieldProblem(key[:80], "given twice")])
