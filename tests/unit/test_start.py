"""What is decided before anything starts: who may come in, what may be dialled, which key seals, which engine runs."""

import socket
from hashlib import sha256
from pathlib import Path

import pytest
from tests.support import opened, settings

from howk.adapters.embedded.directory import write_durably
from howk.domain.addresses import blocked_reason
from howk.domain.errors import Permanent
from howk.domain.sealing import Secrets
from howk.runtime.door import is_loopback, listen, policy, trust, url_of
from howk.runtime.keys import open_sealer

HASH = sha256(b"hk_test").hexdigest()
SECRETS = Secrets(signing=("hush",))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_loopback_door_without_a_key_is_open_and_on_trial(tmp_path: Path, host: str) -> None:
    found = trust(settings(tmp_path, api__host=host))
    assert (found.keys, found.loopback, found.trial) == ((), True, True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "howk.example"])
def test_a_door_that_others_can_reach_needs_a_key(tmp_path: Path, host: str) -> None:
    with pytest.raises(Permanent, match="set HOWK_API_KEYS"):
        trust(settings(tmp_path, api__host=host))
    with pytest.raises(Permanent, match="set HOWK_API_KEYS"):
        trust(settings(tmp_path, api__host=host, api__auth="none", api__keys=(HASH,)))
    found = trust(settings(tmp_path, api__host=host, api__keys=(HASH,)))
    assert (found.keys, found.loopback, found.trial) == ((HASH,), False, False)


def test_asking_for_keys_without_having_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=r"api\.keys is empty"):
        trust(settings(tmp_path, api__auth="keys"))


def test_keys_or_a_word_on_private_networks_end_the_trial(tmp_path: Path) -> None:
    assert not trust(settings(tmp_path, api__keys=(HASH,))).trial
    assert not trust(settings(tmp_path, delivery__allow_private_networks=True)).trial
    assert not trust(settings(tmp_path, delivery__allow_private_networks=False)).trial


def test_behind_a_proxy_this_machines_addresses_are_the_proxys_and_end_the_trial(tmp_path: Path) -> None:
    assert not trust(settings(tmp_path, delivery__proxy="http://proxy:3128")).trial


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({}, {"127.0.0.1"}),
        ({"delivery__allow_private_networks": False}, set[str]()),
        ({"delivery__allow_private_networks": True}, {"127.0.0.1", "10.0.0.1"}),
        ({"api__keys": (HASH,)}, set[str]()),
        ({"delivery__proxy": "http://proxy:3128"}, set[str]()),
    ],
)
def test_only_the_trial_and_the_operators_word_open_this_machines_addresses(
    tmp_path: Path, values: dict[str, object], allowed: set[str]
) -> None:
    tree = settings(tmp_path, **values)
    rules = policy(tree, trust(tree))
    asked = ("127.0.0.1", "10.0.0.1", "169.254.169.254")
    assert {address for address in asked if not blocked_reason(address, rules)} == allowed


def test_only_addresses_of_this_machine_are_loopback() -> None:
    assert not any(is_loopback(host) for host in ("localhost.example", "example.com", "10.0.0.1", "0.0.0.0", ""))


def test_a_port_that_is_taken_is_refused_in_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Permanent, match="choose another with --port"):
            listen("127.0.0.1", taken.getsockname()[1])


def test_a_door_says_where_it_is() -> None:
    with listen("127.0.0.1", 0) as door:
        assert url_of(door) == f"http://127.0.0.1:{door.getsockname()[1]}"


def test_the_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first, made = open_sealer(tmp_path, None, write_durably)
    again, made_again = open_sealer(tmp_path, None, write_durably)
    assert (made, made_again) == (True, False)
    assert again.open(first.seal(SECRETS, "wh_1", b"n" * 12), "wh_1") == SECRETS
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600


def test_a_given_key_is_used_and_none_is_made(tmp_path: Path) -> None:
    _, made = open_sealer(tmp_path, b"k" * 32, write_durably)
    assert not made
    assert not (tmp_path / "secret.key").exists()


def test_another_key_than_last_time_is_refused(tmp_path: Path) -> None:
    open_sealer(tmp_path, b"k" * 32, write_durably)
    with pytest.raises(Permanent, match="start howk with that key"):
        open_sealer(tmp_path, b"j" * 32, write_durably)
    with pytest.raises(Permanent, match="restore it, or set that key"):
        open_sealer(tmp_path, None, write_durably)


def test_a_key_file_of_another_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_bytes(b"short")
    with pytest.raises(Permanent, match="is damaged"):
        open_sealer(tmp_path, None, write_durably)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kafka__brokers": ("kafka:9092",)}, "HOWK_KAFKA_BROKERS"),
        ({"redis__addr": "redis:6379"}, "HOWK_REDIS_ADDR"),
        ({"postgres__dsn": "postgres://x"}, "HOWK_POSTGRES_DSN"),
        ({"api__max_payload_size": 1 << 30}, r"api\.max_payload_size"),
    ],
)
async def test_what_can_not_be_kept_is_refused_before_anything_is_opened(
    tmp_path: Path, values: dict[str, object], words: str
) -> None:
    folder = tmp_path / "data"
    with pytest.raises(Permanent, match=words):
        async with opened(folder, **values):
            pass
    assert not folder.exists()


async def test_a_data_directory_that_can_not_be_made_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Permanent, match="choose another with HOWK_DATA_DIR"):
        async with opened(tmp_path / "file" / "data"):
            pass
