"""Single enqueues that come at once: one append for them, and an answer for each that no other one can spoil or hold
up. The log is the real one; what stands before it counts, holds up or refuses what comes."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support import NOW, TRIAL, Corridor, Notes, settings
from tests.web.serving import BOUNDS, Answer, Serving, Wire, get, post, serving

from howk.domain.delivery import Status
from howk.domain.errors import Full, Transient
from howk.domain.records import PENDING, Delivery, reader
from howk.ports.log import Finish, Log, Record
from howk.runtime.observability import Metrics
from howk.runtime.wiring import SystemRandom, Tools, engines, wire
from howk.testing.clock import ManualClock
from howk.web.app import App, Limits
from howk.web.guard import Guard
from howk.web.messages import Reply, Request
from howk.web.refusals import Refusals
from howk.web.together import Group, Together

_read = reader(Delivery)
_ROUTE = "/webhooks/{config_id}/enqueue"
_MOST = 4_096
_FLOOD = b"x" * (16 << 20)


class Gate:
    """A log that keeps what it was asked to append, and lets nothing in or refuses it when told to."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.asked: list[Sequence[Record]] = []
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        self.asked.append(records)
        await self.open.wait()
        if self.error is not None:
            raise self.error
        await self._log.append(records, finish)


class Unsteady:
    """The system's randomness, which is not there for a moment when told so: for the so-many-th from now."""

    def __init__(self) -> None:
        self._random = SystemRandom()
        self.fails_in = 0

    def bytes(self, count: int) -> bytes:
        self.fails_in -= 1
        if self.fails_in == 0:
            raise OSError("s3cr3t")
        return self._random.bytes(count)


class Scene:
    """A house behind a gate, and the door before it."""

    def __init__(self, corridor: Corridor, gate: Gate, random: Unsteady, door: Serving, app: App) -> None:
        self.corridor = corridor
        self.gate = gate
        self.random = random
        self.door = door
        self.app = app
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Scene":
        return self

    async def __aexit__(self, *ended: object) -> None:
        self.gate.open.set()
        await self._stack.aclose()

    async def wires(self, count: int) -> list[Wire]:
        """So many connections that have been answered once, so that what they write next comes at once."""
        found = [await self._stack.enter_async_context(Wire.open(self.door.port)) for _ in range(count)]
        for wire_ in found:
            wire_.write(post(body(b"0")))
            assert (await wire_.answer()).status == 202
        self.gate.asked.clear()
        return found

    def counted(self, route: str, status: int) -> int:
        """How many requests the metric says were answered so."""
        name = f'howk_http_requests_total{{route="{route}",status="{status}"}} '
        lines = self.corridor.metrics.expose().decode().splitlines()
        return sum([int(float(line.removeprefix(name))) for line in lines if line.startswith(name)])

    async def stored(self) -> dict[str, bytes]:
        """The payloads in the log by the ids of their deliveries."""
        log = self.corridor.engines.log
        ((place, (start, stop)),) = (await log.bounds(PENDING)).items()
        found = [_read(e.value) async for batch in log.read(PENDING, place.partition, start, stop) for e in batch]
        return {delivery.targets[0].id: delivery.body for delivery in found}

    async def status(self, webhook_id: str) -> Status | None:
        return await self.corridor.status(webhook_id)

    async def room(self) -> int:
        """How many requests the door would begin now."""
        # Who brought most lately is forgotten by then.
        self.corridor.clock.advance(60_000)
        begun = [await self.app.begin(request(b"0")) for _ in range(_MOST)]
        new = [found for found in begun if not isinstance(found, Reply | Coroutine)]
        self.app.drop(new)
        return len(new)


def body(payload: bytes) -> bytes:
    return b'{"endpoint":"http://127.0.0.1:9/","payload":%b}' % payload


def request(payload: bytes, scope: str = "app", *headers: tuple[bytes, bytes]) -> Request:
    """A request as a connection makes it of a whole one."""
    given = {b"host": b"127.0.0.1", b"content-type": b"application/json", **dict(headers)}
    return Request("POST", f"/webhooks/{scope}/enqueue", given, None, body(payload))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    clock, metrics, notes, random = ManualClock(NOW), Metrics(), Notes(), Unsteady()
    tools, tree = Tools(clock, random, metrics, notes), settings(tmp_path, retention__max_log_size=8 << 20)
    async with engines(tree, TRIAL, tools) as found:
        gate = Gate(found.log)
        house = wire(tree, TRIAL, found._replace(log=gate), tools)  # pyright: ignore[reportArgumentType]
        corridor = Corridor(house, clock, metrics, notes)
        await house.reconcile.recover()
        await house.recall.turn()

        async def ready() -> str:
            return ""

        app = App(
            house.ingest,
            found.state,
            Guard((), loopback_only=True),
            Limits(request=16_000, batch=100_000, items=50),
            metrics,
            lambda: _FLOOD,
            ready,
            Refusals(notes),
        )
        async with (
            serving(app, BOUNDS._replace(connections=200)) as door,
            Scene(corridor, gate, random, door, app) as made,
        ):
            yield made


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not true():
            await asyncio.sleep(0)


async def answers(wires: Sequence[Wire]) -> list[Answer]:
    return [await wire_.answer() for wire_ in wires]


async def test_what_several_connections_write_at_once_shares_one_append(scene: Scene) -> None:
    wires = await scene.wires(12)
    before = await scene.stored()
    for number, wire_ in enumerate(wires):
        wire_.write(post(body(b"%d" % (10**number)), f"/webhooks/config-{number % 5}/enqueue"))
    got = await answers(wires)
    assert [answer.status for answer in got] == [202] * 12
    expected = {answer.json()["webhook_id"]: b"%d" % (10**number) for number, answer in enumerate(got)}
    assert await scene.stored() == before | expected
    assert [len(records) for records in scene.gate.asked] == [12]
    for number, webhook_id in enumerate(expected):
        status = await scene.status(webhook_id)
        assert status is not None
        assert (status.scope, status.state) == (f"config-{number % 5}", "pending")
    assert scene.counted(_ROUTE, 202) == 24
    assert f'howk_webhooks_received_total{{route="{_ROUTE}"}} 24.0' in scene.corridor.metrics.expose().decode()
    assert await scene.room() == _MOST


async def test_nobody_is_answered_before_the_append_that_holds_his_is_durable(scene: Scene) -> None:
    first, second, third = await scene.wires(3)
    scene.gate.open.clear()
    first.write(post(body(b"1")))
    second.write(post(body(b"2")))
    await until(lambda: len(scene.gate.asked) == 1)
    # What comes while an append is under way is another's.
    third.write(post(body(b"3")))
    await until(lambda: len(scene.gate.asked) == 2)
    assert [await wire_.silent() for wire_ in (first, second, third)] == [True] * 3
    assert await scene.room() == _MOST - 3
    scene.gate.open.set()
    assert [answer.status for answer in await answers([first, second, third])] == [202] * 3
    assert await scene.room() == _MOST


@pytest.mark.parametrize(
    ("error", "status", "code", "wait"),
    [
        (Transient("the disk is away", 3.0), 503, "unavailable", "3"),
        (Full("too much waits", 10.0, "log_full"), 503, "log_full", "10"),
        (LookupError("s3cr3t"), 500, "internal", None),
        (MemoryError(), 503, "unavailable", "5"),
    ],
    ids=["transient", "full", "bug", "memory"],
)
async def test_an_append_that_fails_is_each_ones_failure_and_nothing_was_taken(
    scene: Scene, error: Exception, status: int, code: str, wait: str | None
) -> None:
    wires = await scene.wires(5)
    before = await scene.stored()
    scene.gate.error = error
    for wire_ in wires:
        wire_.write(post(body(b"1")))
    got = await answers(wires)
    assert [(answer.status, answer.json()["code"], answer.closes) for answer in got] == [(status, code, False)] * 5
    assert {answer.headers.get("retry-after") for answer in got} == {wait}
    assert b"s3cr3t" not in b"".join(answer.body for answer in got)
    assert len(scene.gate.asked) == 1
    assert await scene.stored() == before
    assert scene.counted("failed" if status == 500 else "refused", status) == 5
    assert scene.counted(_ROUTE, 202) == 5
    assert await scene.room() == _MOST
    scene.gate.error = None
    for wire_ in wires:
        wire_.write(post(body(b"1")))
    assert [answer.status for answer in await answers(wires)] == [202] * 5
    assert len(await scene.stored()) == len(before) + 5


async def test_what_is_refused_is_answered_while_the_append_of_the_others_is_held_up(scene: Scene) -> None:
    first, unprocessable, large, plain, foreign, broken, last = wires = await scene.wires(7)
    scene.gate.open.clear()
    first.write(post(body(b"1")))
    unprocessable.write(post(body(b"1").replace(b"http:", b"ftp:")))
    large.write(post(body(b'"%b"' % (b"x" * 16_000))))
    plain.write(post(body(b"1")).replace(b"application/json", b"text/plain"))
    foreign.write(post(body(b"1")).replace(b"Host: 127.0.0.1", b"Host: evil.example"))
    broken.write(post(b"{"))
    last.write(post(body(b"2")))
    assert [answer.status for answer in await answers(wires[1:-1])] == [422, 413, 415, 421, 400]
    assert [len(records) for records in scene.gate.asked] == [2]
    assert [await wire_.silent() for wire_ in (first, last)] == [True] * 2
    assert await scene.room() == _MOST - 2
    for status in (422, 413, 415, 421, 400):
        assert scene.counted("refused", status) == 1
    # Those that were refused go on meanwhile.
    broken.write(get("/health"))
    assert (await broken.answer()).status == 200
    scene.gate.open.set()
    ids = [answer.json()["webhook_id"] for answer in await answers([first, last])]
    stored = await scene.stored()
    assert [stored[webhook_id] for webhook_id in ids] == [b"1", b"2"]
    assert len(stored) == 9
    assert await scene.room() == _MOST


async def test_when_all_are_refused_nothing_is_appended(scene: Scene) -> None:
    wires = await scene.wires(3)
    for wire_ in wires:
        wire_.write(post(b"[]"))
    assert [answer.status for answer in await answers(wires)] == [400] * 3
    assert scene.gate.asked == []
    assert await scene.room() == _MOST


@pytest.mark.parametrize("place", [1, 3, 5])
async def test_a_fault_of_howk_in_one_is_that_ones_alone(scene: Scene, place: int) -> None:
    wires = await scene.wires(5)
    before = await scene.stored()
    scene.random.fails_in = place
    for number, wire_ in enumerate(wires):
        wire_.write(post(body(b"%d" % number)))
    got = await answers(wires)
    assert [answer.status for answer in got] == [500 if number == place - 1 else 202 for number in range(5)]
    assert b"s3cr3t" not in got[place - 1].body
    assert not got[place - 1].closes
    stored = await scene.stored()
    expected = [(n, answer.json()["webhook_id"]) for n, answer in enumerate(got) if answer.status == 202]
    assert stored == before | {webhook_id: b"%d" % n for n, webhook_id in expected}
    assert [len(records) for records in scene.gate.asked] == [4]
    assert scene.counted("failed", 500) == 1
    assert [event for event, _ in scene.corridor.notes.lines].count("internal") == 1
    assert await scene.room() == _MOST
    wires[place - 1].write(post(body(b"1")))
    assert (await wires[place - 1].answer()).status == 202


async def test_those_with_an_idempotency_key_go_beside_the_others(scene: Scene) -> None:
    wires = await scene.wires(6)
    keyed = post(body(b"1"), "/webhooks/app/enqueue", b"Idempotency-Key: k")
    named = body(b"2")[:-1] + b',"idempotency_key":"other"}'
    for wire_, data in zip(
        wires,
        (post(body(b"0")), keyed, keyed, post(named), post(body(b"3")), keyed.replace(b": k", b": not a key")),
        strict=True,
    ):
        wire_.write(data)
    got = await answers(wires)
    assert [answer.status for answer in got] == [202, 202, 202, 202, 202, 422]
    assert got[1].body == got[2].body
    assert [answer.headers.get("idempotent-replayed") for answer in got] == [None, None, "true", None, None, None]
    assert sorted((await scene.stored()).values()) == sorted([b"0"] * 7 + [b"1", b"2", b"3"])
    assert scene.counted(_ROUTE, 202) == 6 + 5
    assert scene.counted("refused", 422) == 1
    assert await scene.room() == _MOST


async def test_what_has_a_key_does_not_wait_for_the_others_nor_they_for_it(scene: Scene) -> None:
    plain, keyed, other = await scene.wires(3)
    scene.gate.open.clear()
    for wire_ in (plain, keyed):
        wire_.write(post(body(b"1")))
    keyed_too = post(body(b"1"), "/webhooks/app/enqueue", b"Idempotency-Key: k")
    other.write(keyed_too)
    await until(lambda: len(scene.gate.asked) == 2)
    assert await scene.room() == _MOST - 3
    scene.gate.open.set()
    assert [answer.status for answer in await answers([plain, keyed, other])] == [202] * 3
    assert await scene.room() == _MOST


async def test_those_with_a_key_are_under_way_from_the_beginning(scene: Scene) -> None:
    key = (b"idempotency-key", b"k")
    alone = await scene.app.begin(request(b"1", "app", key))
    assert isinstance(alone, Coroutine)
    begun: list[Any] = [await scene.app.begin(request(b"1")) for _ in range(_MOST - 1)]
    for refused in (request(b"1"), request(b"1", "app", key)):
        found = await scene.app.begin(refused)
        assert isinstance(found, Reply)
        assert found.status == 503
    assert (await scene.app.respond(Request("GET", "/health", {b"host": b"localhost"}))).status == 503
    scene.app.drop(begun)
    assert (await alone).status == 202
    assert await scene.room() == _MOST


async def test_more_bytes_than_fit_one_group_take_several_appends(scene: Scene) -> None:
    wires = await scene.wires(40)
    payloads = [b'"%b"' % (b"%d" % (number % 10) * 15_000) for number in range(40)]
    for wire_, payload in zip(wires, payloads, strict=True):
        wire_.write(post(body(payload)))
    got = await answers(wires)
    assert [answer.status for answer in got] == [202] * 40
    stored = await scene.stored()
    assert [stored[answer.json()["webhook_id"]] for answer in got] == payloads
    assert sum([len(records) for records in scene.gate.asked]) == 40
    assert len(scene.gate.asked) == 3
    assert max(sum([len(record.value) for record in records]) for records in scene.gate.asked) < 300_000
    assert await scene.room() == _MOST


async def test_a_client_that_reads_nothing_holds_nobody_up(scene: Scene) -> None:
    stuck, first, second = await scene.wires(3)
    before = await scene.stored()
    stuck.write(get("/metrics"))
    head = await stuck.line()
    assert b"content-length: %d\r\n" % len(_FLOOD) in head
    first.write(post(body(b"1")))
    stuck.write(post(body(b"2")), post(body(b"6")), post(body(b"7")))
    second.write(post(body(b"3")))
    assert [answer.status for answer in await answers([first, second])] == [202] * 2
    assert [len(records) for records in scene.gate.asked] == [3]
    for wire_ in (first, second):
        wire_.write(post(body(b"4")))
    assert [answer.status for answer in await answers([first, second])] == [202] * 2
    # An answer that there is no room for is kept, and no further request begun.
    assert sorted((await scene.stored()).values()) == sorted([*before.values(), b"1", b"2", b"3", b"4", b"4"])
    async with asyncio.timeout(15):
        assert await stuck.reader.readexactly(len(_FLOOD)) == _FLOOD
    answer = await stuck.answer()
    assert (answer.status, answer.closes) == (202, False)
    assert (await scene.stored())[answer.json()["webhook_id"]] == b"2"
    assert [(await stuck.answer()).status for _ in range(2)] == [202] * 2
    stuck.write(post(body(b"5")))
    assert (await stuck.answer()).status == 202
    expected = [*before.values(), *[b"%d" % number for number in (1, 2, 3, 4, 4, 5, 6, 7)]]
    assert sorted((await scene.stored()).values()) == sorted(expected)
    assert await scene.room() == _MOST


async def test_who_leaves_before_his_answer_spoils_nothing_for_the_others(scene: Scene) -> None:
    leaving, staying = await scene.wires(2)
    scene.gate.open.clear()
    leaving.write(post(body(b"1")))
    staying.write(post(body(b"2")))
    await until(lambda: len(scene.gate.asked) == 1)
    # A reset: its connection is lost before there is an answer.
    leaving.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    leaving.writer.transport.abort()
    await until(lambda: len(scene.door.server.server_state.connections) == 1)
    scene.gate.open.set()
    answer = await staying.answer()
    assert answer.status == 202
    # What was whole was taken, for whoever sent it does not know.
    assert sorted((await scene.stored()).values()) == [b"0", b"0", b"1", b"2"]
    assert await scene.room() == _MOST


async def test_a_graceful_stop_answers_those_that_are_under_way_together(scene: Scene) -> None:
    *asking, idle = await scene.wires(5)
    scene.gate.open.clear()
    for wire_ in asking:
        wire_.write(post(body(b"1")))
    await until(lambda: len(scene.gate.asked) == 1)
    scene.door.server.should_exit = True
    assert await idle.rest() == b""
    assert not scene.door.done.done()
    scene.gate.open.set()
    assert [(answer.status, answer.closes) for answer in await answers(asking)] == [(202, True)] * 4
    assert [await wire_.rest() for wire_ in asking] == [b""] * 4
    async with asyncio.timeout(10):
        await scene.door.done
    assert len(await scene.stored()) == 9
    assert await scene.room() == _MOST


async def test_pipelined_requests_are_answered_in_their_order_beside_those_of_others(scene: Scene) -> None:
    wires = await scene.wires(3)
    for wire_ in wires:
        wire_.write(*[post(body(b"%d" % number) if number != 2 else b"{") for number in range(5)])
    for wire_ in wires:
        got = [await wire_.answer() for _ in range(5)]
        assert [answer.status for answer in got] == [202, 202, 400, 202, 202]
        stored = await scene.stored()
        ids = [answer.json()["webhook_id"] for answer in got if answer.status == 202]
        assert [stored[webhook_id] for webhook_id in ids] == [b"0", b"1", b"3", b"4"]
    assert [len(records) for records in scene.gate.asked] == [3] * 4
    assert await scene.room() == _MOST


async def test_a_full_log_turns_each_away_and_takes_none(scene: Scene) -> None:
    house = scene.corridor.house
    wires = await scene.wires(4)
    while not house.retain.fullness.closed:
        await scene.corridor.send("http://127.0.0.1:9/", b'"%b"' % (b"x" * 900_000))
        await house.retain.turn()
    scene.gate.asked.clear()
    for wire_ in wires:
        wire_.write(post(body(b"1")))
    for answer in await answers(wires):
        assert (answer.status, answer.json()["code"], answer.headers["retry-after"]) == (503, "log_full", "10")
        assert not answer.closes
    assert scene.gate.asked == []
    assert scene.counted("refused", 503) == 4


async def test_in_a_crowded_door_only_who_brought_most_is_told_to_wait(scene: Scene) -> None:
    greedy, modest = await scene.wires(2)
    begun: list[Any] = [await scene.app.begin(request(b"1", "modest"))]
    begun += [await scene.app.begin(request(b"1", "greedy")) for _ in range(3_400)]
    assert not any(isinstance(found, Reply) for found in begun[:3_000])
    greedy.write(post(body(b"1"), "/webhooks/greedy/enqueue"))
    modest.write(post(body(b"1"), "/webhooks/modest/enqueue"))
    refused, taken = await answers([greedy, modest])
    assert (refused.status, refused.json()["code"]) == (429, "over_share")
    assert taken.status == 202
    scene.app.drop([found for found in begun if not isinstance(found, Reply)])
    assert await scene.room() == _MOST


# Groups by themselves


class Asked:
    """A place that a request came to, and what it was given."""

    def __init__(self, request_: Request) -> None:
        self.request = request_
        self.given: list[tuple[Reply, bool]] = []
        self.alone: list[Coroutine[Any, Any, Reply]] = []

    def give(self, reply: Reply, *, close: bool = False) -> None:
        self.given.append((reply, close))

    def go_on(self, answering: Coroutine[Any, Any, Reply]) -> None:
        self.alone.append(answering)

    def statuses(self) -> list[int]:
        return [reply.status for reply, _ in self.given]


async def test_a_group_is_bounded_and_so_is_what_one_append_holds(scene: Scene) -> None:
    together = Together(scene.app)
    asked = [Asked(request(b"%d" % number)) for number in range(300)]
    groups = [group for each in asked if (group := together.add(each)) is not None]
    assert len(groups) == 3
    for group in reversed(groups):
        await group.run_asgi(_nobody)
    assert [len(records) for records in scene.gate.asked] == [44, 128, 128]
    assert {tuple(each.statuses()) for each in asked} == {(202,)}
    stored = await scene.stored()
    assert len(stored) == 300
    assert scene.counted(_ROUTE, 202) == 300


async def test_what_comes_while_a_group_is_decided_belongs_to_the_next(scene: Scene) -> None:
    together = Together(scene.app)
    first, late = Asked(request(b"1")), Asked(request(b"2"))
    group = together.add(first)
    assert group is not None
    scene.gate.open.clear()
    running = asyncio.ensure_future(group.run_asgi(_nobody))
    await until(lambda: len(scene.gate.asked) == 1)
    following = together.add(late)
    assert following is not None
    assert following is not group
    scene.gate.open.set()
    await running
    await following.run_asgi(_nobody)
    assert (first.statuses(), late.statuses()) == ([202], [202])


async def test_a_group_that_is_ended_by_force_leaves_nobody_without_an_answer(scene: Scene) -> None:
    group, asked = Group(scene.app), [Asked(request(b"1")) for _ in range(3)]
    for each in asked:
        group.add(each)
    scene.gate.open.clear()
    running = asyncio.ensure_future(group.run_asgi(_nobody))
    await until(lambda: len(scene.gate.asked) == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [each.given[0][1] for each in asked] == [True] * 3
    assert [each.statuses() for each in asked] == [[500]] * 3
    assert await scene.room() == _MOST


class Broken(Asked):
    """One to which nothing can be given."""

    def give(self, reply: Reply, *, close: bool = False) -> None:
        raise MemoryError


async def test_an_answer_that_can_not_be_given_leaves_the_others_answered_and_nothing_under_way(scene: Scene) -> None:
    group = Group(scene.app)
    refused = Broken(request(b"1")._replace(body=b"{"))
    before, after = Asked(request(b"1")), Asked(request(b"2"))
    for each in (before, refused, after):
        group.add(each)
    with pytest.raises(MemoryError):
        await group.run_asgi(_nobody)
    assert (before.statuses(), after.statuses()) == ([500], [500])
    assert [close for _, close in (*before.given, *after.given)] == [True] * 2
    assert await scene.stored() == {}
    assert await scene.room() == _MOST


async def _nobody(scope: object, receive: object, send: object) -> None:
    raise AssertionError("a group asks its own app")
