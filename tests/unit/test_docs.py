"""The reference pages name what the code declares."""

from pathlib import Path

from howk.cli.reference import reference
from howk.domain.records import DeadReason
from howk.ports.telemetry import METRICS

_REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
_HTTP = (_REFERENCE / "http.md").read_text()


def test_every_metric_is_in_the_reference_with_its_labels() -> None:
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        row = f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"
        assert row in _HTTP, f"write this row into docs/reference/http.md:\n{row}"


def test_every_dead_letter_reason_is_in_the_reference() -> None:
    for reason in DeadReason.__args__:
        assert f"| `{reason}` |" in _HTTP, reason


def test_the_reference_of_commands_is_the_one_made_from_them() -> None:
    again = "make it again: python -m howk.cli.reference > docs/reference/commands.md"
    assert (_REFERENCE / "commands.md").read_text("utf-8") == reference(), again
