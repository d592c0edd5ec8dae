"""The reference of all settings, as Markdown made from the tree; a test holds the file in docs to it.
Run as a module, it writes the text to standard output."""

import sys
from collections.abc import Iterator
from inspect import cleandoc

from howk.runtime.declaring import Key, keys_of, sections_of
from howk.runtime.settings import Settings

_PREAMBLE = """
# Settings

Flags beat the environment, which beats the file, which beats the default. The file is the one named by
`--config` or `HOWK_CONFIG`; else the first there is of `./config.yaml`, `~/.howk/config.yaml` and
`/etc/howk/config.yaml`. In it, `api.port` is `port` below `api`. An unknown key or a bad value stops the
start, with its name. A variable that is empty counts as not set.

Durations are written `500ms`, `10s`, `1m30s`, `168h` or `7d`; a bare number is seconds. Sizes are written
`16KiB` or `1MiB` (powers of 1024), `2MB` (powers of 1000), or as a number of bytes. Lists are separated by
commas in the environment, and are YAML lists in the file. A key without effect is accepted and checked, but
this version does not act on it. Secrets are never shown by `howk config view`.

This page is made by `python -m howk.runtime.settings_reference`.
"""


def reference_table() -> str:
    """The whole page, ending in a newline."""
    top = [key for key in keys_of(Settings) if "." not in key.name]
    parts = [_PREAMBLE.strip(), "## Top level", _table(top)]
    for name, cls in sections_of(Settings):
        own = [key for key in keys_of(cls, f"{name}.") if key.name.rpartition(".")[0] == name]
        parts += [f"{'#' * (name.count('.') + 2)} `{name}`", cleandoc(cls.__doc__ or ""), _table(own)]
    return "\n\n".join(parts) + "\n"


def _table(keys: list[Key]) -> str:
    return "\n".join(
        [
            "| Key | Environment | Default | Type | Description | Effect |",
            "|---|---|---|---|---|---|",
            *map(_row, keys),
        ]
    )


def _row(key: Key) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(key)) + " |"


def _cells(key: Key) -> Iterator[str]:
    yield f"`{key.name}`"
    yield f"`{key.env}`"
    yield f"`{key.default}`" if key.default else ""
    kind = f"mapping of {key.kind.name}" if key.family else key.kind.name
    yield kind + (f", {key.unit}" if key.unit and key.kind.name not in ("duration", "size") else "")
    yield f"{key.description}{' Secret.' if key.secret else ''}"
    yield "yes" if key.effect else "no"


if __name__ == "__main__":
    sys.stdout.write(reference_table())
