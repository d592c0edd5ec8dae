"""Examples of a configuration file and of an environment file, made from the tree: every key with its description and
default, commented out. Run as a module with `yaml` or `env`, it writes one to standard output."""

import json
import re
import sys
from collections.abc import Iterator
from inspect import cleandoc
from textwrap import wrap

from howk.runtime.declaring import Key, keys_of, sections_of
from howk.runtime.settings import Settings

_WIDTH = 100
_LIST = "list of "
_PLAIN = re.compile(r"[A-Za-z0-9./~][A-Za-z0-9./_:%~ -]*")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null"})
_YAML_PREAMBLE = """
# Configuration of howk. Every line that begins with # and a key shows that key's default: take the # away
# and change the value. Unknown keys and bad values stop the start; `howk config check` finds them before.
# Environment variables (HOWK_API_PORT for port below api) beat this file.
"""
_ENV_PREAMBLE = """
# Environment of howk. Every line shows a variable with its default: take the # away and change the value.
# A variable that is empty counts as not set. Variables beat the configuration file.
"""


def example_yaml() -> str:
    """A configuration file that changes nothing. A line `#key: default` can be uncommented by taking the # away; other
    comments have a space after it."""
    lines = [*_YAML_PREAMBLE.strip().splitlines(), ""]
    for key in keys_of(Settings):
        # Where the file is can't be said in the file.
        if "." not in key.name and key.name != "config":
            lines += _yaml_key(key, "")
    for name, cls in sections_of(Settings):
        indent = "  " * name.count(".")
        lines += ["", *_comment(cleandoc(cls.__doc__ or ""), indent), f"{indent}{name.rpartition('.')[2]}:"]
        for key in keys_of(cls, f"{name}."):
            if key.name.rpartition(".")[0] == name:
                lines += _yaml_key(key, f"{indent}  ")
    return "\n".join(lines) + "\n"


def example_env() -> str:
    """An environment file that sets nothing. Open-ended families show the form of their names."""
    lines = [*_ENV_PREAMBLE.strip().splitlines()]
    for key in keys_of(Settings):
        lines += ["", *_comment(_about(key), ""), f"#{key.env}={key.default}"]
    return "\n".join(lines) + "\n"


def _yaml_key(key: Key, indent: str) -> Iterator[str]:
    yield from _comment(_about(key), indent)
    yield f"{indent}#{key.name.rpartition('.')[2]}: {_yaml_value(key)}"


def _yaml_value(key: Key) -> str:
    if key.family:
        return "{}"
    if key.kind.name.startswith(_LIST):
        return f"[{', '.join(_scalar(part.strip()) for part in key.default.split(',') if part.strip())}]"
    return key.default if key.kind.name == "true | false" and key.default else _scalar(key.default)


def _scalar(text: str) -> str:
    """Plain where YAML reads it back as these very characters."""
    plain = _PLAIN.fullmatch(text) and ": " not in text and text.strip() == text and text.lower() not in _WORDS
    return text if plain else json.dumps(text)


def _about(key: Key) -> str:
    kind = f"mapping of {key.kind.name}" if key.family else key.kind.name
    unit = f", {key.unit}" if key.unit and key.kind.name not in ("duration", "size") else ""
    notes = f"{' Secret.' if key.secret else ''}{'' if key.effect else ' Without effect in this version.'}"
    return f"{key.description}{notes} ({kind}{unit})"


def _comment(text: str, indent: str) -> Iterator[str]:
    yield from (f"{indent}# {line}" for line in wrap(text, _WIDTH - len(indent), break_on_hyphens=False))


if __name__ == "__main__":
    sys.stdout.write(example_env() if sys.argv[1:] == ["env"] else example_yaml())
