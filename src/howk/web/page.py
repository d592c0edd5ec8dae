"""The document of the routes as a page for people: OpenAPI comes in, one HTML page goes out.

Nothing on it is from elsewhere and nothing on it runs: no script, no font, no image, one style whose hash the
Content-Security-Policy names. Every text is escaped here, whatever it is.
"""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from html import escape
from typing import Any

from howk.web.openapi import document
from howk.web.page_style import STYLE

Json = Mapping[str, Any]

_STYLE_HASH = b64encode(sha256(STYLE.encode()).digest())
PAGE_HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'sha256-%b'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        % _STYLE_HASH,
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_CODE = re.compile(r"`([^`]+)`")
_REFERENCE = "#/components/schemas/"
_DEEPEST = 6
_PLAIN: Mapping[str, Any] = {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "null": None}


@lru_cache(maxsize=1)
def page() -> bytes:
    """The page of this version's own routes."""
    return render(json.loads(document())).encode()


def render(api: Json) -> str:
    """The page of any such document."""
    schemas: Json = api["components"]["schemas"]
    groups = _groups(api)
    title = f"{escape(api['info']['title'])} {escape(api['info']['version'])}"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{title}: routes</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            '<a class="skip" href="#main">To the routes</a>',
            f"<header><h1>{title}</h1><p>{_words(api['info']['description'])} This page is made from "
            '<a href="/openapi.json">the OpenAPI document</a> of the process that serves it.</p></header>',
            '<div class="columns">',
            *_contents(groups, schemas),
            '<main id="main" tabindex="-1">',
            *_access(api),
            *[line for name, operations in groups.items() for line in _group(name, operations, schemas)],
            '<section aria-labelledby="schemas"><h2 id="schemas">Schemas</h2>',
            *[line for name, schema in schemas.items() for line in _schema(name, schema)],
            "</section>\n</main>\n</div>\n</body>\n</html>\n",
        ]
    )


Operation = tuple[str, str, Json]
"""Method, path and what the document says of it."""


def _groups(api: Json) -> dict[str, list[Operation]]:
    groups: dict[str, list[Operation]] = {}
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            (tag, *_) = operation.get("tags") or ("Routes",)
            groups.setdefault(tag, []).append((method.upper(), path, operation))
    return groups


def _contents(groups: Mapping[str, Sequence[Operation]], schemas: Iterable[str]) -> Iterator[str]:
    yield '<nav aria-label="Contents">'
    for name, operations in groups.items():
        yield f"<h2>{escape(name)}</h2><ul>"
        for method, path, operation in operations:
            yield f'<li><a href="#{_id(operation["operationId"])}">{_method(method)} {_path(path)}</a></li>'
        yield "</ul>"
    # Closed, or a phone would begin with a screen of them.
    yield "<details><summary>Schemas</summary><ul>"
    yield from (f"<li>{_to_schema(name)}</li>" for name in schemas)
    yield "</ul></details></nav>"


def _access(api: Json) -> Iterator[str]:
    yield '<section aria-labelledby="access"><h2 id="access">Access</h2>'
    if api["components"].get("securitySchemes"):
        yield (
            "<p>Where <code>api.keys</code> is set, routes marked <em>key</em> need "
            "<code>Authorization: Bearer &lt;key&gt;</code>. On a loopback address without keys they are open to this "
            "machine.</p>"
        )
    yield (
        "<p>Bodies are JSON, times RFC 3339 in UTC. Every refusal is a problem (RFC 9457) with a stable "
        "<code>code</code>.</p></section>"
    )


def _group(name: str, operations: Sequence[Operation], schemas: Json) -> Iterator[str]:
    anchor = _id(f"group {name}")
    yield f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(name)}</h2>'
    for operation in operations:
        yield from _operation(*operation, schemas)
    yield "</section>"


def _operation(method: str, path: str, operation: Json, schemas: Json) -> Iterator[str]:
    anchor = _id(operation["operationId"])
    key = '<span class="key">key</span>' if operation.get("security") else ""
    yield f'<article aria-labelledby="{anchor}">'
    yield f'<h3 id="{anchor}"><a href="#{anchor}">{_method(method)} {_path(path)}</a> {key}</h3>'
    yield f"<p>{_words(operation.get('summary', ''))}</p>"
    yield from _parameters(operation.get("parameters", ()))
    content: Json = operation.get("requestBody", {}).get("content", {})
    for media, body in content.items():
        yield f"<h4>Body <small>{escape(media)}</small></h4><p>{_type(body['schema'])}</p>"
        yield _example(_sample(body["schema"], schemas))
    yield _curl(method, path, operation, schemas)
    responses: Json = operation["responses"]
    for status, response in responses.items():
        if not _is_problem(response):
            yield from _answer(status, response, schemas)
    problems = {status: response for status, response in responses.items() if _is_problem(response)}
    if problems:
        yield from _problems(problems)
    yield "</article>"


def _parameters(parameters: Sequence[Json]) -> Iterator[str]:
    if not parameters:
        return
    yield "<h4>Parameters</h4>"
    rows = [
        (
            _name(each["name"]),
            f"{_type(each['schema'])} in the {escape(each['in'])}{', required' if each.get('required') else ''}",
            _words(each.get("description", "")),
        )
        for each in parameters
    ]
    yield _table(("Name", "Type", "Meaning"), rows)


def _answer(status: str, response: Json, schemas: Json) -> Iterator[str]:
    yield f"<h4>Answer {_status(status)} <small>{_words(response['description'])}</small></h4>"
    yield from _headers(response)
    content: Json = response.get("content", {})
    for media, body in content.items():
        yield f"<p><small>{escape(media)}</small> {_type(body['schema'])}</p>"
        if media == "application/json" and "$ref" in body["schema"]:
            yield _example(_sample(body["schema"], schemas))


def _headers(response: Json) -> Iterator[str]:
    if names := response.get("headers"):
        yield "<p>May come with " + ", ".join(map(_name, names)) + ".</p>"


def _problems(problems: Mapping[str, Json]) -> Iterator[str]:
    rows = [
        (
            _status(status),
            _words(response["description"]),
            ", ".join(map(_name, response.get("headers", ()))),
            " or ".join(dict.fromkeys(_type(body["schema"]) for body in response["content"].values())),
        )
        for status, response in problems.items()
    ]
    yield f"<details><summary>Problems: {', '.join(map(_status, problems))}</summary>"
    yield _table(("Status", "When, and its codes", "Header", "Body"), rows)
    yield "</details>"


def _is_problem(response: Json) -> bool:
    return "application/problem+json" in response.get("content", {})


def _schema(name: str, schema: Json) -> Iterator[str]:
    anchor = _anchor(name)
    yield f'<article aria-labelledby="{anchor}"><h3 id="{anchor}"><a href="#{anchor}">{escape(name)}</a></h3>'
    yield f"<p>{_words(schema.get('description', ''))}</p>"
    fields: Json = schema.get("properties", {})
    required: Sequence[str] = schema.get("required", ())
    if fields:
        rows = [
            (
                _name(field),
                _type(kind) + (", required" if field in required else ""),
                _words(kind.get("description", "")),
            )
            for field, kind in fields.items()
        ]
        yield _table(("Field", "Type", "Meaning"), rows)
        if schema.get("additionalProperties") is False:
            yield "<p><small>It has no other fields.</small></p>"
    else:
        yield f"<p>{_type(schema)}</p>"
    for example in schema.get("examples", ()):
        yield _example(example)
    yield "</article>"


def _type(schema: Json) -> str:
    """A type in words, with links to the schemas it names."""
    if reference := schema.get("$ref"):
        return _to_schema(reference.removeprefix(_REFERENCE))
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join([_type(each) for each in schema[several]])
    if "enum" in schema or "const" in schema:
        words = schema.get("enum", [schema.get("const")])
        return " or ".join([f"<code>{escape(json.dumps(word, ensure_ascii=False))}</code>" for word in words])
    kind = schema.get("type")
    if kind == "array":
        inner: Json = schema.get("items", {})
        of = f"({_type(inner)})" if "anyOf" in inner else _type(inner)
        return f"array of {of}"
    values: Json | bool = schema.get("additionalProperties", False)
    if kind == "object" and isinstance(values, Mapping) and values:
        return f"object of {_type(values)}"
    if kind is None:
        return "any JSON"
    return escape(f"{kind} ({schema['format']})" if "format" in schema else str(kind))


def _sample(schema: Json, schemas: Json, depth: int = 0) -> Any:
    """An example of a schema: its own where it has one, else one made from its types."""
    if reference := schema.get("$ref"):
        return _sample(schemas[reference.removeprefix(_REFERENCE)], schemas, depth + 1)
    if examples := schema.get("examples"):
        return examples[0]
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return _sample(schema[several][0], schemas, depth + 1)
    if "enum" in schema or "const" in schema:
        return schema.get("const", *schema.get("enum", ())[:1])
    kind = schema.get("type")
    if kind == "array":
        return [] if depth > _DEEPEST else [_sample(schema.get("items", {}), schemas, depth + 1)]
    if kind == "object":
        fields: Json = {} if depth > _DEEPEST else schema.get("properties", {})
        return {field: _sample(each, schemas, depth + 1) for field, each in fields.items()}
    return _PLAIN.get(str(kind), {})


def _curl(method: str, path: str, operation: Json, schemas: Json) -> str:
    examples = {each["name"]: str(each.get("example", each["name"])) for each in operation.get("parameters", ())}
    url = re.sub(r"\{(\w+)\}", lambda found: examples.get(found[1], found[1]), path)
    verb = "" if method == "GET" else f"-X {method} "
    parts = [f"curl {verb}http://127.0.0.1:8080{url}"]
    if operation.get("security"):
        parts.append("-H 'Authorization: Bearer <key>'")
    content: Json = operation.get("requestBody", {}).get("content", {})
    for media, body in content.items():
        data = json.dumps(_sample(body["schema"], schemas), ensure_ascii=False).replace("'", "'\\''")
        parts += [f"-H 'Content-Type: {media}'", f"-d '{data}'"]
    return _pre(" \\\n  ".join(parts), "Try it")


def _example(value: Any) -> str:
    return _pre(json.dumps(value, indent=2, ensure_ascii=False), "Example")


def _pre(text: str, label: str) -> str:
    # To be reached by keyboard, since it may have to be scrolled.
    return f'<pre tabindex="0" role="region" aria-label="{escape(label)}"><code>{escape(text)}</code></pre>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join([f'<th scope="col">{each}</th>' for each in heads])
    lines = ["<tr>" + "".join([f"<td>{cell}</td>" for cell in row]) + "</tr>" for row in rows]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _name(name: str) -> str:
    return f'<code class="name">{escape(name)}</code>'


def _words(text: str) -> str:
    """A text whose `code` is marked as such."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _method(method: str) -> str:
    return f'<b class="method {_id(method.lower())}">{escape(method)}</b>'


def _path(path: str) -> str:
    # A line may break after every part.
    return f'<code class="path">{escape(path).replace("/", "/<wbr>")}</code>'


def _status(status: str) -> str:
    return f"<b>{escape(status)}</b>"


def _to_schema(name: str) -> str:
    return f'<a href="#{_anchor(name)}">{escape(name)}</a>'


def _anchor(name: str) -> str:
    return _id(f"schema {name}")


def _id(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)
