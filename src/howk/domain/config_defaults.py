"""What a config sets for its deliveries. A request becomes a record and what is to be sealed, a record becomes a
config, a config and the fields of an enqueue become the fields that hold: an enqueue's own win.
"""

from collections.abc import Iterable, Set
from typing import Literal, NamedTuple

from msgspec import Struct

from howk.domain.errors import FieldProblem, Rejected
from howk.domain.records import VERSION, ConfigRecord
from howk.domain.request_headers import REDACTED, Headers, checked_headers, split_headers
from howk.domain.retry import RetryPolicy
from howk.domain.sealing import Secrets
from howk.domain.signing_request import Signed, Signing, chosen_signing
from howk.domain.timing import (
    MAX_ATTEMPTS,
    Duration,
    RetryAsked,
    attempts_of,
    checked_attempts,
    milliseconds_of,
    policy_of,
)

SHORTEST_TIMEOUT = 100
LONGEST_TIMEOUT = 300_000
"""Milliseconds: an attempt holds a place in the window for so long."""
MOST_PER_SECOND = 1_000_000
MOST_IN_FLIGHT = 10_000


class RateLimitAsked(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The field `rate_limit`: requests a second to one endpoint, and how many at once after a pause."""

    per_second: float
    burst: float | None = None


class OrderingAsked(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The field `ordering`: what a failing delivery is to those with the same ordering key behind it."""

    policy: Literal["block", "skip"]
    after: int | None = None


class ConfigRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The defaults of a config, all of them: what is left out is not set."""

    signing: Signing | None = None
    headers: dict[str, str] | None = None
    retry: RetryAsked | None = None
    timeout: Duration | None = None
    rate_limit: RateLimitAsked | None = None
    max_in_flight: int | None = None
    ordering: OrderingAsked | None = None


class Config(NamedTuple):
    """A config as it is held in memory, opened. 0 and None are what it does not set; `timeout` is in milliseconds."""

    scope: str
    updated_at: int
    signed: Signed | None = None
    headers: Headers = {}  # noqa: RUF012 - never changed; a NamedTuple default
    sensitive: Headers = {}  # noqa: RUF012
    retry: RetryPolicy | None = None
    max_attempts: int = 0
    timeout: int = 0
    per_second: float = 0.0
    burst: float = 0.0
    max_in_flight: int = 0
    skip_after: int = 0

    def __repr__(self) -> str:
        return f"Config({self.scope!r}, ...)"


class Fields(NamedTuple):
    """What an enqueue says of what a config may set. None, or unsigned, is what it leaves to others."""

    headers: Headers
    sensitive: Headers
    signed: Signed
    retry: RetryPolicy | None
    max_attempts: int | None

    def __repr__(self) -> str:
        return "Fields(...)"


def config_record(
    scope: str, asked: ConfigRequest, now: int, default: RetryPolicy, redact: Set[str]
) -> tuple[ConfigRecord, Secrets]:
    """The record, still without its seal, and what belongs into it. Raises `Rejected`.

    A policy is completed by the deployment's `default` here and now, and stands whole in the record.
    """
    headers, sensitive = checked_headers(asked.headers or {}, redact)
    _refuse_shown(sensitive)
    signed = chosen_signing(None, asked.signing)
    retry, attempts = _retry(asked.retry, default)
    per_second, burst = _rate(asked.rate_limit)
    record = ConfigRecord(
        v=VERSION,
        scope=scope,
        updated_at=now,
        profile=signed.profile,
        headers=headers,
        retry=retry,
        max_attempts=attempts,
        timeout=_timeout(asked.timeout),
        per_second=per_second,
        burst=burst,
        max_in_flight=_in_flight(asked.max_in_flight),
        skip_after=_skip_after(asked.ordering),
    )
    return record, Secrets(headers=sensitive, signing=signed.secrets, ed25519_key=signed.ed25519_key)


def config_of(record: ConfigRecord, secrets: Secrets) -> Config:
    """The config of a record and its opened seal."""
    signs = secrets.signing or secrets.ed25519_key
    return Config(
        record.scope,
        record.updated_at,
        Signed(record.profile, secrets.signing, secrets.ed25519_key) if signs else None,
        record.headers,
        secrets.headers,
        record.retry,
        record.max_attempts,
        record.timeout,
        record.per_second,
        record.burst,
        record.max_in_flight,
        record.skip_after,
    )


def with_defaults(own: Fields, config: Config, redact: Set[str], replaced: Iterable[str] = ()) -> Fields:
    """What holds. Headers are joined by name, in any case; signing and retry, with the attempts in it, are wholly the
    enqueue's or wholly the config's. `replaced` are lower-case names of headers that the enqueue gives in another way.
    """
    headers, sensitive = _joined(own, config, redact, replaced)
    signs = own.signed.secrets or own.signed.ed25519_key
    signed = own.signed if signs or config.signed is None else config.signed
    if own.retry is not None:
        return Fields(headers, sensitive, signed, own.retry, own.max_attempts)
    attempts = (config.max_attempts or None) if own.max_attempts is None else own.max_attempts
    return Fields(headers, sensitive, signed, config.retry, attempts)


def _joined(own: Fields, config: Config, redact: Set[str], replaced: Iterable[str]) -> tuple[Headers, Headers]:
    if not config.headers and not config.sensitive:
        return own.headers, own.sensitive
    taken = {*replaced, *map(str.lower, own.headers), *map(str.lower, own.sensitive)}
    # What was sealed in the config stays sealed, and what has come to be secret since is sealed from now on.
    headers, grown = split_headers(_but(config.headers, taken), redact)
    return {**headers, **own.headers}, {**_but(config.sensitive, taken), **grown, **own.sensitive}


def _but(headers: Headers, taken: Set[str]) -> Headers:
    return {name: value for name, value in headers.items() if name.lower() not in taken}


def _retry(asked: RetryAsked | None, default: RetryPolicy) -> tuple[RetryPolicy | None, int]:
    if asked is None:
        return None, 0
    attempts = attempts_of(asked)
    if attempts is not None:
        checked_attempts(attempts, "retry.max_attempts")
    policy = policy_of(asked, default)
    only_attempts = RetryAsked(max_attempts=asked.max_attempts)
    return None if asked == only_attempts else policy, attempts or 0


def _refuse_shown(sensitive: Headers) -> None:
    """What was shown and sent back would replace a secret by the word for it."""
    problems = [
        FieldProblem(f"headers.{name}", "this is how a secret value is shown: give the value, or another one")
        for name, value in sensitive.items()
        if value == REDACTED
    ]
    if problems:
        raise Rejected("invalid_headers", f"{problems[0].field}: {problems[0].message}", problems)


def _timeout(asked: Duration | None) -> int:
    if asked is None:
        return 0
    found = milliseconds_of(asked, SHORTEST_TIMEOUT, LONGEST_TIMEOUT)
    if isinstance(found, str):
        raise _refused("invalid_timeout", "timeout", found)
    return found


def _rate(asked: RateLimitAsked | None) -> tuple[float, float]:
    if asked is None:
        return 0.0, 0.0
    # A limit of less than one an hour would be a pause in disguise.
    if not 1 / 3600 <= asked.per_second <= MOST_PER_SECOND:
        wanted = f"requests a second: a number from 1/3600 to {MOST_PER_SECOND}"
        raise _refused("invalid_rate_limit", "rate_limit.per_second", wanted)
    burst = max(1.0, asked.per_second) if asked.burst is None else asked.burst
    if not 1 <= burst <= MOST_PER_SECOND:
        raise _refused("invalid_rate_limit", "rate_limit.burst", f"requests: a number from 1 to {MOST_PER_SECOND}")
    return asked.per_second, burst


def _in_flight(asked: int | None) -> int:
    if asked is None:
        return 0
    if not 1 <= asked <= MOST_IN_FLIGHT:
        raise _refused("invalid_max_in_flight", "max_in_flight", f"a number from 1 to {MOST_IN_FLIGHT}")
    return asked


def _skip_after(asked: OrderingAsked | None) -> int:
    if asked is None:
        return 0
    if asked.policy == "block":
        if asked.after is not None:
            raise _refused("invalid_ordering", "ordering.after", 'only the policy "skip" goes on after some attempts')
        return 0
    if asked.after is None or not 1 <= asked.after <= MAX_ATTEMPTS:
        wanted = f"failed attempts after which the next delivery goes: a number from 1 to {MAX_ATTEMPTS}"
        raise _refused("invalid_ordering", "ordering.after", wanted)
    return asked.after


def _refused(code: str, field: str, message: str) -> Rejected:
    return Rejected(code, f"{field}: {message}", [FieldProblem(field, message)])
