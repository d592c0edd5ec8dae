"""Deliveries of several scopes that are accepted by one append: all of them or none, and nothing before it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from tests.support import NOW, TRIAL, Corridor, Notes, opened, running, settings

from howk.domain.config_defaults import ConfigRequest
from howk.domain.delivery import Status
from howk.domain.errors import Full, HowkError, Rejected, Transient
from howk.domain.records import PENDING, RESULTS, Delivery, reader
from howk.domain.timing import RetryAsked
from howk.flow.ingest import Enqueue, Ingest, New
from howk.ports.log import Finish, Log, Record
from howk.runtime.observability import Metrics
from howk.runtime.wiring import SystemRandom, Tools, wire
from howk.testing.receiver import Receiver

_read = reader(Delivery)
URL = "http://127.0.0.1:9/"
SCOPES = ("app", "other", "third", "app")


class _Failing:
    """A log that can't append as long as it has an error: before it is written, or after."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.error: HowkError | None = None
        self.after = False
        self.asked: list[Sequence[Record]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        self.asked.append(records)
        if self.error is None or self.after:
            await self._log.append(records, finish)
        if self.error is not None:
            raise self.error


def _enqueue(payload: bytes = b"1", url: str = URL, **fields: Any) -> Enqueue:
    return Enqueue(endpoint=url, payload=Raw(payload), **fields)


def _prepared(ingest: Ingest, scopes: Sequence[str] = SCOPES, url: str = URL) -> list[New]:
    return [ingest.prepare(scope, _enqueue(b"%d" % number, url)) for number, scope in enumerate(scopes)]


async def _stored(corridor: Corridor, stream: str = PENDING) -> list[bytes]:
    ((place, (start, stop)),) = (await corridor.engines.log.bounds(stream)).items()
    batches = corridor.engines.log.read(stream, place.partition, start, stop)
    return [entry.value async for batch in batches for entry in batch]


async def _statuses(corridor: Corridor, new: Sequence[New]) -> list[Status | None]:
    return list(await corridor.engines.state.status([each.id for each in new]))


async def test_those_of_several_scopes_are_one_append_in_their_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        new = _prepared(corridor.house.ingest)
        await corridor.house.ingest.accept_together(new, "test")
        stored = [_read(value) for value in await _stored(corridor)]
        assert [(d.targets[0].id, d.scope, d.body) for d in stored] == [
            (each.id, scope, b"%d" % number) for number, (each, scope) in enumerate(zip(new, SCOPES, strict=True))
        ]
        statuses = await _statuses(corridor, new)
        assert [(status.scope, status.state) for status in statuses if status] == [(s, "pending") for s in SCOPES]
        assert len({each.id for each in new}) == 4


async def test_each_is_delivered_as_if_it_had_come_alone(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path) as corridor:
        new = _prepared(corridor.house.ingest, url=receiver.url)
        await corridor.house.ingest.accept_together(new, "test")
        for each in new:
            assert (await corridor.ended(each.id)).state == "delivered"
        assert {got.id: got.body for got in receiver.captured} == {
            each.id: b"%d" % number for number, each in enumerate(new)
        }
        assert receiver.total == 4


async def test_what_is_only_prepared_never_was(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path) as corridor:
        new = _prepared(corridor.house.ingest, url=receiver.url)
        assert await _stored(corridor) == []
        assert await _statuses(corridor, new) == [None] * 4
        assert "howk_webhooks_received_total{" not in corridor.metrics.expose().decode()
        sent = await corridor.send(receiver.url, b'"the only one"')
        await corridor.ended(sent)
        assert [got.id for got in receiver.captured] == [sent]
    async with opened(tmp_path) as corridor:
        await corridor.house.reconcile.recover()
        assert await _statuses(corridor, new) == [None] * 4
        assert len(await _stored(corridor)) == 1


@pytest.mark.parametrize("error", [Transient("the disk is away"), Full("too much waits")], ids=["transient", "full"])
@pytest.mark.parametrize("after", [False, True])
async def test_an_append_that_fails_leaves_all_of_them_or_none(tmp_path: Path, error: HowkError, after: bool) -> None:
    metrics, notes = Metrics(), Notes()
    async with opened(tmp_path) as corridor:
        failing = _Failing(corridor.engines.log)
        tools = Tools(corridor.clock, SystemRandom(), metrics, notes)
        front = corridor.engines._replace(log=failing)  # pyright: ignore[reportArgumentType]
        ingest = wire(settings(tmp_path), TRIAL, front, tools).ingest
        failing.error, failing.after = error, after
        new = _prepared(ingest)
        with pytest.raises(type(error)):
            await ingest.accept_together(new, "test")
        assert [len(records) for records in failing.asked] == [4]
        assert len(await _stored(corridor)) == (4 if after else 0)
        # Nobody was told that one of them is pending.
        assert await _statuses(corridor, new) == [None] * 4
        assert "howk_webhooks_received_total{" not in metrics.expose().decode()
        failing.error = None
        await ingest.accept_together(_prepared(ingest), "test")
        assert len(await _stored(corridor)) == (8 if after else 4)


async def test_what_is_prepared_is_as_it_would_be_accepted(tmp_path: Path) -> None:
    fields = {"max_attempts": 3, "ordering_key": "k", "headers": {"A": "b"}, "signing_secret": "s", "max_age": 60}
    async with opened(tmp_path) as corridor:
        ingest = corridor.house.ingest
        new = ingest.prepare("app", _enqueue(b'{ "a" : 1.0 }', "http://user:pass@127.0.0.1:9/?q", **fields))
        await ingest.accept_together((new,), "test")
        await corridor.send("http://user:pass@127.0.0.1:9/?q", b'{ "a" : 1.0 }', **fields)
        together, alone = [_read(value) for value in await _stored(corridor)]
        target, as_well = together.targets[0], alone.targets[0]
        assert target.sealed == as_well.sealed != ""
        assert (target.endpoint, target.headers) == (as_well.endpoint, as_well.headers)
        assert together.body == alone.body == b'{ "a" : 1.0 }'
        assert (together.max_attempts, together.ordering_key, together.expires_at) == (
            alone.max_attempts,
            alone.ordering_key,
            alone.expires_at,
        )
        assert b"pass" not in (await _stored(corridor))[0]


async def test_what_has_a_time_ahead_is_laid_by_beside_others(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        ingest = corridor.house.ingest
        ahead = datetime.fromtimestamp(NOW / 1000 + 60, UTC)
        new = [ingest.prepare("app", _enqueue()), ingest.prepare("app", _enqueue(deliver_at=ahead))]
        await ingest.accept_together(new, "test")
        assert (len(await _stored(corridor)), len(await _stored(corridor, RESULTS))) == (1, 1)
        assert [status.state for status in await _statuses(corridor, new) if status] == ["pending", "deferred"]


@pytest.mark.parametrize(
    ("scope", "fields", "code"),
    [
        ("-a", {}, "invalid_config_id"),
        ("", {}, "invalid_config_id"),
        ("app", {"url": "ftp://x/"}, "invalid_endpoint"),
        ("app", {"max_attempts": 0}, "invalid_max_attempts"),
        ("app", {"ordering_key": ""}, "invalid_ordering_key"),
    ],
)
async def test_what_would_not_be_accepted_is_not_prepared(
    tmp_path: Path, scope: str, fields: dict[str, Any], code: str
) -> None:
    async with opened(tmp_path) as corridor:
        with pytest.raises(Rejected) as refusal:
            corridor.house.ingest.prepare(scope, _enqueue(**fields))
        assert refusal.value.code == code


async def test_each_of_them_gets_the_defaults_of_its_own_config(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        for scope, attempts in (("app", 2), ("third", 7)):
            await corridor.house.configs.put(scope, ConfigRequest(retry=RetryAsked(max_attempts=attempts)))
        ingest = corridor.house.ingest
        await ingest.accept_together([ingest.prepare(scope, _enqueue()) for scope in SCOPES], "test")
        stored = [_read(value) for value in await _stored(corridor)]
        assert [(d.scope, d.max_attempts) for d in stored] == [("app", 2), ("other", 20), ("third", 7), ("app", 2)]
