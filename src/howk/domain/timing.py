"""What a request may ask about time: when, for how long, and how often. Its own words come in and are checked against
bounds; milliseconds and a whole `RetryPolicy` go out, or a refusal that names the fields."""

from datetime import UTC, datetime, timedelta
from math import isfinite

from msgspec import Struct

from howk.domain.durations import seconds_of
from howk.domain.errors import FieldProblem, Rejected
from howk.domain.retry import RetryPolicy, RetryType

Duration = float | str
"""Seconds, or text such as `1h30m`."""

MAX_ATTEMPTS = 1_000
SHORTEST_DELAY = 100
SHORTEST_AGE = 1_000
LONGEST = 366 * 86_400_000
MOST_DELAYS = 100
MOST_STATUSES = 50

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_DAY = 86_400_000


class RetryAsked(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A policy as it is asked for; what is left out is the deployment's."""

    type: RetryType | None = None
    base_delay: Duration | None = None
    max_delay: Duration | None = None
    jitter: float | None = None
    delays: tuple[Duration, ...] | None = None
    max_attempts: int | None = None
    on_status: tuple[int, ...] | None = None


def delivery_time(asked: datetime | None, now: int, furthest: int) -> int:
    """The instant in milliseconds when it lies ahead, 0 for at once. `asked` has an offset; `furthest` is how far
    ahead it may lie. Raises `Rejected`."""
    if asked is None:
        return 0
    instant = (asked - _EPOCH) // _MILLISECOND
    if instant - now > furthest:
        message = f"at most {_in_words(furthest)} ahead (delivery.max_delay_ahead)"
        raise Rejected("invalid_deliver_at", f"deliver_at: {message}", [FieldProblem("deliver_at", message)])
    return instant if instant > now else 0


def longest_age(asked: Duration | None, default: int) -> int:
    """Milliseconds after which a delivery that has not ended is given up. Raises `Rejected`."""
    if asked is None:
        return default
    found = milliseconds_of(asked, SHORTEST_AGE)
    if isinstance(found, str):
        raise Rejected("invalid_max_age", f"max_age: {found}", [FieldProblem("max_age", found)])
    return found


def checked_attempts(asked: int, field: str) -> int:
    """The tries in all. Raises `Rejected`."""
    if not 1 <= asked <= MAX_ATTEMPTS:
        message = f"a number from 1 to {MAX_ATTEMPTS}"
        raise Rejected("invalid_max_attempts", message, [FieldProblem(field, message)])
    return asked


def attempts_of(asked: RetryAsked) -> int | None:
    """How many attempts a policy means: a schedule without a number has one more than it has delays."""
    if asked.max_attempts is None and asked.type == "schedule" and asked.delays:
        return len(asked.delays) + 1
    return asked.max_attempts


def policy_of(asked: RetryAsked, default: RetryPolicy) -> RetryPolicy:
    """The whole policy. A bound that is not given makes room for what is. Raises `Rejected` with every problem."""
    problems: list[FieldProblem] = []
    kind = asked.type or default.type
    base = _read("base_delay", asked.base_delay, problems)
    most = _read("max_delay", asked.max_delay, problems)
    delays = _delays(kind, asked, problems)
    jitter = default.jitter if asked.jitter is None else asked.jitter
    if not 0 <= jitter <= 1:
        problems.append(FieldProblem("retry.jitter", "a number from 0 to 1: the share of the delay it may be moved by"))
    statuses = _statuses(asked.on_status, problems)
    longest = max((base or 0, *delays))
    if most is not None and longest > most:
        field = "retry.delays" if delays else "retry.base_delay"
        problems.append(FieldProblem(field, f"longer than max_delay ({_in_words(most)})"))
    if problems:
        raise Rejected("invalid_retry", f"{problems[0].field}: {problems[0].message}", problems)
    bound = max(default.max_delay, longest) if most is None else most
    return RetryPolicy(
        base_delay=min(default.base_delay, bound) if base is None else base,
        max_delay=bound,
        jitter=jitter,
        type=kind,
        delays=delays,
        on_status=statuses if asked.on_status is not None else default.on_status,
    )


def _delays(kind: RetryType, asked: RetryAsked, problems: list[FieldProblem]) -> tuple[int, ...]:
    given = asked.delays
    if kind != "schedule":
        if given is not None:
            problems.append(FieldProblem("retry.delays", 'only a policy of type "schedule" has delays'))
        return ()
    if asked.base_delay is not None:
        problems.append(FieldProblem("retry.base_delay", "a schedule has delays and no base_delay"))
    if not given or len(given) > MOST_DELAYS:
        problems.append(FieldProblem("retry.delays", f"a schedule has from 1 to {MOST_DELAYS} delays"))
        return ()
    found = [_read(f"delays[{position}]", delay, problems) for position, delay in enumerate(given)]
    return tuple([delay for delay in found if delay is not None])


def _statuses(given: tuple[int, ...] | None, problems: list[FieldProblem]) -> tuple[int, ...]:
    if not given:
        return ()
    if len(given) > MOST_STATUSES or not all(300 <= status <= 599 for status in given):
        problems.append(FieldProblem("retry.on_status", f"at most {MOST_STATUSES} statuses from 300 to 599"))
        return ()
    return tuple(sorted(set(given)))


def _read(name: str, given: Duration | None, problems: list[FieldProblem]) -> int | None:
    if given is None:
        return None
    found = milliseconds_of(given, SHORTEST_DELAY)
    if isinstance(found, str):
        problems.append(FieldProblem(f"retry.{name}", found))
        return None
    return found


def milliseconds_of(given: Duration, shortest: int, longest: int = LONGEST) -> int | str:
    """The duration, or what would be right; the bounds are in milliseconds."""
    wanted = f"a duration from {_in_words(shortest)} to {_in_words(longest)}: seconds, or text such as 1h30m"
    try:
        seconds = seconds_of(given) if isinstance(given, str) else given
    except ValueError:
        return wanted
    if not isfinite(seconds) or not shortest <= seconds * 1000 <= longest:
        return wanted
    return round(seconds * 1000)


def _in_words(milliseconds: int) -> str:
    if milliseconds % _DAY == 0:
        return f"{milliseconds // _DAY}d"
    return f"{milliseconds / 1000:g}s"
