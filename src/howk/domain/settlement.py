"""Settle's judgement of a batch of results, as one pure fold: the same results over the same standings always give
the same moves, so that settle and a rebuild can't disagree."""

from base64 import b64encode
from collections.abc import Mapping, Sequence

from howk.domain.delivery import Moved, Standing, Verdict, judge, move
from howk.domain.errors import Undecodable
from howk.domain.ids import is_delivery_id
from howk.domain.records import VERSION, Result, reader
from howk.domain.retry import RetryPolicy

_read = reader(Result)


def undecodable(source: str, key: str, raw: bytes, at: int, error: str) -> Result:
    """The outcome of a record that nobody can read. It ends the delivery that its key names; without one it ends as its
    own, named by where it stood."""
    scope, _, id_ = key.rpartition("/")
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


def read_result(value: bytes, source: str, key: str, at: int, damage: str) -> Result:
    """A result, or one that says why there is none. Raises `NewerRecord`."""
    if damage:
        return undecodable(source, key, value, at, damage)
    try:
        return _read(value)
    except Undecodable as error:
        return undecodable(source, key, value, at, str(error))


def settle(
    results: Sequence[Result], standings: Mapping[str, Standing], policy: RetryPolicy
) -> list[tuple[Moved | None, Standing | None]]:
    """For each result what it makes of its delivery, None for history, and where the delivery stood before it."""
    now: dict[str, Standing] = dict(standings)
    moves: list[tuple[Moved | None, Standing | None]] = []
    for result in results:
        before = now.get(result.id)
        # What can't be read tells no gen: like a success it ends what has not ended.
        ends = result.outcome in ("delivered", "undecodable")
        verdict = judge(before, result.series, result.gen, success=ends)
        if verdict is Verdict.HISTORY:
            moves.append((None, before))
            continue
        moved = move(result, policy)
        status = moved.status
        now[result.id] = Standing(status.series, status.gen, moved.waiting is None)
        moves.append((moved, before))
    return moves
