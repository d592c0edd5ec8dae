"""Every metric that is declared moves with what it counts."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support import Corridor, Notes, opened, running

from howk.domain.errors import Transient
from howk.domain.records import PENDING
from howk.flow.stage import insist
from howk.ports.log import Record
from howk.ports.telemetry import (
    APPEND,
    ATTEMPTS,
    BACKLOG,
    CIRCUIT_MOVES,
    CIRCUITS_OPEN,
    CONNECTIONS,
    DEAD,
    DELIVERIES,
    DIALS,
    DURATION,
    END_TO_END,
    ERRORS,
    HELD,
    IN_FLIGHT,
    LINES_DROPPED,
    LOG_BUDGET,
    LOG_SIZE,
    LOG_USED,
    METRICS,
    POISON,
    REBUILD,
    RECEIVED,
    REQUESTS,
    RETRIES,
    RETRY_DEPTH,
    REUSES,
    SLOW_LANE,
    STAGE_RETRIES,
    STALE,
    STALE_CONNECTIONS,
    TRIMMED,
    Metric,
)
from howk.runtime.lines import Lines
from howk.runtime.observability import Metrics
from howk.runtime.readings import Readings
from howk.testing.receiver import Receiver

# Shown to move by test_door.py, test_poison.py, test_retention.py, and below.
_ELSEWHERE = {REQUESTS, POISON, HELD, CIRCUITS_OPEN, CIRCUIT_MOVES, TRIMMED}


def _values(text: str) -> Mapping[str, float]:
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _name(metric: Metric, *labels: str) -> str:
    return metric.name + ("_count" if metric.kind == "histogram" else "") + "".join(f"/{label}" for label in labels)


async def test_each_metric_moves_with_what_it_counts(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stalled:
        lines = Lines(stalled, form="json")
        async with Receiver(fail_first_n=1) as receiver, running(tmp_path, retry__jitter=0.0) as corridor:
            readings = Readings(corridor.house, corridor.metrics, lines)
            webhook_id = await corridor.send(receiver.url)
            await corridor.failed(webhook_id, attempts=1)
            await _shows(corridor, readings, _name(RETRY_DEPTH), 1)
            corridor.clock.advance(10_000)
            await corridor.ended(webhook_id)
            again = await _entry(corridor)
            await corridor.engines.log.append([Record(PENDING, "app/x", again), Record(PENDING, "app/y", b"?")])
            await corridor.failed(await corridor.send("http://127.0.0.1:9/"), attempts=1)
            receiver.hang = True
            await corridor.send(receiver.url)
            await _shows(corridor, readings, _name(IN_FLIGHT), 1)
            for _ in range(9_000):
                lines.say("started", "x" * 1_000)
            readings.read()
            shown = _values(corridor.metrics.expose().decode())
        os.close(reading)
    moved = {
        RECEIVED: ("test",),
        DELIVERIES: ("delivered",),
        ATTEMPTS: ("failed",),
        ERRORS: ("connect",),
        DURATION: (),
        END_TO_END: (),
        RETRIES: ("http",),
        DEAD: ("undecodable",),
        IN_FLIGHT: (),
        APPEND: (),
        REBUILD: (),
        STALE: (),
        SLOW_LANE: (),
        DIALS: (),
        REUSES: (),
        CONNECTIONS: ("open",),
        LOG_SIZE: ("wal",),
        LOG_USED: (),
        LOG_BUDGET: (),
        LINES_DROPPED: (),
    }
    assert {metric.name: shown[_name(metric, *labels)] > 0 for metric, labels in moved.items()} == {
        metric.name: True for metric in moved
    }
    assert {f"{BACKLOG.name}/{lane}" for lane in ("howk.pending", "howk.slow", "howk.results")} <= set(shown)
    assert shown["process_resident_memory_bytes"] > 0
    assert shown["process_start_time_seconds"] > 0
    shown_elsewhere = {RETRY_DEPTH, BACKLOG, STAGE_RETRIES, STALE_CONNECTIONS} | _ELSEWHERE
    assert set(METRICS) == set(moved) | shown_elsewhere


async def test_an_open_breaker_and_what_it_holds_are_shown_until_it_is_closed(tmp_path: Path) -> None:
    async with (
        Receiver(status=503) as receiver,
        running(tmp_path, retry__jitter=0.0) as corridor,
        _null() as lines,
    ):
        readings = Readings(corridor.house, corridor.metrics, lines)
        for _ in range(5):
            await corridor.failed(await corridor.send(receiver.url), attempts=1)
        held = [await corridor.send(receiver.url) for _ in range(3)]
        await _shows(corridor, readings, _name(HELD, "breaker"), 3)
        await _shows(corridor, readings, _name(CIRCUITS_OPEN), 1)
        receiver.status = 200
        corridor.clock.advance(300_000)
        for id_ in held:
            assert (await corridor.ended(id_)).state == "delivered"
        await _shows(corridor, readings, _name(HELD, "breaker"), 0)
        await _shows(corridor, readings, _name(CIRCUITS_OPEN), 0)
        shown = _values(corridor.metrics.expose().decode())
        assert [shown[_name(CIRCUIT_MOVES, to)] for to in ("open", "half_open", "closed")] == [1, 1, 1]


async def _shows(corridor: Corridor, readings: Readings, name: str, wanted: float) -> None:
    async with asyncio.timeout(20):
        while True:
            readings.read()
            if _values(corridor.metrics.expose().decode()).get(name) == wanted:
                return
            await asyncio.sleep(0)


async def _entry(corridor: Corridor) -> bytes:
    async for batch in corridor.engines.log.read(PENDING, 0, 0, 1):
        return batch[0].value
    raise AssertionError("nothing is pending")


async def test_the_backlog_is_what_waits_now_also_while_the_stage_does_not_move(tmp_path: Path) -> None:
    async with (
        Receiver(hang=True) as receiver,
        running(tmp_path, delivery__max_in_flight=1) as corridor,
        _null() as lines,
    ):
        readings = Readings(corridor.house, corridor.metrics, lines)
        for _ in range(3):
            await corridor.send(receiver.url)
        await _shows(corridor, readings, f"{BACKLOG.name}/howk.pending", 2)
        for _ in range(4):
            await corridor.send(receiver.url)
        await _shows(corridor, readings, f"{BACKLOG.name}/howk.pending", 6)


class _null:  # noqa: N801 - a context like those beside it
    async def __aenter__(self) -> Lines:
        self.stream = open(os.devnull, "w")  # noqa: ASYNC230, SIM115
        return Lines(self.stream)

    async def __aexit__(self, *_: object) -> None:
        self.stream.close()


async def test_a_kept_connection_that_was_closed_is_counted_stale(tmp_path: Path) -> None:
    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0]))
            if not answered:
                answered.append(1)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                continue
            if len(answered) == 1:
                answered.append(1)
                writer.close()
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()
            return

    answered: list[int] = []
    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, running(tmp_path) as corridor, _null() as lines:
        readings = Readings(corridor.house, corridor.metrics, lines)
        await corridor.ended(await corridor.send(url))
        assert (await corridor.ended(await corridor.send(url))).state == "delivered"
        await _shows(corridor, readings, _name(STALE_CONNECTIONS), 1)
        await _shows(corridor, readings, _name(DIALS), 2)


async def test_calls_that_are_made_again_are_counted_by_stage() -> None:
    metrics, left = Metrics(), [1, 1]

    async def act() -> None:
        if left:
            left.pop()
            raise Transient("not yet", retry_after=0.0)

    await insist(act, "deliver", metrics, Notes())
    assert _values(metrics.expose().decode())[_name(STAGE_RETRIES, "deliver")] == 2


async def test_the_backlog_is_unknown_before_the_stage_reads(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        assert corridor.house.settle_stage.backlog() == {}


@pytest.mark.parametrize("metric", [metric for metric in METRICS if metric.kind == "counter" and metric.labels])
def test_labels_are_bounded_whatever_comes(metric: Metric) -> None:
    metrics = Metrics()
    for i in range(1_000):
        metrics.count(metric, 1, f"label-{i}", "x")
    shown = {name: value for name, value in _values(metrics.expose().decode()).items() if name.startswith(metric.name)}
    assert len(shown) == 201
    assert sum(shown.values()) == 1_000
