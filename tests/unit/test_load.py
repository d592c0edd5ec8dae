"""The load and the sink of `howk bench`: what they count, over servers that answer as told, and what that comes to."""

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.e2e.harness import DEADLINE, clean_environment

from howk.cli.main import cli
from howk.testing.load import Load, Sink, arrived, figures, webhook

HEADERS = {"User-Agent": "test"}
Moments = dict[str, float]


@given(
    st.dictionaries(st.text("ab", min_size=1), st.floats(0, 100), min_size=1),
    st.dictionaries(st.text("ab", min_size=1), st.lists(st.floats(100, 200), min_size=1, max_size=3)),
)
def test_what_was_sent_arrived_or_is_lost_and_what_arrived_again_is_repeated(
    sent: Moments, arrivals: dict[str, list[float]]
) -> None:
    found = figures(sent, 100.0, {id_: sorted(times) for id_, times in arrivals.items()})
    assert found.accepted == len(sent)
    assert set(found.lost) == set(sent) - set(arrivals)
    assert found.repeated == sum(len(arrivals[id_]) - 1 for id_ in set(sent) & set(arrivals))
    assert 0 <= found.p50 <= found.p99 <= 200_000


def test_rates_and_latencies_are_of_the_run() -> None:
    sent = {str(n): n / 10 for n in range(10)}
    found = figures(sent, 2.0, {id_: [at + 0.5] for id_, at in sent.items()})
    assert found.accepted_per_second == 5.0
    assert found.delivered_per_second == pytest.approx(10 / 1.4)
    assert (found.p50, found.p99) == (pytest.approx(500), pytest.approx(500))
    assert figures({}, 0.0, {}).accepted_per_second == 0


@pytest.mark.parametrize("size", [25, 100, 5_000])
def test_the_payload_has_the_size_that_was_asked_for(size: int) -> None:
    payload = json.loads(webhook("http://sink/", size))["payload"]
    assert len(json.dumps(payload, separators=(",", ":"))) == size


@asynccontextmanager
async def door(*answers: tuple[int, str], delivers: bool = False) -> AsyncIterator[str]:
    """A door that gives these answers in turn, the last again and again; status 0 closes. `{id}` is a new id. What it
    accepts it hands to the endpoint at once where it `delivers`."""
    numbers = itertools.count()
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                body = await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r")[0]))
                status, text = left.pop(0) if len(left) > 1 else left[0]
                if not status:
                    break
                id_ = f"wh_{next(numbers)}"
                answer = text.replace("{id}", id_).encode()
                writer.write(b"HTTP/1.1 %d Told\r\nContent-Length: %d\r\n\r\n%b" % (status, len(answer), answer))
                if delivers and status == 202:
                    await deliver(json.loads(body)["endpoint"], id_)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def deliver(url: str, id_: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2].rstrip("/")))
    writer.write(f"POST / HTTP/1.1\r\nwebhook-id: {id_}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


ACCEPTED = (202, '{"webhook_id":"{id}","status":"pending"}')


@pytest.mark.parametrize("rate", [0.0, 500.0])
async def test_as_many_are_sent_as_were_asked_for_and_each_is_found_at_the_sink(rate: float) -> None:
    async with Sink() as sink, door(ACCEPTED, delivers=True) as url:
        load = Load(url, webhook(sink.url, 100), HEADERS, 50, rate)
        await load.run(4)
        await arrived(sink, load.sent, 10.0, lambda _: None)
        assert len(load.sent) == 50
        assert set(sink.arrivals) == set(load.sent)
        assert load.refusals == 0


async def test_a_refusal_is_counted_and_the_first_is_kept() -> None:
    async with door(ACCEPTED, (422, '{"code":"no"}'), (503, "full")) as url:
        load = Load(url, webhook("http://sink/", 100), HEADERS, 10)
        await load.run(1)
    assert (len(load.sent), load.refusals) == (1, 9)
    assert load.refused == [(422, '{"code":"no"}')]


@pytest.mark.parametrize("rate", [0.0, 500.0])
async def test_a_door_that_goes_ends_the_run_and_what_was_not_answered_counts_as_refused(rate: float) -> None:
    async with door(ACCEPTED, ACCEPTED, (0, "")) as url:
        load = Load(url, webhook("http://sink/", 100), HEADERS, 10, rate)
        async with asyncio.timeout(DEADLINE):
            await load.run(2)
    assert (len(load.sent), load.refusals) == (2, 8)
    assert load.refused[0].status == 0


@pytest.mark.e2e
async def test_the_benchmark_delivers_everything_through_a_howk_of_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "howk", "bench", "--count", "300", "--dir", str(tmp_path), "--json"],
        cwd=tmp_path,
        env=clean_environment(tmp_path, {"HOWK_API_PORT": "not for the benchmark"}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE):
        said, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    found = json.loads(said)
    assert found["accepted"] >= 300
    assert (found["refused"], found["lost"], found["repeated"]) == (0, 0, 0)
    assert found["accepted_per_second"] > 0
    assert found["delivered_per_second"] > 0
    assert 0 < found["latency_p50_ms"] <= found["latency_p99_ms"]
    assert list(tmp_path.iterdir()) == []


def test_a_howk_that_is_not_there_is_not_measured() -> None:
    done = CliRunner().invoke(cli, ["bench", "--url", "http://127.0.0.1:1"], prog_name="howk")
    assert done.exit_code == 1
    assert "nothing answers" in done.stderr


def test_a_place_that_is_not_there_is_said() -> None:
    done = CliRunner().invoke(cli, ["bench", "--dir", "/absent"], prog_name="howk")
    assert done.exit_code == 1
    assert "choose one with --dir" in done.stderr
