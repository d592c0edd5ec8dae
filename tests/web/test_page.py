"""The page of the routes: whole, safe in itself, and nothing on it from elsewhere."""

import json
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support import opened

from howk.web.app import App, Limits
from howk.web.guard import Guard
from howk.web.openapi import ROUTES, document
from howk.web.page import page, render
from howk.web.refusals import Refusals

API = json.loads(document())
VOID = {"meta", "wbr"}


class Reader(HTMLParser):
    """What stands on a page; raises where a tag is not closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            self.style += data
        else:
            self.text += data

    def of(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(page().decode())


@pytest.fixture
async def answer(tmp_path: Path) -> Any:
    async def readiness() -> str:
        return ""

    async with opened(tmp_path) as corridor:
        guard, limits, metrics = Guard((), loopback_only=True), Limits(1, 1, 1), corridor.metrics
        state, refusals = corridor.engines.state, Refusals(corridor.notes)
        app = App(corridor.house.ingest, state, guard, limits, metrics, metrics.expose, readiness, refusals)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as door:
            yield await door.get("/docs")


def test_every_route_is_on_the_page_with_all_that_the_document_says_of_it(reader: Reader) -> None:
    sections = dict(re.findall(r'<article aria-labelledby="([^"]+)">(.*?)</article>', page().decode(), re.DOTALL))
    for route in ROUTES:
        operation = API["paths"][route.path][route.method.lower()]
        section = Reader(sections[operation["operationId"]])
        assert f"{route.method} {route.path}" in section.text
        assert operation["summary"].replace("`", "") in section.text
        assert ("key" in section.text.split()) == route.needs_key
        for parameter in operation.get("parameters", []):
            assert parameter["name"] in section.text
        for status, response in operation["responses"].items():
            assert status in section.text
            assert response["description"].replace("`", "") in section.text
            for reference in references(response):
                assert f"#schema-{reference}" in section.of("href")
        for reference in references(operation.get("requestBody", {})):
            assert f"#schema-{reference}" in section.of("href")
        assert f"http://127.0.0.1:8080/{route.path.split('/')[1]}" in section.text
    assert {"GET /docs", "POST /webhooks/{config_id}/enqueue"} <= set(re.findall(r"[A-Z]+ /\S+", reader.text))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value.rpartition("/")[2]
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_schema_is_on_the_page_with_each_of_its_fields() -> None:
    sections = dict(
        re.findall(r'<article aria-labelledby="schema-([^"]+)">(.*?)</article>', page().decode(), re.DOTALL)
    )
    assert sections.keys() == API["components"]["schemas"].keys()
    for name, schema in API["components"]["schemas"].items():
        section = Reader(sections[name])
        for field, kind in schema.get("properties", {}).items():
            assert field in section.text
            assert kind.get("description", "").replace("`", "") in section.text
        assert set(references(schema)) <= {href.removeprefix("#schema-") for href in section.of("href")}


def test_every_link_leads_somewhere_on_the_page_and_every_name_is_there_once(reader: Reader) -> None:
    ids = Counter(reader.of("id"))
    assert set(ids.values()) == {1}
    for href in reader.of("href"):
        assert href == "/openapi.json" or href.removeprefix("#") in ids
    for name in reader.of("aria-labelledby"):
        assert name in ids


def test_nothing_is_loaded_from_anywhere_and_nothing_runs(reader: Reader) -> None:
    tags = {tag for tag, _ in reader.tags}
    assert tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "form", "base", "svg", "video"})
    attributes = {name for _, found in reader.tags for name in found}
    assert attributes.isdisjoint({"src", "srcset", "style", "action", "data", "ping", "background"})
    assert not [name for name in attributes if name.startswith("on")]
    assert not [href for href in reader.of("href") if ":" in href or href.startswith("//")]
    assert "url(" not in reader.style
    assert "@import" not in reader.style


async def test_the_policy_allows_the_one_style_by_its_hash_and_nothing_else(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy.keys() == {"default-src", "style-src", "base-uri", "form-action", "frame-ancestors"}
    hashed = policy.pop("style-src").strip("'").removeprefix("sha256-")
    assert b64decode(hashed) == sha256(Reader(answer.text).style.encode()).digest()
    assert set(policy.values()) == {"'none'"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_page_can_be_used_by_keyboard_and_read_aloud(reader: Reader) -> None:
    tags = [tag for tag, _ in reader.tags]
    assert ("html", {"lang": "en"}) in reader.tags
    assert (tags.count("h1"), tags.count("main"), tags.count("nav")) == (1, 1, 1)
    assert next(found for tag, found in reader.tags if tag == "a") == {"class": "skip", "href": "#main"}
    for tag, found in reader.tags:
        # What may have to be scrolled is reached by keyboard, and has a name.
        assert tag != "pre" or (found["tabindex"] == "0" and found["aria-label"])
        assert tag != "th" or found["scope"] == "col"
    assert "prefers-color-scheme: dark" in reader.style
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in reader.tags


EVIL = "</style></pre><script>alert(1)</script>'\"><img src=x onerror=y>&lt;`x`"


def poisoned(node: Any) -> Any:
    """The document with every text that is not part of its grammar made hostile."""
    grammar = ("$ref", "type", "in", "operationId")
    if isinstance(node, dict):
        return {name: value if name in grammar else poisoned(value) for name, value in node.items()}
    if isinstance(node, list):
        return [poisoned(value) for value in node]
    return EVIL if isinstance(node, str) else node


def test_whatever_stands_in_a_document_is_text_on_its_page() -> None:
    api = poisoned(deepcopy(API))
    schemas = api["components"]["schemas"]
    schemas["Webhook"]["properties"][EVIL] = {"enum": [EVIL], "description": EVIL}
    schemas["Webhook"]["properties"]["made"] = {"type": EVIL, "format": EVIL}
    api["paths"][f"/{EVIL}"] = deepcopy(next(iter(api["paths"].values())))
    for operation in api["paths"][f"/{EVIL}"].values():
        operation["operationId"] = EVIL
    schemas[EVIL] = deepcopy(schemas["Webhook"])
    found = Reader(render(api))
    assert "script" not in {tag for tag, _ in found.tags}
    assert "img" not in {tag for tag, _ in found.tags}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in found.text


def test_a_document_without_examples_and_words_has_a_page_too() -> None:
    api = deepcopy(API)
    for schema in api["components"]["schemas"].values():
        schema.pop("examples", None)
        schema.pop("description", None)
        for field in schema.get("properties", {}).values():
            field.pop("description", None)
    for methods in api["paths"].values():
        for operation in methods.values():
            del operation["tags"]
    text = Reader(render(api)).text
    assert '"endpoint": "text"' in text
    assert '"last_1h": {\n    "received": 1,' in text
