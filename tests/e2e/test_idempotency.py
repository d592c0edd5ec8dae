"""Clients that send each request again under the same key, at once and after howk was killed: one delivery for a key,
and all its answers are the same."""

import asyncio
import json
import signal
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest
from tests.e2e.harness import DEADLINE, Howk, Receiver, Response, connected, envelope

pytestmark = pytest.mark.e2e

KEYS = 200
CLIENTS = 8
KILLS = 8
ROUNDS = 6
PATH = "/webhooks/e2e/enqueue"


class Repeated:
    """Every key's requests: what was answered, and how often the repeats got the first answer."""

    def __init__(self, howk: Howk, receiver: Receiver) -> None:
        self.answers: dict[str, set[str]] = defaultdict(set)
        self.accepted = 0
        self._howk = howk
        self._receiver = receiver
        self._more = asyncio.Event()

    def key(self, number: int) -> str:
        return f"key/{number}"

    def body(self, number: int) -> bytes:
        payload = json.dumps({"key": self.key(number)}).encode()
        return envelope(self._receiver.url(), payload, idempotency_key=self.key(number))

    async def send(self, number: int) -> None:
        """Sends until it is accepted, over every restart, as a client does that has to be sure."""
        while True:
            await self._howk.up.wait()
            try:
                async with connected(self._howk.port) as connection:
                    answer = await connection.request("POST", PATH, self.body(number))
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.01)
                continue
            if self._take(number, answer):
                return
            await asyncio.sleep(0.05)

    def _take(self, number: int, answer: Response) -> bool:
        assert answer.status in (202, 503), answer
        if answer.status == 202:
            self.answers[self.key(number)].add(answer.json()["webhook_id"])
            self.accepted += 1
            self._more.set()
        return answer.status == 202

    async def reached(self, accepted: int) -> None:
        """Returns when so many requests were accepted."""
        async with asyncio.timeout(DEADLINE):
            while self.accepted < accepted:
                self._more.clear()
                await self._more.wait()

    async def client(self, seed: int, rounds: int = 1) -> None:
        """Sends every key of each round once, in an order of its own; each round has new keys."""
        for turn in range(rounds):
            order = [turn * KEYS + number for number in range(KEYS)]
            Random(f"{seed}/{turn}").shuffle(order)
            for number in order:
                await self.send(number)

    def check(self) -> None:
        """Each key has one id in all its answers, and at the receiver no other."""
        assert {key: ids for key, ids in self.answers.items() if len(ids) != 1} == {}
        arrived: dict[str, set[str]] = defaultdict(set)
        assert self._receiver.bodies is not None
        for start, body in zip(self._receiver.starts, self._receiver.bodies, strict=True):
            arrived[json.loads(body)["key"]].add(start.id)
        assert arrived == self.answers


async def test_of_eight_clients_that_send_the_same_keys_at_once_each_gets_the_same_answer(tmp_path: Path) -> None:
    async with Receiver(keep_bodies=True) as receiver, Howk(tmp_path) as howk:
        repeated = Repeated(howk, receiver)
        for number in range(KEYS):
            await asyncio.gather(*[repeated.send(number) for _ in range(CLIENTS)])
        ids = {id_ for found in repeated.answers.values() for id_ in found}
        await howk.reach(ids, "delivered")
        assert repeated.accepted == KEYS * CLIENTS
        assert len(receiver.starts) == len(ids) == KEYS
        repeated.check()
        assert await howk.stop() == 0


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
async def test_kills_in_mid_load_give_no_key_a_second_delivery(tmp_path: Path, lost: bool) -> None:
    chance = Random()
    async with Receiver(keep_bodies=True) as receiver, Howk(tmp_path) as howk:
        repeated = Repeated(howk, receiver)
        clients = [asyncio.create_task(repeated.client(seed, ROUNDS)) for seed in range(CLIENTS)]
        for _ in range(KILLS):
            # The load goes on during a restart, so it may be over before the last of the kills.
            further = repeated.accepted + chance.randint(1, KEYS * ROUNDS * CLIENTS // KILLS // 2)
            await repeated.reached(min(further, KEYS * ROUNDS * CLIENTS))
            howk.signal(signal.SIGKILL)
            await howk.ended()
            if lost:
                for path in howk.data_dir.glob("hot.db*"):
                    path.unlink()
            await howk.start()
        await asyncio.gather(*clients)
        assert len(repeated.answers) == KEYS * ROUNDS
        await howk.reach({id_ for found in repeated.answers.values() for id_ in found}, "delivered")
        repeated.check()
        assert await howk.stop() == 0


async def test_a_key_outlives_a_stop_and_the_loss_of_hot_state(tmp_path: Path) -> None:
    async with Receiver(keep_bodies=True) as receiver, Howk(tmp_path) as howk:
        repeated = Repeated(howk, receiver)
        for loses in (False, True, False):
            await repeated.client(0)
            assert await howk.stop() == 0
            if loses:
                for path in howk.data_dir.glob("hot.db*"):
                    path.unlink()
            await howk.start()
        await repeated.client(0)
        await howk.reach({id_ for found in repeated.answers.values() for id_ in found}, "delivered")
        assert repeated.accepted == 4 * KEYS
        assert len(receiver.starts) == KEYS
        repeated.check()
