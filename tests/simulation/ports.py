"""Ports that fail: each call may be late, may raise before or after it has happened, and may be the last thing that its
process does. What is behind them is whole and obeys the contract.

The process of a life that is over gets no answer: whatever its code still does as it unwinds reaches nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from tests.simulation.world import World

from howk.domain.delivery import Status
from howk.domain.errors import Full, Transient
from howk.domain.idempotency import Verdict
from howk.domain.records import PENDING, SLOW, EndpointRow
from howk.ports.log import Capabilities, Consumer, Entry, Finish, Follower, Log, Place, Progress, Record, Space
from howk.ports.state import (
    Ask,
    Claim,
    Claims,
    Condition,
    Effect,
    Follow,
    HotState,
    KeyAnswer,
    KeyAsk,
    KeyEnd,
    Passage,
    Rebuild,
    Standings,
    Statistics,
)

_T = TypeVar("_T")


class Host(Protocol):
    """The life that the ports belong to."""

    dead: bool
    world: World

    def now(self) -> float: ...

    def may_die(self, where: str) -> bool:
        """Whether it dies here; if so it is dead from now on."""
        ...


class Faults:
    """What goes wrong at the calls of one life."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._world = host.world
        self._climate = host.world.climate
        self._chance = host.world.faults
        self._twins: set[asyncio.Future[None]] = set()

    async def call(
        self,
        name: str,
        act: Callable[[], Awaitable[_T]],
        *details: object,
        again: bool = True,
        shown: Callable[[_T], object] = lambda _: "",
    ) -> _T:
        """One call of a port. With `again` it may fail after the act."""
        await self.before(name, *details)
        result = await act()
        if self._host.dead:
            raise asyncio.CancelledError
        self._note(name, *details, "->", shown(result))
        await self._after(name, again)
        return result

    async def before(self, name: str, *details: object) -> None:
        """Whatever may happen before the act."""
        host, climate = self._host, self._climate
        if host.dead:
            raise asyncio.CancelledError
        if self._world.quiet:
            return
        if host.may_die(f"before {name}"):
            raise asyncio.CancelledError
        chance = self._chance
        if climate.delays and chance.random() < climate.delays:
            await self._late(name)
        if climate.before and chance.random() < climate.before:
            self._note(name, *details, "-> Transient before it")
            raise Transient("simulated: it did not happen", chance.choice((0.02, 0.3, 1.0)))

    async def _after(self, name: str, again: bool) -> None:
        host, climate = self._host, self._climate
        if self._world.quiet:
            return
        if host.may_die(f"after {name}"):
            raise asyncio.CancelledError
        chance = self._chance
        if climate.delays and chance.random() < climate.delays:
            await self._late(name)
        if again and climate.after and chance.random() < climate.after:
            self._note(name, "-> Transient after it")
            raise Transient("simulated: it happened", chance.choice((0.02, 0.3, 1.0)))

    async def _late(self, name: str) -> None:
        delay = self._chance.random() * self._climate.longest_delay
        self._note(name, f"late by {delay:.3f}")
        await asyncio.sleep(delay)
        if self._host.dead:
            raise asyncio.CancelledError

    def repeat(self, log: Log, records: Sequence[Record]) -> None:
        """Have records to be sent come into the log once more, as after an append of unknown end."""
        world = self._world
        if not self._climate.twins or world.quiet:
            return
        for record in records:
            if record.stream in (PENDING, SLOW) and "/=" not in record.key:
                twin, wait = world.twins.random() < self._climate.twins, 1.5 * world.twins.random()
                if twin:
                    asyncio.get_running_loop().call_later(wait, self._append_again, log, record)

    def _append_again(self, log: Log, record: Record) -> None:
        async def append() -> None:
            with suppress(Transient):
                await log.append([record])

        if not self._host.dead:
            self._note("log.append", "AGAIN", _short(record.key))
            task = asyncio.ensure_future(append())
            self._twins.add(task)
            task.add_done_callback(self._twins.discard)

    def full(self, name: str) -> None:
        """Refuse the act for want of room."""
        climate = self._climate
        if climate.full and not self._world.quiet and self._chance.random() < climate.full:
            self._note(name, "-> Full")
            raise Full("simulated: there is no room", self._chance.choice((0.02, 0.3)))

    def _note(self, name: str, *details: object) -> None:
        task = asyncio.current_task()
        self._world.trace.step(self._host.now(), task.get_name() if task else "loop", name, *details)


class FaultyLog:
    """The `Log` port over one that obeys."""

    def __init__(self, log: Log, faults: Faults) -> None:
        self._log = log
        self._faults = faults
        self._call = faults.call

    @property
    def capabilities(self) -> Capabilities:
        return self._log.capabilities

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        self._faults.full("log.append")
        await self._call("log.append", lambda: self._log.append(records, finish), _records(records), _offsets(finish))
        self._faults.repeat(self._log, records)

    async def consume(self, stream: str, group: str, wake: Callable[[], None]) -> Consumer:
        consumer = await self._call("log.consume", lambda: self._log.consume(stream, group, wake), stream, again=False)
        return _FaultyConsumer(consumer, self._faults, stream)

    def replay(self, table: str, prefix: str = "") -> AsyncIterator[Sequence[Entry]]:
        return self._read("log.replay", self._log.replay(table, prefix), table, prefix)

    async def follow(self, table: str, wake: Callable[[], None]) -> Follower:
        follower = await self._call("log.follow", lambda: self._log.follow(table, wake), table, again=False)
        return _FaultyFollower(follower, self._faults)

    def read(self, stream: str, partition: int, start: int, stop: int) -> AsyncIterator[Sequence[Entry]]:
        batches = self._log.read(stream, partition, start, stop)
        return self._read("log.read", batches, f"{stream}/{partition}/{start}-{stop}")

    async def _read(
        self, name: str, batches: AsyncIterator[Sequence[Entry]], *what: object
    ) -> AsyncIterator[Sequence[Entry]]:
        await self._faults.before(name, *what)
        async for batch in batches:
            yield batch
            await self._faults.before(name, *what)

    async def bounds(self, stream: str) -> Mapping[Place, tuple[int, int]]:
        return await self._call("log.bounds", lambda: self._log.bounds(stream), stream)

    async def progress(self, stream: str, group: str) -> Mapping[Place, Progress]:
        return await self._call("log.progress", lambda: self._log.progress(stream, group), stream, group)

    async def trim(self, stream: str, partition: int, before: int, older_than: int | None = None) -> int:
        trim = self._log.trim
        return await self._call(
            "log.trim", lambda: trim(stream, partition, before, older_than), stream, partition, before, older_than
        )

    async def space(self) -> Space:
        return await self._call("log.space", self._log.space)

    async def check(self) -> None:
        await self._call("log.check", self._log.check)

    def sizes(self) -> Mapping[str, int]:
        return self._log.sizes()

    async def close(self) -> None:
        await self._log.close()


class _FaultyConsumer:
    """A fetch may fail before it; what it has taken is not lost to its reader."""

    def __init__(self, consumer: Consumer, faults: Faults, stream: str) -> None:
        self._consumer = consumer
        self._faults = faults
        self._stream = stream
        self.ready = consumer.ready
        self.backlog = consumer.backlog

    async def fetch(self, limit: int) -> Sequence[Entry]:
        return await self._faults.call(
            "log.fetch", lambda: self._consumer.fetch(limit), self._stream, limit, again=False, shown=_sources
        )


class _FaultyFollower:
    def __init__(self, follower: Follower, faults: Faults) -> None:
        self._follower = follower
        self._faults = faults
        self.ready = follower.ready

    async def fetch(self, limit: int) -> Sequence[Entry]:
        return await self._faults.call(
            "log.followed", lambda: self._follower.fetch(limit), limit, again=False, shown=len
        )


class Watching(Protocol):
    """Is told what hot state was asked and has answered."""

    def gated(self, asks: Sequence[Ask], passages: Sequence[Passage]) -> None: ...

    def applied(self, effects: Sequence[Effect]) -> None: ...

    def rebuilding(self) -> None: ...

    def restored(self, effects: Sequence[Effect]) -> None: ...

    def sealed(self) -> None: ...


class FaultyHot:
    """The `HotState` port over one that obeys."""

    def __init__(self, state: HotState, faults: Faults, watching: Watching) -> None:
        self._state = state
        self._watching = watching
        self._call = faults.call
        self._faults = faults

    async def accept(
        self, statuses: Sequence[Status], keys: Sequence[KeyEnd] = (), follow: Follow | None = None
    ) -> Mapping[int, int]:
        what = (len(statuses), [f"{end.key} {end.end}" for end in keys], "read" if follow else "")
        return await self._call("hot.accept", lambda: self._state.accept(statuses, keys, follow), *what)

    async def claim_keys(self, asks: Sequence[KeyAsk], now: int) -> Sequence[KeyAnswer]:
        # What was claimed by a call that raised would stay claimed: "nothing was claimed when it raises".
        held: list[KeyEnd] = []

        async def claim() -> Sequence[KeyAnswer]:
            found = await self._state.claim_keys(asks, now)
            mine = [(ask, one.id) for ask, one in zip(asks, found, strict=True) if one.verdict is Verdict.MINE]
            held.extend([KeyEnd(ask.key, ask.body, id_, now, "void") for ask, id_ in mine])
            return found

        try:
            return await self._call(
                "hot.claim_keys",
                claim,
                [ask.key for ask in asks],
                again=False,
                shown=lambda found: [answer.verdict.value for answer in found],
            )
        except asyncio.CancelledError:
            with suppress(Transient):
                await self._state.accept((), held)
            raise

    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        async def gate() -> Sequence[Passage]:
            passages = await self._state.gate(asks, now)
            self._watching.gated(asks, passages)
            return passages

        what = [f"{_short(ask.id)}.{ask.gen}" for ask in asks]
        return await self._call("hot.gate", gate, what, shown=lambda found: [one.verdict for one in found])

    async def standing(self, ids: Sequence[str], endpoints: Sequence[str] = ()) -> Standings:
        return await self._call("hot.standing", lambda: self._state.standing(ids, endpoints), len(ids), len(endpoints))

    async def apply(
        self,
        effects: Sequence[Effect],
        watermark: Mapping[int, int],
        endpoints: Sequence[EndpointRow] = (),
        marks: Sequence[str] = (),
    ) -> int:
        async def apply() -> int:
            due = await self._state.apply(effects, watermark, endpoints, marks)
            self._watching.applied(effects)
            return due

        what = [f"{_short(effect.status.id)}.{effect.status.gen} {effect.status.state}" for effect in effects]
        rows = [f"{row.id} {row.circuit.state}" for row in endpoints]
        return await self._call("hot.apply", apply, what, rows, dict(watermark))

    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        return await self._call(
            "hot.claim",
            lambda: self._state.claim(now, limit, lease),
            shown=lambda found: [f"{_short(claim.id)}.{claim.gen} {claim.why}" for claim in found.due],
        )

    async def release(self, claims: Sequence[Claim]) -> None:
        what = [_short(claim.id) for claim in claims]
        await self._call("hot.release", lambda: self._state.release(claims), what)

    async def status(self, ids: Sequence[str]) -> Sequence[Status | None]:
        return await self._call("hot.status", lambda: self._state.status(ids))

    async def statistics(self, now: int) -> Statistics:
        return await self._call("hot.statistics", lambda: self._state.statistics(now))

    async def condition(self) -> Condition:
        return await self._call("hot.condition", self._state.condition, shown=lambda found: found.valid)

    async def rebuild(self) -> Rebuild:
        async def rebuild() -> Rebuild:
            self._watching.rebuilding()
            return await self._state.rebuild()

        return _FaultyRebuild(await self._call("hot.rebuild", rebuild), self._faults, self._watching)

    async def close(self) -> None:
        await self._state.close()


class _FaultyRebuild:
    def __init__(self, rebuild: Rebuild, faults: Faults, watching: Watching) -> None:
        self._rebuild = rebuild
        self._faults = faults
        self._watching = watching

    async def count(self, effects: Sequence[Effect]) -> None:
        # "To be called once for each": it fails before it counts, or not at all.
        await self._faults.call("hot.count", lambda: self._rebuild.count(effects), len(effects), again=False)

    async def restore(
        self, effects: Sequence[Effect], endpoints: Sequence[EndpointRow] = (), marks: Sequence[str] = ()
    ) -> None:
        async def restore() -> None:
            await self._rebuild.restore(effects, endpoints, marks)
            self._watching.restored(effects)

        await self._faults.call("hot.restore", restore, len(effects), len(endpoints), len(marks))

    async def seal(self, watermark: Mapping[int, int]) -> None:
        async def seal() -> None:
            await self._rebuild.seal(watermark)
            self._watching.sealed()

        await self._faults.call("hot.seal", seal, dict(watermark))


def _short(id_: str) -> str:
    return id_[-6:]


def _records(records: Sequence[Record]) -> list[str]:
    return [f"{record.stream.removeprefix('howk.')}:{_short(record.key)}" for record in records]


def _offsets(finish: Finish | None) -> str:
    if finish is None:
        return ""
    return " ".join([f"{place.stream}/{place.partition}:{list(each)}" for place, each in finish.offsets.items()])


def _sources(entries: Sequence[Entry]) -> list[str]:
    return [f"{entry.partition}/{entry.offset}" for entry in entries]
