"""Defaults of a config over the real corridor: what was answered holds for what begins after it, what was accepted
keeps what it was accepted with, and no secret stands in clear."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace
from tests.support import Corridor, ManualClock, opened, running

from howk.domain.config_defaults import ConfigRequest, OrderingAsked, RateLimitAsked
from howk.domain.errors import NewerRecord, Permanent, Rejected, Transient
from howk.domain.records import CONTROL, PENDING, ConfigRecord, Delivery, encode, reader
from howk.domain.retry import RetryPolicy
from howk.domain.sealing import Sealer, shared_by
from howk.domain.signing_request import Signing
from howk.domain.timing import RetryAsked
from howk.flow.configs import ConfigOptions, Configs
from howk.flow.ingest import Enqueue, Request
from howk.flow.journal import Journal
from howk.flow.keyed import Accepted
from howk.ports.directory import NO_LIMITS, Limits
from howk.ports.log import Record
from howk.runtime.wiring import SystemRandom
from howk.testing.log_suite import everything
from howk.testing.receiver import Received, Receiver

SECRET = "a secret of this config"
NOBODY = "http://127.0.0.1:9/"
SHOP = ConfigRequest(
    signing=Signing(profile="standard", secrets=[SECRET]),
    headers={"X-Shop": "1", "Authorization": "Bearer hunter2"},
    retry=RetryAsked(type="fixed", base_delay="5s", max_attempts=3),
    timeout=2,
    rate_limit=RateLimitAsked(per_second=5, burst=9),
    max_in_flight=4,
    ordering=OrderingAsked(policy="skip", after=2),
)


async def _accepted(corridor: Corridor) -> list[Delivery]:
    return [reader(Delivery)(entry.value) for entry in await everything(corridor.engines.log, PENDING)]


def _header(got: Received, name: bytes) -> list[bytes]:
    return [value for key, value in got.headers if key == name]


async def test_what_a_config_sets_is_what_a_receiver_sees_and_a_retry_keeps(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        Receiver(secrets=[SECRET], fail_first_n=1, now=lambda: clock.now() / 1000) as receiver,
        running(tmp_path, clock, retry__jitter=0.0) as corridor,
    ):
        await corridor.house.configs.put("app", SHOP)
        webhook_id = await corridor.send(receiver.url)
        failed = await corridor.failed(webhook_id, attempts=1)
        assert failed.max_attempts == 3
        # What was accepted is not changed by what is set later.
        await corridor.house.configs.remove("app")
        clock.advance(5_000)
        assert (await corridor.ended(webhook_id)).state == "delivered"
        for got in receiver.captured:
            assert got.verdict == "good"
            assert (_header(got, b"x-shop"), _header(got, b"authorization")) == ([b"1"], [b"Bearer hunter2"])
            assert _header(got, b"x-webhook-signature") == []


async def test_an_enqueues_own_fields_win(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        await corridor.house.configs.put("app", replace(SHOP, headers={"X-Shop": "1", "Content-Type": "text/x-set"}))
        userinfo = "http://user:word@127.0.0.1:9/"
        await corridor.send(NOBODY, max_attempts=7, headers={"x-shop": "2"}, content_type="text/x-own")
        await corridor.send(NOBODY, retry=RetryAsked(jitter=0.0), signing_secret="own")
        await corridor.house.configs.put("app", SHOP)
        await corridor.send(userinfo)
        first, second, third = await _accepted(corridor)
        sealer = corridor.engines.sealer
        secrets = [
            sealer.open(d.targets[0].sealed, shared_by(d.scope, d.targets[0].endpoint)) for d in (first, second, third)
        ]
    assert (first.targets[0].headers, first.content_type) == ({"x-shop": "2"}, "text/x-own")
    assert (first.max_attempts, first.retry) == (7, RetryPolicy(base_delay=5_000, type="fixed"))
    assert (first.targets[0].profile, secrets[0].signing) == ("standard", (SECRET,))
    assert (second.targets[0].profile, secrets[1].signing) == ("default", ("own",))
    # Its policy is its own whole: the attempts are the deployment's.
    assert (second.max_attempts, second.retry) == (20, RetryPolicy(jitter=0.0))
    assert second.targets[0].headers == {"X-Shop": "1", "Content-Type": "text/x-set"}
    assert (secrets[2].userinfo, secrets[2].headers) == ("user:word", {})


async def test_a_batch_and_keyed_requests_get_the_defaults_and_other_configs_do_not(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        await corridor.house.configs.put("app", replace(SHOP, retry=RetryAsked(max_attempts=2)))
        ingest, request = corridor.house.ingest, Enqueue(endpoint=NOBODY, payload=Raw(b"1"))
        await ingest.accept("app", [request, request], "test")
        await ingest.accept_keyed("app", [Request(request, "key", "body")], "test")
        await ingest.accept("other", [request], "test")
        found = [(d.scope, d.max_attempts, bool(d.targets[0].sealed)) for d in await _accepted(corridor)]
        assert found == [("app", 2, True)] * 3 + [("other", 20, False)]
        (again,) = await ingest.accept_keyed("app", [Request(request, "key", "body")], "test")
        assert isinstance(again, Accepted)
        assert again.replayed


async def test_every_answered_put_governs_the_enqueue_that_begins_after_it(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:

        async def one(scope: str) -> None:
            for attempts in range(1, 25):
                await corridor.house.configs.put(scope, ConfigRequest(retry=RetryAsked(max_attempts=attempts)))
                await corridor.house.ingest.accept(scope, [Enqueue(endpoint=NOBODY, payload=Raw(b"1"))], "test")

        await asyncio.gather(*[one(f"scope{n}") for n in range(8)])
        found = await _accepted(corridor)
        for n in range(8):
            assert [d.max_attempts for d in found if d.scope == f"scope{n}"] == list(range(1, 25))


async def test_a_put_whose_caller_is_gone_holds_once_it_is_in_the_log(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        configs = corridor.house.configs
        put = asyncio.ensure_future(configs.put("app", SHOP))
        await asyncio.sleep(0)
        put.cancel()
        async with asyncio.timeout(10):
            while configs.limits("app") == NO_LIMITS:
                await asyncio.sleep(0)


async def test_the_limits_of_a_config_are_known_and_those_of_none_are_none(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        configs = corridor.house.configs
        await configs.put("app", SHOP)
        await configs.put("bare", ConfigRequest())
        assert configs.limits("app") == Limits(5, 9, 4, 2.0, 2)
        assert configs.limits("bare") == configs.limits("unknown") == NO_LIMITS
        await configs.put("app", ConfigRequest(timeout="5m"))
        assert configs.limits("app") == Limits(timeout=300.0)
        assert await configs.remove("app")
        assert not await configs.remove("app")
        assert configs.limits("app") == NO_LIMITS
        assert configs.defaults("app") is None


@pytest.mark.parametrize(("deployment", "config"), [(30.0, 0.1), (0.1, 30.0)])
async def test_a_configs_timeout_holds_in_place_of_the_deployments(
    tmp_path: Path, deployment: float, config: float
) -> None:
    async with Receiver(delay_ms=400) as receiver, running(tmp_path, delivery__timeout=deployment) as corridor:
        await corridor.house.configs.put("app", ConfigRequest(timeout=config))
        webhook_id = await corridor.send(receiver.url, max_attempts=1)
        ended = await corridor.ended(webhook_id)
        assert (ended.state, ended.last_status_code) == (("dead", 0) if config < 1 else ("delivered", 200))


async def test_configs_are_the_same_after_a_restart_and_no_secret_is_in_the_files_in_clear(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        configs = corridor.house.configs
        kept = await configs.put("app", SHOP)
        await configs.put("gone", SHOP)
        await configs.remove("gone")
        await configs.put("changed", SHOP)
        changed = await configs.put("changed", ConfigRequest(max_in_flight=1))
        await corridor.send(NOBODY)
        said = str(corridor.notes.lines)
        files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    async with opened(tmp_path) as corridor:
        configs = corridor.house.configs
        await configs.catch_up()
        assert [configs.defaults(scope) for scope in ("app", "changed", "gone")] == [kept, changed, None]
    files |= {f"closed {path.name}": path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert any(b"X-Shop" in content for content in files.values())
    for name, content in files.items():
        assert SECRET.encode() not in content, name
        assert b"hunter2" not in content, name
    assert SECRET not in said
    assert "hunter2" not in said


# What must not be there


def _row(scope: str, **fields: Any) -> Record:
    return Record(CONTROL, f"config/{scope}", encode(ConfigRecord(v=1, scope=scope, updated_at=1, **fields)))


async def test_a_row_that_can_not_be_read_is_told_and_keeps_only_its_own_config_out(tmp_path: Path) -> None:
    enqueue = [Enqueue(endpoint=NOBODY, payload=Raw(b"1"))]
    async with opened(tmp_path) as corridor:
        good = _row("good", max_in_flight=3)
        await corridor.engines.log.append(
            [
                Record(CONTROL, "config/broken", b'{"v":1,'),
                Record(CONTROL, "config/other", good.value),
                _row("unsealed", sealed=f"1.{corridor.engines.sealer.key_id}.AAAA"),
                Record(CONTROL, "source/later", b'{"v":7}'),
                good,
            ]
        )
        configs = corridor.house.configs
        await configs.catch_up()
        assert configs.limits("good").max_in_flight == 3
        told = [line for line in corridor.notes.lines if line[0] == "undecodable"]
        assert len(told) == 3
        for scope in ("broken", "other", "unsealed"):
            assert configs.limits(scope) == NO_LIMITS
            with pytest.raises(Transient, match="set it again"):
                await corridor.house.ingest.accept(scope, enqueue, "test")
        await corridor.house.ingest.accept("good", enqueue, "test")
        # Either way out.
        await configs.put("broken", ConfigRequest())
        assert await configs.remove("other")
        for scope in ("broken", "other"):
            await corridor.house.ingest.accept(scope, enqueue, "test")
        assert [delivery.scope for delivery in await _accepted(corridor)] == ["good", "broken", "other"]


async def test_a_row_of_a_newer_version_stops_in_words(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        await corridor.engines.log.append([Record(CONTROL, "config/app", b'{"v":9}')])
        # Whoever asks: a caller that met it first has not used it up.
        for _ in range(2):
            with pytest.raises(NewerRecord, match="run the newer version"):
                await corridor.house.configs.catch_up()


async def test_secrets_that_another_key_has_sealed_stop_in_words(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        await corridor.engines.log.append([_row("app", sealed="1.0123abcd.AAAA")])
        with pytest.raises(Permanent, match="HOWK_SECURITY_ENCRYPTION_KEY"):
            await corridor.house.configs.catch_up()


async def test_a_seal_that_was_moved_to_another_config_is_not_opened(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        configs = corridor.house.configs
        await configs.put("theirs", SHOP)
        (row,) = [entry async for batch in corridor.engines.log.replay(CONTROL) for entry in batch]
        stolen = reader(ConfigRecord)(row.value).sealed
        await corridor.engines.log.append([_row("mine", sealed=stolen)])
        await configs.catch_up()
        with pytest.raises(Transient):
            configs.defaults("mine")


def _bounded(corridor: Corridor, most: int, most_bytes: int) -> Configs:
    options = ConfigOptions(RetryPolicy(), frozenset(), most, most_bytes)
    log, clock = corridor.engines.log, corridor.clock
    journal = Journal(log, corridor.metrics)
    return Configs(journal, Sealer(bytes(32)), clock, SystemRandom(), corridor.notes, options, lambda: None)


async def test_above_their_number_or_their_bytes_no_more_configs_are_taken(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        configs = _bounded(corridor, most=3, most_bytes=1_000)
        answers = await asyncio.gather(
            *[configs.put(f"c{n}", ConfigRequest()) for n in range(6)], return_exceptions=True
        )
        refused = [answer.code for answer in answers if isinstance(answer, Rejected)]
        assert refused == ["too_many_configs"] * 3
        assert [configs.defaults(f"c{n}") is not None for n in range(6)] == [True] * 3 + [False] * 3
        # One that is there may change, as far as there is room.
        await configs.put("c0", ConfigRequest(headers={"A": "b" * 500}))
        with pytest.raises(Rejected, match="MiB of configs"):
            await configs.put("c1", ConfigRequest(headers={"A": "b" * 900}))
        assert configs.defaults("c1") == (await configs.put("c1", ConfigRequest()))
        await configs.remove("c2")
        await configs.put("c9", ConfigRequest())
