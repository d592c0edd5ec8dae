"""Secrets at rest: unreadable, bound to their delivery, and every change is noticed."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howk.domain.errors import Permanent, Undecodable
from howk.domain.sealing import KEY_BYTES, NONCE_BYTES, Sealer, Secrets, is_shared, shared_by

KEY = bytes(range(KEY_BYTES))
NONCE = bytes(range(NONCE_BYTES))
SECRETS = Secrets(
    "user:hunter2", "token=hunter2", {"Authorization": "Bearer hunter2"}, ("whsec_hunter2", "old"), "whsk_hunter2"
)
WORDS = ("hunter2", "token", "Bearer", "Authorization", "whsec", "old", "whsk")

secrets = st.builds(
    Secrets,
    userinfo=st.text(max_size=20),
    query=st.text(max_size=20),
    headers=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
    signing=st.lists(st.text(max_size=9), max_size=3).map(tuple),
    ed25519_key=st.text(max_size=9),
)


@given(sealed=secrets, nonce=st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES), id_=st.text(max_size=30))
def test_what_was_sealed_is_opened_the_same(sealed: Secrets, nonce: bytes, id_: str) -> None:
    assert Sealer(KEY).open(Sealer(KEY).seal(sealed, id_, nonce), id_) == sealed


def test_the_sealed_text_names_its_version_and_key_and_shows_nothing_secret() -> None:
    sealer = Sealer(KEY)
    text = sealer.seal(SECRETS, "wh_1", NONCE)
    version, key_id, data = text.split(".")
    assert (version, key_id) == ("1", sealer.key_id)
    plain = text.encode() + b64decode(data)
    assert [word for word in WORDS if word.encode() in plain] == []


def test_no_repr_shows_a_secret() -> None:
    shown = repr(SECRETS) + str(SECRETS) + f"{SECRETS}" + repr(Sealer(KEY)) + str(vars(Sealer(KEY)))
    assert [word for word in WORDS if word in shown] == []
    assert KEY.hex() not in shown
    assert repr(KEY) not in shown


def test_the_key_id_gives_nothing_of_the_key_away_and_differs_from_key_to_key() -> None:
    ids = {Sealer(bytes([n]) * KEY_BYTES).key_id for n in range(50)}
    assert len(ids) == 50
    assert Sealer(KEY).key_id == Sealer(KEY).key_id
    assert Sealer(KEY).key_id not in KEY.hex()


def test_the_same_secrets_look_different_under_another_nonce() -> None:
    first, second = (Sealer(KEY).seal(SECRETS, "wh_1", nonce) for nonce in (NONCE, NONCE[::-1]))
    assert first.split(".")[2][20:] != second.split(".")[2][20:]


@pytest.mark.parametrize("other", ["wh_2", "", "wh_1 ", "WH_1"])
def test_the_secrets_of_another_delivery_do_not_open(other: str) -> None:
    with pytest.raises(Undecodable, match="belong to another delivery"):
        Sealer(KEY).open(Sealer(KEY).seal(SECRETS, "wh_1", NONCE), other)


@given(sealed=secrets)
def test_what_deliveries_share_opens_for_their_scope_and_endpoint_alone(sealed: Secrets) -> None:
    sealer, bound_to = Sealer(KEY), shared_by("shop", "https://example.com/hook")
    text = sealer.seal(sealed, bound_to, NONCE, shared=True)
    assert is_shared(text)
    assert sealer.open(text, bound_to) == sealed
    for scope, endpoint in (("shop", "https://example.org/hook"), ("shops", "https://example.com/hook"), ("shop", "")):
        with pytest.raises(Undecodable):
            sealer.open(text, shared_by(scope, endpoint))


def test_what_stands_alone_is_not_taken_for_shared() -> None:
    assert not is_shared(Sealer(KEY).seal(SECRETS, "wh_1", NONCE))
    assert not is_shared("")


@pytest.mark.parametrize("shared", [False, True])
def test_another_key_is_told_apart_from_damage_and_names_what_to_do(shared: bool) -> None:
    sealed_with, here = Sealer(bytes(KEY_BYTES)), Sealer(KEY)
    with pytest.raises(Permanent, match="HOWK_SECURITY_ENCRYPTION_KEY") as caught:
        here.open(sealed_with.seal(SECRETS, "wh_1", NONCE, shared=shared), "wh_1")
    assert sealed_with.key_id in str(caught.value)
    assert here.key_id in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_any_flipped_bit_is_noticed() -> None:
    sealer = Sealer(KEY)
    prefix, _, data = sealer.seal(SECRETS, "wh_1", NONCE).rpartition(".")
    raw = b64decode(data)
    for at in range(len(raw)):
        spoiled = raw[:at] + bytes([raw[at] ^ (1 << at % 8)]) + raw[at + 1 :]
        with pytest.raises(Undecodable):
            sealer.open(f"{prefix}.{b64encode(spoiled).decode()}", "wh_1")


def test_anything_cut_off_is_noticed() -> None:
    sealer = Sealer(KEY)
    text = sealer.seal(SECRETS, "wh_1", NONCE)
    for length in range(len(text)):
        with pytest.raises((Undecodable, Permanent)):
            sealer.open(text[:length], "wh_1")


@pytest.mark.parametrize("text", ["", ".", "..", "3.abc.def", "1", "1.x", "1.x.y.z", "plain text", "é.é.é"])
def test_an_unknown_form_is_undecodable(text: str) -> None:
    with pytest.raises(Undecodable):
        Sealer(KEY).open(text, "wh_1")


@pytest.mark.parametrize(
    "data", ["", "AAAA", "é", "A", "====", b64encode(bytes(12)).decode(), b64encode(bytes(28)).decode()]
)
def test_broken_data_under_the_right_key_is_undecodable(data: str) -> None:
    sealer = Sealer(KEY)
    with pytest.raises(Undecodable):
        sealer.open(f"1.{sealer.key_id}.{data}", "wh_1")


@given(sealed=secrets)
def test_secrets_are_false_when_there_is_nothing_to_seal(sealed: Secrets) -> None:
    assert bool(sealed) == (sealed != Secrets())


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(key: bytes) -> None:
    with pytest.raises(ValueError, match="key must be"):
        Sealer(key)
