"""Webhooks with ordering keys while howk is killed again and again: of each key the first success of one comes after
the first success of the one before it, whatever was sent twice."""

import asyncio
import signal
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from tests.e2e.harness import Howk, Receiver, Reply, Start, connected, envelope, mostly_good

pytestmark = pytest.mark.e2e

KEYS = 40
OF_EACH = 25
ROUNDS = 5
OF_A_ROUND = 150
SETTINGS = {
    "HOWK_RETRY_BASE_DELAY": "100ms",
    "HOWK_RETRY_MAX_ATTEMPTS": "50",
    "HOWK_CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "300ms",
    "HOWK_CIRCUIT_BREAKER_PROBE_INTERVAL": "300ms",
}


@pytest.mark.parametrize("lost", [False, True], ids=["hot state kept", "hot state lost"])
async def test_the_order_of_each_key_holds_over_kills(tmp_path: Path, lost: bool) -> None:
    chance = Random(20_260_102)
    ids: dict[str, list[str]] = {f"key {number}": [] for number in range(KEYS)}
    behave = mostly_good(7, failing=0.3, slow=0.1, delay=(0.02, 0.2))
    most = 0

    def as_long_as_it_lasts(start: Start) -> Reply:
        # However late the kill comes, there is work left for the next ones.
        return behave(start) if len(receiver.starts) <= most else Reply(0)

    async with Receiver(as_long_as_it_lasts) as receiver, Howk(tmp_path, SETTINGS) as howk:
        async with connected(howk.port) as connection:
            for _ in range(OF_EACH):
                for number, (key, mine) in enumerate(ids.items()):
                    body = envelope(receiver.url(f"/{number % 8}"), b"1", ordering_key=key)
                    answer = await connection.request("POST", "/webhooks/e2e/enqueue", body)
                    mine.append(answer.json()["webhook_id"])
        for _ in range(ROUNDS):
            so_far = len(receiver.starts)
            most = so_far + OF_A_ROUND
            receiver.release()
            await receiver.wait_for(lambda so_far=so_far: len(receiver.starts) > so_far + 60, "it goes on")
            await asyncio.sleep(chance.uniform(0, 0.2))
            howk.signal(signal.SIGKILL)
            await howk.ended()
            if lost:
                for path in howk.data_dir.glob("hot.db*"):
                    path.unlink()
            await howk.start()
        receiver.behave = behave
        receiver.release()
        await howk.reach([id_ for mine in ids.values() for id_ in mine], "delivered")
    firsts: dict[str, int] = {}
    begun: dict[str, int] = {}
    for position, start in enumerate(receiver.starts):
        begun.setdefault(start.id, position)
        if start.status == 200 and start.answered:
            firsts.setdefault(start.id, position)
    for key, mine in ids.items():
        for before, after in pairwise(mine):
            assert firsts[before] < begun[after], f"{key}: one began before the one before it was through"
