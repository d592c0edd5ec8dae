"""Connections kept, replaced, bounded and given up, and calls that wait for one."""

import asyncio
from typing import Any

import pytest
from tests.adapters.outbound.support import OK, PATIENCE, Answers, Server, Stage, request, send, send_one, until

from howk.adapters.outbound.sender import OutboundSender
from howk.ports.sender import Answer, Call, Origin


class Gate:
    """A server that answers only when told to."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.permits = asyncio.Semaphore(0)
        self.server = Server()

    async def open(self) -> Server:
        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while raw := await request(reader):
                await self.server.note(raw)
                await self.permits.acquire()
                writer.write(OK)
                await writer.drain()

        self.server = await self.stage.server(behave)
        return self.server

    def answer(self, count: int) -> None:
        for _ in range(count):
            self.permits.release()


async def test_calls_in_turn_use_one_connection(stage: Stage) -> None:
    server = await stage.answering(OK)
    sender = stage.sender()
    for _ in range(50):
        assert (await send_one(sender, server.call())).status == 200
    assert server.connections == 1
    assert (sender.dials, sender.reuses, sender.stale_retries, sender.open_connections) == (1, 49, 0, 1)


async def test_calls_at_once_use_a_connection_each(stage: Stage) -> None:
    gate = Gate(stage)
    server = await gate.open()
    sender = stage.sender()
    answers = Answers()
    sender.send([server.call() for _ in range(5)], answers)
    await server.received(5)
    gate.answer(5)
    await answers.all(5)
    assert server.connections == sender.open_connections == sender.idle_connections == 5


async def test_the_connection_used_last_is_used_next(stage: Stage) -> None:
    gate = Gate(stage)
    server = await gate.open()
    sender = stage.sender(idle_timeout=PATIENCE)
    answers = Answers()
    sender.send([server.call(), server.call()], answers)
    await server.received(2)
    gate.answer(100)
    await answers.all(2)
    for _ in range(10):
        await send_one(sender, server.call())
    assert server.connections == 2


async def test_no_answer_comes_from_inside_send(stage: Stage) -> None:
    server = await stage.answering(OK)
    sender = stage.sender()
    answers = Answers()
    bad = server.call(target=b"no path")
    sender.send([bad, server.call(origin=Origin("ftp", "a", 1)), server.call()], answers)
    assert answers.came == []
    assert sender.in_flight() == 3
    await answers.all(3)
    assert sender.in_flight() == 0


async def test_a_call_may_be_sent_from_inside_answered(stage: Stage) -> None:
    server = await stage.answering(OK)
    sender = stage.sender()
    statuses: list[int] = []
    done = asyncio.Event()

    def again(call: Call, answer: Answer) -> None:
        statuses.append(answer.status)
        if len(statuses) < 20:
            sender.send([call], again)
        else:
            done.set()

    sender.send([server.call()], again)
    await done.wait()
    assert statuses == [200] * 20
    assert server.connections == 1


async def test_an_answered_that_raises_is_reported_and_costs_the_others_nothing(stage: Stage) -> None:
    gate = Gate(stage)
    server = await gate.open()
    sender = stage.sender()
    answers = Answers()
    calls = [server.call(context=number) for number in range(6)]

    def answered(call: Call, answer: Answer) -> None:
        answers(call, answer)
        if call.context in (0, 3):
            raise LookupError(f"call {call.context}")

    sender.send(calls, answered)
    await server.received(6)
    gate.answer(100)
    await answers.all(6)
    assert (await send_one(sender, server.call())).status == 200
    assert sender.in_flight() == 0
    assert server.connections == 6
    assert sorted(str(context["exception"]) for context in stage.reported) == ["call 0", "call 3"]
    stage.reported.clear()


async def test_no_more_than_the_limit_of_an_origin_are_open_and_the_rest_wait_in_order(stage: Stage) -> None:
    gate = Gate(stage)
    server = await gate.open()
    sender = stage.sender(max_per_origin=3)
    answers = Answers()
    sender.send([server.call(b"%d" % number) for number in range(9)], answers)
    await server.received(3)
    assert server.connections == sender.open_connections == 3
    for more in range(4, 10):
        gate.answer(1)
        await server.received(more)
    gate.answer(3)
    await answers.all(9)
    assert server.connections == 3
    bodies = [raw.rpartition(b"\r\n\r\n")[2] for raw in server.requests]
    assert sorted(bodies[:3]) == [b"0", b"1", b"2"]
    assert bodies[3:] == [b"%d" % number for number in range(3, 9)]


async def test_waiting_for_a_connection_uses_up_no_timeout(stage: Stage) -> None:
    server = await stage.silent()
    sender = stage.sender(max_per_origin=1)
    answers = Answers()
    sender.send([server.call(timeout=0.2) for _ in range(3)], answers)
    came = await answers.all(3)
    assert [(answer.failure, answer.timings.total >= 0.2) for answer in came] == [("timeout", True)] * 3
    # Each was sent, though the last waited for longer than its timeout.
    await server.received(3)
    assert len(server.requests) == server.connections == 3


async def test_an_origin_at_its_limit_holds_up_no_other(stage: Stage) -> None:
    hanging = await stage.silent()
    healthy = await stage.answering(OK)
    sender = stage.sender(max_per_origin=1)
    sender.send([hanging.call() for _ in range(5)], Answers())
    answers = await send(sender, [healthy.call() for _ in range(5)])
    assert [answer.status for answer in answers] == [200] * 5
    assert sender.in_flight() == 5


async def test_what_waits_goes_on_when_the_connection_before_it_fails(stage: Stage) -> None:
    server = await stage.answering(b"", OK, close=True)
    sender = stage.sender(max_per_origin=1)
    answers = await send(sender, [server.call() for _ in range(4)])
    assert [answer.failure for answer in answers] == ["reset"] * 4
    assert server.connections == 4


async def closing_after(stage: Stage, count: int, answers: bytes = OK) -> Server:
    """Answers `count` requests of a connection, reads the next one and closes without a word."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(count):
            await server.note(await request(reader))
            writer.write(answers)
        await server.note(await request(reader))

    server = await stage.server(behave)
    return server


async def test_a_pooled_connection_that_closes_before_the_answer_is_replaced_once(stage: Stage) -> None:
    server = await closing_after(stage, 1)
    sender = stage.sender()
    first = await send_one(sender, server.call(b"first"))
    second = await send_one(sender, server.call(b"second"))
    assert (first.status, second.status) == (200, 200)
    assert (server.connections, sender.dials, sender.stale_retries) == (2, 2, 1)
    assert [raw.rpartition(b"\r\n\r\n")[2] for raw in server.requests] == [b"first", b"second", b"second"]


async def test_a_replacement_that_fails_too_is_a_failure(stage: Stage) -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.note(await request(reader))
        if server.connections == 1:
            writer.write(OK)
            await server.note(await request(reader))

    server = await stage.server(behave)
    sender = stage.sender()
    assert (await send_one(sender, server.call())).status == 200
    answer = await send_one(sender, server.call())
    assert (answer.status, answer.failure) == (0, "reset")
    assert (server.connections, sender.stale_retries) == (2, 1)


async def test_a_pooled_connection_that_breaks_within_the_answer_is_not_replaced(stage: Stage) -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK)
        await request(reader)
        writer.write(b"HTTP/1.1 2")

    server = await stage.server(behave)
    sender = stage.sender()
    await send_one(sender, server.call())
    assert (await send_one(sender, server.call())).failure == "reset"
    assert (server.connections, sender.stale_retries) == (1, 0)


async def test_a_replacement_takes_the_place_of_the_old_one_within_the_limit(stage: Stage) -> None:
    server = await closing_after(stage, 1)
    sender = stage.sender(max_per_origin=1)
    await send_one(sender, server.call())
    most = 0

    def seen(_: Call, answer: Answer) -> None:
        nonlocal most
        most = max(most, sender.open_connections)
        answers(_, answer)

    answers = Answers()
    sender.send([server.call() for _ in range(6)], seen)
    assert [answer.status for answer in await answers.all(6)] == [200] * 6
    assert most <= 2


async def test_the_clock_of_a_replaced_call_runs_on(stage: Stage) -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        if server.connections > 1:
            await asyncio.sleep(PATIENCE)
        writer.write(OK)
        await request(reader)
        await asyncio.sleep(0.5)

    server = await stage.server(behave)
    sender = stage.sender()
    await send_one(sender, server.call())
    answers, in_time = Answers(), list[bool]()
    # Before a clock that began with its second connection were over, however late the loop is with both.
    asyncio.get_running_loop().call_later(1.0, lambda: in_time.append(bool(answers.came)))
    sender.send([server.call(timeout=0.7)], answers)
    (answer,) = await answers.all(1)
    await until(lambda: bool(in_time))
    assert answer.failure == "timeout"
    assert answer.timings.total >= 0.7
    assert (in_time, sender.stale_retries) == ([True], 1)


async def test_an_idle_connection_that_the_receiver_closes_is_dropped(stage: Stage) -> None:
    server = await stage.answering(OK, close=True)
    sender = stage.sender()
    await send_one(sender, server.call())
    await until(lambda: not sender.open_connections)
    await send_one(sender, server.call())
    assert (server.connections, sender.stale_retries) == (2, 0)


async def test_an_idle_connection_on_which_something_comes_is_dropped(stage: Stage) -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK)
        await speak.wait()
        writer.write(OK)
        await reader.read()

    speak = asyncio.Event()
    server = await stage.server(behave)
    sender = stage.sender()
    await send_one(sender, server.call())
    speak.set()
    await until(lambda: not sender.open_connections)
    assert (await send_one(sender, server.call())).status == 200
    assert server.connections == 2


async def test_an_idle_connection_is_closed_after_its_time(stage: Stage) -> None:
    server = await stage.answering(OK)
    sender = stage.sender(idle_timeout=0.1)
    opened: list[int] = []
    sender.send([server.call()], lambda call, answer: opened.append(sender.open_connections))
    await until(lambda: bool(opened) and not sender.open_connections)
    assert opened == [1]
    assert sender.origins == sender.idle_connections == 0


async def test_of_too_many_idle_connections_the_oldest_is_closed(stage: Stage) -> None:
    servers = [await stage.answering(OK) for _ in range(4)]
    sender = stage.sender(max_idle=2)
    for server in servers:
        await send_one(sender, server.call())
    await until(lambda: sender.open_connections == 2)
    assert sender.idle_connections == sender.origins == 2
    for server in reversed(servers):
        await send_one(sender, server.call())
    assert [server.connections for server in servers] == [2, 2, 1, 1]


async def test_many_origins_leave_nothing_behind(stage: Stage) -> None:
    sender = stage.sender(max_idle=10)
    server = await stage.answering(OK)
    ended = await stage.answering(OK, close=True)
    # Each loopback address is an origin of its own.
    origins = [Origin("http", f"127.0.{n // 250}.{n % 250 + 1}", server.port) for n in range(1000)]
    await send(sender, [server.call(origin=origin) for origin in origins])
    await send(sender, [ended.call() for _ in range(100)])
    await until(lambda: sender.open_connections <= 10)
    assert sender.origins <= 10


async def test_drain_is_true_once_everything_is_answered(stage: Stage) -> None:
    gate = Gate(stage)
    server = await gate.open()
    sender = stage.sender()
    assert await sender.drain(0)
    answers = Answers()
    sender.send([server.call() for _ in range(3)], answers)
    drains = [asyncio.ensure_future(sender.drain(PATIENCE)) for _ in range(2)]
    await server.received(3)
    assert not any(drain.done() for drain in drains)
    gate.answer(3)
    assert await asyncio.gather(*drains) == [True, True]
    assert len(answers.came) == 3


async def test_drain_is_false_when_time_runs_out(stage: Stage) -> None:
    server = await stage.silent()
    sender = stage.sender()
    sender.send([server.call()], Answers())
    assert not await sender.drain(0.05)
    assert sender.in_flight() == 1


async def hold(sender: OutboundSender, server: Server, answers: Answers) -> None:
    """Calls that are answered by no one, and one more than the limit of two."""
    sender.send([server.call() for _ in range(3)], answers)
    await server.received(2)


async def test_abort_answers_everything_as_cancelled(stage: Stage) -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(PATIENCE)
        return []

    server = await stage.silent()
    sender = stage.sender(never, max_per_origin=2)
    answers = Answers()
    await hold(sender, server, answers)
    sender.send([server.call(origin=Origin("http", "name.example", 80)) for _ in range(3)], answers)
    sender.abort()
    assert answers.came == []
    assert [answer.failure for answer in await answers.all(6)] == ["cancelled"] * 6
    assert await sender.drain(0)
    await until(lambda: not sender.open_connections and not sender.origins)


async def test_a_sender_works_on_after_abort(stage: Stage) -> None:
    server = await stage.answering(OK)
    sender = stage.sender()
    answers = Answers()
    sender.send([server.call() for _ in range(5)], answers)
    sender.abort()
    await answers.all(5)
    assert (await send_one(sender, server.call())).status == 200


@pytest.mark.parametrize("turns", range(12))
async def test_abort_at_any_moment_answers_each_call_once(stage: Stage, turns: int) -> None:
    server = await stage.answering(OK)
    sender = stage.sender(max_per_origin=3)
    answers = Answers()
    sender.send([server.call() for _ in range(6)], answers)
    for _ in range(turns):
        await asyncio.sleep(0)
    sender.abort()
    came = await answers.all(6)
    assert {answer.failure for answer in came} <= {"", "cancelled"}


async def test_close_ends_connections_and_answers_what_is_left(stage: Stage) -> None:
    server = await stage.silent()
    answering = await stage.answering(OK)
    sender = stage.sender(max_per_origin=2)
    await send_one(sender, answering.call())
    answers = Answers()
    await hold(sender, server, answers)
    await sender.close()
    assert [answer.failure for answer in await answers.all(3)] == ["cancelled"] * 3
    assert sender.open_connections == sender.origins == sender.in_flight() == 0


@pytest.mark.parametrize("turns", range(12))
async def test_close_at_any_moment_answers_each_call_once(stage: Stage, turns: int) -> None:
    server = await stage.answering(OK)
    sender = stage.sender()
    answers = Answers()
    sender.send([server.call() for _ in range(3)], answers)
    for _ in range(turns):
        await asyncio.sleep(0)
    await sender.close()
    assert len(await answers.all(3)) == 3
    assert sender.open_connections == 0


async def test_a_call_after_close_is_cancelled(stage: Stage) -> None:
    server = await stage.answering(OK)
    sender = stage.sender()
    await sender.close()
    await sender.close()
    answer = await send_one(sender, server.call())
    assert (answer.status, answer.failure, answer.error) == (0, "cancelled", "the sender is closed")
    assert server.connections == 0


async def test_a_thousand_mixed_calls_are_each_answered_once(stage: Stage) -> None:
    async def moody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while raw := await request(reader):
            mood = int(raw.rpartition(b"\r\n\r\n")[2]) % 7
            if mood == 5:
                return
            if mood == 6:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
                return
            writer.write(OK)
            if mood == 4:
                return

    server = await stage.server(moody)
    sender = stage.sender(max_per_origin=8)
    seen: dict[Any, int] = {}
    answers = Answers()

    def answered(call: Call, answer: Answer) -> None:
        seen[call.context] = seen.get(call.context, 0) + 1
        answers(call, answer)

    sender.send([server.call(b"%d" % number, context=number) for number in range(1000)], answered)
    await answers.all(1000)
    assert seen == dict.fromkeys(range(1000), 1)
    for call, answer in answers.came:
        mood = int(call.body) % 7
        assert answer.failure == ("reset" if mood >= 5 else "")
    assert sender.open_connections <= 8


async def test_a_call_that_a_bug_stops_leaves_those_before_it_begun_and_counts_no_other(stage: Stage) -> None:
    gate = Gate(stage)
    server = await gate.open()
    sender = stage.sender()
    answers = Answers()
    with pytest.raises(TypeError):
        sender.send([server.call(), server.call(target=None), server.call()], answers)
    assert sender.in_flight() == 1
    assert sender.connections().dials == 1
    gate.answer(1)
    assert [answer.status for answer in await answers.all(1)] == [200]
    assert sender.in_flight() == 0


async def test_an_answer_tells_its_whole_size_though_less_is_kept(stage: Stage) -> None:
    server = await stage.answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
    answer = await send_one(stage.sender(capture=10), server.call())
    assert (len(answer.body), answer.size, answer.truncated) == (10, 1000, True)
