"""Hot states that break one promise each of endpoints, turns or marks, so that the suite can show that it notices."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace
from tests.contract.broken_engines import SpoiledState

from howk.domain.delivery import BREAKER, LIMIT, Standing
from howk.domain.records import EndpointRow
from howk.ports.directory import NO_LIMITS
from howk.ports.state import Ask, Claim, Claims, Effect, HotState, Passage, Rebuild, Standings


class SpoiledApply(SpoiledState):
    """Spoils what is applied."""

    def effects(self, effects: Sequence[Effect]) -> Sequence[Effect]:
        return effects

    def rows(self, rows: Sequence[EndpointRow]) -> Sequence[EndpointRow]:
        return rows

    def marks(self, marks: Sequence[str]) -> Sequence[str]:
        return marks

    async def apply(
        self,
        effects: Sequence[Effect],
        watermark: Mapping[int, int],
        endpoints: Sequence[EndpointRow] = (),
        marks: Sequence[str] = (),
    ) -> int:
        return await self.state.apply(self.effects(effects), watermark, self.rows(endpoints), self.marks(marks))


class LetsASecondProbeGo(SpoiledState):
    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        found = await self.state.gate(asks, now)
        return [Passage("go", probe=7) if passage.held_by == BREAKER else passage for passage in found]


class LosesNoProbeEver(SpoiledState):
    """Lends each token once, whatever becomes of it."""

    def __init__(self, state: HotState) -> None:
        super().__init__(state)
        self.lent: set[int] = set()

    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        found = await self.state.claim(now, limit, lease)
        kept = [claim for claim in found.due if claim.probe not in self.lent]
        self.lent |= {claim.probe for claim in kept if claim.probe}
        return found._replace(due=kept)


class CountsAProbeFromItsClaim(SpoiledState):
    async def release(self, claims: Sequence[Claim]) -> None:
        await self.state.release([claim._replace(probe=0) for claim in claims])


class KnowsNoPause(SpoiledApply):
    def rows(self, rows: Sequence[EndpointRow]) -> Sequence[EndpointRow]:
        return [replace(row, circuit=replace(row.circuit, paused=False)) for row in rows]


class LetsFreshOnesPassTheQueue(SpoiledState):
    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        found = await self.state.gate(asks, now)
        return [Passage("go") if passage.held_by == LIMIT else passage for passage in found]


class KnowsNoRates(SpoiledState):
    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        return await self.state.gate([replace(ask, limits=NO_LIMITS) for ask in asks], now)


class TakesAnOlderRow(SpoiledState):
    def __init__(self, state: HotState) -> None:
        super().__init__(state)
        self.last: dict[str, EndpointRow] = {}

    async def apply(
        self,
        effects: Sequence[Effect],
        watermark: Mapping[int, int],
        endpoints: Sequence[EndpointRow] = (),
        marks: Sequence[str] = (),
    ) -> int:
        self.last |= {row.id: row for row in endpoints}
        return await self.state.apply(effects, watermark, endpoints, marks)

    async def standing(self, ids: Sequence[str], endpoints: Sequence[str] = ()) -> Standings:
        found = await self.state.standing(ids, endpoints)
        return Standings(found.deliveries, [self.last.get(id_) for id_ in endpoints])


class LetsTheYoungestHoldGo(SpoiledState):
    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        found = await self.state.claim(now, limit, lease)
        return found._replace(due=found.due[::-1])


class LosesAHoldWhenItsLeaseEnds(SpoiledState):
    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        found = await self.state.claim(now, limit, lease)
        await self.state.release([claim for claim in found.due if claim.why == "admitted"])
        return found


class GivesNoPlaceBack(SpoiledState):
    """As if every outcome came from elsewhere."""

    def __init__(self, state: HotState) -> None:
        super().__init__(state)
        self.out = 0

    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        found = await self.state.claim(now, max(0, min(limit, 4 - self.out)), lease)
        self.out += sum(claim.why == "admitted" for claim in found.due)
        return found


class TellsNobodyOfHolds(SpoiledState):
    async def apply(
        self,
        effects: Sequence[Effect],
        watermark: Mapping[int, int],
        endpoints: Sequence[EndpointRow] = (),
        marks: Sequence[str] = (),
    ) -> int:
        await self.state.apply(effects, watermark, endpoints, marks)
        return min([effect.due_at for effect in effects if effect.due_at], default=0)


class GivesTheTurnToTheHighestRank(SpoiledApply):
    def effects(self, effects: Sequence[Effect]) -> Sequence[Effect]:
        return [replace(effect, rank=1_000 - effect.rank) if effect.rank else effect for effect in effects]

    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        return await self.state.gate([replace(ask, rank=1_000 - ask.rank) if ask.rank else ask for ask in asks], now)


class EntersOnlyWhoGoes(SpoiledState):
    """Who was refused has to come again before it counts."""

    def __init__(self, state: HotState) -> None:
        super().__init__(state)
        self.going: dict[str, str] = {}

    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        found: list[Passage] = []
        for ask in asks:
            holder = self.going.setdefault(ask.turn, ask.id)
            known = (await self.state.standing([holder])).deliveries[0]
            if known is not None and known.ended:
                holder = self.going[ask.turn] = ask.id
            mine = not ask.turn or holder == ask.id
            found += await self.state.gate([replace(ask, turn="")], now) if mine else [Passage("wait", "order")]
        return found


class ForgetsTurnsAtReopen(SpoiledState):
    def __init__(self, state: HotState) -> None:
        super().__init__(state)
        self.entered: set[str] = set()

    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        self.entered |= {ask.id for ask in asks if ask.turn}
        return await self.state.gate(asks, now)

    async def close(self) -> None:
        statuses = await self.state.status(list(self.entered))
        await self.state.apply([Effect(status) for status in statuses if status], {})
        await self.state.close()


class KeepsMarksInMemory(SpoiledApply):
    def __init__(self, state: HotState) -> None:
        super().__init__(state)
        self.marked: set[str] = set()

    def marks(self, marks: Sequence[str]) -> Sequence[str]:
        self.marked |= set(marks)
        return ()

    async def gate(self, asks: Sequence[Ask], now: int) -> Sequence[Passage]:
        found = await self.state.gate(asks, now)
        return [
            Passage("cancelled") if ask.id in self.marked and passage.verdict != "stale" else passage
            for ask, passage in zip(asks, found, strict=True)
        ]

    async def standing(self, ids: Sequence[str], endpoints: Sequence[str] = ()) -> Standings:
        found = await self.state.standing(ids, endpoints)
        return Standings([self.shown(*each) for each in zip(ids, found.deliveries, strict=True)], found.endpoints)

    def shown(self, id_: str, standing: Standing | None) -> Standing | None:
        return replace(standing, marked=True) if standing and id_ in self.marked else standing


class LetsMarkedOnesWait(SpoiledState):
    async def claim(self, now: int, limit: int, lease: float) -> Claims:
        found = await self.state.claim(now, limit, lease)
        return found._replace(due=[claim for claim in found.due if claim.why != "cancelled"])


class OfDeliveriesAlone:
    def __init__(self, rebuild: Rebuild) -> None:
        self.rebuild = rebuild

    async def restore(
        self, effects: Sequence[Effect], endpoints: Sequence[EndpointRow] = (), marks: Sequence[str] = ()
    ) -> None:
        await self.rebuild.restore([replace(effect, turn="", rank=0) for effect in effects])

    async def seal(self, watermark: Mapping[int, int]) -> None:
        await self.rebuild.seal(watermark)


class ForgetsTheStopsOfAnUnsealedRebuild(SpoiledState):
    async def rebuild(self) -> Rebuild:
        await (await self.state.rebuild()).seal({})
        return await self.state.rebuild()


class RebuildsDeliveriesAlone(SpoiledState):
    async def rebuild(self) -> Rebuild:
        return OfDeliveriesAlone(await self.state.rebuild())
