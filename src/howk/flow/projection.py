"""From results to what hot state holds: the one way, for settle as it goes and for reconcile when it goes again."""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from howk.domain.breaker import verdict_of
from howk.domain.delivery import outline, turn_of
from howk.domain.errors import Undecodable
from howk.domain.records import Delivery, EndpointRow, Result, encode, reader
from howk.domain.retry import RetryPolicy
from howk.domain.settlement import COMMANDS, Decided, Rules, read_result, settle
from howk.domain.windows import DAY
from howk.ports.log import Entry
from howk.ports.state import Effect, HotState

_read_whole = reader(Result)


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
    results = [_read(entry) for entry in batch]
    return await judge_results(batch, results, state, rules)


def _read(entry: Entry) -> Result:
    if entry.damage:
        return read_result(entry.value, entry.source, entry.key, entry.at, entry.damage)
    try:
        return _read_whole(entry.value)
    except Undecodable:
        # Where it stands is put into words only for this: that costs half of what reading does.
        return read_result(entry.value, entry.source, entry.key, entry.at, entry.damage)


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


def waiting_effect(effect: Effect, delivery: Delivery) -> Effect:
    """The effect with the delivery that waits, and its place among those of its ordering key."""
    return replace(effect, record=encode(delivery), turn=turn_of(delivery), rank=delivery.rank)


def marks_of(items: Sequence[Judged]) -> list[str]:
    """The deliveries that are to be cancelled from now on."""
    return [item.result.id for item in items if item.decided.mark is not None]


def counted_again(results: Sequence[Result], policy: RetryPolicy, now: int) -> list[Effect]:
    """What to count of results where the windows were lost and nothing is known of where deliveries stood: each as if
    it had counted. What was sent twice around a kill is then counted twice."""
    recent = [result for result in results if result.at > now - DAY * 1000 and result.outcome not in COMMANDS]
    return [
        Effect(
            outline(result, policy),
            endpoint=result.endpoint,
            at=result.at,
            accepted_at=_accepted_at(result) if (result.series, result.gen) == (1, 0) else 0,
        )
        for result in recent
    ]


def _accepted_at(result: Result) -> int:
    # What nobody could read tells no more than when it was met.
    return result.created_at or result.at


def watermark_of(batch: Sequence[Entry]) -> dict[int, int]:
    """The next offset of each partition after a batch that was read in order."""
    return {entry.partition: entry.offset + 1 for entry in batch}
