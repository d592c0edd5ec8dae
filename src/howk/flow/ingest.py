"""Ingest: requests to deliver come in, delivery records go to the log, ids go back. Order of effects: append, then the
status *pending*, then the answer. What has a time ahead goes to settle at once, which lays it by: the fresh lane holds
only what is due.

Knows what a delivery needs to be valid; knows neither HTTP nor who asks. An answer means that every record of the
request is durable.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Annotated, NamedTuple

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from howk.domain.addresses import AddressPolicy, blocked_reason, literal_address
from howk.domain.budget import Fullness, Intake
from howk.domain.config_defaults import Config, Fields, with_defaults
from howk.domain.delivery import accepted_status
from howk.domain.endpoints import Endpoint, parse_endpoint
from howk.domain.errors import FieldProblem, Full, OverShare, Rejected
from howk.domain.ids import RANDOM_BYTES, check_config_id, delivery_ids
from howk.domain.limits import Rates
from howk.domain.records import JSON_TYPE, NEWER, NO_PAYLOAD, VERSION, Delivery, Target
from howk.domain.request_headers import checked_headers
from howk.domain.retry import RetryPolicy
from howk.domain.sealing import NONCE_BYTES, Sealer, Secrets, shared_by
from howk.domain.signing_request import Signed, Signing, chosen_signing
from howk.domain.timing import (
    Duration,
    RetryAsked,
    attempts_of,
    checked_attempts,
    delivery_time,
    longest_age,
    policy_of,
)
from howk.flow import journal
from howk.flow.journal import Journal
from howk.flow.keyed import Accepted, Answer, Item, Keyed
from howk.ports.clock import Clock, Random
from howk.ports.log import Record
from howk.ports.state import HotState
from howk.ports.telemetry import RECEIVED, Meter

_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]{1,64}/[\w!#$&^.+-]{1,64}(\s*;[\x20-\x7e\t]{0,200})?", re.ASCII)
_LONGEST_ORDERING_KEY = 256
_CROWDED = 5_000
_LOOK_EVERY = 0.05
_MOST_SCOPES = 16_384
_MOST_SEALED = 2_048
_LONGEST_SEALED = 2_048
_LATELY = 10.0
_CLOSED_FOR = 10.0
_TOO_FAST_FOR = 1.0
_TOO_FAST = "the log fills faster than room is made in it: nothing was taken, send it again in a moment"
_ROOMY = Fullness()


class Enqueue(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a direct delivery."""

    endpoint: str
    payload: Raw | UnsetType = UNSET
    payload_base64: str | UnsetType = UNSET
    content_type: str | None = None
    headers: dict[str, str] | None = None
    signing_secret: str | None = None
    signing: Signing | None = None
    max_attempts: int | None = None
    require_script: bool | None = None
    idempotency_key: str | None = None
    ordering_key: str | None = None
    deliver_at: Annotated[datetime, Meta(tz=True)] | None = None
    max_age: Duration | None = None
    retry: RetryAsked | None = None


FIELDS = tuple(Enqueue.__struct_fields__)


class Request(NamedTuple):
    """A request that may have a key (None: it has none), and the hash of its bytes as they came."""

    enqueue: Enqueue
    key: str | None
    body: str


class IngestOptions(NamedTuple):
    """`max_payload` in bytes; `redact` are the lower-case names of headers whose values are sealed; `max_age` and
    `max_delay_ahead` in milliseconds; above `fresh_rate` a second a scope's deliveries take the slow lane while the
    fresh one is crowded."""

    max_payload: int
    max_attempts: int
    policy: AddressPolicy
    redact: frozenset[str]
    retry: RetryPolicy
    max_age: int
    max_delay_ahead: int
    fresh_rate: float


class New(NamedTuple):
    """A delivery that is fit to be accepted, and how it is to stand in the log. Nothing of it has happened yet."""

    delivery: Delivery
    record: Record

    @property
    def id(self) -> str:
        return self.delivery.targets[0].id


class Ingest:
    """The room. `accept`, `accept_together` and `accept_keyed` are the only ways a direct delivery enters. `defaults`
    gives what a scope sets for its deliveries, None for one that sets nothing."""

    def __init__(
        self,
        log: Journal,
        state: HotState,
        sealer: Sealer,
        clock: Clock,
        random: Random,
        meter: Meter,
        options: IngestOptions,
        defaults: Callable[[str], Config | None],
        backlog: Callable[[], int] = lambda: 0,
        fullness: Callable[[], Fullness] = lambda: _ROOMY,
    ) -> None:
        """`backlog` says how many first attempts have not been taken yet, `fullness` how full the log is."""
        self._journal = log
        self._state = state
        self._sealer = sealer
        self._clock = clock
        self._random = random
        self._meter = meter
        self._options = options
        self._defaults = defaults
        self._backlog = backlog
        self._fullness = fullness
        self._intake = Intake(_LATELY, _MOST_SCOPES)
        # What the door has taken since the log was measured.
        self._measured: Fullness = _ROOMY
        self._taken = 0
        self._rates = Rates(options.fresh_rate, _MOST_SCOPES)
        self._look_at = 0.0
        self._is_crowded = False
        self._keyed = Keyed(log, state, clock, random, self._records)
        self._judge = lru_cache(maxsize=4_096)(self._blocked)
        # Most deliveries of a sender to a receiver have the same secrets.
        self._sealed = lru_cache(maxsize=_MOST_SEALED)(self._seal)

    async def accept(self, scope: str, requests: Sequence[Enqueue], route: str) -> list[str | Rejected]:
        """For each request the id of its delivery, or why it was refused; the accepted ones are durable, all or none.

        Raises `Rejected` for a scope that can't be one, `Full`, `OverShare` or `Transient` when nothing was taken.
        """
        check_config_id(scope)
        config = self._defaults(scope)
        now = self._clock.now()
        answers: list[str | Rejected] = []
        deliveries: list[Delivery] = []
        ids = delivery_ids(now, self._random.bytes(len(requests) * RANDOM_BYTES))
        for id_, request in zip(ids, requests, strict=True):
            try:
                delivery = self._delivery(scope, request, config, now, id_)
            except Rejected as refusal:
                answers.append(refusal)
                continue
            deliveries.append(delivery)
            answers.append(id_)
        if deliveries:
            await self._take(self._records(deliveries), deliveries, route)
        return answers

    def prepare(self, scope: str, request: Enqueue) -> New:
        """A single request for `accept_together`, so that many that come at once share an append. Raises like `accept`,
        and `Rejected` for the request itself."""
        check_config_id(scope)
        now = self._clock.now()
        (id_,) = delivery_ids(now, self._random.bytes(RANDOM_BYTES))
        delivery = self._delivery(scope, request, self._defaults(scope), now, id_)
        (record,) = self._records((delivery,))
        return New(delivery, record)

    async def accept_together(self, new: Sequence[New], route: str) -> None:
        """Returns when all of them are durable. Raises `Full` or `Transient` when none was taken."""
        await self._take([each.record for each in new], [each.delivery for each in new], route)

    async def _take(self, records: Sequence[Record], deliveries: Sequence[Delivery], route: str) -> None:
        await self._journal.append(records)
        await self._state.accept([accepted_status(delivery) for delivery in deliveries])
        self._meter.count(RECEIVED, len(deliveries), route)

    async def accept_keyed(self, scope: str, requests: Sequence[Request], route: str) -> list[Answer]:
        """The same for requests of which some have an idempotency key: a repeat gets the first answer.

        A `Transient` in a place says that this one is not known to be taken and may be sent again.
        """
        check_config_id(scope)
        config = self._defaults(scope)
        answers = await self._keyed.accept(scope, [self._item(scope, request, config) for request in requests])
        taken = sum([isinstance(answer, Accepted) and not answer.replayed for answer in answers])
        if taken:
            self._meter.count(RECEIVED, taken, route)
        return answers

    def check_share(self, scope: str) -> None:
        """Raises `OverShare` for a scope that has brought more than its share lately: to be asked where a bound of the
        door is near."""
        if wait := self._intake.wait(scope, self._clock.monotonic()):
            raise OverShare("howk is nearly full, and most of what came lately is from this config: send less", wait)

    def _records(self, deliveries: Sequence[Delivery]) -> list[Record]:
        """What is to be appended, where there is room for it. Raises `Full` where there is none."""
        scope = deliveries[0].scope
        self._check_room(scope)
        now = self._clock.monotonic()
        records = self._in_lanes(deliveries, now)
        size = sum([len(record.value) for record in records])
        self._taken += size
        self._intake.took(scope, size, now)
        return records

    def _check_room(self, scope: str) -> None:
        found = self._fullness()
        if found is not self._measured:
            self._measured, self._taken = found, 0
        if found.closed:
            raise Full(found.closed, _CLOSED_FOR, "log_full")
        if self._taken >= found.full_after:
            raise Full(_TOO_FAST, _TOO_FAST_FOR, "log_full")
        if found.level == "crowded" or self._taken >= found.crowded_after:
            self.check_share(scope)

    def _in_lanes(self, deliveries: Sequence[Delivery], now: float) -> list[Record]:
        """Each into the lane that it has to take: a sender over its share waits behind the others, not before them."""
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            self._is_crowded = self._options.fresh_rate > 0 and self._backlog() > _CROWDED
        if self._is_crowded:
            return self._crowded(deliveries, now)
        return [journal.accepted(delivery) for delivery in deliveries]

    def _crowded(self, deliveries: Sequence[Delivery], now: float) -> list[Record]:
        """Those of one scope: so many as are its share into the fresh lane, and what has a place or a time of its own
        where it belongs."""
        left = self._rates.grant(deliveries[0].scope, now, len(deliveries))
        records: list[Record] = []
        for delivery in deliveries:
            if delivery.deliver_at or delivery.ordering_key:
                records.append(journal.accepted(delivery))
            elif left:
                left -= 1
                records.append(journal.accepted(delivery))
            else:
                records.append(journal.crowded(delivery))
        return records

    def _item(self, scope: str, request: Request, config: Config | None) -> Item:
        return Item(request.key, request.body, partial(self._delivery, scope, request.enqueue, config))

    def _delivery(self, scope: str, request: Enqueue, config: Config | None, now: int, id_: str) -> Delivery:
        refuse_unbuilt(request)
        endpoint = self._endpoint(request.endpoint)
        payload, payload_base64, content_type = self._payload(request)
        headers, sensitive = checked_headers(request.headers or {}, self._options.redact)
        signed = chosen_signing(request.signing_secret, request.signing)
        attempts, retry = _attempts(request), self._retry(request.retry)
        if config is not None:
            own = Fields(headers, sensitive, signed, retry, attempts)
            replaced = _given_otherwise(request, endpoint)
            headers, sensitive, signed, retry, attempts = with_defaults(own, config, self._options.redact, replaced)
        deliver_at = delivery_time(request.deliver_at, now, self._options.max_delay_ahead)
        sealed = self._secrets(scope, endpoint, sensitive, signed)
        return Delivery(
            v=NEWER if sealed else VERSION,
            scope=scope,
            targets=(Target(id=id_, endpoint=endpoint.public, headers=headers, sealed=sealed, profile=signed.profile),),
            created_at=now,
            max_attempts=self._options.max_attempts if attempts is None else attempts,
            payload=payload,
            payload_base64=payload_base64,
            content_type=content_type,
            not_before=deliver_at,
            expires_at=max(now, deliver_at) + longest_age(request.max_age, self._options.max_age),
            deliver_at=deliver_at,
            # One that is the deployment's follows it.
            retry=None if retry == self._options.retry else retry,
            ordering_key=_ordering_key(request.ordering_key),
            skip_after=config.skip_after if config and request.ordering_key else 0,
        )

    def _secrets(self, scope: str, endpoint: Endpoint, sensitive: Mapping[str, str], signed: Signed) -> str:
        """The sealed text of what nobody may read in the log, "" where there is nothing."""
        public, userinfo, query = endpoint.public, endpoint.userinfo, endpoint.query
        if not (signed.secrets or signed.ed25519_key or sensitive or query or userinfo):
            return ""
        headers = tuple(sensitive.items())
        size = len(public) + len(query) + len(userinfo)
        if headers:
            size += sum([len(name) + len(value) for name, value in headers])
        # What is long is not remembered: a sender could fill the memory with it.
        seal = self._sealed if size <= _LONGEST_SEALED else self._seal
        return seal(scope, public, userinfo, query, headers, signed.secrets, signed.ed25519_key)

    def _seal(
        self,
        scope: str,
        public: str,
        userinfo: str,
        query: str,
        headers: Sequence[tuple[str, str]],
        signing: tuple[str, ...],
        ed25519_key: str,
    ) -> str:
        secrets = Secrets(userinfo, query, dict(headers), signing, ed25519_key)
        return self._sealer.seal(secrets, shared_by(scope, public), self._random.bytes(NONCE_BYTES), shared=True)

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

    def _retry(self, asked: RetryAsked | None) -> RetryPolicy | None:
        return None if asked is None else policy_of(asked, self._options.retry)


def _attempts(request: Enqueue) -> int | None:
    asked, field = request.max_attempts, "max_attempts"
    if request.retry is not None:
        if asked is not None and request.retry.max_attempts is not None:
            raise _refused("invalid_max_attempts", "retry.max_attempts", "max_attempts is given already")
        if asked is None:
            asked, field = attempts_of(request.retry), "retry.max_attempts"
    return None if asked is None else checked_attempts(asked, field)


def _ordering_key(asked: str | None) -> str:
    if asked is None:
        return ""
    if not asked or len(asked) > _LONGEST_ORDERING_KEY or not asked.isprintable():
        message = f"1 to {_LONGEST_ORDERING_KEY} printable characters"
        raise _refused("invalid_ordering_key", "ordering_key", message)
    return asked


def _given_otherwise(request: Enqueue, endpoint: Endpoint) -> list[str]:
    """Headers that a request gives by a field of its own."""
    names = ["authorization"] if endpoint.userinfo else []
    return [*names, "content-type"] if request.content_type is not None else names


def refuse_unbuilt(request: Enqueue) -> None:
    """What this version can't do is refused by name: taking it in silence would break what was asked for."""
    if request.require_script:
        raise _refused("script_required", "require_script", "no script is set for this config")


def _refused(code: str, field: str, message: str) -> Rejected:
    return Rejected(code, message, [FieldProblem(field, message)])
