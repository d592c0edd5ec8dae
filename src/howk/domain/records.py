"""The shapes that walk the corridor. Each is one JSON object with its version in `v`.

Times are milliseconds since the Unix epoch, durations milliseconds. A payload that came as a JSON text stays raw,
byte for byte; anything else is base64. Secrets stand only in `sealed` (see `domain.sealing`).
Golden files in `tests/golden` hold what each version wrote; a reader never drops a field it wrote once.
"""

from base64 import b64decode
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder, Encoder

from howk.domain.breaker import Circuit
from howk.domain.errors import NewerRecord, Undecodable
from howk.domain.retry import RetryPolicy
from howk.domain.signing import Profile

VERSION = 1
NEWER = 2
"""The version of what an older reader would take for damage or for something else: it stops there instead."""

PENDING = "howk.pending"
SLOW = "howk.slow"
RESULTS = "howk.results"
DEADLETTER = "howk.deadletter"
KEYS = "howk.keys"
STATE = "howk.state"
CONTROL = "howk.control"

JSON_TYPE = "application/json"

NO_PAYLOAD = Raw()
"""For a delivery whose payload is base64. This very object: the encoder leaves out a default by identity, and writes
another empty `Raw` as nothing at all, which breaks the record."""

DeadReason = Literal[
    "exhausted",
    "unrecoverable",
    "endpoint_gone",
    "undecodable",
    "invalid_endpoint",
    "blocked_address",
    "payload_too_large",
    "expired",
    "endpoint_disabled",
]
Command = Literal["cancel", "enable", "pause", "release"]
Outcome = Literal["delivered", "failed", "rejected", "undecodable", "scheduled", "held", "cancelled", Command]


class Target(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One receiver of a delivery. `endpoint` has no userinfo and no query: those are in `sealed`, beside what signs.

    A profile that an older reader does not know needs a new version: under this one it would be taken for damage.
    """

    id: str
    endpoint: str
    headers: dict[str, str] = {}
    sealed: str = ""
    profile: Profile = "default"


class Previous(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The attempt before, which failed."""

    at: int
    status_code: int = 0
    error: str = ""


class Delivery(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One attempt that has to be made. `attempt` counts from 1; (series, gen) says which re-entry this is.

    No attempt falls due after `expires_at` (0: it never expires). `deliver_at` is the time that was asked for, where it
    lay ahead, and stays; `not_before` is that of this attempt. `retry` is None for the deployment's policy.

    With an `ordering_key`, `rank` is the place of the first attempt among those of the key (0: not given yet), and
    after `skip_after` failed attempts (0: never) the delivery is `skipped`: it no longer holds up those behind it.
    `admitted` says that a hold was ended by letting this one go, `probe` under which token it tries an endpoint out.
    """

    v: int
    scope: str
    targets: tuple[Target, ...]
    created_at: int
    max_attempts: int
    payload: Raw = NO_PAYLOAD
    payload_base64: str = ""
    content_type: str = JSON_TYPE
    series: int = 1
    gen: int = 0
    attempt: int = 1
    not_before: int = 0
    expires_at: int = 0
    ordering_key: str = ""
    event_id: str = ""
    trace: str = ""
    deliver_at: int = 0
    retry: RetryPolicy | None = None
    rank: int = 0
    skip_after: int = 0
    skipped: bool = False
    admitted: bool = False
    probe: int = 0
    previous: Previous | None = None

    @property
    def body(self) -> bytes:
        """The exact bytes to send. Raises `Undecodable` when the base64 is broken."""
        raw = bytes(self.payload)
        if raw:
            return raw
        try:
            return b64decode(self.payload_base64, validate=True)
        except ValueError as error:
            raise Undecodable(f"payload_base64 is not base64: {error}") from error


class Capture(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A receiver's answer, capped. `body_base64` stands when the bytes are not UTF-8."""

    headers: dict[str, str] = {}
    body: str = ""
    body_base64: str = ""
    truncated: bool = False


class Result(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The outcome of one attempt, or a command.

    `failed` may be retried; `rejected` ends the series with `reason`. No attempt are `scheduled` (the delivery waits
    for its `not_before`), `held` (it waits for what `held_by` says) and `cancelled`. All but delivered and cancelled
    ones carry the delivery, cut to its target: all that a retry or a dead letter needs; a cancelled one says when the
    last attempt was instead, and is `settled` where settle wrote it of a result before it: that end stands, whatever
    came in between. `endpoint` is the id of the one that was called, "" where none was, `probe` the token under which
    it was tried out. `undecodable` carries the bytes that could not be read and where they stood
    (`stream/partition/offset`).

    A command (`domain.records.Command`) has its own id in `command`. `cancel` is about the delivery `id`, the others
    about the endpoint `id` of `scope`, which is called at `url`.
    """

    v: int
    id: str
    scope: str
    outcome: Outcome
    at: int
    series: int = 1
    gen: int = 0
    attempt: int = 1
    max_attempts: int = 1
    created_at: int = 0
    duration: int = 0
    status_code: int = 0
    reason: str = ""
    error: str = ""
    retry_after: int = 0
    response: Capture | None = None
    delivery: Delivery | None = None
    source: str = ""
    raw_base64: str = ""
    deliver_at: int = 0
    endpoint: str = ""
    held_by: str = ""
    probe: int = 0
    command: str = ""
    url: str = ""
    last_attempt_at: int = 0
    settled: bool = False


class DeliverySketch(Struct, frozen=True, kw_only=True):
    """What of a delivery says whether another attempt comes after one that failed."""

    expires_at: int = 0
    retry: RetryPolicy | None = None


class ResultSketch(Struct, frozen=True, kw_only=True):
    """A `Result` as far as it takes to count it: of many that are read again, most need no more, and reading all of one
    takes twice as long. Whether the rest can be read it does not say."""

    v: int
    id: str
    scope: str
    outcome: str
    at: int
    series: int = 1
    gen: int = 0
    attempt: int = 1
    max_attempts: int = 1
    created_at: int = 0
    delivery: DeliverySketch | None = None
    endpoint: str = ""


class Waiting(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A row of `howk.state`: a delivery that waits, as settle last left it. `delivery` is what will be sent next.

    `held_by` says what it waits for when that is not a retry. What is held by more than a time has none: `due_at` is
    then when it expires.
    """

    v: int
    delivery: Delivery
    due_at: int
    last_attempt_at: int = 0
    last_status_code: int = 0
    last_error: str = ""
    held_by: str = ""


class EndpointRow(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A row of `howk.state`: an endpoint that is disabled, paused or has an open breaker. `endpoint` is its URL without
    userinfo and query."""

    v: int
    id: str
    circuit: Circuit
    scope: str = ""
    endpoint: str = ""


class Mark(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A row of `howk.state`: a delivery that has not ended is to be cancelled, by this command."""

    v: int
    id: str
    at: int
    command: str


class DeadLetter(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A delivery given up: why, what was answered last, and the sealed record for a replay."""

    v: int
    id: str
    scope: str
    reason: str
    at: int
    series: int = 1
    gen: int = 0
    attempts: int = 0
    max_attempts: int = 0
    created_at: int = 0
    status_code: int = 0
    error: str = ""
    response: Capture | None = None
    delivery: Delivery | None = None
    source: str = ""
    raw_base64: str = ""


class KeyRecord(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An idempotency key and the delivery it stands for: a repeat is answered with `id`, as the first request was.

    Appended in one act with the delivery. `body` is the SHA-256 of the request's bytes in hex, never the bytes.
    """

    v: int
    scope: str
    key: str
    body: str
    id: str
    accepted_at: int


class ConfigRecord(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A row of `howk.control`: what a config sets for its deliveries (see `domain.config_defaults`).

    0 and None are what it does not set; `skip_after` 0 lets no delivery pass another of its ordering key. `timeout` is
    in milliseconds. `sealed` holds what signs and the sensitive headers, bound to the row's key.
    """

    v: int
    scope: str
    updated_at: int
    profile: Profile = "default"
    headers: dict[str, str] = {}
    sealed: str = ""
    retry: RetryPolicy | None = None
    max_attempts: int = 0
    timeout: int = 0
    per_second: float = 0.0
    burst: float = 0.0
    max_in_flight: int = 0
    skip_after: int = 0


class _Version(Struct):
    v: int


class _Versioned(Protocol):
    @property
    def v(self) -> int: ...


_T = TypeVar("_T", bound=_Versioned)


encode: Callable[[Struct], bytes] = Encoder().encode
"""A record's bytes. Fields at their defaults are left out."""

_version = Decoder(_Version).decode

# msgspec lets a string that is not UTF-8 through as the codec's own error.
_UNREADABLE = (DecodeError, RecursionError, UnicodeDecodeError)


def reader(kind: type[_T]) -> Callable[[bytes], _T]:
    """A function that reads one kind of record.

    It raises `NewerRecord` for a version this process does not know, even one whose shape it can't read, and
    `Undecodable` for everything else that is not such a record.
    """
    decode = Decoder(kind).decode

    def read(data: bytes) -> _T:
        try:
            record = decode(data)
        except _UNREADABLE as error:
            _refuse_newer(data)
            raise Undecodable(f"not a {kind.__name__}: {error}") from error
        if record.v > NEWER:
            _refuse_newer(data)
        return record

    return read


def _refuse_newer(data: bytes) -> None:
    try:
        version = _version(data).v
    except _UNREADABLE:
        return
    if version > NEWER:
        raise NewerRecord(
            f"a record of version {version} was written by a newer howk (this one knows {NEWER}): "
            "run the newer version on this data; nothing was dropped"
        )
