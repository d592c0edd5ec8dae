"""`howk config` as a user meets it: a file to begin with, the settings with their origins, and all that is wrong."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from howk.cli.main import cli
from howk.runtime.declaring import keys_of
from howk.runtime.settings import Settings

HASH = "ab" * 32


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("HOWK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def config(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["config", *arguments], prog_name="howk")


def test_a_file_to_begin_with_is_written_for_its_owner_only_and_is_right() -> None:
    assert config("init").exit_code == 0
    assert Path("config.yaml").stat().st_mode & 0o077 == 0
    assert config("check").exit_code == 0


def test_a_file_that_is_there_is_overwritten_only_by_force() -> None:
    Path("mine.yaml").write_text("# mine\n")
    done = config("init", "mine.yaml")
    assert done.exit_code == 1
    assert "--force" in done.stderr
    assert Path("mine.yaml").read_text() == "# mine\n"
    assert config("init", "mine.yaml", "--force").exit_code == 0
    assert Path("mine.yaml").read_text() != "# mine\n"


def test_a_file_that_cannot_be_written_is_a_failure_in_words() -> None:
    done = config("init", "absent/config.yaml")
    assert done.exit_code == 1
    assert "cannot write absent/config.yaml: No such file or directory" in done.stderr


def test_the_view_has_every_key_with_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("config.yaml").write_text("retry: {max_attempts: 3}\n")
    monkeypatch.setenv("HOWK_API_PORT", "9999")
    rows = {row["key"]: row for row in json.loads(config("view", "--json").stdout)}
    assert set(rows) == {key.name for key in keys_of(Settings)}
    assert rows["retry.max_attempts"] == {
        "key": "retry.max_attempts",
        "value": "3",
        "origin": "file config.yaml",
    }
    assert rows["api.port"]["origin"] == "env HOWK_API_PORT"
    assert rows["api.host"] == {"key": "api.host", "value": "127.0.0.1", "origin": "default"}


def test_the_view_of_what_is_changed_leaves_defaults_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOWK_API_PORT", "9999")
    done = config("view", "--changed")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["key", "value", "origin"],
        ["api.port", "9999", "env", "HOWK_API_PORT"],
    ]
    monkeypatch.delenv("HOWK_API_PORT")
    assert config("view", "--changed").stdout == ""


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_view_shows_a_secret(monkeypatch: pytest.MonkeyPatch, form: Sequence[str]) -> None:
    monkeypatch.setenv("HOWK_API_KEYS", HASH)
    monkeypatch.setenv("HOWK_SECURITY_ENCRYPTION_KEY", "11" * 32)
    monkeypatch.setenv("HOWK_DELIVERY_PROXY", "http://me:hunter2@proxy")
    done = config("view", *form)
    assert done.exit_code == 0
    assert "(set)" in done.stdout
    for secret in (HASH, "11" * 32, "hunter2"):
        assert secret not in done.stdout


def test_a_check_names_everything_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bad.yaml").write_text("api: {port: many}\nretries: 1\n")
    monkeypatch.setenv("HOWK_RETRY_JITTER", "7")
    done = config("check", "bad.yaml", "--json")
    assert done.exit_code == 2
    document = json.loads(done.stdout)
    assert not document["ok"]
    assert {problem["key"] for problem in document["problems"]} == {"api.port", "retries", "retry.jitter"}
    lines = config("check", "bad.yaml").stdout.splitlines()
    assert lines[0].startswith("api.port (file bad.yaml) is 'many': must be a whole number")
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HOWK_API_HOST", "0.0.0.0", "which others can reach"),
        ("HOWK_KAFKA_BROKERS", "kafka:9092", "this version has only the embedded engine"),
        ("HOWK_API_MAX_PAYLOAD_SIZE", "1GiB", "lower one of them"),
    ],
)
def test_a_check_names_what_would_refuse_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    done = config("check")
    assert done.exit_code == 2
    assert said in done.stdout


def test_a_check_of_a_file_that_is_not_there_is_misuse() -> None:
    assert config("check", "absent.yaml").exit_code == 2


def test_a_check_says_which_keys_are_set_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOWK_TRACING_ENABLED", "true")
    done = config("check")
    assert done.exit_code == 0
    assert "tracing.enabled is set, but this version does not act on it yet" in done.stdout
