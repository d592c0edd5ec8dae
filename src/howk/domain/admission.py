"""Whether an endpoint lets a delivery through now, and how many of those it holds may go: decisions on its circuit and
its queue, with the time given.

Durations are seconds, `now` is Unix milliseconds.
"""

from typing import Literal, NamedTuple

from howk.domain.breaker import Circuit, blocked, probe_due, ramp
from howk.domain.delivery import BREAKER, LIMIT
from howk.domain.limits import Bucket

FIRST_SHARE = 4


class Admission(NamedTuple):
    """`hold` says what holds the delivery in `held_by`; with `probe` it tries the endpoint out under that token."""

    verdict: Literal["go", "hold", "disabled"]
    held_by: str = ""
    probe: int = 0


GO = Admission("go")
DISABLED = Admission("disabled")
_BEHIND = Admission("hold", LIMIT)


def admit(circuit: Circuit, now: int, *, behind: bool, probing: bool, admitted: bool, probe: int) -> Admission:
    """Judge one delivery. `behind`: others of the endpoint are held, `probing`: a probe is under way, `admitted`: this
    one was held and let go, `probe`: the token that it carries."""
    if circuit.disabled:
        return DISABLED
    held_by = blocked(circuit, now)
    if held_by == BREAKER:
        if probe and probe == circuit.gen:
            return Admission("go", probe=probe)
        if not behind and not probing and probe_due(circuit, now):
            return Admission("go", probe=circuit.gen)
    if held_by:
        return Admission("hold", held_by)
    return _BEHIND if behind and not admitted else GO


class Share(NamedTuple):
    """How many held deliveries of an endpoint may be on their way at once. It grows with each that does well, one for
    one until the first that does not, and then one for each round."""

    most: float = FIRST_SHARE
    growing: bool = True

    def within(self, cap: int) -> "Share":
        """The share of an endpoint that takes `cap` calls at once."""
        return self if self.most <= cap else self._replace(most=max(1.0, cap))

    def after(self, good: bool | None, cap: int) -> "Share":
        """The share once one of them has come back."""
        if good is None:
            return self
        if not good:
            return Share(max(1.0, self.most / 2), False)
        return Share(min(self.most + (1 if self.growing else 1 / self.most), max(1, cap)), self.growing)


class Release(NamedTuple):
    """How many held deliveries may go now, under which probe, and in how many seconds to ask again (0: only when
    something happens to the endpoint)."""

    most: int
    again: float = 0.0
    probe: int = 0


def release(
    circuit: Circuit, now: int, *, out: int, share: Share, probing: float, tokens: Bucket | None, rate: float
) -> Release:
    """Judge a queue: `out` of it are on their way, a probe is leased for `probing` seconds more, and `tokens` are there
    of a `rate` (None: there is no rate)."""
    held_by = blocked(circuit, now)
    if held_by == BREAKER:
        if probing > 0:
            return Release(0, probing)
        if not probe_due(circuit, now):
            return Release(0, max(0.001, (circuit.probe_at - now) / 1000))
        return Release(1, probe=circuit.gen)
    if held_by:
        return Release(0)
    free = max(0, int(share.most) - out)
    if tokens is None or not free:
        return Release(free)
    if tokens.tokens < 1:
        return Release(0, max(0.001, (1 - tokens.tokens) / rate))
    return Release(min(free, int(tokens.tokens)))


def rate_of(circuit: Circuit, now: int, asked: float, first: float) -> float:
    """Calls a second that the endpoint gets: what its owner set, and while it recovers no more than the ramp; 0 is no
    limit."""
    ramped = ramp(circuit, now, first)
    return min(asked, ramped) if asked and ramped else asked or ramped
