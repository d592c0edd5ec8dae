"""Engines that break one promise each, so that the suites can show that they notice."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from msgspec.structs import replace

from howk.domain.delivery import Status
from howk.domain.errors import Full
from howk.domain.idempotency import Verdict
from howk.domain.records import EndpointRow
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


class SpoiledLog:
    """A log that passes everything on; each kind below spoils one thing."""

    def __init__(self, log: Log) -> None:
        self.log = log

    @property
    def capabilities(self) -> Capabilities:
        return self.log.capabilities

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        await self.log.append(records, finish)

    async def consume(self, stream: str, group: str, wake: Callable[[], None]) -> Consumer:
        return await self.log.consume(stream, group, wake)

    def replay(self, table: str, prefix: str = "") -> AsyncIterator[Sequence[Entry]]:
        return self.log.replay(table, prefix)

    async def follow(self, table: str, wake: Callable[[], None]) -> Follower:
        return await self.log.follow(table, wake)

    def read(self, stream: str, partition: int, start: int, stop: int) -> AsyncIterator[Sequence[Entry]]:
        return self.log.read(stream, partition, start, stop)

    async def bounds(self, stream: str) -> Mapping[Place, tuple[int, int]]:
        return await self.log.bounds(stream)

    async def progress(self, stream: str, group: str) -> Mapping[Place, Progress]:
        return await self.log.progress(stream, group)

    async def trim(self, stream: str, partition: int, before: int, older_than: int | None = None) -> int:
        return await self.log.trim(stream, partition, before, older_than)

    async def space(self) -> Space:
        return await self.log.space()

    async def check(self) -> None:
        await self.log.check()

    async def close(self) -> None:
        await self.log.close()


class AnswersBeforeItCommits(SpoiledLog):
    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.owed: list[tuple[Sequence[Record], Finish | None]] = []

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        owed, self.owed = self.owed, [(records, finish)]
        for append in owed:
            await self.log.append(*append)


class FinishesInAnActOfItsOwn(SpoiledLog):
    """A crash comes between the records and the progress."""

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        await self.log.append(records, None if records else finish)


class FinishesWithWhatItRefused(SpoiledLog):
    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.refused: list[Finish | None] = []

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        try:
            await self.log.append(records, finish)
        except Full:
            self.refused.append(finish)
            raise

    async def progress(self, stream: str, group: str) -> Mapping[Place, Progress]:
        for finish in self.refused:
            await self.log.append([], finish)
        return await self.log.progress(stream, group)


class KnowsOnlyTheNextOffset(SpoiledLog):
    """A finished record takes those before it along."""

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        if finish is not None:
            whole = {place: range(max(offsets) + 1) for place, offsets in finish.offsets.items()}
            finish = Finish(finish.group, whole)
        await self.log.append(records, finish)


class ForgetsWhatIsFinishedBeyond(SpoiledLog):
    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        if finish is not None:
            kept = {
                place: await self.in_order(finish.group, place, offsets) for place, offsets in finish.offsets.items()
            }
            finish = Finish(finish.group, kept)
        await self.log.append(records, finish)

    async def in_order(self, group: str, place: Place, offsets: Sequence[int]) -> Sequence[int]:
        reached = (await self.log.progress(place.stream, group))[place].next
        kept: list[int] = []
        for offset in sorted(offsets):
            if offset == reached:
                kept.append(offset)
                reached += 1
        return kept


class TrimsWhatIsUnfinished(SpoiledLog):
    async def trim(self, stream: str, partition: int, before: int, older_than: int | None = None) -> int:
        for group in ("group", "fast", "slow", "hangs"):
            await self.log.append([], Finish(group, {Place(stream, partition): range(before)}))
        return await self.log.trim(stream, partition, before, older_than)


class TrimsWhateverItsAge(SpoiledLog):
    async def trim(self, stream: str, partition: int, before: int, older_than: int | None = None) -> int:
        return await self.log.trim(stream, partition, before)


class TrimsNothingByAge(SpoiledLog):
    async def trim(self, stream: str, partition: int, before: int, older_than: int | None = None) -> int:
        return await self.log.trim(stream, partition, 0 if older_than is not None else before)


class CountsWhatItDropped(SpoiledLog):
    """As a file that never shrinks does."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.most = 0

    async def space(self) -> Space:
        found = await self.log.space()
        self.most = max(self.most, found.used)
        return found._replace(used=self.most)


class KeepsWhatItDoesNotUse(SpoiledLog):
    async def space(self) -> Space:
        found = await self.log.space()
        return found._replace(excess=1)


class SpoiledConsumer:
    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.last: list[Entry] = []

    async def fetch(self, limit: int) -> Sequence[Entry]:
        return await self.consumer.fetch(limit)

    def ready(self) -> bool:
        return self.consumer.ready()

    def backlog(self) -> int:
        return self.consumer.backlog()


class RepeatingAfterAPause(SpoiledConsumer):
    """Gives its last record again whenever it had fallen far behind."""

    async def fetch(self, limit: int) -> Sequence[Entry]:
        repeated = self.last if self.consumer.backlog() > 3_000 else []
        batch = await super().fetch(limit - len(repeated))
        self.last = list(batch[-1:])
        return [*repeated, *batch]


class RepeatsAtAHandover(SpoiledLog):
    async def consume(self, stream: str, group: str, wake: Callable[[], None]) -> Consumer:
        return RepeatingAfterAPause(await self.log.consume(stream, group, wake))


class SkippingAfterAPause(SpoiledConsumer):
    async def fetch(self, limit: int) -> Sequence[Entry]:
        behind = self.consumer.backlog() > 3_000
        batch = await super().fetch(limit)
        return batch[1:] if behind else batch


class SkipsAtAHandover(SpoiledLog):
    async def consume(self, stream: str, group: str, wake: Callable[[], None]) -> Consumer:
        return SkippingAfterAPause(await self.log.consume(stream, group, wake))


class MissesAWake(SpoiledLog):
    async def consume(self, stream: str, group: str, wake: Callable[[], None]) -> Consumer:
        calls = iter(range(1 << 30))

        def sometimes() -> None:
            if next(calls) % 10 != 9:
                wake()

        return await self.log.consume(stream, group, sometimes)


class StartsNewGroupsAtTheEnd(SpoiledLog):
    async def consume(self, stream: str, group: str, wake: Callable[[], None]) -> Consumer:
        for place, (_, end) in (await self.log.bounds(stream)).items():
            if (await self.log.progress(stream, group))[place].next == 0:
                await self.log.append([], Finish(group, {place: range(end)}))
        return await self.log.consume(stream, group, wake)


class KeepsRemovedRows(SpoiledLog):
    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        kept = [record for record in records if record.value or not record.stream.endswith("state")]
        await self.log.append(kept, finish)


class SpoiledFollower:
    def __init__(self, follower: Follower) -> None:
        self.follower = follower

    async def fetch(self, limit: int) -> Sequence[Entry]:
        return await self.follower.fetch(limit)

    def ready(self) -> bool:
        return self.follower.ready()


class WithoutTombstones(SpoiledFollower):
    async def fetch(self, limit: int) -> Sequence[Entry]:
        return [entry for entry in await super().fetch(limit) if entry.value]


class FollowsWithoutRemovals(SpoiledLog):
    async def follow(self, table: str, wake: Callable[[], None]) -> Follower:
        return WithoutTombstones(await self.log.follow(table, wake))


class FollowsOnlyWhatComesLater(SpoiledLog):
    """As a consumer that starts at the newest record does."""

    async def follow(self, table: str, wake: Callable[[], None]) -> Follower:
        follower = await self.log.follow(table, wake)
        while await follower.fetch(1_000):
            pass
        return follower


class PausingInBetween(SpoiledFollower):
    """Answers at once, with nothing, that it was asked for the first time since there is something."""

    def __init__(self, follower: Follower) -> None:
        super().__init__(follower)
        self.asked = False

    async def fetch(self, limit: int) -> Sequence[Entry]:
        self.asked = self.ready() and not self.asked
        return [] if self.asked else await super().fetch(limit)


class SaysTooSoonThatATableIsRead(SpoiledLog):
    async def follow(self, table: str, wake: Callable[[], None]) -> Follower:
        return PausingInBetween(await self.log.follow(table, wake))


class GivingOldValuesAgain(SpoiledFollower):
    """Hands out what it kept of the fetch before, as a reader that is not fenced against its tail does."""

    def __init__(self, follower: Follower) -> None:
        super().__init__(follower)
        self.kept: list[Sequence[Entry]] = []

    async def fetch(self, limit: int) -> Sequence[Entry]:
        self.kept.append(await super().fetch(limit))
        return self.kept.pop(0) if len(self.kept) > 20 else self.kept[-1]


class FollowsBackwards(SpoiledLog):
    async def follow(self, table: str, wake: Callable[[], None]) -> Follower:
        return GivingOldValuesAgain(await self.log.follow(table, wake))


class ForgetsToWakeFollowers(SpoiledLog):
    async def follow(self, table: str, wake: Callable[[], None]) -> Follower:
        del wake
        return await self.log.follow(table, lambda: None)


class LosingWhatWasCancelled(SpoiledFollower):
    async def fetch(self, limit: int) -> Sequence[Entry]:
        batch = await super().fetch(limit)
        # Where a caller may be cancelled although the rows are counted as given.
        await asyncio.sleep(0)
        return batch


class LosesACancelledFetch(SpoiledLog):
    async def follow(self, table: str, wake: Callable[[], None]) -> Follower:
        follower = await self.log.follow(table, wake)
        # The first reading is over before the caller begins, and so a fetch gives at once.
        held = [entry async for batch in self.log.replay(table) for entry in batch]
        while await follower.fetch(1_000):
            pass
        return LosingWhatWasCancelled(HoldingRows(follower, held))


class HoldingRows(SpoiledFollower):
    """Gives these rows first."""

    def __init__(self, follower: Follower, held: list[Entry]) -> None:
        super().__init__(follower)
        self.held = held

    async def fetch(self, limit: int) -> Sequence[Entry]:
        given, self.held = self.held[:limit], self.held[limit:]
        return given or await super().fetch(limit)


class SpoiledState:
    """A hot state that passes everything on; each kind below spoils one thing."""

    def __init__(self, state: HotState) -> None:
        self.state = state

    async def accept(
        self, statuses: Sequence[Status], keys: Sequence[KeyEnd] = (), follow: Follow | None = None
    ) -> Mapping[int, int]:
        return await self.state.accept(statuses, keys, follow)

    async def claim_keys(self, asks: Sequence[KeyAsk], now: int) -> Sequence[KeyAnswer]:
        return await self.state.claim_keys(asks, now)

    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        return await self.state.gate(asks, now)

    async def standing(self, ids: Sequence[str], endpoints: Sequence[str] = ()) -> Standings:
        return await self.state.standing(ids, endpoints)

    async def apply(
        self,
        effects: Sequence[Effect],
        watermark: Mapping[int, int],
        endpoints: Sequence[EndpointRow] = (),
        marks: Sequence[str] = (),
    ) -> int:
        return await self.state.apply(effects, watermark, endpoints, marks)

    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        return await self.state.claim(now, limit, lease)

    async def release(self, claims: Sequence[Claim]) -> None:
        await self.state.release(claims)

    async def status(self, ids: Sequence[str]) -> Sequence[Status | None]:
        return await self.state.status(ids)

    async def statistics(self, now: int) -> Statistics:
        return await self.state.statistics(now)

    async def condition(self) -> Condition:
        return await self.state.condition()

    async def rebuild(self) -> Rebuild:
        return await self.state.rebuild()

    async def close(self) -> None:
        await self.state.close()


class LetsEverythingPass(SpoiledState):
    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        return [Passage("go") for _ in await self.state.gate(asks, now)]


class OverwritesWhatItKnows(SpoiledState):
    async def accept(
        self, statuses: Sequence[Status], keys: Sequence[KeyEnd] = (), follow: Follow | None = None
    ) -> Mapping[int, int]:
        await self.state.apply([Effect(status) for status in statuses], {})
        return await self.state.accept((), keys, follow)


class IgnoresTheWatermark(SpoiledState):
    async def apply(
        self,
        effects: Sequence[Effect],
        watermark: Mapping[int, int],
        endpoints: Sequence[EndpointRow] = (),
        marks: Sequence[str] = (),
    ) -> int:
        await self.state.apply([], watermark)
        return await self.state.apply(effects, {}, endpoints, marks)


class ForgetsTheWatermark(SpoiledState):
    async def apply(
        self,
        effects: Sequence[Effect],
        watermark: Mapping[int, int],
        endpoints: Sequence[EndpointRow] = (),
        marks: Sequence[str] = (),
    ) -> int:
        return await self.state.apply(effects, {}, endpoints, marks)


class IgnoresLeases(SpoiledState):
    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        return await self.state.claim(now, limit, 0.0)


class ClaimsWhatIsNotDue(SpoiledState):
    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        return await self.state.claim(now + 1, limit, lease)


class ReleasesWithoutAToken(SpoiledState):
    async def release(self, claims: Sequence[Claim]) -> None:
        await self.state.release([claim._replace(token=0) for claim in claims])


class UnqueuesByIdAlone(SpoiledState):
    async def release(self, claims: Sequence[Claim]) -> None:
        every = [(series, gen) for series in (1, 2) for gen in range(4)]
        found = [claim._replace(series=s, gen=g) for claim in claims if not claim.token for s, g in every]
        await self.state.release(found + [claim for claim in claims if claim.token])


class GoingBack:
    def __init__(self, state: HotState, rebuild: Rebuild) -> None:
        self.state = state
        self.rebuild = rebuild

    async def restore(
        self, effects: Sequence[Effect], endpoints: Sequence[EndpointRow] = (), marks: Sequence[str] = ()
    ) -> None:
        await self.state.apply(effects, {}, endpoints, marks)

    async def count(self, effects: Sequence[Effect]) -> None:
        await self.rebuild.count(effects)

    async def seal(self, watermark: Mapping[int, int]) -> None:
        await self.rebuild.seal(watermark)


class RebuildsBackwards(SpoiledState):
    async def rebuild(self) -> Rebuild:
        return GoingBack(self.state, await self.state.rebuild())


class TrustsAnUnsealedRebuild(SpoiledState):
    async def condition(self) -> Condition:
        return (await self.state.condition())._replace(valid=True, reason="")


class LetsAnOldRebuildGoOn(SpoiledState):
    def __init__(self, state: HotState) -> None:
        super().__init__(state)
        self.one: Rebuild | None = None

    async def rebuild(self) -> Rebuild:
        self.one = self.one or await self.state.rebuild()
        return self.one


class ShowsADayAsAnHour(SpoiledState):
    async def statistics(self, now: int) -> Statistics:
        found = await self.state.statistics(now)
        return found._replace(last_1h=found.last_24h)


class CountsWhenItIsTold(SpoiledState):
    """At the time of the latest of a batch, as a clock would show it."""

    async def apply(self, effects: Sequence[Effect], watermark: Mapping[int, int]) -> None:
        now = max((effect.at for effect in effects), default=0)
        told = [replace(effect, at=now, accepted_at=effect.accepted_at and now) for effect in effects]
        await self.state.apply(told, watermark)


class ReceivesAtEveryEffect(SpoiledState):
    async def apply(self, effects: Sequence[Effect], watermark: Mapping[int, int]) -> None:
        await self.state.apply([replace(effect, accepted_at=effect.at) for effect in effects], watermark)


class LetsTwoHoldAKey(SpoiledState):
    """Knows what is in the log, and nothing of who is at it."""

    async def claim_keys(self, asks: Sequence[KeyAsk], now: int) -> Sequence[KeyAnswer]:
        answers = await self.state.claim_keys(asks, now)
        pairs = zip(asks, answers, strict=True)
        return [KeyAnswer(Verdict.MINE, ask.id) if answer.settled else answer for ask, answer in pairs]


class TrustsKeysBeforeTheyAreRead(SpoiledState):
    async def claim_keys(self, asks: Sequence[KeyAsk], now: int) -> Sequence[KeyAnswer]:
        reached = await self.state.accept(())
        await self.state.accept((), (), Follow(reached, reached, whole=True))
        return await self.state.claim_keys(asks, now)


class ForgetsTheClaimedId(SpoiledState):
    """A claim of unknown outcome is given away as if it had never been."""

    async def accept(
        self, statuses: Sequence[Status], keys: Sequence[KeyEnd] = (), follow: Follow | None = None
    ) -> Mapping[int, int]:
        ends = [key._replace(end="void") if key.end == "unknown" else key for key in keys]
        return await self.state.accept(statuses, ends, follow)
