"""What is counted: the `Meter` behind /metrics.

Counting is adding to plain numbers, on the event loop only; Prometheus shapes are made when somebody asks for them.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)

from howk.ports.telemetry import METRICS, Metric

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_MOST_SERIES = 200
_OTHER = "other"


class _Histogram:
    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.sum = 0.0


class Metrics:
    """The `Meter` port, and a Prometheus collector of what it was told."""

    def __init__(self) -> None:
        self._counters: dict[tuple[Metric, str, str], int] = {}
        self._gauges: dict[tuple[Metric, str], float] = {}
        self._histograms: dict[Metric, _Histogram] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(self)  # pyright: ignore[reportArgumentType] - a collector is anything with `collect`

    def count(self, metric: Metric, amount: int = 1, label: str = "", second: str = "") -> None:
        """See the port."""
        key = (metric, label, second)
        if key not in self._counters and metric.labels and self._series(metric) >= _MOST_SERIES:
            # Labels are from small sets; should one not be, it does not grow for ever.
            key = (metric, _OTHER, _OTHER)
        self._counters[key] = self._counters.get(key, 0) + amount

    def _series(self, metric: Metric) -> int:
        return sum([key[0] is metric for key in self._counters])

    def observe(self, metric: Metric, values: Sequence[float]) -> None:
        """See the port."""
        histogram = self._histograms.get(metric)
        if histogram is None:
            histogram = self._histograms[metric] = _Histogram()
        for value in values:
            histogram.counts[bisect_left(_BUCKETS, value)] += 1
        histogram.sum += sum(values)

    def gauge(self, metric: Metric, value: float, label: str = "") -> None:
        """See the port."""
        self._gauges[metric, label] = value

    def expose(self) -> bytes:
        """Everything in the Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        """Every declared metric, those without a value too, so that a dashboard finds its series."""
        for metric in METRICS:
            match metric.kind:
                case "counter":
                    yield self._counter(metric)
                case "gauge":
                    yield self._gauge(metric)
                case "histogram":
                    yield self._histogram(metric)

    def _counter(self, metric: Metric) -> Family:
        family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        found = [(key[1:], value) for key, value in self._counters.items() if key[0] is metric]
        for labels, value in found:
            family.add_metric(labels[: len(metric.labels)], value)
        if not found and not metric.labels:
            family.add_metric((), 0)
        return family

    def _gauge(self, metric: Metric) -> Family:
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for (known, label), value in self._gauges.items():
            if known is metric:
                family.add_metric((label,) if metric.labels else (), value)
        return family

    def _histogram(self, metric: Metric) -> Family:
        family = HistogramMetricFamily(metric.name, metric.help)
        histogram = self._histograms.get(metric) or _Histogram()
        total = 0
        buckets: list[tuple[str, float]] = []
        for edge, count in zip((*map(str, _BUCKETS), "+Inf"), histogram.counts, strict=True):
            total += count
            buckets.append((edge, total))
        family.add_metric((), buckets=buckets, sum_value=histogram.sum)
        return family
