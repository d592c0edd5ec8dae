"""What tests of a hot state are made of: deliveries at every point of their life, questions about them, and answers in
short."""

from collections.abc import Awaitable, Sequence

from msgspec.structs import replace

from howk.domain.breaker import Circuit
from howk.domain.delivery import BREAKER, DELIVER_AT, ORDER, Standing, State, Status
from howk.domain.errors import Conflict, Transient
from howk.domain.idempotency import End, Verdict
from howk.domain.records import NEWER, EndpointRow
from howk.domain.windows import Window
from howk.ports.directory import NO_LIMITS, Limits
from howk.ports.state import Ask, Claim, Effect, Follow, HotState, KeyAsk, KeyEnd, Passage
from howk.testing.clock import ManualClock

LEASE = 3_600.0
"""Seconds that no test lives to see the end of."""
OVER = 0.0
"""A lease that has ended when it is given."""
NOW = ManualClock().now()
FAR = NOW + 10**9
"""A time that no test lives to see, in milliseconds."""
HOOK = "hook"
OTHER = "other"
"""Endpoints."""


def pending(id_: str, scope: str = "app", at: int = 7) -> Status:
    """An accepted delivery."""
    return Status(id=id_, scope=scope, state="pending", max_attempts=5, created_at=at)


def waiting(id_: str, gen: int, due_at: int, record: bytes = b"{}", *, series: int = 1) -> Effect:
    """A delivery that failed and waits."""
    status = _status(id_, "failed", series, gen, next_retry_at=due_at, last_status_code=500, last_error="HTTP 500")
    return Effect(status, due_at, record)


def ended(id_: str, gen: int, at: int = NOW, *, series: int = 1) -> Effect:
    """A delivery that was delivered."""
    return Effect(_status(id_, "delivered", series, gen, delivered_at=at, ended_at=at))


def dead(id_: str, gen: int, at: int = NOW, *, series: int = 1) -> Effect:
    """A delivery that was given up."""
    return Effect(_status(id_, "dead", series, gen, reason_type="exhausted", ended_at=at))


def deferred(id_: str) -> Effect:
    """A delivery that waits for its time."""
    return Effect(_status(id_, "deferred", 1, 1, next_retry_at=10, held_by="deliver_at"), 10, b"{}")


def happened(effect: Effect, at: int, endpoint: str = "") -> Effect:
    """The first effect of a delivery that was accepted at `at`, and called this endpoint then."""
    return replace(effect, at=at, accepted_at=at, endpoint=endpoint)


async def windows(state: HotState, now: int) -> tuple[Window, Window]:
    """The last hour and the last day."""
    found = await state.statistics(now)
    return found.last_1h, found.last_24h


def _status(id_: str, state: State, series: int, gen: int, **more: str | int) -> Status:
    fields = {"attempts": gen + 1, "max_attempts": 5, "created_at": 7, **more}
    return Status(id=id_, scope="app", state=state, series=series, gen=gen, **fields)  # pyright: ignore[reportArgumentType]


def ask(id_: str, *, gen: int = 0, series: int = 1) -> Ask:
    """The question of an attempt to be made."""
    return Ask(id_, series, gen, "app", gen + 1, 5, 7)


async def due(state: HotState, now: int, lease: float = LEASE) -> list[Claim]:
    """What is due, claimed."""
    return list((await state.claim(now, 1_000, lease)).due)


async def nothing_due(state: HotState, now: int) -> int:
    """When something will be, of a hot state that has nothing yet."""
    found, next_due, *_ = await state.claim(now, 1_000, LEASE)
    assert not found
    return next_due


async def passes(state: HotState, asks: Sequence[Ask]) -> list[bool]:
    """Which records go; every other is said not to be current."""
    passages = await state.gate(asks, NOW)
    assert {passage.verdict for passage in passages} <= {"go", "stale"}
    return [passage.verdict == "go" for passage in passages]


async def stand(state: HotState, ids: Sequence[str]) -> list[Standing | None]:
    """Where deliveries stand."""
    return list((await state.standing(ids)).deliveries)


async def counts(state: HotState) -> tuple[int, int]:
    """How many wait, and how many ended statuses are kept."""
    found = await state.statistics(NOW)
    return found.waiting, found.ended


async def states(state: HotState, ids: Sequence[str]) -> list[str | None]:
    """The words of these deliveries' statuses."""
    return [status and status.state for status in await state.status(ids)]


async def conflicts(call: Awaitable[None]) -> bool:
    """Whether a call raises `Conflict`."""
    try:
        await call
    except Conflict:
        return True
    return False


def asked(key: str, body: str = "a", id_: str = "") -> KeyAsk:
    """A request under a key; its body's hash is a letter."""
    return KeyAsk(key, body * 64, id_ or f"id of {key}")


def end_of(ask: KeyAsk, id_: str = "", at: int = NOW, end: End = "kept") -> KeyEnd:
    """What became of it."""
    return KeyEnd(ask.key, ask.body, id_ or ask.id, at, end)


async def read_whole(state: HotState, ends: Sequence[KeyEnd] = (), offset: int = 0) -> None:
    """These keys were read from `howk.keys`, up to its end at this offset."""
    before = await state.accept(())
    await state.accept((), ends, Follow(before, {**before, 0: offset}, whole=True))


async def verdicts(state: HotState, asks: Sequence[KeyAsk], now: int = NOW) -> list[tuple[Verdict, str]]:
    """The verdicts on keys and the ids that come with them."""
    return [(answer.verdict, answer.id) for answer in await state.claim_keys(asks, now)]


async def waits_for_keys(state: HotState) -> bool:
    """Whether no key may be claimed yet."""
    try:
        await state.claim_keys([asked("?")], NOW)
    except Transient:
        return True
    return False


def held(
    id_: str,
    endpoint: str = HOOK,
    *,
    gen: int = 1,
    held_by: str = BREAKER,
    expires: int = FAR,
    record: bytes = b"{}",
) -> Effect:
    """A delivery that its endpoint holds."""
    return Effect(_status(id_, "deferred", 1, gen, held_by=held_by), expires, record, endpoint)


def ordered(id_: str, turn: str, rank: int, *, gen: int = 1, record: bytes = b"{}") -> Effect:
    """A delivery that is put aside until it is its turn."""
    return Effect(_status(id_, "deferred", 1, gen, held_by=ORDER), FAR, record, HOOK, turn=turn, rank=rank)


def later(id_: str, due_at: int) -> Effect:
    """A delivery with a time ahead."""
    return Effect(_status(id_, "deferred", 1, 1, held_by=DELIVER_AT, next_retry_at=due_at), due_at, b"{}")


def keyed(effect: Effect, turn: str, rank: int) -> Effect:
    """The same with a place in a turn."""
    return replace(effect, turn=turn, rank=rank)


def stood(id_: str = HOOK, gen: int = 1, **circuit: object) -> EndpointRow:
    """Where an endpoint stands."""
    return EndpointRow(v=NEWER, id=id_, circuit=Circuit(gen=gen, **circuit))  # pyright: ignore[reportArgumentType]


async def knows(state: HotState, *rows: EndpointRow) -> int:
    """Hand endpoints in, as settle does; from when on a claim may give something."""
    return await state.apply((), {}, rows)


def asking(
    id_: str,
    endpoint: str = HOOK,
    *,
    gen: int = 0,
    series: int = 1,
    turn: str = "",
    rank: int = 0,
    admitted: bool = False,
    probe: int = 0,
    limits: Limits = NO_LIMITS,
) -> Ask:
    """The question of an attempt to be made at an endpoint."""
    return Ask(id_, series, gen, "app", gen + 1, 5, 7, endpoint, turn, rank, admitted, probe, limits)


async def judged(state: HotState, asks: Sequence[Ask], now: int = NOW) -> list[str]:
    """The answers of the gate in words: `go`, `go 7` as a probe, `go after 0.5`, `hold pause`, `wait order`."""
    return [_in_words(passage) for passage in await state.gate(asks, now)]


def _in_words(passage: Passage) -> str:
    after = f"after {passage.wait}" if passage.wait else ""
    probe = str(passage.probe) if passage.probe else ""
    return " ".join(word for word in (passage.verdict, passage.held_by, probe, after) if word)


async def let_go(state: HotState) -> list[Claim]:
    """What may go, claimed and released."""
    claims = await due(state, NOW)
    await state.release(claims)
    return claims


async def back(state: HotState, claims: Sequence[Claim], good: bool | None, *rows: EndpointRow) -> int:
    """These have ended, well or not, and made such rows; from when on a claim may give something."""
    return await state.apply([replace(ended(claim.id, claim.gen), good=good) for claim in claims], {}, rows)


async def come_back(state: HotState, claims: Sequence[Claim], *, good: bool | None) -> list[Claim]:
    """These have ended, well or not; what goes after them."""
    await back(state, claims, good)
    return await let_go(state)
