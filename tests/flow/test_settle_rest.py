"""Settle says of each result whether anybody waits for it to be settled: its stage may rest after the others."""

from pathlib import Path
from typing import Any

import pytest
from tests.support import NOW, Corridor, opened

from howk.domain.breaker import BreakerPolicy
from howk.domain.delivery import Status
from howk.domain.records import PENDING, VERSION, Delivery, Result, reader
from howk.domain.retry import RetryPolicy
from howk.domain.settlement import Rules
from howk.flow import journal
from howk.flow.settle import Settle
from howk.flow.stage import Emission
from howk.ports.log import Entry
from howk.ports.state import Effect

_RULES = Rules(RetryPolicy(jitter=0.0), BreakerPolicy(1_000, 1.0, 60_000, 1, 1, 1))
_read = reader(Delivery)


async def _accepted(corridor: Corridor, **fields: Any) -> Delivery:
    await corridor.send("http://127.0.0.1:9/", max_attempts=3, **fields)
    log = corridor.engines.log
    ((place, (start, stop)),) = (await log.bounds(PENDING)).items()
    found = [e async for batch in log.read(PENDING, place.partition, start, stop) for e in batch]
    return _read(found[-1].value)


async def _awaited(corridor: Corridor, delivery: Delivery, outcome: Any, gen: int = 0) -> bool:
    """Whether the outcome of an attempt of it is awaited."""
    settle = Settle(corridor.engines.state, _RULES, corridor.metrics, corridor.notes)
    id_, waits = delivery.targets[0].id, outcome == "failed"
    result = Result(
        v=VERSION,
        id=id_,
        scope="app",
        outcome=outcome,
        at=NOW,
        gen=gen,
        max_attempts=3,
        delivery=delivery if waits else None,
    )
    record = journal.outcome(result, delivery.ordering_key)
    emitted: list[Emission] = []
    await settle.take([Entry(record.stream, 0, 0, record.key, record.value, NOW)], emitted.append)
    (emission,) = emitted
    return emission.awaited


async def test_nobody_waits_for_a_first_success(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        assert not await _awaited(corridor, await _accepted(corridor), "delivered")


async def test_who_stands_behind_it_under_an_ordering_key_waits_for_a_success(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        assert await _awaited(corridor, await _accepted(corridor, ordering_key="k"), "delivered")


@pytest.mark.parametrize("outcome", ["failed", "rejected"])
async def test_what_failed_is_awaited(tmp_path: Path, outcome: str) -> None:
    async with opened(tmp_path) as corridor:
        assert await _awaited(corridor, await _accepted(corridor), outcome)


async def test_a_success_after_a_wait_is_awaited_since_its_place_is_another_s(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        delivery = await _accepted(corridor)
        status = Status(id=delivery.targets[0].id, scope="app", state="deferred", gen=1, next_retry_at=NOW)
        await corridor.engines.state.apply([Effect(status, NOW, b"{}")], {})
        assert await _awaited(corridor, delivery, "delivered", gen=1)
