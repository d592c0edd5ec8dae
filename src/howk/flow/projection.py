"""From results to what hot state holds: the one way, for settle as it goes and for reconcile when it goes again."""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from howk.domain.breaker import verdict_of
from howk.domain.delivery import (
    OF_ENDPOINT,
    Status,
    is_retried,
    outline,
    retried_status,
    turn_of,
    waiting_status,
)
from howk.domain.endpoints import endpoint_id
from howk.domain.errors import Undecodable
from howk.domain.records import Delivery, EndpointRow, Result, ResultSketch, Waiting, encode, reader
from howk.domain.retry import RetryPolicy
from howk.domain.settlement import COMMANDS, Decided, Rules, read_result, settle
from howk.domain.windows import DAY
from howk.ports.log import Entry
from howk.ports.state import Effect, HotState

_read_result = reader(Result)
_read_sketch = reader(ResultSketch)


class Judged(Struct, frozen=True):
    """A result and what it makes of its delivery."""

    entry: Entry
    result: Result
    decided: Decided


class Judgement(NamedTuple):
    """A batch of results, judged in order, and every endpoint that they were about as it stands after them."""

    items: list[Judged]
    endpoints: list[EndpointRow]


async def judge(batch: Sequence[Entry], state: HotState, rules: Rules) -> Judgement:
    """Settle's decisions on a batch of `results`, in order. Raises `NewerRecord` before it has asked anything."""
    results = [result_in(entry) for entry in batch]
    return await judge_results(batch, results, state, rules)


async def judge_results(batch: Sequence[Entry], results: Sequence[Result], state: HotState, rules: Rules) -> Judgement:
    """The same for results that were read: one for each entry."""
    ids = list({result.id for result in results})
    called = list({result.endpoint for result in results if result.endpoint})
    known = await state.standing(ids, called)
    standings = {id_: standing for id_, standing in zip(ids, known.deliveries, strict=True) if standing is not None}
    endpoints = {id_: row for id_, row in zip(called, known.endpoints, strict=True) if row is not None}
    decisions, rows = settle(results, standings, endpoints, rules)
    return Judgement([Judged(*each) for each in zip(batch, results, decisions, strict=True)], rows)


def effects_of(items: Sequence[Judged]) -> list[Effect]:
    """What judged results change in hot state."""
    return [effect for item in items if (effect := effect_of(item)) is not None]


def effect_of(item: Judged) -> Effect | None:
    """What a judged result changes in hot state, None for history."""
    moved, before = item.decided.moved, item.decided.before
    if moved is None:
        return None
    result, waiting = item.result, moved.waiting
    # Its later results are judged against a gen above 0, or against its end.
    is_first = before is None or (before.gen == 0 and before.series == 1)
    effect = Effect(
        moved.status,
        waiting.due_at if waiting else 0,
        b"",
        result.endpoint,
        result.at,
        _accepted_at(result) if is_first else 0,
        # Without an endpoint nobody was called: the status is that of the attempt before.
        good=verdict_of(result.status_code, result.outcome) if result.endpoint else None,
    )
    return waiting_effect(effect, waiting.delivery) if waiting else effect


def restored(waiting: Waiting) -> Effect:
    """What a rebuild makes of the row of a delivery that waits."""
    delivery = waiting.delivery
    holder = endpoint_id(delivery.scope, delivery.targets[0].endpoint) if waiting.held_by in OF_ENDPOINT else ""
    record, turn = encode(delivery), turn_of(delivery)
    return Effect(waiting_status(waiting), waiting.due_at, record, holder, 0, 0, turn, delivery.rank)


def waiting_effect(effect: Effect, delivery: Delivery) -> Effect:
    """The effect with the delivery that waits, and its place among those of its ordering key."""
    return replace(effect, record=encode(delivery), turn=turn_of(delivery), rank=delivery.rank)


def marks_of(items: Sequence[Judged]) -> list[str]:
    """The deliveries that are to be cancelled from now on."""
    return [item.result.id for item in items if item.decided.mark is not None]


class Retold(NamedTuple):
    """Results that are read again after they were settled: those that ended something or need a closer look, and of
    the others, which a retry came after, what is to be counted."""

    results: list[Result]
    retried: list[Effect]


def retold(batch: Sequence[Entry], policy: RetryPolicy, now: int) -> Retold:
    """Read results for a rebuild. Raises `NewerRecord`."""
    since = now - DAY * 1000
    results: list[Result] = []
    retried: list[Effect] = []
    for entry in batch:
        sketch = _sketch_in(entry)
        if sketch is None or not is_retried(sketch, policy):
            results.append(result_in(entry))
        elif sketch.at > since:
            retried.append(_counted(retried_status(sketch), sketch))
    return Retold(results, retried)


def counted_again(results: Sequence[Result], policy: RetryPolicy, now: int) -> list[Effect]:
    """What to count of results where the windows were lost and nothing is known of where deliveries stood: each as if
    it had counted. What was sent twice around a kill is then counted twice."""
    since = now - DAY * 1000
    recent = [result for result in results if result.at > since and result.outcome not in COMMANDS]
    return [_counted(outline(result, policy), result) for result in recent]


def _counted(status: Status, result: Result | ResultSketch) -> Effect:
    is_first = result.gen == 0 and result.series == 1
    return Effect(status, 0, b"", result.endpoint, result.at, _accepted_at(result) if is_first else 0)


def result_in(entry: Entry) -> Result:
    """The result of an entry, or one that says why there is none. Raises `NewerRecord`."""
    if entry.damage:
        return read_result(entry.value, entry.source, entry.key, entry.at, entry.damage)
    try:
        return _read_result(entry.value)
    except Undecodable:
        # Where it stands is put into words only for this: that costs half of what reading does.
        return read_result(entry.value, entry.source, entry.key, entry.at, "")


def _sketch_in(entry: Entry) -> ResultSketch | None:
    if entry.damage:
        return None
    try:
        return _read_sketch(entry.value)
    except Undecodable:
        return None


def _accepted_at(result: Result | ResultSketch) -> int:
    # What nobody could read tells no more than when it was met.
    return result.created_at or result.at


def watermark_of(batch: Sequence[Entry]) -> dict[int, int]:
    """The next offset of each partition after a batch that was read in order."""
    return {entry.partition: entry.offset + 1 for entry in batch}
