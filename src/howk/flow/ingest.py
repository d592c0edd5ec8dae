"""Ingest: requests to deliver come in, delivery records go to the log, ids go back. Order of effects: append, then the
status *pending*, then the answer.

Knows what a delivery needs to be valid; knows neither HTTP nor who asks. An answer means that every record of the
request is durable.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from msgspec import UNSET, Raw, Struct, UnsetType

from howk.domain.addresses import AddressPolicy, blocked_reason, literal_address
from howk.domain.delivery import pending_status
from howk.domain.endpoints import Endpoint, header_problem, parse_endpoint
from howk.domain.errors import FieldProblem, Rejected
from howk.domain.ids import RANDOM_BYTES, delivery_id
from howk.domain.records import JSON_TYPE, NO_PAYLOAD, VERSION, Delivery, Target
from howk.domain.sealing import NONCE_BYTES, Sealer, Secrets
from howk.domain.signing import secret_bytes
from howk.flow import journal
from howk.flow.journal import Journal
from howk.ports.clock import Clock, Random
from howk.ports.state import HotState
from howk.ports.telemetry import RECEIVED, Meter

MAX_ATTEMPTS = 1_000
_MAX_HEADERS = 64
_CONFIG_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~-]{0,127}")
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]{1,64}/[\w!#$&^.+-]{1,64}(\s*;[\x20-\x7e\t]{0,200})?", re.ASCII)
_NULL = b"null"


class Enqueue(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a direct delivery. Fields of later versions are named, so that they are refused and not ignored."""

    endpoint: str
    payload: Raw | UnsetType = UNSET
    payload_base64: str | UnsetType = UNSET
    content_type: str | None = None
    headers: dict[str, str] | None = None
    signing_secret: str | None = None
    max_attempts: int | None = None
    require_script: bool | None = None
    idempotency_key: Raw = Raw()
    signing: Raw = Raw()
    ordering_key: Raw = Raw()
    deliver_at: Raw = Raw()
    max_age: Raw = Raw()
    retry: Raw = Raw()


FIELDS = tuple(Enqueue.__struct_fields__)
NOT_BUILT = ("idempotency_key", "signing", "ordering_key", "deliver_at", "max_age", "retry")


class IngestOptions(NamedTuple):
    """`max_payload` in bytes; `redact` are the lower-case names of headers whose values are sealed."""

    max_payload: int
    max_attempts: int
    policy: AddressPolicy
    redact: frozenset[str]


class Ingest:
    """The room. `accept` is the only way a direct delivery enters."""

    def __init__(
        self,
        log: Journal,
        state: HotState,
        sealer: Sealer,
        clock: Clock,
        random: Random,
        meter: Meter,
        options: IngestOptions,
    ) -> None:
        self._journal = log
        self._state = state
        self._sealer = sealer
        self._clock = clock
        self._random = random
        self._meter = meter
        self._options = options
        self._judge = lru_cache(maxsize=4_096)(self._blocked)

    async def accept(self, scope: str, requests: Sequence[Enqueue], route: str) -> list[str | Rejected]:
        """For each request the id of its delivery, or why it was refused; the accepted ones are durable, all or none.

        Raises `Rejected` for a scope that can't be one, `Full` or `Transient` when nothing was taken.
        """
        if not _CONFIG_ID.fullmatch(scope):
            raise Rejected(
                "invalid_config_id",
                "a config id has 1 to 128 letters, digits and . _ : ~ -, and begins with a letter or a digit",
            )
        now = self._clock.now()
        answers: list[str | Rejected] = []
        deliveries: list[Delivery] = []
        for request in requests:
            try:
                delivery = self._delivery(scope, request, now)
            except Rejected as refusal:
                answers.append(refusal)
                continue
            deliveries.append(delivery)
            answers.append(delivery.targets[0].id)
        if deliveries:
            await self._journal.append([journal.pending(delivery) for delivery in deliveries])
            await self._state.accept([pending_status(d, d.targets[0].id) for d in deliveries])
            self._meter.count(RECEIVED, len(deliveries), route)
        return answers

    def _delivery(self, scope: str, request: Enqueue, now: int) -> Delivery:
        refuse_unbuilt(request)
        endpoint = self._endpoint(request.endpoint)
        payload, payload_base64, content_type = self._payload(request)
        headers, sensitive = self._headers(request.headers or {})
        secrets = Secrets(endpoint.userinfo, endpoint.query, sensitive, _signing(request.signing_secret))
        id_ = delivery_id(now, self._random.bytes(RANDOM_BYTES))
        sealed = self._sealer.seal(secrets, id_, self._random.bytes(NONCE_BYTES)) if secrets else ""
        return Delivery(
            v=VERSION,
            scope=scope,
            targets=(Target(id=id_, endpoint=endpoint.public, headers=headers, sealed=sealed),),
            created_at=now,
            max_attempts=self._attempts(request.max_attempts),
            payload=payload,
            payload_base64=payload_base64,
            content_type=content_type,
        )

    def _endpoint(self, url: str) -> Endpoint:
        try:
            endpoint = parse_endpoint(url)
        except ValueError as error:
            raise _refused("invalid_endpoint", "endpoint", str(error)) from error
        reason = self._judge(endpoint.host)
        if reason:
            raise _refused("blocked_address", "endpoint", f"this address may not be dialled: {reason}")
        return endpoint

    def _blocked(self, host: str) -> str:
        literal = literal_address(host)
        return blocked_reason(literal, self._options.policy) if literal else ""

    def _payload(self, request: Enqueue) -> tuple[Raw, str, str]:
        if (request.payload is UNSET) == (request.payload_base64 is UNSET):
            raise _refused("invalid_payload", "payload", "give either payload or payload_base64")
        content_type = request.content_type or JSON_TYPE
        if not _MEDIA_TYPE.fullmatch(content_type):
            raise _refused("invalid_content_type", "content_type", "not a media type, such as application/json")
        if isinstance(request.payload, Raw):
            self._bounded(len(bytes(request.payload)))
            return request.payload, "", content_type
        assert isinstance(request.payload_base64, str)  # noqa: S101 - one of the two is set
        if request.content_type is None:
            raise _refused("invalid_content_type", "content_type", "say what payload_base64 is, such as text/plain")
        try:
            size = len(b64decode(request.payload_base64, validate=True))
        except (Base64Error, ValueError) as error:
            raise _refused("invalid_payload", "payload_base64", "not standard base64 with padding") from error
        self._bounded(size)
        return NO_PAYLOAD, request.payload_base64, content_type

    def _bounded(self, size: int) -> None:
        if size > self._options.max_payload:
            message = f"{size} bytes; at most {self._options.max_payload} are taken (api.max_payload_size)"
            raise _refused("payload_too_large", "payload", message)

    def _headers(self, headers: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        if not headers:
            return headers, headers
        if len(headers) > _MAX_HEADERS:
            raise _refused("invalid_headers", "headers", f"at most {_MAX_HEADERS} headers are taken")
        problems = [
            FieldProblem(f"headers.{name[:80]}", problem)
            for name, value in headers.items()
            if (problem := header_problem(name, value))
        ]
        if len({name.lower() for name in headers}) < len(headers):
            problems.append(FieldProblem("headers", "a header is given twice, in different case"))
        if problems:
            raise Rejected("invalid_headers", problems[0].message, problems)
        sensitive = {name: value for name, value in headers.items() if name.lower() in self._options.redact}
        return {name: value for name, value in headers.items() if name not in sensitive}, sensitive

    def _attempts(self, asked: int | None) -> int:
        if asked is None:
            return self._options.max_attempts
        if not 1 <= asked <= MAX_ATTEMPTS:
            raise _refused("invalid_max_attempts", "max_attempts", f"a number from 1 to {MAX_ATTEMPTS}")
        return asked


def _signing(secret: str | None) -> tuple[str, ...]:
    if secret is None:
        return ()
    try:
        secret_bytes(secret)
    except ValueError as error:
        raise _refused("invalid_signing_secret", "signing_secret", str(error)) from error
    return (secret,)


def refuse_unbuilt(request: Enqueue) -> None:
    """What this version can't do is refused by name: taking it in silence would break what was asked for."""
    asked = [name for name in NOT_BUILT if bytes(getattr(request, name)) not in (b"", _NULL)]
    if asked:
        problems = [FieldProblem(name, "this version does not have it yet; leave it out") for name in asked]
        raise Rejected("not_supported", f"{', '.join(asked)} can't be used yet", problems)
    if request.require_script:
        raise _refused("script_required", "require_script", "no script is set for this config")


def _refused(code: str, field: str, message: str) -> Rejected:
    return Rejected(code, message, [FieldProblem(field, message)])
