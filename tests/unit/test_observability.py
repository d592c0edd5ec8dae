"""What is counted is exposed, and what is said is one line."""

import io
import json

import pytest

from howk.ports.telemetry import APPEND, BACKLOG, DURATION, METRICS, RECEIVED, REQUESTS
from howk.runtime.observability import Lines, Metrics


def test_every_declared_metric_is_exposed_before_anything_has_happened() -> None:
    text = Metrics().expose().decode()
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}" in text


def test_counts_add_up_by_their_labels() -> None:
    metrics = Metrics()
    metrics.count(RECEIVED, 2, "a")
    metrics.count(RECEIVED, 3, "a")
    metrics.count(REQUESTS, 1, "a", "202")
    text = metrics.expose().decode()
    assert f'{RECEIVED.name}{{route="a"}} 5.0' in text
    assert f'{REQUESTS.name}{{route="a",status="202"}} 1.0' in text


def test_a_gauge_shows_its_last_value() -> None:
    metrics = Metrics()
    metrics.gauge(BACKLOG, 7, "howk.pending")
    metrics.gauge(BACKLOG, 3, "howk.pending")
    assert f'{BACKLOG.name}{{stream="howk.pending"}} 3.0' in metrics.expose().decode()


def test_a_histogram_counts_a_value_in_every_bucket_it_fits() -> None:
    metrics = Metrics()
    metrics.observe(DURATION, (0.001, 0.002, 1000.0))
    lines = metrics.expose().decode().splitlines()
    assert f'{DURATION.name}_bucket{{le="0.001"}} 1.0' in lines
    assert f'{DURATION.name}_bucket{{le="0.0025"}} 2.0' in lines
    assert f'{DURATION.name}_bucket{{le="+Inf"}} 3.0' in lines
    assert f"{DURATION.name}_count 3.0" in lines
    assert f"{APPEND.name}_count 0.0" in lines


def test_without_a_terminal_a_line_is_one_json_document() -> None:
    stream = io.StringIO()
    Lines(stream).say("started", "howk listens", data_dir="x\ny")
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert (found["event"], found["level"], found["data_dir"]) == ("started", "info", "x\ny")
    assert found["time"].endswith("Z")


@pytest.mark.parametrize(("least", "said"), [("debug", 2), ("info", 2), ("warning", 1), ("error", 0)])
def test_what_is_below_the_level_is_not_written(least: str, said: int) -> None:
    stream = io.StringIO()
    lines = Lines(stream, form="human", least=least)
    lines.say("started", "one")
    lines.warn("cut_off", "two")
    assert len(stream.getvalue().splitlines()) == said
