"""What is not counted as it happens but read when somebody asks for metrics: backlogs, connections, sizes."""

from howk.ports.telemetry import (
    BACKLOG,
    CONNECTIONS,
    DIALS,
    IN_FLIGHT,
    LINES_DROPPED,
    LOG_SIZE,
    REUSES,
    STALE_CONNECTIONS,
    Meter,
    Metric,
)
from howk.runtime.lines import Lines
from howk.runtime.wiring import House


class Readings:
    """`read` brings the meter up to date."""

    def __init__(self, house: House, meter: Meter, lines: Lines) -> None:
        self._house = house
        self._meter = meter
        self._lines = lines
        self._before: dict[Metric, int] = {}

    def read(self) -> None:
        """Cheap enough for every scrape: nothing in it waits for anybody."""
        house, meter = self._house, self._meter
        log, _, sender, _ = house.engines
        meter.gauge(IN_FLIGHT, sender.in_flight())
        for stage in (house.deliver_stage, house.settle_stage):
            for stream, count in stage.backlog().items():
                meter.gauge(BACKLOG, count, stream)
        for part, size in log.sizes().items():
            meter.gauge(LOG_SIZE, size, part)
        found = sender.connections()
        meter.gauge(CONNECTIONS, found.open, "open")
        meter.gauge(CONNECTIONS, found.idle, "idle")
        self._rise(DIALS, found.dials)
        self._rise(REUSES, found.reuses)
        self._rise(STALE_CONNECTIONS, found.stale)
        self._rise(LINES_DROPPED, self._lines.dropped)

    def _rise(self, metric: Metric, total: int) -> None:
        self._meter.count(metric, total - self._before.get(metric, 0))
        self._before[metric] = total
