"""One attempt: from a delivery record to the call that is made, and from the answer to its result and its line.

Belongs to the room deliver; no port is called here.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from msgspec import Struct
from msgspec.structs import replace

from howk.domain.delivery import ranked, turn_of
from howk.domain.endpoints import endpoint_id, parse_endpoint, public_form, rejoin
from howk.domain.errors import Undecodable
from howk.domain.outcome import capture, next_state, retry_after
from howk.domain.records import PENDING, VERSION, Delivery, Result, Target, reader
from howk.domain.sealing import Sealer, Secrets, is_shared, shared_by
from howk.domain.signing import Profile, signed_head, signing_keys
from howk.flow.stage import Emission, Emit
from howk.ports.directory import Limits
from howk.ports.log import Entry, Record
from howk.ports.sender import Answer, Call, Origin, Timings
from howk.ports.state import Ask
from howk.ports.telemetry import Attempt

_NOTHING = Secrets()
_NO_HEADERS: dict[str, str] = {}
_MOST_ADDRESSED = 2_048
_LONGEST_ADDRESSED = 4_096
read_delivery = reader(Delivery)


class DeliverOptions(NamedTuple):
    """`timeout` in seconds, for a scope that sets none, `capture` in bytes; `redact` are lower-case names of headers
    whose values are secret. `wall` is the time that a signature carries, in milliseconds: receivers compare it with
    theirs."""

    timeout: float
    capture: int
    user_agent: str
    redact: frozenset[str]
    wall: Callable[[], int]


class Addressed(NamedTuple):
    """What all attempts have in common that go to a receiver with the same secrets."""

    origin: Origin
    target: bytes
    secrets: Secrets
    keys: Sequence[bytes]


class Addressing:
    """Opens secrets and takes endpoints apart, and remembers both for the deliveries that come next."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._remembered = lru_cache(maxsize=_MOST_ADDRESSED)(self._found)

    def of(self, delivery: Delivery, target: Target) -> Addressed:
        """Raises `Undecodable` for secrets that can't be opened, `ValueError` for an endpoint that is none,
        `Permanent` for another key's secrets."""
        sealed, endpoint = target.sealed, target.endpoint
        # What is long is not remembered: a tenant could fill the memory with it.
        if len(sealed) + len(endpoint) > _LONGEST_ADDRESSED or (sealed and not is_shared(sealed)):
            return self._found(delivery.scope, endpoint, sealed, target.profile, target.id)
        return self._remembered(delivery.scope, endpoint, sealed, target.profile)

    def _found(self, scope: str, endpoint: str, sealed: str, profile: Profile, id_: str = "") -> Addressed:
        bound_to = shared_by(scope, endpoint) if is_shared(sealed) else id_
        secrets = self._sealer.open(sealed, bound_to) if sealed else _NOTHING
        parts = parse_endpoint(rejoin(endpoint, "", secrets.query))
        origin = Origin(parts.scheme, parts.host, parts.port)
        return Addressed(origin, parts.target, secrets, signing_keys(profile, secrets.signing))


class Batch:
    """An entry in hand: emitted when the last of its targets has an outcome."""

    __slots__ = ("emit", "entry", "left", "records")

    def __init__(self, entry: Entry, emit: Emit, left: int) -> None:
        self.entry = entry
        self.emit = emit
        self.left = left
        self.records: list[Record] = []

    def done(self, record: Record | None) -> None:
        """One target has its outcome, or needs none."""
        if record is not None:
            self.records.append(record)
        self.left -= 1
        if self.left == 0:
            self.emit(Emission(self.entry, self.records))

    def give_back(self) -> None:
        """The entry of a single target stays unfinished: whoever reads it next begins with it."""
        self.emit(Emission(self.entry, (), finished=False))


Key = tuple[str, int, int]
"""(id, series, gen) of a delivery."""


class Job(Struct, frozen=True):
    """One target of an entry. `endpoint` is its id, `host` what the calls to one domain are counted by."""

    batch: Batch
    delivery: Delivery
    target: Target
    body: bytes
    key: Key
    endpoint: str
    host: str
    limits: Limits
    probe: int = 0

    @property
    def cut(self) -> Delivery:
        """The delivery with this target alone."""
        if len(self.delivery.targets) == 1:
            return self.delivery
        return replace(self.delivery, targets=(self.target,))


def jobs_of(
    batch: Sequence[Entry], emit: Emit, limits: Callable[[str], Limits], *, hosts: bool
) -> tuple[list[Job], list[tuple[Entry, str]]]:
    """The targets of each entry, and the entries that can't be read, with the reason. `hosts` says whether those
    count."""
    jobs: list[Job] = []
    unreadable: list[tuple[Entry, str]] = []
    for entry in batch:
        try:
            if entry.damage:
                raise Undecodable(entry.damage)
            delivery = read_delivery(entry.value)
            body = delivery.body
            if not delivery.targets:
                raise Undecodable("the delivery names no target")
        except Undecodable as error:
            unreadable.append((entry, str(error)))
            continue
        if delivery.ordering_key and entry.stream == PENDING:
            delivery = ranked(delivery, entry.offset)
        held = Batch(entry, emit, len(delivery.targets))
        scope = delivery.scope
        found = limits(scope)
        for target in delivery.targets:
            key = (target.id, delivery.series, delivery.gen)
            endpoint = endpoint_id(scope, target.endpoint)
            host = host_of(target.endpoint) if hosts else ""
            jobs.append(Job(held, delivery, target, body, key, endpoint, host, found))
    return jobs, unreadable


def host_of(url: str) -> str:
    """The host of an endpoint, "" for one that has none."""
    try:
        return parse_endpoint(url).host
    except ValueError:
        return ""


def ask_of(job: Job) -> Ask:
    """What hot state is asked about it."""
    delivery = job.delivery
    return Ask(
        job.target.id,
        delivery.series,
        delivery.gen,
        delivery.scope,
        delivery.attempt,
        delivery.max_attempts,
        delivery.created_at,
        job.endpoint,
        turn_of(job.cut) if delivery.ordering_key else "",
        delivery.rank,
        delivery.admitted,
        delivery.probe,
        job.limits,
    )


def call_of(job: Job, now: int, addressing: Addressing, options: DeliverOptions) -> Call | Result:
    """The request, signed, or why there can be none."""
    delivery, target = job.delivery, job.target
    try:
        origin, path, secrets, keys = addressing.of(delivery, target)
        head = signed_head(
            webhook_id=target.id,
            attempt=delivery.attempt,
            timestamp=options.wall() // 1000,
            body=job.body,
            keys=keys,
            user_agent=options.user_agent,
            content_type=delivery.content_type,
            headers=_headers(target, secrets),
            profile=target.profile,
            ed25519_key=secrets.ed25519_key,
        )
    except Undecodable as error:
        return result_of(job, now, "rejected", reason="undecodable", error=str(error))
    except ValueError as error:
        return result_of(job, now, "rejected", reason="invalid_endpoint", error=str(error))
    return Call(origin, path, head, job.body, job.limits.timeout or options.timeout, job)


def _headers(target: Target, secrets: Secrets) -> dict[str, str]:
    if not (target.headers or secrets.headers or secrets.userinfo):
        return _NO_HEADERS
    headers = {**target.headers, **secrets.headers}
    if secrets.userinfo and not any(name.lower() == "authorization" for name in headers):
        user = b64encode(unquote_to_bytes(secrets.userinfo)).decode()
        headers["Authorization"] = f"Basic {user}"
    return headers


def result_of(
    job: Job,
    now: int,
    outcome: str,
    answer: Answer | None = None,
    reason: str = "",
    error: str = "",
    options: DeliverOptions | None = None,
) -> Result:
    """The result of an attempt that was made, or refused before it was."""
    delivery, target = job.delivery, job.target
    status = answer.status if answer else 0
    duration = round(answer.timings.total * 1000) if answer else 0
    if outcome == "delivered":
        return Result(
            v=VERSION,
            id=target.id,
            scope=delivery.scope,
            outcome="delivered",
            at=now,
            series=delivery.series,
            gen=delivery.gen,
            attempt=delivery.attempt,
            max_attempts=delivery.max_attempts,
            created_at=delivery.created_at,
            duration=duration,
            status_code=status,
            deliver_at=delivery.deliver_at,
            endpoint=job.endpoint,
            probe=job.probe,
        )
    response = None
    if answer and answer.status and options:
        response = capture(answer.headers, answer.body, options.redact, options.capture, truncated=answer.truncated)
    return Result(
        v=VERSION,
        id=target.id,
        scope=delivery.scope,
        outcome="rejected" if outcome == "rejected" else "failed",
        at=now,
        series=delivery.series,
        gen=delivery.gen,
        attempt=delivery.attempt,
        max_attempts=delivery.max_attempts,
        created_at=delivery.created_at,
        duration=duration,
        status_code=status,
        reason=reason,
        error=error,
        retry_after=retry_after(status, answer.headers, now) if answer else 0,
        response=response,
        delivery=job.cut,
        endpoint=job.endpoint,
        probe=job.probe,
    )


def undecodable_target(raw: Result, delivery: Delivery, target: Target) -> Result:
    """The end of one target of a delivery that was refused as a whole."""
    return replace(
        raw,
        id=target.id,
        scope=delivery.scope,
        series=delivery.series,
        gen=delivery.gen,
        attempt=delivery.attempt,
        max_attempts=delivery.max_attempts,
        created_at=delivery.created_at,
    )


def line_of(result: Result, job: Job | None, answer: Answer | None) -> Attempt:
    """What the line of an attempt says."""
    timings = answer.timings if answer else Timings()
    delivery = job.delivery if job else None
    return Attempt(
        result.id,
        result.scope,
        result.attempt,
        result.max_attempts,
        result.series,
        result.gen,
        result.outcome,
        next_state(result.outcome, result.attempt, result.max_attempts),
        result.at,
        public_form(job.target.endpoint) if job else "",
        result.status_code,
        result.reason or result.held_by,
        result.error,
        _milliseconds(timings.total),
        _milliseconds(timings.dns),
        _milliseconds(timings.connect),
        _milliseconds(timings.tls),
        _milliseconds(timings.first_byte),
        len(job.body) if job else 0,
        answer.size if answer else 0,
        delivery.event_id if delivery else "",
        result.source,
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2) if seconds else 0
