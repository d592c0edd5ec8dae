"""Requests with an idempotency key: each is judged against what is known of its key, and only the first one enters.

Order of effects: claim in hot state, one append of deliveries and keys, confirm in hot state, answer. A crash between
any two leaves either nothing or a record of `howk.keys` that answers the repeat. Knows neither HTTP nor what makes a
request valid.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from howk.domain.delivery import Status, accepted_status
from howk.domain.errors import FieldProblem, Full, Rejected, Transient
from howk.domain.idempotency import End, Verdict, is_key, scoped
from howk.domain.ids import RANDOM_BYTES, delivery_id
from howk.domain.records import VERSION, Delivery, KeyRecord
from howk.flow import journal
from howk.flow.journal import Journal
from howk.ports.clock import Clock, Random
from howk.ports.log import Record
from howk.ports.state import HotState, KeyAsk, KeyEnd

WAIT = 5.0
"""Seconds that a repeat waits for the first request to be confirmed."""


class Item(NamedTuple):
    """A request: its key (None: it has none), the hash of its bytes, and what makes its delivery of a time and an id.

    `make` raises `Rejected`.
    """

    key: str | None
    body: str
    make: Callable[[int, str], Delivery]


class Accepted(NamedTuple):
    """The id of a request's delivery; `replayed` when it was accepted before."""

    id: str
    replayed: bool = False


Answer = Accepted | Rejected | Transient


class _Entering(NamedTuple):
    """A request that is to be appended under this id; it holds its key, if it has one."""

    place: int
    item: Item
    id: str


class Keyed:
    """The part of ingest that knows of keys."""

    def __init__(
        self,
        log: Journal,
        state: HotState,
        clock: Clock,
        random: Random,
        records: Callable[[Sequence[Delivery]], list[Record]],
        *,
        wait: float = WAIT,
    ) -> None:
        """`records` gives each delivery its lane."""
        self._journal = log
        self._records = records
        self._state = state
        self._clock = clock
        self._random = random
        self._wait = wait
        self._owed: list[KeyEnd] = []
        self._one_teller = asyncio.Lock()

    async def accept(self, scope: str, items: Sequence[Item]) -> list[Answer]:
        """For each request what came of it. Raises `Transient` when nothing was taken, or that can't be known.

        What had to wait for another request, of this batch or not, is judged once more after it; what is then still
        under way is a `Transient` in its place.
        """
        answers: dict[int, Answer] = {}
        waits = await self._judge(scope, items, _first_of_each_key(items), answers)
        left = [index for index in range(len(items)) if index not in answers]
        if left:
            if waits:
                await asyncio.wait(waits, timeout=self._wait)
            await self._judge_again(scope, items, left, answers)
        return [answers[index] for index in range(len(items))]

    async def _judge_again(
        self, scope: str, items: Sequence[Item], left: Sequence[int], answers: dict[int, Answer]
    ) -> None:
        try:
            await self._judge(scope, items, left, answers)
            late = Transient("the first request with this idempotency key is still under way: try again in a moment")
        except Transient as error:
            # What came before stands, and is answered.
            late = error
        for index in left:
            answers.setdefault(index, late)

    async def _judge(
        self, scope: str, items: Sequence[Item], indexes: Sequence[int], answers: dict[int, Answer]
    ) -> "set[asyncio.Future[None]]":
        """Answers what can be answered now; gives what the others have to wait for."""
        now = self._clock.now()
        entering: list[_Entering] = []
        asked: list[int] = []
        asks: list[KeyAsk] = []
        for index in indexes:
            item, id_ = items[index], delivery_id(now, self._random.bytes(RANDOM_BYTES))
            if item.key is None:
                entering.append(_Entering(index, item, id_))
            elif not is_key(item.key):
                answers[index] = _bad_key(
                    "invalid_idempotency_key", "1 to 255 visible ASCII characters, without spaces"
                )
            else:
                asked.append(index)
                asks.append(KeyAsk(scoped(scope, item.key), item.body, id_))
        waits: set[asyncio.Future[None]] = set()
        if self._owed:
            await self._tell_owed()
        found = await self._state.claim_keys(asks, now) if asks else ()
        for index, (verdict, id_, settled) in zip(asked, found, strict=True):
            if verdict is Verdict.MINE:
                entering.append(_Entering(index, items[index], id_))
            elif verdict is Verdict.REPLAY:
                answers[index] = Accepted(id_, replayed=True)
            elif verdict is Verdict.REUSED:
                answers[index] = _bad_key("idempotency_key_reused", "another request was sent with this key")
            elif settled is not None:
                waits.add(settled)
        await self._enter(scope, entering, now, answers)
        return waits

    async def _enter(self, scope: str, entering: Sequence[_Entering], now: int, answers: dict[int, Answer]) -> None:
        """Append what is valid, all or none, and end every claim whatever happens."""
        made: list[tuple[_Entering, Delivery]] = []
        end: End = "void"
        try:
            for one in entering:
                try:
                    made.append((one, one.item.make(now, one.id)))
                except Rejected as refusal:
                    answers[one.place] = refusal
            if made:
                end = "unknown"
                await self._append(scope, made, now)
                end = "kept"
        except Full:
            end = "void"
            raise
        finally:
            valid = {one.place for one, _ in made}
            ends = [
                KeyEnd(scoped(scope, one.item.key), one.item.body, one.id, now, end if one.place in valid else "void")
                for one in entering
                if one.item.key is not None
            ]
            taken = made if end == "kept" else []
            await self._end([accepted_status(delivery) for _, delivery in taken], ends)
        for one, _ in made:
            answers[one.place] = Accepted(one.id)

    async def _end(self, statuses: Sequence[Status], ends: Sequence[KeyEnd]) -> None:
        told = False
        try:
            await self._state.accept(statuses, ends)
            told = True
        finally:
            if not told:
                self._owed += ends

    async def _tell_owed(self) -> None:
        """End the claims of requests that could not do so: nobody else may have their keys until then."""
        async with self._one_teller:
            if self._owed:
                owed = self._owed.copy()
                await self._state.accept((), owed)
                del self._owed[: len(owed)]

    async def _append(self, scope: str, made: Sequence[tuple[_Entering, Delivery]], now: int) -> None:
        keys = [
            KeyRecord(v=VERSION, scope=scope, key=one.item.key, body=one.item.body, id=one.id, accepted_at=now)
            for one, _ in made
            if one.item.key is not None
        ]
        deliveries = self._records([delivery for _, delivery in made])
        await self._journal.append([*deliveries, *(journal.kept(record) for record in keys)])


def _first_of_each_key(items: Sequence[Item]) -> list[int]:
    """Every request without a key, and of those with the same key the first: the others wait for it."""
    seen: set[str] = set()
    first: list[int] = []
    for index, item in enumerate(items):
        if item.key is None or item.key not in seen:
            first.append(index)
        if item.key is not None:
            seen.add(item.key)
    return first


def _bad_key(code: str, message: str) -> Rejected:
    return Rejected(code, message, [FieldProblem("idempotency_key", message)])
