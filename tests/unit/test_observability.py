"""What is counted is exposed."""

from howk.ports.telemetry import APPEND, BACKLOG, DURATION, METRICS, RECEIVED, REQUESTS
from howk.runtime.observability import Metrics


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
