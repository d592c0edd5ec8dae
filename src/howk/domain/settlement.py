"""Settle's judgement of a batch of results, as one pure fold: the same results over the same standings always give
the same moves, so that settle and a rebuild can't disagree."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, cast

from msgspec import Struct
from msgspec.structs import replace

from howk.domain.breaker import BreakerPolicy, Circuit, abandoned, command, count, gone, verdict_of
from howk.domain.breaker import moved as has_moved
from howk.domain.delivery import Moved, Standing, Verdict, judge, move
from howk.domain.errors import Undecodable
from howk.domain.ids import is_delivery_id
from howk.domain.records import NEWER, VERSION, EndpointRow, Mark, Result, reader
from howk.domain.retry import RetryPolicy

EndpointCommand = Literal["enable", "pause", "release"]
ENDPOINT_COMMANDS: frozenset[str] = frozenset({"enable", "pause", "release"})
COMMANDS = ENDPOINT_COMMANDS | {"cancel"}
_GONE = "endpoint_gone"


def undecodable(source: str, key: str, raw: bytes, at: int, error: str) -> Result:
    """The outcome of a record that nobody can read. It ends the delivery that its key names; without one it ends as its
    own, named by where it stood."""
    scope, _, id_ = key.partition("/")
    named = is_delivery_id(id_)
    return Result(
        v=VERSION,
        id=id_ if named else source,
        scope=scope if named else "",
        outcome="undecodable",
        at=at,
        reason="undecodable",
        error=error,
        source=source,
        raw_base64=b64encode(raw).decode(),
    )


_read = reader(Result)


def read_result(value: bytes, source: str, key: str, at: int, damage: str) -> Result:
    """A result, or one that says why there is none. Raises `NewerRecord`."""
    if damage:
        return undecodable(source, key, value, at, damage)
    try:
        return _read(value)
    except Undecodable as error:
        return undecodable(source, key, value, at, str(error))


def forgotten(row: EndpointRow, now: int) -> Result:
    """The command that closes the breaker of an endpoint that sees no traffic any more, so that nothing has to be kept
    of it."""
    return Result(
        v=NEWER,
        id=row.id,
        scope=row.scope,
        outcome="release",
        at=now,
        endpoint=row.id,
        command="idle",
        url=row.endpoint,
    )


class Rules(NamedTuple):
    """What decides beside the records: the deployment's retry policy and its breaker."""

    retry: RetryPolicy
    breaker: BreakerPolicy


class Decided(Struct, frozen=True):
    """What a result makes of its delivery (None: history), where that stood before it, whether it marks a delivery to
    be cancelled, and the row of its endpoint where that has to be written down."""

    moved: Moved | None = None
    before: Standing | None = None
    mark: Mark | None = None
    row: EndpointRow | None = None
    turned: str = ""
    """What became of the endpoint: the new state of its breaker, `disabled`, `enabled` or `paused`."""


class Settled(NamedTuple):
    """A decision for each result, and every endpoint that they were about as it stands now."""

    decisions: list[Decided]
    endpoints: list[EndpointRow]


def settle(
    results: Sequence[Result],
    standings: Mapping[str, Standing],
    endpoints: Mapping[str, EndpointRow],
    rules: Rules,
) -> Settled:
    """Judge results in order, over where their deliveries and endpoints stand."""
    deliveries = dict(standings)
    circuits = _Circuits(endpoints, rules.breaker)
    decisions: list[Decided] = []
    for result in results:
        row = circuits.feed(result)
        moved: Moved | None = None
        mark: Mark | None = None
        before = deliveries.get(result.id)
        if result.outcome == "cancel":
            mark = _mark(result, before)
        elif result.outcome not in ENDPOINT_COMMANDS:
            moved = _moved(result, before, rules.retry)
        if moved is not None:
            status = moved.status
            marked = before is not None and before.marked
            deliveries[result.id] = Standing(status.series, status.gen, moved.waiting is None, marked)
        elif mark is not None and before is not None:
            deliveries[result.id] = replace(before, marked=True)
        decisions.append(Decided(moved, before, mark, row, circuits.turned if row else ""))
    return Settled(decisions, circuits.rows())


def _moved(result: Result, before: Standing | None, policy: RetryPolicy) -> Moved | None:
    if result.outcome == "undecodable" and before is not None:
        # What can't be read tells no gen: it ends the one that is current, so that its end stands in a rebuild too.
        result = replace(result, series=before.series, gen=before.gen)
    ends = result.outcome in ("delivered", "undecodable")
    if judge(before, result.series, result.gen, success=ends) is Verdict.HISTORY:
        return None
    return move(result, policy, marked=before is not None and before.marked)


def _mark(result: Result, before: Standing | None) -> Mark | None:
    if before is None or before.ended or before.marked:
        return None
    return Mark(v=NEWER, id=result.id, at=result.at, command=result.command)


class _Circuits:
    """The endpoints of a batch as it goes on."""

    def __init__(self, known: Mapping[str, EndpointRow], policy: BreakerPolicy) -> None:
        self._known = known
        self._policy = policy
        self.turned = ""
        self._now: dict[str, Circuit] = {}
        self._named: dict[str, tuple[str, str]] = {}

    def feed(self, result: Result) -> EndpointRow | None:
        """Count a result or obey a command; the endpoint's row where it has to be written down."""
        id_ = result.endpoint
        if not id_:
            return None
        before = self._now.get(id_)
        if before is None:
            known = self._known.get(id_)
            before = known.circuit if known else _NEW
        after = self._now[id_] = _after(before, result, self._policy)
        if after is before or not has_moved(before, after):
            return None
        self._name(result)
        self.turned = _turned(before, after)
        return self._row(id_)

    def _name(self, result: Result) -> None:
        url = result.url or (result.delivery.targets[0].endpoint if result.delivery else "")
        if url:
            self._named[result.endpoint] = (result.scope, url)

    def _row(self, id_: str) -> EndpointRow:
        known = self._known.get(id_)
        scope, url = self._named.get(id_) or ((known.scope, known.endpoint) if known else ("", ""))
        return EndpointRow(v=NEWER, id=id_, scope=scope, endpoint=url, circuit=self._now[id_])

    def rows(self) -> list[EndpointRow]:
        return [self._row(id_) for id_ in self._now]


_NEW = Circuit()


def _after(circuit: Circuit, result: Result, policy: BreakerPolicy) -> Circuit:
    outcome = result.outcome
    if outcome in ENDPOINT_COMMANDS:
        return command(circuit, cast(EndpointCommand, outcome), result.at)
    # A policy may have its 410s retried: then it is an answer as any other.
    if outcome == "rejected" and result.reason == _GONE:
        return gone(circuit, result.at)
    good = verdict_of(result.status_code, outcome)
    if good is None:
        return abandoned(circuit, result.at, policy) if result.probe and result.probe == circuit.gen else circuit
    return count(circuit, result.at, good, result.probe or -1, policy)


def _turned(before: Circuit, after: Circuit) -> str:
    if before.state != after.state:
        return after.state
    if after.disabled != before.disabled:
        return "disabled" if after.disabled else "enabled"
    if after.paused != before.paused:
        return "paused" if after.paused else "enabled"
    return ""
