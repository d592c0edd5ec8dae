"""howk is killed with SIGKILL, again and again, in the midst of its work: nothing that was acknowledged is lost, and
nothing is sent twice that was not under way."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from tests.e2e.damage import outcomes
from tests.e2e.harness import Howk, Json, Load, Receiver, Reply, Start, envelope, mostly_good
from tests.e2e.wall_clock import WallClock

pytestmark = pytest.mark.e2e

Key = tuple[str, int]

SEED = 20_260_101
ROUNDS = 20
STARTS = 8
UNDER_WAY = 200
MAX_ATTEMPTS = 4
SETTINGS = {
    "HOWK_DELIVERY_MAX_IN_FLIGHT": "1000",
    "HOWK_DELIVERY_MAX_CONNS_PER_HOST": "1000",
    "HOWK_DELIVERY_MAX_IDLE_CONNS": "1000",
    "HOWK_RETRY_BASE_DELAY": "200ms",
    "HOWK_RETRY_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    # Some breakers open on the way, and close again.
    "HOWK_CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "500ms",
    "HOWK_CIRCUIT_BREAKER_PROBE_INTERVAL": "500ms",
}
AHEAD = 3600.0
"""Seconds, by a clock that the test sets."""
LONGEST_COMMIT = 10.0
"""Seconds. An answer is safe once howk has read it and committed its outcome: two fsyncs and the work around them, a
few milliseconds on an idle machine. What was safe is read from the log; this only says that it does not take for ever,
also where cores and disk are busy with other tests."""


class Kill(NamedTuple):
    """What one kill may have cost: the attempts without an answer, and how long before it the others were answered;
    `durable` are those whose outcome was in the log."""

    in_flight: set[Key]
    answered: dict[Key, float]
    durable: set[Key]

    @property
    def just_answered(self) -> set[Key]:
        """The attempts whose outcome was not durable yet."""
        return self.answered.keys() - self.durable - self.in_flight

    def may_repeat(self, key: Key) -> bool:
        return key not in self.durable


class History(NamedTuple):
    """What the receiver saw of each process that ran, and how all but the last of them ended."""

    lives: list[list[Start]]
    kills: list[Kill]

    def unexplained(self) -> list[Key]:
        """Attempts that were made again by the same process, or though a kill can't have cost their outcome."""
        found: list[Key] = []
        for key, before, life in self.repeats():
            if before == life or not self.kills[before].may_repeat(key):
                found.append(key)
        return found

    def slowest_commit(self) -> float:
        """How long before a kill the earliest answer was written whose attempt was repeated."""
        lost = [self.kills[before].answered.get(key, 0.0) for key, before, life in self.repeats() if before < life]
        return max(lost, default=0.0)

    def repeats(self) -> Iterator[tuple[Key, int, int]]:
        """Each repeated attempt, the life it was made in before, and the one it was made in again."""
        last: dict[Key, int] = {}
        for life, starts in enumerate(self.lives):
            for start in starts:
                if start.key in last:
                    yield start.key, last[start.key], life
                last[start.key] = life


async def kill(howk: Howk, receiver: Receiver, life: int, pause: float) -> Kill:
    """Kill at a random moment at which enough is under way; `life` is the number of starts before this process."""
    enough = f"{UNDER_WAY} attempts are under way"
    await receiver.wait_for(lambda: receiver.in_flight >= UNDER_WAY, enough)
    await asyncio.sleep(pause)
    await receiver.wait_for(lambda: receiver.in_flight >= UNDER_WAY, enough)
    at = time.monotonic()
    howk.signal(signal.SIGKILL)
    return await died(howk, receiver, life, at)


async def died(howk: Howk, receiver: Receiver, life: int, at: float) -> Kill:
    """What the kill at this moment may have cost."""
    await howk.ended()
    # What it had sent is read to its end, so that none of it is taken for the next process's.
    await receiver.deserted()
    starts = receiver.starts[life:]
    return Kill(
        {start.key for start in starts if not start.answered or start.answered > at},
        {start.key: at - start.answered for start in starts if start.answered},
        await asyncio.to_thread(outcomes, howk.data_dir),
    )


async def test_twenty_kills_under_load_lose_nothing_and_repeat_only_what_was_under_way(tmp_path: Path) -> None:
    chance = Random()
    history = History([], [])
    life = 0
    # Slow enough, and often enough, that hundreds are under way at any moment.
    behave = mostly_good(SEED, slow=0.6, delay=(0.3, 1.0))
    async with Receiver(behave) as receiver, Howk(tmp_path, SETTINGS) as howk:
        async with Load(howk, receiver, depth=350) as load:
            for _ in range(ROUNDS):
                history.kills.append(await kill(howk, receiver, life, pause=chance.uniform(0, 1.6)))
                history.lives.append(receiver.starts[life:])
                life = len(receiver.starts)
                await howk.start()
        await receiver.wait_for(lambda: not unended(load, receiver), "every acknowledged webhook has ended")
        statuses = await howk.reach(load.ledger, "delivered", "dead")
        history.lives.append(receiver.starts[life:])
        assert await howk.stop() == 0

    allowed = sum([len(kill.in_flight) + len(kill.just_answered) for kill in history.kills])
    seen = sum(receiver.repeated().values())
    figures = {
        "kills": len(history.kills),
        "in_flight": [len(kill.in_flight) for kill in history.kills],
        "just_answered": [len(kill.just_answered) for kill in history.kills],
        "acknowledged": len(load.ledger),
        "starts": len(receiver.starts),
        "dead": sum([status["state"] == "dead" for status in statuses.values()]),
        "repeats_allowed": allowed,
        "repeats_seen": seen,
        "slowest_commit_ms": round(history.slowest_commit() * 1000),
    }
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    assert min(figures["in_flight"]) >= UNDER_WAY, figures
    assert history.unexplained() == [], figures
    assert seen <= allowed, figures
    assert history.slowest_commit() < LONGEST_COMMIT, figures
    assert not load.refused, load.refused
    assert [start.key for start in altered(receiver.starts, load)] == []
    assert wrong(statuses, receiver) == {}
    assert sent_after_success(receiver.starts) == []


def many(receiver: Receiver) -> list[bytes]:
    """More than are ever under way, each for an endpoint of its own."""
    return [envelope(receiver.url(f"/{number}"), b"%d" % number) for number in range(UNDER_WAY * 3)]


async def test_kills_while_it_starts_and_recovers_lose_nothing(tmp_path: Path) -> None:
    chance = Random()
    history = History([], [])
    life = 0
    behave = mostly_good(SEED, slow=0.6, delay=(0.3, 1.0))
    async with Receiver(behave) as receiver, Howk(tmp_path, SETTINGS) as howk:
        ids = await howk.enqueue_batch(
            [envelope(receiver.url(f"/{number}"), b"%d" % number) for number in range(UNDER_WAY * 3)]
        )
        # From where it has not begun to read its files to where most is sent again.
        for moment in [0.0, *[chance.uniform(0.1, 1.0) for _ in range(STARTS)]]:
            await asyncio.sleep(moment)
            at = time.monotonic()
            howk.signal(signal.SIGKILL)
            history.kills.append(await died(howk, receiver, life, at))
            history.lives.append(receiver.starts[life:])
            life = len(receiver.starts)
            await howk.launch()
        await howk.opened()
        await howk.ready()
        statuses = await howk.reach(ids, "delivered", "dead")
        history.lives.append(receiver.starts[life:])
    assert history.unexplained() == []
    assert wrong(statuses, receiver) == {}
    assert sent_after_success(receiver.starts) == []


async def test_a_kill_in_the_midst_of_a_drain_loses_nothing(tmp_path: Path) -> None:
    behave = mostly_good(SEED, slow=0.6, delay=(0.3, 1.0))

    def hangs_or_not(start: Start) -> Reply:
        # The drain has no end by itself.
        return Reply(0) if start.target == "/0" else behave(start)

    async with Receiver(hangs_or_not) as receiver, Howk(tmp_path, SETTINGS) as howk:
        ids = await howk.enqueue_batch(
            [envelope(receiver.url(f"/{number}"), b"%d" % number) for number in range(UNDER_WAY * 3)]
        )
        await receiver.wait_for(lambda: receiver.in_flight >= UNDER_WAY, "most of it is under way")
        await receiver.wait_for(
            lambda: any(start.target == "/0" for start in receiver.starts), "and the one that hangs"
        )
        howk.signal(signal.SIGTERM)
        await howk.heard("stopping")
        await asyncio.sleep(Random().uniform(0, 0.5))
        at = time.monotonic()
        howk.signal(signal.SIGKILL)
        history = History([], [await died(howk, receiver, 0, at)])
        life = len(receiver.starts)
        receiver.behave = behave
        await howk.start()
        statuses = await howk.reach(ids, "delivered", "dead")
    history.lives.extend([receiver.starts[:life], receiver.starts[life:]])
    assert history.unexplained() == []
    assert wrong(statuses, receiver) == {}
    assert sent_after_success(receiver.starts) == []


async def test_what_waits_for_its_time_is_sent_then_and_once_however_often_howk_was_killed(tmp_path: Path) -> None:
    behave = mostly_good(SEED, slow=0.0, delay=(0.0, 0.0))
    clock = WallClock(tmp_path / "clock")
    async with Receiver(behave) as receiver, Howk(tmp_path, SETTINGS | clock.settings) as howk:
        due = time.time() + AHEAD
        later = datetime.fromtimestamp(due, UTC).isoformat()
        ids = await howk.enqueue_batch(
            [envelope(receiver.url(f"/{number}"), b"%d" % number, deliver_at=later) for number in range(UNDER_WAY)]
        )
        await howk.kill()
        await howk.start()
        held = await howk.reach(ids, "deferred")
        await howk.kill()
        for path in howk.data_dir.glob("hot.db*"):
            path.unlink()
        await howk.start()
        assert await howk.reach(ids, "deferred") == held
        assert {(status["held_by"], status["attempts"]) for status in held.values()} == {("deliver_at", 0)}
        assert receiver.starts == []
        clock.set(AHEAD)
        statuses = await howk.reach(ids, "delivered", "dead")
        assert await howk.stop() == 0
    assert receiver.repeated() == {}
    assert wrong(statuses, receiver) == {}


def unended(load: Load, receiver: Receiver) -> set[str]:
    """The acknowledged webhooks that the receiver has neither answered with success nor failed for the last time."""
    return load.ledger.keys() - receiver.delivered - receiver.failed_at(MAX_ATTEMPTS)


def altered(starts: Sequence[Start], load: Load) -> list[Start]:
    """The starts whose body is not, byte for byte, what was sent under their id; one that was not acknowledged has no
    id that is known, but it was sent."""
    digests = {id_: sha256(payload).digest() for id_, payload in load.ledger.items()}
    return [
        start
        for start in starts
        if start.digest not in load.sent or digests.get(start.id, start.digest) != start.digest
    ]


def wrong(statuses: dict[str, Json], receiver: Receiver) -> dict[str, Json]:
    """The statuses that do not tell what happened at the receiver."""
    attempts: dict[str, int] = {}
    for start in receiver.starts:
        attempts[start.id] = max(start.attempt, attempts.get(start.id, 0))
    found: dict[str, Json] = {}
    for id_, status in statuses.items():
        if id_ in receiver.delivered:
            right = status["state"] == "delivered"
        else:
            right = (status["state"], status["reason_type"], status["last_status_code"]) == ("dead", "exhausted", 500)
        if not right or status["attempts"] != attempts[id_]:
            found[id_] = status | {"attempts at the receiver": attempts[id_]}
    return found


def sent_after_success(starts: Sequence[Start]) -> list[Key]:
    """The starts of an attempt that came after one that succeeded."""
    good = {start.id: start.attempt for start in starts if 200 <= start.status < 300}
    return [start.key for start in starts if start.attempt > good.get(start.id, start.attempt)]
