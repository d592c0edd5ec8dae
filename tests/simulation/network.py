"""Receivers with moods, and the `Sender` port in front of them: every call is answered once, no later than its timeout,
never from inside `send`, at virtual time.

A receiver belongs to the world outside: it keeps its mood when howk is killed, and what it has taken it has taken.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, Protocol

from howk.ports.sender import Answer, Answered, Call, Connections, Failure, Timings

Mood = Literal["well", "flaky", "slow", "down", "hanging", "refusing", "gone", "busy"]
MOODS: tuple[Mood, ...] = (
    "well",
    "well",
    "well",
    "flaky",
    "flaky",
    "slow",
    "down",
    "hanging",
    "refusing",
    "gone",
    "busy",
)


class Reaction(NamedTuple):
    """`taken` says that the receiver has processed the webhook, whatever howk gets to hear of it."""

    latency: float
    answer: Answer
    taken: bool = False


@dataclass(slots=True)
class Receiver:
    """One endpoint's other end. Its mood lasts until `well_at`."""

    host: str
    mood: Mood
    well_at: float
    picky: bool
    """Refuses some webhooks for good."""

    def react(self, call: Call, now: float, chance: Random) -> Reaction:
        latency = 0.002 + 0.03 * chance.random()
        if self.picky and len(call.body) % 7 == 0:
            return Reaction(latency, _answer(chance.choice((404, 400, 302, 413)), latency))
        mood = self.mood if now < self.well_at else "well"
        if mood == "flaky":
            mood = chance.choice(("well", "down", "refusing", "busy"))
        if mood == "slow":
            latency = 0.3 + 2 * chance.random()
            return self._in_time(call, Reaction(latency, _answer(200, latency), taken=True))
        if mood == "down":
            return Reaction(latency, _failed("connect", latency))
        if mood == "hanging":
            return Reaction(call.timeout, _failed("timeout", call.timeout), taken=chance.random() < 0.3)
        if mood == "refusing":
            kind = chance.choice(("500", "503", "reset", "408"))
            if kind == "reset":
                return Reaction(latency, _failed("reset", latency), taken=chance.random() < 0.5)
            return Reaction(latency, _answer(int(kind), latency))
        if mood == "busy":
            wait = chance.choice((b"1", b"0", b"2", b"soon"))
            return Reaction(latency, _answer(429, latency, ((b"retry-after", wait),)))
        if mood == "gone":
            return Reaction(latency, _answer(410, latency))
        return Reaction(latency, _answer(chance.choice((200, 201, 204)), latency), taken=True)

    def _in_time(self, call: Call, reaction: Reaction) -> Reaction:
        if reaction.latency < call.timeout:
            return reaction
        return Reaction(call.timeout, _failed("timeout", call.timeout), taken=True)


def _answer(status: int, latency: float, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    return Answer(status, headers=headers, body=b"ok", timings=Timings(total=latency), size=2)


def _failed(failure: Failure, latency: float) -> Answer:
    return Answer(0, failure, "simulated", timings=Timings(total=latency))


class Wire(Protocol):
    """Sees what goes over the wire."""

    def sent(self, call: Call, in_flight: int, at_endpoint: int) -> None: ...

    def answered(self, call: Call, answer: Answer, taken: bool) -> None: ...


class SimulatedSender:
    """One process's side of it."""

    def __init__(self, receivers: dict[str, Receiver], chance: Random, wire: Wire, dies: Callable[[str], bool]) -> None:
        self._receivers = receivers
        self._chance = chance
        self._wire = wire
        self._dies = dies
        self._flying: dict[int, tuple[Call, Answered, Reaction]] = {}
        self._at: Counter[str] = Counter()
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.dead = False

    def send(self, calls: Sequence[Call], answered: Answered) -> None:
        loop = asyncio.get_running_loop()
        for call in calls:
            if self.dead or self._dies("while sending"):
                return
            reaction = self._receivers[call.origin.host].react(call, loop.time(), self._chance)
            self._count += 1
            self._flying[self._count] = (call, answered, reaction)
            self._at[call.origin.host] += 1
            self._idle.clear()
            self._wire.sent(call, len(self._flying), self._at[call.origin.host])
            loop.call_later(reaction.latency, self._end, self._count)

    def _end(self, number: int) -> None:
        if self.dead or number not in self._flying:
            return
        call, _, reaction = self._flying[number]
        self._wire.answered(call, reaction.answer, reaction.taken)
        if not self._dies("when an answer came"):
            self._answer(number, reaction.answer)

    def _answer(self, number: int, answer: Answer) -> None:
        call, answered, _ = self._flying.pop(number)
        self._at[call.origin.host] -= 1
        if not self._flying:
            self._idle.set()
        answered(call, answer)

    def in_flight(self) -> int:
        return len(self._flying)

    def connections(self) -> Connections:
        return Connections(0, 0, 0, 0, 0)

    async def drain(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def abort(self) -> None:
        for number in list(self._flying):
            self._answer(number, _failed("cancelled", 0.0))

    async def close(self) -> None:
        self.abort()
