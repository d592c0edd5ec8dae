"""Where settings come from: flags beat the environment, which beats the file, which beats the defaults.
Mappings and a reader of files enter; the tree leaves with the origin of every key, or one error listing all
problems. Only `load_from_process` looks at the real process; values of secret keys appear in no message."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import cast

from howk.runtime.declaring import Key, build, keys_of, sections_of, value_of
from howk.runtime.settings import Settings
from howk.runtime.yaml_text import YAMLProblem, parse_yaml

_KUBERNETES = re.compile(
    r"HOWK(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
_KUBERNETES_PORT = re.compile(r"HOWK(_\w+)?_PORT")
_KUBERNETES_URL = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
_USERINFO = re.compile(r"(?<=://)\S*@")
_ANY_USERINFO = re.compile(r"\S*@")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: the key (as its source spells it), where it was said, and what would be right."""

    key: str
    origin: str
    message: str

    def __str__(self) -> str:
        return f"{self.key} ({self.origin}) {self.message}"


class SettingsError(Exception):
    """The settings cannot be used. `problems` holds all that is wrong with them, a line each in str."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, where each key's value came from, and the keys that were set and have no effect."""

    settings: Settings
    origins: dict[str, str]
    inert: list[str]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the dump."""

    key: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class _Given:
    key: Key
    entry: str | None
    raw: object
    origin: str
    spelling: str


def load(
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    search: Sequence[Path],
    read: Callable[[Path], str | None],
) -> Loaded:
    """Settings as a pure function of their sources; `read` answers None for a file that does not exist.

    A file is named by the flag `config` or by HOWK_CONFIG, and must then exist; else the first of `search`
    that does is read, if any. An environment variable that is empty counts as not set. Raises SettingsError.
    """
    keys = {key.name: key for key in keys_of(Settings)}
    path, tree, problems = _document(environ, flags, search, read)
    values: dict[str, object] = {}
    entries: dict[str, dict[str, object]] = {}
    origins = dict.fromkeys(keys, "default")
    # From the lowest precedence to the highest: what comes later replaces. What is replaced is checked all
    # the same, so that a mistake in a file is found before the variable that hides it is gone.
    for item in chain(_from_file(tree, path, keys), _from_environ(environ, keys), _from_flags(flags, keys)):
        if isinstance(item, Problem):
            problems.append(item)
            continue
        name = item.key.name
        try:
            value: object = item.key.kind.parse(item.raw)
        except ValueError as error:
            problems.append(Problem(item.spelling, item.origin, _refusal(item, str(error))))
            continue
        if item.entry is None:
            values[name], origins[name] = value, item.origin
        else:
            entries.setdefault(name, {})[item.entry] = value
            origins[name] = item.origin
            origins[f"{name}.{item.entry}"] = item.origin
    if problems:
        raise SettingsError(problems)
    if path is not None and "config" not in values:
        values["config"], origins["config"] = path, f"file {path}"
    values |= {name: MappingProxyType(entry) for name, entry in entries.items()}
    inert = sorted(name for name, key in keys.items() if not key.effect and origins[name] != "default")
    return Loaded(build(Settings, values), origins, inert)


def load_from_process(flags: Mapping[str, str] | None = None) -> Loaded:
    """Settings of this process: its environment, and the files of its working directory, user and machine."""
    return load(os.environ, flags or {}, search_paths(), _read)


def search_paths() -> tuple[Path, ...]:
    """Where a configuration file is looked for when none is named, first match wins."""
    try:
        home = (Path.home() / ".howk/config.yaml",)
    except RuntimeError:  # a container's user may have no home
        home = ()
    return (Path("config.yaml"), *home, Path("/etc/howk/config.yaml"))


def redacted(loaded: Loaded) -> list[Row]:
    """The effective tree, in order of declaration, without any secret."""
    rows: list[Row] = []
    for key in keys_of(Settings):
        value = value_of(loaded.settings, key.name)
        if isinstance(value, Mapping) and value:
            for entry, each in sorted(cast("Mapping[str, object]", value).items()):
                name = f"{key.name}.{entry}"
                rows.append(Row(name, _visible(key, each), loaded.origins.get(name, "default")))
        else:
            text = "" if isinstance(value, Mapping) else _visible(key, value)
            rows.append(Row(key.name, text, loaded.origins.get(key.name, "default")))
    return rows


def _visible(key: Key, value: object) -> str:
    if key.secret:
        return "(set)" if value else ""
    return _USERINFO.sub("***@", key.show(value))


def _refusal(item: _Given, wanted: str) -> str:
    if item.key.secret:
        return wanted
    text = _ANY_USERINFO.sub("***@", str(item.raw))
    # A long or unprintable value is no slip of the pen: it may be key material in the wrong place.
    shown = repr(text) if text.isprintable() and len(text) <= 80 else f"a value of {len(text)} characters"
    return f"is {shown}: {wanted}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise SettingsError([Problem("config", f"file {path}", "is not UTF-8 text")]) from error
    except OSError as error:
        message = f"cannot be read: {error.strerror or type(error).__name__}"
        raise SettingsError([Problem("config", f"file {path}", message)]) from error


def _document(
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    search: Sequence[Path],
    read: Callable[[Path], str | None],
) -> tuple[Path | None, object, list[Problem]]:
    """The file that counts, what it says, and what is wrong with it as a whole."""
    named, origin = flags.get("config", "").strip(), "flag"
    if not named:
        named, origin = environ.get("HOWK_CONFIG", "").strip(), "env HOWK_CONFIG"
    for path in [Path(named)] if named else search:
        try:
            text = read(path)
            if text is not None:
                return path, parse_yaml(text), []
        except SettingsError as error:
            return path, None, error.problems
        except YAMLProblem as error:
            return path, None, [Problem(error.key or "config", f"file {path}", str(error))]
    missing = [Problem("config", origin, f"is {named!r}: must be the path of a file that exists")] if named else []
    return None, None, missing


def _from_file(tree: object, path: Path | None, keys: Mapping[str, Key]) -> Iterator[_Given | Problem]:
    if path is not None:
        sections = {name for name, _ in sections_of(Settings)}
        yield from _walk(tree, "", f"file {path}", keys, sections)


def _walk(
    node: object, name: str, origin: str, keys: Mapping[str, Key], sections: set[str]
) -> Iterator[_Given | Problem]:
    """Everything said below a section of the file; a null says nothing."""
    if node is None:
        return
    if not isinstance(node, dict):
        yield Problem(name or "the file", origin, "must be a section: keys and values below it, not one value")
        return
    for word, value in cast("dict[object, object]", node).items():
        dotted = f"{name}.{word}" if name else str(word)
        key = keys.get(dotted)
        if dotted == "config":
            yield Problem(dotted, origin, "cannot be set in the file itself")
        elif "." in str(word):
            yield Problem(dotted, origin, "must be written as sections, one key below the other, without dots")
        elif dotted in sections:
            yield from _walk(value, dotted, origin, keys, sections)
        elif key is None:
            yield Problem(dotted, origin, _unknown(dotted, [*keys, *sections]))
        elif key.family:
            yield from _entries(key, value, origin)
        elif value is not None:
            yield _Given(key, None, value, origin, dotted)


def _entries(key: Key, node: object, origin: str) -> Iterator[_Given | Problem]:
    if isinstance(node, dict):
        for word, value in cast("dict[object, object]", node).items():
            entry = key.entry(str(word))
            yield _Given(key, entry, value, origin, f"{key.name}.{entry}")
    elif node is not None:
        yield Problem(key.name, origin, "must be a mapping: names and values below it, not one value")


def _from_environ(environ: Mapping[str, str], keys: Mapping[str, Key]) -> Iterator[_Given | Problem]:
    single = {key.env: key for key in keys.values() if not key.family}
    families = [key for key in keys.values() if key.family]
    for name, value in sorted(environ.items()):
        if not name.startswith("HOWK_") or name.startswith("HOWK_TEST_") or _injected(name, value):
            continue
        origin = f"env {name}"
        family = next((key for key in families if name.startswith(key.family) and name != key.family), None)
        if name in single:
            key = single[name]
            if value.strip():
                yield _Given(key, None, value, origin, key.name)
        elif family is not None:
            entry = family.entry(name.removeprefix(family.family))
            if value.strip():
                yield _Given(family, entry, value, origin, f"{family.name}.{entry}")
        else:
            yield Problem(name, "env", _unknown(name, [*single, *(key.env for key in families)]))


def _injected(name: str, value: str) -> bool:
    """Whether Kubernetes makes this variable for a Service named howk or howk-*."""
    if _KUBERNETES.fullmatch(name):
        return True
    return bool(_KUBERNETES_PORT.fullmatch(name) and _KUBERNETES_URL.fullmatch(value))


def _from_flags(flags: Mapping[str, str], keys: Mapping[str, Key]) -> Iterator[_Given | Problem]:
    for name, value in flags.items():
        parent, _, entry = name.rpartition(".")
        if name in keys and not keys[name].family:
            yield _Given(keys[name], None, value, "flag", name)
        elif parent in keys and keys[parent].family and entry:
            yield _Given(keys[parent], keys[parent].entry(entry), value, "flag", name)
        else:
            yield Problem(name, "flag", _unknown(name, list(keys)))


def _unknown(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.75)
    return f"is not a setting; did you mean {close[0]}?" if close else "is not a setting of howk; take it out"
