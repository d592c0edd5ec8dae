"""From results to what hot state holds: the one way, for settle as it goes and for reconcile when it goes again."""

from collections.abc import Sequence
from typing import NamedTuple

from howk.domain.delivery import Moved, Standing, move
from howk.domain.records import Result, encode
from howk.domain.retry import RetryPolicy
from howk.domain.settlement import read_result, settle
from howk.domain.windows import DAY
from howk.ports.log import Entry
from howk.ports.state import Effect, HotState


class Judged(NamedTuple):
    """A result, what it makes of its delivery (None: history only), and where that stood before."""

    entry: Entry
    result: Result
    moved: Moved | None
    before: Standing | None


async def judge(batch: Sequence[Entry], state: HotState, policy: RetryPolicy) -> list[Judged]:
    """Settle's decisions on a batch of `results`, in order. Raises `NewerRecord` before it has asked anything."""
    results = [read_result(entry.value, entry.source, entry.key, entry.at, entry.damage) for entry in batch]
    return await judge_results(batch, results, state, policy)


async def judge_results(
    batch: Sequence[Entry], results: Sequence[Result], state: HotState, policy: RetryPolicy
) -> list[Judged]:
    """The same for results that were read: one for each entry."""
    ids = list({result.id for result in results})
    found = await state.standing(ids)
    standings = {id_: standing for id_, standing in zip(ids, found, strict=True) if standing is not None}
    moves = settle(results, standings, policy)
    return [Judged(entry, result, *move) for entry, result, move in zip(batch, results, moves, strict=True)]


def effect_of(judged: Judged) -> Effect | None:
    """What a judged result changes in hot state, None for history."""
    moved, result, before = judged.moved, judged.result, judged.before
    if moved is None:
        return None
    # Its later results are judged against a gen above 0, or against its end.
    is_first = before is None or (before.series, before.gen) == (1, 0)
    accepted_at = _accepted_at(result) if is_first else 0
    if moved.waiting is None:
        return Effect(moved.status, endpoint=result.endpoint, at=result.at, accepted_at=accepted_at)
    waiting = moved.waiting
    return Effect(moved.status, waiting.due_at, encode(waiting.delivery), result.endpoint, result.at, accepted_at)


def counted_again(results: Sequence[Result], policy: RetryPolicy, now: int) -> list[Effect]:
    """What to count of results where the windows were lost and nothing is known of where deliveries stood: each as if
    it had counted. What was sent twice around a kill is then counted twice."""
    recent = [result for result in results if result.at > now - DAY * 1000]
    return [
        Effect(
            move(result, policy).status,
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
