"""The example files: made from the tree, current, loadable as they stand, and right in every line when uncommented."""

import re
from pathlib import Path

import pytest

from howk.runtime.declaring import keys_of
from howk.runtime.loading import load
from howk.runtime.settings import Settings
from howk.runtime.settings_example import example_env, example_yaml

ROOT = Path(__file__).parents[2]
PATH = Path("config.yaml")
KEYS = list(keys_of(Settings))


@pytest.mark.parametrize(
    ("name", "form", "text"),
    [("config.example.yaml", "yaml", example_yaml()), (".env.example", "env", example_env())],
)
def test_the_example_in_the_repository_is_the_one_made_from_the_tree(name: str, form: str, text: str) -> None:
    again = f"make it again: python -m howk.runtime.settings_example {form} > {name}"
    assert (ROOT / name).read_text("utf-8") == text, again


def test_the_example_file_loads_unchanged_and_changes_nothing() -> None:
    found = load({}, {}, [PATH], {PATH: example_yaml()}.get)
    assert found.origins.pop("config") == "file config.yaml"
    assert set(found.origins.values()) == {"default"}
    assert found.inert == []


def test_every_line_of_the_example_file_says_the_default_when_it_is_uncommented() -> None:
    text = re.sub(r"^( *)#(?=\w)", r"\1", example_yaml(), flags=re.MULTILINE)
    found = load({}, {}, [PATH], {PATH: text}.get)
    assert found.settings == load({}, {}, [PATH], {PATH: ""}.get).settings
    single = {key.name for key in KEYS if not key.family and key.name != "config"}
    assert {name for name, origin in found.origins.items() if origin == "file config.yaml"} == single | {"config"}


def test_every_line_of_the_example_environment_says_the_default_when_it_is_uncommented() -> None:
    lines = [line[1:].partition("=") for line in example_env().splitlines() if re.match(r"#\w", line)]
    environ = {name: value for name, _, value in lines if "<NAME>" not in name}
    assert [name for name, _, _ in lines] == [key.env for key in KEYS]
    assert load(environ, {}, [], {}.get).settings == Settings()
