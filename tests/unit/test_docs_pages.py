"""The pages say what is there: links lead somewhere, names and defaults are those declared, examples are taken."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from msgspec.json import decode

from howk.domain.config_defaults import ConfigRequest
from howk.domain.delivery import BREAKER, DELIVER_AT, LIMIT, ORDER, PAUSE, State
from howk.domain.records import DeadReason
from howk.flow.ingest import Enqueue
from howk.ports.telemetry import METRICS, Event
from howk.runtime.declaring import keys_of
from howk.runtime.settings import Settings

_ROOT = Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
_PAGES = sorted([*_DOCS.rglob("*.md"), *_ROOT.glob("*.md")])
_STATES = (_DOCS / "delivery-states.md").read_text()
_HOLDING = (_DOCS / "holding-back.md").read_text()
_SETTINGS = {key.name: key for key in keys_of(Settings)}
# Fields of a request, which are written alike.
_FIELDS = {"retry.on_status", "signing.secrets"}
_ABOUT_SETTINGS = [_DOCS / name for name in ("delivery-states.md", "holding-back.md", "ordering.md", "security.md")]


def _name(page: Path) -> str:
    return str(page.relative_to(_ROOT))


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _told(text: str) -> list[tuple[str, str]]:
    """Settings with their default behind them, in brackets or in the next cell."""
    return re.findall(r"`([a-z_]+\.[a-z_.]+)`\s(?:\(|\| )`([^`]+)`(?:\)|,| \|)", text)


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_every_link_to_a_page_leads_to_one_and_to_a_heading_of_it(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{_name(page)}: {link}"
        assert not anchor or anchor in _anchors(target), f"{_name(page)}: {link}"


def test_every_page_is_reached_from_the_first() -> None:
    reached, ahead = set[Path](), [_ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", _prose(page)) if "://" not in link]
        pages = {(page.parent / link).resolve() for link in links if link.endswith(".md")}
        ahead += [each for each in pages if each not in reached]
    missed = [_name(page) for page in _DOCS.rglob("*.md") if page not in reached and page.parent.name != "decisions"]
    assert missed == []


@pytest.mark.parametrize("state", get_args(State))
def test_every_state_is_in_the_table_and_in_the_picture(state: str) -> None:
    picture = _STATES.partition("```mermaid")[2].partition("```")[0]
    assert f"| `{state}` |" in _STATES
    assert re.search(rf"\b{state}\b", picture)


@pytest.mark.parametrize("reason", [*get_args(DeadReason), DELIVER_AT, BREAKER, LIMIT, PAUSE, ORDER])
def test_every_reason_says_what_to_do(reason: str) -> None:
    (row,) = re.findall(rf"^\| `{reason}` \|.*$", _STATES, re.MULTILINE)
    assert all(cell.strip() for cell in row.strip("|").split("|"))


@pytest.mark.parametrize("page", _ABOUT_SETTINGS, ids=_name)
def test_every_setting_on_a_page_exists_and_has_the_default_that_is_told(page: Path) -> None:
    text = page.read_text()
    sections = {name.partition(".")[0] for name in _SETTINGS if "." in name}
    named = {name for name in re.findall(r"`([a-z_]+\.[a-z_.]+)`", text) if name.partition(".")[0] in sections}
    assert named <= set(_SETTINGS) | _FIELDS
    for name, default in _told(text):
        assert (name, default) == (name, _SETTINGS[name].default)


def test_every_setting_of_holding_back_is_told_with_its_default() -> None:
    wanted = {name for name in _SETTINGS if name.startswith(("circuit_breaker.", "concurrency."))}
    assert wanted <= {name for name, _ in _told(_HOLDING)}


def test_the_metrics_and_lines_of_holding_back_are_declared() -> None:
    metrics = {metric.name: metric for metric in METRICS}
    for name, label in re.findall(r"`(howk_\w+)(?:\{(\w+)\})?`", _HOLDING):
        assert not label or label in metrics[name].labels
        assert name in metrics
    (row,) = re.findall(r"^\| lines (.*?) \|", _HOLDING, re.MULTILINE)
    lines = {event for event in get_args(Event) if event.startswith(("breaker_", "endpoint_"))}
    assert set(re.findall(r"`(\w+)`", row)) == lines


@pytest.mark.parametrize("page", ["ordering.md", "holding-back.md"])
def test_every_body_of_an_example_is_one_that_is_taken(page: str) -> None:
    text = (_DOCS / page).read_text()
    found = re.findall(r"curl (?:-X PUT )?(\S+) [^']*'Content-Type: application/json'[^']*'(.*?)'", text, re.DOTALL)
    assert found
    for url, body in found:
        assert json.loads(body)
        decode(body, type=ConfigRequest if "/config/" in url else Enqueue)


def test_decisions_are_numbered_in_order() -> None:
    names = sorted(path.name for path in (_DOCS / "decisions").glob("0*.md"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    for path in (_DOCS / "decisions").glob("0*.md"):
        assert path.read_text().startswith(f"# {int(path.name[:4])}. ")
