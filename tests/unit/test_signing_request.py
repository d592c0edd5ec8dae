"""The fields that ask for signatures: what is taken, and refusals that name the field and keep the secret."""

import base64
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howk.domain.errors import Rejected
from howk.domain.signing import PROFILES, Profile
from howk.domain.signing_request import MAX_SECRET, MAX_SECRETS, Signed, Signing, chosen_signing

WHSEC = "whsec_" + base64.b64encode(b"hunter2 hunter2 hunter2").decode()
PRIVATE = "whsk_" + base64.b64encode(bytes(range(32))).decode()
PUBLIC = "whpk_" + base64.b64encode(bytes(range(32))).decode()
BAD_WHSEC = "whsec_hunter2!"


def test_nothing_asked_for_is_unsigned() -> None:
    assert chosen_signing(None, None) == Signed("default", (), "")


def test_a_secret_alone_is_the_default_profile() -> None:
    assert chosen_signing(WHSEC, None) == Signed("default", (WHSEC,), "")


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_takes_one_secret(profile: Profile) -> None:
    assert chosen_signing(None, Signing(profile=profile, secrets=[WHSEC])) == Signed(profile, (WHSEC,), "")


@pytest.mark.parametrize("profile", [None, "default", "standard"])
@pytest.mark.parametrize("secrets", [None, [], [WHSEC, "old"]])
def test_an_ed25519_key_goes_with_secrets_or_alone(profile: str | None, secrets: list[str] | None) -> None:
    signed = chosen_signing(None, Signing(profile=profile, secrets=secrets, ed25519_key=PRIVATE))
    assert signed == Signed("standard" if profile == "standard" else "default", tuple(secrets or ()), PRIVATE)


def test_a_harborhook_secret_need_not_be_base64_after_whsec() -> None:
    signing = Signing(profile="harborhook", secrets=[BAD_WHSEC])
    assert chosen_signing(None, signing).secrets == (BAD_WHSEC,)


@pytest.mark.parametrize(
    ("signing", "fields"),
    [
        (Signing(), ["signing.secrets"]),
        (Signing(secrets=[]), ["signing.secrets"]),
        (Signing(profile="hunter2", secrets=["s"]), ["signing.profile"]),
        (Signing(profile="", secrets=["s"]), ["signing.profile"]),
        (Signing(profile="none"), ["signing.profile", "signing.secrets"]),
        (Signing(secrets=["s", "", BAD_WHSEC]), ["signing.secrets[1]", "signing.secrets[2]"]),
        (Signing(secrets=["s", PRIVATE, PUBLIC]), ["signing.secrets[1]", "signing.secrets[2]"]),
        (Signing(secrets=["hunter2" * MAX_SECRET]), ["signing.secrets[0]"]),
        (Signing(secrets=["hunter2"] * (MAX_SECRETS + 1)), ["signing.secrets"]),
        (Signing(secrets=["s"], ed25519_key=""), ["signing.ed25519_key"]),
        (Signing(ed25519_key="whsk_hunter2"), ["signing.ed25519_key"]),
        (Signing(ed25519_key=PUBLIC), ["signing.ed25519_key"]),
        (Signing(profile="howk", secrets=["s"], ed25519_key=PRIVATE), ["signing.ed25519_key"]),
        (Signing(profile="howk", ed25519_key=PRIVATE), ["signing.ed25519_key", "signing.secrets"]),
        (Signing(profile="harborhook", secrets=["s"], ed25519_key=PRIVATE), ["signing.ed25519_key"]),
        (Signing(profile="harborhook", secrets=["hunter2", "s"]), ["signing.secrets"]),
        (Signing(profile="harborhook"), ["signing.secrets"]),
    ],
)
def test_what_is_wrong_is_refused_by_field_and_never_repeated(signing: Signing, fields: Sequence[str]) -> None:
    with pytest.raises(Rejected) as caught:
        chosen_signing(None, signing)
    said = [str(caught.value), *[problem.message for problem in caught.value.problems]]
    assert [problem.field for problem in caught.value.problems] == fields
    for hidden in ("hunter2", PRIVATE[5:], PUBLIC[5:]):
        assert hidden not in " ".join(said)


@pytest.mark.parametrize("secret", ["", BAD_WHSEC, "hunter2" * MAX_SECRET, PRIVATE, PUBLIC])
def test_a_bad_signing_secret_is_refused_under_its_own_name(secret: str) -> None:
    with pytest.raises(Rejected) as caught:
        chosen_signing(secret, None)
    assert caught.value.code == "invalid_signing_secret"
    assert [problem.field for problem in caught.value.problems] == ["signing_secret"]
    assert "hunter2" not in str(caught.value)


def test_both_ways_at_once_are_refused() -> None:
    with pytest.raises(Rejected) as caught:
        chosen_signing(WHSEC, Signing(secrets=[WHSEC]))
    assert [problem.field for problem in caught.value.problems] == ["signing_secret"]


def test_no_repr_shows_a_secret() -> None:
    signing = Signing(secrets=["hunter2"], ed25519_key=PRIVATE)
    assert "hunter2" not in repr(signing) + repr(chosen_signing(None, signing))
    assert PRIVATE not in repr(signing) + repr(chosen_signing(None, signing))


TEXTS = st.one_of(st.text(max_size=12), st.sampled_from([WHSEC, PRIVATE, PUBLIC, BAD_WHSEC, *PROFILES]))


@given(
    secret=st.none() | TEXTS,
    profile=st.none() | TEXTS,
    secrets=st.none() | st.lists(TEXTS, max_size=MAX_SECRETS + 2),
    key=st.none() | TEXTS,
)
def test_whatever_is_asked_is_either_bounded_and_usable_or_refused(
    secret: str | None, profile: str | None, secrets: list[str] | None, key: str | None
) -> None:
    try:
        signed = chosen_signing(secret, Signing(profile=profile, secrets=secrets, ed25519_key=key))
    except Rejected:
        return
    assert secret is None
    assert signed == (profile or "default", tuple(secrets or ()), key or "")
    assert 1 <= len(signed.secrets) + bool(key) <= MAX_SECRETS + 1
