"""Where an endpoint stands: its breaker, and what its owner decided.

Results and commands go in one at a time, and what comes out is the circuit that stands after them: the same object
where nothing changed, so that only what `moved` is written down. Times are milliseconds since the Unix epoch and come
with the result, so a fold that is replayed is the same fold.
"""

from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

Window = tuple[tuple[int, int, int], ...]

_BUCKETS = 8
_FIRST_SERVER_ERROR = 500
_ENDPOINT_FAILURES = frozenset({408, 425, 429})
_CALLED = frozenset({"delivered", "failed", "rejected"})
_RAMP_DOUBLES = 5_000
_RAMP_ENDS = 10_000.0
_MOST_DOUBLINGS = 62


class BreakerPolicy(NamedTuple):
    """When a breaker opens, probes and closes. Durations in milliseconds."""

    failure_threshold: int
    failure_ratio: float
    failure_window: int
    recovery_timeout: int
    probe_interval: int
    success_threshold: int


class Circuit(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where an endpoint stands: breaker, and what its owner decided. It is also part of a row in the log.

    `gen` rises with every move that is written down, and is the token of the one probe that may make the next. A
    circuit that was forgotten because nothing held anymore begins again at 0; a move out of there takes the time as its
    gen, so that no token is given twice.
    """

    state: Literal["closed", "open", "half_open"] = "closed"
    gen: int = 0
    probe_at: int = 0
    """Open or half open: from when on a probe may go."""
    successes: int = 0
    """Half open: good probes so far."""
    since: int = 0
    """When the state was entered; of a closed one when it recovered, 0 where it never opened."""
    disabled: str = ""
    """Empty, or why: `gone` (410) or `command`."""
    paused: bool = False
    window: Window = ()
    """Closed: (bucket of time, good, bad), oldest first. Never part of what is written down."""


def verdict_of(status_code: int, outcome: str) -> bool | None:
    """Whether a result speaks for its endpoint (True), against it (False), or says nothing of it (None).

    An answer that refuses this one request (3xx, most 4xx) is a sign of life, whatever becomes of the delivery.
    """
    if outcome == "delivered":
        return True
    if outcome not in _CALLED:
        return None
    if not status_code:
        # Rejected without an answer: the address was refused, and nobody was called.
        return False if outcome == "failed" else None
    return status_code < _FIRST_SERVER_ERROR and status_code not in _ENDPOINT_FAILURES


def count(circuit: Circuit, at: int, good: bool, probe: int, policy: BreakerPolicy) -> Circuit:
    """The circuit after a result of time `at`, whose probe was leased under the gen `probe` (-1: it was no probe).

    `at` should not lie ahead of the caller's own clock: the newest result is what the window ends with. A closed one
    counts by the results' own time, so late and unordered ones fall where they belong; what is older than the window,
    or than the recovery, counts for nothing. One that is not closed is moved by its current probe alone.
    """
    if circuit.state != "closed":
        if probe != circuit.gen:
            return circuit
        return _succeeded(circuit, at, policy) if good else _failed(circuit, at, policy)
    window = _counted(circuit, at, good, policy.failure_window)
    if window is None:
        return circuit
    if not good and _opens(window, policy):
        return Circuit(
            state="open",
            gen=_fresh_gen(circuit, at),
            since=at,
            probe_at=at + policy.recovery_timeout,
            disabled=circuit.disabled,
            paused=circuit.paused,
        )
    return Circuit(
        gen=circuit.gen, since=circuit.since, disabled=circuit.disabled, paused=circuit.paused, window=window
    )


def _counted(circuit: Circuit, at: int, good: bool, length: int) -> Window | None:
    """The window with one more result, or None where that is too old to count."""
    window = circuit.window
    # Buckets that fill the window, or a little less: nothing older than it ever counts.
    width = -(-length // _BUCKETS) or 1
    bucket = at // width
    if window:
        newest, goods, bads = window[-1]
        if bucket == newest and at >= circuit.since:
            entry = (newest, goods + 1, bads) if good else (newest, goods, bads + 1)
            return (*window[:-1], entry)
        newest = max(newest, bucket)
    else:
        newest = bucket
    oldest = newest - max(1, length // width)
    if bucket <= oldest or at < circuit.since:
        return None
    kept = {number: (goods, bads) for number, goods, bads in window if number > oldest}
    goods, bads = kept.get(bucket, (0, 0))
    kept[bucket] = (goods + 1, bads) if good else (goods, bads + 1)
    return tuple([(number, *kept[number]) for number in sorted(kept)])


def _opens(window: Window, policy: BreakerPolicy) -> bool:
    goods = bads = 0
    for _, some_good, some_bad in window:
        goods += some_good
        bads += some_bad
    return bads >= policy.failure_threshold and bads / (goods + bads) >= policy.failure_ratio


def _succeeded(circuit: Circuit, at: int, policy: BreakerPolicy) -> Circuit:
    successes = circuit.successes + 1
    if successes >= policy.success_threshold:
        return _closed(circuit, circuit.gen + 1, at)
    return replace(
        circuit,
        state="half_open",
        gen=circuit.gen + 1,
        successes=successes,
        # The next probe may go at once.
        probe_at=at,
        since=circuit.since if circuit.state == "half_open" else at,
    )


def _failed(circuit: Circuit, at: int, policy: BreakerPolicy) -> Circuit:
    return replace(
        circuit,
        state="open",
        gen=circuit.gen + 1,
        successes=0,
        probe_at=at + policy.probe_interval,
        since=circuit.since if circuit.state == "open" else at,
    )


def _closed(circuit: Circuit, gen: int, at: int) -> Circuit:
    return Circuit(gen=gen, since=at, disabled=circuit.disabled, paused=circuit.paused)


def _fresh_gen(circuit: Circuit, at: int) -> int:
    """A gen that also no earlier life of this circuit had."""
    return max(circuit.gen + 1, at)


def abandoned(circuit: Circuit, at: int, policy: BreakerPolicy) -> Circuit:
    """The circuit after its current probe ended without a verdict: as after a bad one, or no probe would ever follow.

    Whether the probe had the current token is for the caller to see.
    """
    return circuit if circuit.state == "closed" else _failed(circuit, at, policy)


def gone(circuit: Circuit, at: int) -> Circuit:
    """The circuit after a 410: disabled, until a command enables it."""
    return circuit if circuit.disabled else replace(circuit, disabled="gone", gen=_fresh_gen(circuit, at))


def command(circuit: Circuit, name: Literal["enable", "pause", "release"], at: int) -> Circuit:
    """The circuit after what its owner asked for.

    `enable` lets an endpoint that is disabled or paused work again, `release` closes its breaker as after a recovery.
    """
    if name == "release":
        return circuit if circuit.state == "closed" else _closed(circuit, _fresh_gen(circuit, at), at)
    disabled, paused = ("", False) if name == "enable" else (circuit.disabled, True)
    if disabled == circuit.disabled and paused == circuit.paused:
        return circuit
    return replace(circuit, disabled=disabled, paused=paused, gen=_fresh_gen(circuit, at))


def moved(before: Circuit, after: Circuit) -> bool:
    """Whether `after` has to be written down: more than the window changed."""
    return before is not after and (
        before.gen != after.gen or before.disabled != after.disabled or before.paused != after.paused
    )


def blocked(circuit: Circuit, now: int) -> Literal["", "pause", "breaker"]:
    """What holds traffic back, "" where it may flow. An open breaker holds at any time `now`: only a probe may pass.

    Whether the endpoint is disabled, so that nothing should wait for it, is its own question.
    """
    if circuit.paused:
        return "pause"
    return "" if circuit.state == "closed" else "breaker"


def probe_due(circuit: Circuit, now: int) -> bool:
    """Whether a probe may go. One at a time: that is up to the lease."""
    return circuit.state != "closed" and now >= circuit.probe_at and not circuit.paused and not circuit.disabled


def ramp(circuit: Circuit, now: int, first_rate: float) -> float:
    """Requests a second for an endpoint that recovered: `first_rate`, doubled every 5 s; 0.0 for no limit."""
    if circuit.state != "closed":
        return first_rate
    if not circuit.since:
        return 0.0
    doublings = max(0, now - circuit.since) // _RAMP_DOUBLES
    rate = first_rate * (1 << min(doublings, _MOST_DOUBLINGS))
    return rate if rate <= _RAMP_ENDS else 0.0


def is_default(circuit: Circuit) -> bool:
    """Whether nothing has to be remembered: it is closed, and its owner let it be."""
    return circuit.state == "closed" and not circuit.disabled and not circuit.paused


def written(circuit: Circuit) -> Circuit:
    """What of the circuit is written down: all but the window."""
    return replace(circuit, window=()) if circuit.window else circuit
