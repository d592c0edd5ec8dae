"""howk under a stream of many times what its log may hold: its files stay bounded, a kill in the midst of dropping old
records loses nothing, and a log full of what has not ended closes the door until there is room."""

import asyncio
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from tests.e2e.harness import Howk, Load, Receiver, Reply, Start, connected, envelope, mostly_good, until

pytestmark = pytest.mark.e2e

MIB = 1 << 20
BUDGET = 24 * MIB
SETTINGS = {
    "HOWK_RETENTION_PENDING": "1s",
    "HOWK_RETENTION_RESULTS": "1s",
    "HOWK_RETENTION_DEADLETTER": "1s",
    "HOWK_RETENTION_MAX_LOG_SIZE": f"{BUDGET // MIB}MiB",
    "HOWK_RETRY_BASE_DELAY": "200ms",
    "HOWK_RETRY_MAX_ATTEMPTS": "4",
    "HOWK_CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "500ms",
    "HOWK_CIRCUIT_BREAKER_PROBE_INTERVAL": "500ms",
    "HOWK_TTL_STATUS_MAX": "1000",
}
_PAYLOAD = b'"%b"' % (b"x" * 40_000)
_PAD = {"X-Pad": "y" * 7_000}
"""Makes a small webhook large in the log, at every stage of its way."""
_STREAM = 4_000
_KILLS = 6


class _Sizes(NamedTuple):
    """The most that each file has taken."""

    most: Counter[str]

    def look(self, howk: Howk) -> None:
        for path in howk.data_dir.glob("*.db*"):
            # It may be gone meanwhile.
            with suppress(FileNotFoundError):
                self.most[path.name] = max(self.most[path.name], path.stat().st_size)


async def _stream(howk: Howk, receiver: Receiver, many: int, sizes: _Sizes) -> set[str]:
    """So many webhooks by a few clients, each sent again while the door is closed; the ids."""
    left = iter(range(many))
    ids: set[str] = set()

    async def client() -> None:
        async with connected(howk.port) as connection:
            for number in left:
                body = envelope(receiver.url(f"/{number % 64}"), _PAYLOAD)
                while (answer := await connection.request("POST", "/webhooks/e2e/enqueue", body)).status != 202:
                    assert answer.status == 503, answer
                    await asyncio.sleep(0.05)
                ids.add(answer.json()["webhook_id"])
                sizes.look(howk)

    await asyncio.gather(*[client() for _ in range(8)])
    return ids


async def test_files_stay_bounded_under_a_stream_of_many_times_what_the_log_may_hold(tmp_path: Path) -> None:
    sizes = _Sizes(Counter())
    async with Receiver() as receiver, Howk(tmp_path, SETTINGS) as howk:
        ids = await _stream(howk, receiver, _STREAM, sizes)
        await receiver.wait_for(lambda: len(receiver.starts) >= _STREAM, "everything is delivered")
        sizes.look(howk)
        assert await howk.stop() == 0
    assert len(ids) * len(_PAYLOAD) > 6 * BUDGET
    assert receiver.delivered == ids
    assert receiver.repeated() == {}
    # What howk itself writes between two looks, and what is on its way to the file, is beyond the budget.
    assert sizes.most["log.db"] < 2 * BUDGET, sizes
    # Four times what it is moved at, where the disk is slow, and what comes while it is moved.
    assert sizes.most["log.db-wal"] < 160 * MIB, sizes
    assert sizes.most["hot.db"] + sizes.most["hot.db-wal"] < 128 * MIB, sizes


async def test_kills_in_the_midst_of_retention_lose_nothing(tmp_path: Path) -> None:
    chance = Random()
    good = mostly_good(20_260_202, slow=0.3, delay=(0.05, 0.3))
    async with Receiver(good) as receiver, Howk(tmp_path, SETTINGS) as howk:
        async with Load(howk, receiver, depth=200, headers=_PAD) as load:
            for _ in range(_KILLS):
                before = len(receiver.starts)
                await receiver.wait_for(lambda before=before: len(receiver.starts) > before + 150, "work goes on")
                await asyncio.sleep(chance.uniform(0, 0.5))
                howk.signal(signal.SIGKILL)
                await howk.ended()
                await receiver.deserted()
                await howk.start()
        await receiver.wait_for(
            lambda: load.ledger.keys() <= receiver.delivered | receiver.failed_at(4), "every acknowledged one has ended"
        )
        recent = list(load.ledger)[-200:]
        statuses = await howk.reach(recent, "delivered", "dead")

        async def trimmed() -> bool:
            return (await _metrics(howk))["howk_log_trimmed_records_total"] > 0

        # The last process may have ended everything before it looked for the first time.
        await until(trimmed, "what is old is dropped")
        assert await howk.stop() == 0
    assert len(load.ledger) > 500
    assert {id_: s for id_, s in statuses.items() if (s["state"] == "delivered") != (id_ in receiver.delivered)} == {}
    assert set(load.refused) <= {503}, load.refused
    assert _sent_after_success(receiver.starts) == []


def _sent_after_success(starts: list[Start]) -> list[Start]:
    good = {start.id: start.attempt for start in starts if 200 <= start.status < 300}
    return [start for start in starts if start.attempt > good.get(start.id, start.attempt)]


async def _metrics(howk: Howk) -> Counter[str]:
    """The sum of each metric over its labels."""
    async with connected(howk.port) as connection:
        text = (await connection.request("GET", "/metrics")).body.decode()
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name.partition("{")[0]] += float(value)
    return found


async def test_a_full_log_sends_away_first_who_brings_most_then_everybody_and_opens_by_itself(tmp_path: Path) -> None:
    settings = SETTINGS | {"HOWK_DELIVERY_TIMEOUT": "10m"}
    async with Receiver(lambda _: Reply(0)) as receiver, Howk(tmp_path, settings) as howk:
        async with connected(howk.port) as connection:

            async def send(config: str, payload: bytes, number: int = 0) -> tuple[int, str]:
                body = envelope(receiver.url(f"/{number}"), payload)
                answer = await connection.request("POST", f"/webhooks/{config}/enqueue", body)
                if answer.status == 202:
                    accepted.append(answer.json()["webhook_id"])
                return answer.status, answer.json().get("code", "")

            accepted: list[str] = []
            large = b'"%b"' % (b"x" * 60_000)
            numbers = iter(range(10_000))
            said = (202, "")
            while said[0] == 202:
                assert (await send("light", b"1"))[0] == 202
                said = await send("heavy", large, next(numbers))
            assert said == (429, "over_share")
            assert (await send("light", b"1"))[0] == 202
            said = (202, "")
            while said[0] == 202:
                number = next(numbers)
                said = await send(f"other-{number}", large, number)
            assert said == (503, "log_full")

            async def told() -> bool:
                # What was refused by the bytes that came since the log was measured may find room once it is again.
                number = next(numbers)
                await send(f"other-{number}", large, number)
                health = await connection.request("GET", "/health/dependencies")
                return [each["name"] for each in health.json()["dependencies"] if not each["ok"]] == ["log_room"]

            await until(told, "the log is measured full")
            assert (await connection.request("GET", "/health/dependencies")).status == 503
            assert (await send("light", b"1")) == (503, "log_full")
            # What is under way goes on behind the closed door.
            receiver.behave = lambda _: Reply()
            receiver.release()

            async def open_again() -> bool:
                return (await send("heavy", large, next(numbers)))[0] == 202

            await until(open_again, "there is room again")
        await receiver.wait_for(lambda: receiver.delivered >= set(accepted), "everything accepted is delivered")
        for event in ("log_filling", "door_closed", "door_opened"):
            await howk.heard(event)
        assert await howk.stop() == 0
    assert {start.id for start in receiver.starts} == set(accepted)
    assert receiver.repeated() == {}
