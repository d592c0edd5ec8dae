"""The reference pages name what the code declares."""

from pathlib import Path

from howk.domain.records import DeadReason
from howk.ports.telemetry import METRICS

_HTTP = (Path(__file__).parents[2] / "docs" / "reference" / "http.md").read_text()


def test_every_metric_is_in_the_reference_with_its_labels() -> None:
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        row = f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"
        assert row in _HTTP, f"write this row into docs/reference/http.md:\n{row}"


def test_every_dead_letter_reason_is_in_the_reference() -> None:
    for reason in DeadReason.__args__:
        assert f"| `{reason}` |" in _HTTP, reason
