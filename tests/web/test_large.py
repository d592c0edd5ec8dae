"""Large bodies at the door: a bounded number of bytes at once, the others in line, and small requests beside them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.support import Corridor, opened
from tests.web.serving import BOUNDS, Answer, Wire, post, serving

from howk.domain.line import LineBounds
from howk.web.app import App, Limits
from howk.web.guard import Guard
from howk.web.large import LargeBodies
from howk.web.refusals import Refusals

SMALL = b'{"endpoint":"http://127.0.0.1:9/","payload":1}'
LARGE = b'{"endpoint":"http://127.0.0.1:9/","payload":"%b"}' % (b"x" * 150_000)
WHOLE = b'{"endpoint":"http://127.0.0.1:9/","payload":"%b"}' % (b"x" * 20_000)
# Two of LARGE fill it.
LINE = LineBounds(most=301_000, most_held=8 << 20, first_read=256 << 10, slow=60.0, patience=60.0)
DEADLINE = 15.0
Opened = Callable[[LargeBodies], App]


@pytest.fixture
async def corridor(tmp_path: Path) -> AsyncIterator[Corridor]:
    async with opened(tmp_path) as found:
        await found.house.reconcile.recover()
        yield found


@pytest.fixture
def door(corridor: Corridor) -> Opened:
    """An app with a line of its own."""

    async def ready() -> str:
        return ""

    def app(large: LargeBodies) -> App:
        return App(
            corridor.house.ingest,
            corridor.engines.state,
            Guard((), loopback_only=True),
            Limits(request=200_000, batch=1_000_000, items=1_000),
            corridor.metrics,
            corridor.metrics.expose,
            ready,
            Refusals(corridor.notes),
            large=large,
        )

    return app


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not true():
            await asyncio.sleep(0)


async def answered(wire: Wire) -> int:
    return (await wire.answer()).status


async def begin(stack: AsyncExitStack, port: int, large: LargeBodies, count: int) -> list[Wire]:
    """So many that bring a part of a large body each and are let in."""
    wires: list[Wire] = []
    for number in range(count):
        wire = await stack.enter_async_context(Wire.open(port))
        wire.write(post(LARGE)[:50_000])
        await until(lambda number=number: large.inside >= (number + 1) * len(LARGE))
        wires.append(wire)
    return wires


async def test_small_ones_pass_large_ones_that_stand_in_line(door: Opened) -> None:
    large = LargeBodies(LINE)
    async with serving(door(large)) as served, AsyncExitStack() as stack:
        first, second = await begin(stack, served.port, large, 2)
        third = await stack.enter_async_context(Wire.open(served.port))
        third.write(post(LARGE))
        await until(lambda: large.standing == 1)
        small = await stack.enter_async_context(Wire.open(served.port))
        small.write(post(SMALL))
        assert await answered(small) == 202
        assert (large.standing, large.inside) == (1, 2 * len(LARGE))
        first.write(post(LARGE)[50_000:])
        assert [await answered(first), await answered(third)] == [202, 202]
        second.write(post(LARGE)[50_000:])
        assert await answered(second) == 202
        assert (large.standing, large.inside) == (0, 0)


@pytest.mark.parametrize("body", [LARGE, WHOLE], ids=["in pieces", "in one read"])
async def test_no_more_bytes_are_inside_than_the_bound_and_everyone_is_answered(door: Opened, body: bytes) -> None:
    large = LargeBodies(LINE)
    seen = 0

    async def one(port: int) -> int:
        nonlocal seen
        async with Wire.open(port) as wire:
            statuses: list[int] = []
            for _ in range(3):
                wire.write(post(body))
                statuses.append(await answered(wire))
                seen = max(seen, large.inside)
            assert statuses == [202] * 3
        return len(statuses)

    async with serving(door(large)) as served:
        await asyncio.gather(*[one(served.port) for _ in range(24)])
        assert len(body) <= seen <= LINE.most
        assert (large.standing, large.inside) == (0, 0)


async def test_a_large_one_stands_in_line_although_its_head_is_known(door: Opened) -> None:
    large = LargeBodies(LINE)
    async with serving(door(large)) as served, AsyncExitStack() as stack:
        knowing = await stack.enter_async_context(Wire.open(served.port))
        for _ in range(2):
            knowing.write(post(SMALL))
            assert await answered(knowing) == 202
        first, _ = await begin(stack, served.port, large, 2)
        knowing.write(post(WHOLE))
        await until(lambda: large.standing == 1)
        first.write(post(LARGE)[50_000:])
        assert [await answered(first), await answered(knowing)] == [202, 202]


async def test_who_stands_too_long_is_told_when_to_come_again_and_its_connection_goes_on(door: Opened) -> None:
    large = LargeBodies(LINE._replace(patience=0.1))
    async with serving(door(large)) as served, AsyncExitStack() as stack:
        await begin(stack, served.port, large, 2)
        third = await stack.enter_async_context(Wire.open(served.port))
        third.write(post(LARGE))
        answer = await third.answer()
        assert (answer.status, answer.headers["retry-after"], answer.closes) == (503, "1", False)
        third.write(post(SMALL))
        assert await answered(third) == 202
        assert large.standing == 0


async def test_a_line_that_is_full_sends_away_at_once(door: Opened) -> None:
    large = LargeBodies(LINE._replace(most_held=200_000))
    async with serving(door(large)) as served, AsyncExitStack() as stack:
        await begin(stack, served.port, large, 2)
        third = await stack.enter_async_context(Wire.open(served.port))
        third.write(post(LARGE))
        await until(lambda: large.standing == 1)
        fourth = await stack.enter_async_context(Wire.open(served.port))
        fourth.write(post(LARGE))
        assert await answered(fourth) == 503
        assert large.standing == 1


async def test_a_client_that_stops_in_the_midst_does_not_keep_the_others_out(door: Opened) -> None:
    large = LargeBodies(LINE._replace(slow=1.0))
    async with serving(door(large)) as served, AsyncExitStack() as stack:
        slow = await begin(stack, served.port, large, 2)
        third = await stack.enter_async_context(Wire.open(served.port))
        third.write(post(LARGE))
        assert await answered(third) == 202
        for wire in slow:
            wire.write(post(LARGE)[50_000:])
            assert await answered(wire) == 202
        assert large.inside == 0


async def test_no_deadline_runs_for_a_body_that_stands_in_line(door: Opened) -> None:
    large = LargeBodies(LINE)
    async with serving(door(large), BOUNDS._replace(read_timeout=1.0)) as served, AsyncExitStack() as stack:
        for wire in await begin(stack, served.port, large, 2):
            third = await stack.enter_async_context(Wire.open(served.port))
            third.write(post(LARGE))
            # Those who are let in and stop are cut at their deadline, which passes for the others too.
            assert await answered(wire) == 408
            assert await answered(third) == 202


async def test_one_that_leaves_the_line_leaves_nothing_behind(door: Opened) -> None:
    large = LargeBodies(LINE)
    async with serving(door(large)) as served, AsyncExitStack() as stack:
        first, second = await begin(stack, served.port, large, 2)
        async with Wire.open(served.port) as third:
            third.write(post(LARGE))
            await until(lambda: large.standing == 1)
        for wire in (first, second):
            wire.write(post(LARGE)[50_000:])
            assert await answered(wire) == 202
        await until(lambda: (large.standing, large.inside) == (0, 0))


async def test_a_body_of_which_nobody_said_the_size_stands_in_line_too(door: Opened) -> None:
    large = LargeBodies(LINE)
    async with serving(door(large)) as served, AsyncExitStack() as stack:
        first, _ = await begin(stack, served.port, large, 2)
        third = await stack.enter_async_context(Wire.open(served.port))
        third.write(
            b"POST /webhooks/app/enqueue HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE)
        )
        await until(lambda: large.standing == 1)
        first.write(post(LARGE)[50_000:])
        assert [await answered(first), await answered(third)] == [202, 202]


async def test_a_large_batch_is_answered_for_each_item_in_its_place(door: Opened) -> None:
    large = LargeBodies(LINE)
    items = [SMALL, LARGE, b'{"endpoint":1}', LARGE, SMALL] * 2
    async with serving(door(large)) as served, Wire.open(served.port) as wire:
        wire.write(post(b'{"webhooks":[%b]}' % b",".join(items), "/webhooks/app/enqueue/batch"))
        answer: Answer = await wire.answer()
        assert answer.status == 202
        assert [item.get("code", "taken") for item in answer.json()["webhooks"]] == [
            "taken",
            "taken",
            "invalid_field",
            "taken",
            "taken",
        ] * 2
        assert large.inside == 0


async def test_where_the_line_is_long_a_config_over_its_share_is_sent_away_and_others_are_not(door: Opened) -> None:
    large = LargeBodies(LINE._replace(most_held=350_000))
    async with serving(door(large)) as served, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire.open(served.port)) for _ in range(4)]
        wires[0].write(post(LARGE))
        wires[1].write(post(SMALL, "/webhooks/other/enqueue"))
        assert [await answered(wire) for wire in wires[:2]] == [202, 202]
        await begin(stack, served.port, large, 2)
        for wire in wires[:2]:
            wire.write(post(LARGE))
        await until(lambda: large.standing == 2)
        wires[2].write(post(LARGE))
        assert (await wires[2].answer()).json()["code"] == "over_share"
        wires[3].write(post(WHOLE, "/webhooks/other/enqueue"))
        await until(lambda: large.standing == 3)
