"""The signing profiles: which headers each sends, each signature against another computation of it, and the checks."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Sequence

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from tests.heads import attempt

from howk.domain.ed25519 import private_key, public_key, public_text
from howk.domain.signing import (
    PROFILES,
    Profile,
    signing_keys,
    standard_v1a,
    verify_harborhook,
    verify_howk,
    verify_standard,
    verify_v1a,
)

NOW = 1_700_000_000
BODY = b'{"a": 1}'
OLD = "whsec_" + base64.b64encode(b"the secret of last year, 24+").decode()
NEW = "whsec_" + base64.b64encode(b"the secret of this year, 24+").decode()
SEED = bytes(range(32))
PRIVATE = "whsk_" + base64.b64encode(SEED).decode()
PUBLIC = public_text(PRIVATE)

Verify = Callable[[str, Mapping[str, str], bytes, float], str]

SECRETS = st.lists(
    st.text(min_size=1, max_size=30).filter(lambda s: not s.startswith("whsec_")), min_size=1, max_size=8
)
BODIES = st.binary(max_size=200)
TIMES = st.integers(min_value=0, max_value=2**40)
IDS = st.text(alphabet="wh_0123456789ABCDEF", min_size=1, max_size=40)
SEEDS = st.binary(min_size=32, max_size=32)

IDENTITY: dict[Profile, set[str]] = {
    "default": {"webhook-id", "webhook-timestamp", "x-webhook-id", "x-webhook-attempt", "x-webhook-timestamp"},
    "standard": {"webhook-id", "webhook-timestamp"},
    "howk": {"x-webhook-id", "x-webhook-attempt", "x-webhook-timestamp"},
    "harborhook": {"x-harborhook-timestamp", "x-webhook-id", "x-webhook-attempt"},
}
SIGNATURES: dict[Profile, set[str]] = {
    "default": {"webhook-signature", "x-webhook-signature"},
    "standard": {"webhook-signature"},
    "howk": {"x-webhook-signature"},
    "harborhook": {"x-harborhook-signature"},
}
CHECKS: list[tuple[Profile, Verify]] = [
    ("default", verify_standard),
    ("default", verify_howk),
    ("standard", verify_standard),
    ("howk", verify_howk),
    ("harborhook", verify_harborhook),
]


def whsk(seed: bytes) -> str:
    return "whsk_" + base64.b64encode(seed).decode()


def mac(secret: str, text: bytes) -> bytes:
    return hmac.new(secret.encode(), text, hashlib.sha256).digest()


# What is sent


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("secrets", [(), (OLD,)])
def test_a_profile_sends_its_own_headers_and_no_others(profile: Profile, secrets: Sequence[str]) -> None:
    got = attempt(BODY, profile=profile, secrets=secrets)
    expected = {"content-type", "user-agent"} | IDENTITY[profile] | (SIGNATURES[profile] if secrets else set())
    assert set(got) == expected
    assert {got[name] for name in got if name.endswith("webhook-id")} == {"wh_1"}
    assert {got[name] for name in got if name.endswith("timestamp")} == {str(NOW)}
    assert {got[name] for name in got if name.endswith("attempt")} <= {"3"}


@pytest.mark.parametrize("profile", ["default", "standard"])
def test_an_ed25519_key_alone_signs_in_the_standard_header_only(profile: Profile) -> None:
    got = attempt(BODY, profile=profile, ed25519_key=PRIVATE)
    assert set(got) == {"content-type", "user-agent", "webhook-signature"} | IDENTITY[profile]
    assert got["webhook-signature"].startswith("v1a,")


@given(secrets=SECRETS, body=BODIES, webhook_id=IDS, timestamp=TIMES, profile=st.sampled_from(["default", "standard"]))
def test_the_standard_header_holds_a_v1_of_each_secret_in_order(
    secrets: list[str], body: bytes, webhook_id: str, timestamp: int, profile: Profile
) -> None:
    got = attempt(body, profile=profile, secrets=secrets, webhook_id=webhook_id, timestamp=timestamp)
    text = f"{webhook_id}.{timestamp}.".encode() + body
    expected = ["v1," + base64.b64encode(mac(secret, text)).decode() for secret in secrets]
    assert got["webhook-signature"].split(" ") == expected


@given(secrets=SECRETS, body=BODIES, timestamp=TIMES, profile=st.sampled_from(["default", "howk"]))
def test_the_howk_header_holds_a_v1_of_each_secret_in_order(
    secrets: list[str], body: bytes, timestamp: int, profile: Profile
) -> None:
    got = attempt(body, profile=profile, secrets=secrets, timestamp=timestamp)
    expected = ["v1=" + mac(secret, f"{timestamp}.".encode() + body).hex() for secret in secrets]
    assert got["x-webhook-signature"].split(",") == [f"t={timestamp}", *expected]


@given(secret=st.text(min_size=1, max_size=30), body=BODIES, timestamp=TIMES)
def test_the_harborhook_header_signs_body_then_timestamp_with_the_secret_as_it_is_written(
    secret: str, body: bytes, timestamp: int
) -> None:
    got = attempt(body, profile="harborhook", secrets=(secret,), timestamp=timestamp)
    assert got["x-harborhook-signature"] == "sha256=" + mac(secret, body + str(timestamp).encode()).hex()


def test_harborhook_has_no_meaning_for_whsec() -> None:
    assert signing_keys("harborhook", ("whsec_not base64!",)) == [b"whsec_not base64!"]


# Ed25519


def test_the_asymmetric_example_of_the_reference_libraries_gives_its_signature() -> None:
    # The vector of the reference library's own tests (Go).
    signature = standard_v1a(
        "VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signature == "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag=="


@settings(max_examples=30)
@given(seed=SEEDS, body=BODIES, webhook_id=IDS, timestamp=TIMES)
def test_a_v1a_signature_is_one_that_the_public_key_verifies(
    seed: bytes, body: bytes, webhook_id: str, timestamp: int
) -> None:
    private = whsk(seed)
    got = attempt(body, secrets=(OLD,), ed25519_key=private, webhook_id=webhook_id, timestamp=timestamp)
    first, last = got["webhook-signature"].split(" ")
    assert first.startswith("v1,")
    assert last.startswith("v1a,")
    public = public_text(private)
    assert public.startswith("whpk_")
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public[5:]))
    assert key == Ed25519PrivateKey.from_private_bytes(seed).public_key()
    text = f"{webhook_id}.{timestamp}.".encode() + body
    key.verify(base64.b64decode(last[4:]), text)
    with pytest.raises(InvalidSignature):
        key.verify(base64.b64decode(last[4:]), text + b".")
    assert verify_v1a(public, got, body, timestamp) == ""


@given(seed=SEEDS)
def test_every_form_of_a_private_key_is_the_same_key(seed: bytes) -> None:
    pair = seed + Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    plain = base64.b64encode(seed).decode()
    forms = [plain, plain.rstrip("="), "whsk_" + plain, whsk(pair)]
    assert [private_key(form).private_bytes_raw() for form in forms] == [seed] * 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "32 bytes"),
        ("whsk_", "32 bytes"),
        ("not base64 at all", "standard base64"),
        (PRIVATE[:-4], "32 bytes"),
        (whsk(bytes(31)), "32 bytes"),
        (whsk(bytes(33)), "32 bytes"),
        (whsk(bytes(64)), "its own public key"),
        (PRIVATE.replace("_", "-"), "standard base64"),
        (PRIVATE + "\n", "standard base64"),
        ("whsk_" + "A" * 1_000, "standard base64"),
        ("\ud800", "standard base64"),
        (PUBLIC, "the private one"),
    ],
)
def test_a_broken_private_key_is_refused_with_a_sentence_that_keeps_it(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        private_key(text)
    assert type(caught.value) is ValueError
    assert len(text) < 6 or text[5:] not in str(caught.value)


@pytest.mark.parametrize("text", ["", "whpk_", "whpk_AAAA", "*", PRIVATE, PUBLIC[:-4]])
def test_a_broken_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an Ed25519 "):
        public_key(text)
    with pytest.raises(ValueError, match="an Ed25519 "):
        verify_v1a(text, attempt(BODY, ed25519_key=PRIVATE), BODY, NOW)


# Rotation


@given(body=st.text(max_size=200))
def test_while_both_live_a_receiver_with_the_old_and_one_with_the_new_secret_accept(body: str) -> None:
    got = attempt(body.encode(), profile="standard", secrets=(NEW, OLD), timestamp=int(time.time()))
    Webhook(OLD).verify(body.encode(), got, json_parse=False)
    Webhook(NEW).verify(body.encode(), got, json_parse=False)


def test_once_the_old_secret_is_gone_the_official_library_refuses_it() -> None:
    got = attempt(BODY, profile="standard", secrets=(NEW,), timestamp=int(time.time()))
    Webhook(NEW).verify(BODY, got, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD).verify(BODY, got, json_parse=False)


def test_the_official_library_skips_an_ed25519_signature() -> None:
    got = attempt(BODY, secrets=(OLD,), ed25519_key=PRIVATE, timestamp=int(time.time()))
    Webhook(OLD).verify(BODY, got, json_parse=False)


# The checks of a receiver


@pytest.mark.parametrize(("profile", "verify"), CHECKS)
@given(secrets=SECRETS, body=BODIES, timestamp=TIMES)
def test_each_secret_of_an_attempt_is_enough(
    profile: Profile, verify: Verify, secrets: list[str], body: bytes, timestamp: int
) -> None:
    live = secrets[:1] if profile == "harborhook" else secrets
    got = attempt(body, profile=profile, secrets=live, timestamp=timestamp)
    assert [verify(secret, got, body, timestamp) for secret in live] == [""] * len(live)


ALL_CHECKS: list[tuple[Profile, Verify, str]] = [
    *[(profile, verify, OLD) for profile, verify in CHECKS],
    ("default", verify_v1a, PUBLIC),
    ("standard", verify_v1a, PUBLIC),
]


def signed(profile: Profile) -> dict[str, str]:
    key = PRIVATE if profile in ("default", "standard") else ""
    return attempt(BODY, profile=profile, secrets=(OLD,), ed25519_key=key)


@pytest.mark.parametrize(("profile", "verify", "secret"), ALL_CHECKS)
@given(data=st.data())
def test_a_check_refuses_any_changed_byte_of_the_body(
    profile: Profile, verify: Verify, secret: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(BODY) - 1))
    changed = BODY[:at] + bytes([BODY[at] ^ data.draw(st.integers(1, 255))]) + BODY[at + 1 :]
    got = signed(profile)
    assert verify(secret, got, BODY, NOW) == ""
    assert verify(secret, got, changed, NOW).startswith("no ")


@pytest.mark.parametrize(("profile", "verify", "secret"), ALL_CHECKS)
def test_a_check_refuses_another_time_another_secret_and_a_cut_signature(
    profile: Profile, verify: Verify, secret: str
) -> None:
    got = signed(profile)
    stamped = {name: value.replace(str(NOW), str(NOW + 1)) for name, value in got.items()}
    assert verify(secret, stamped, BODY, NOW).startswith("no ")
    other = public_text(whsk(bytes(32))) if secret == PUBLIC else NEW
    assert verify(other, got, BODY, NOW).startswith("no ")
    cut = {name: value[:-2] if "signature" in name else value for name, value in got.items()}
    assert verify(secret, cut, BODY, NOW) or (verify is verify_standard and "v1a," in cut["webhook-signature"])


@pytest.mark.parametrize(("profile", "verify", "secret"), ALL_CHECKS)
@pytest.mark.parametrize(("off", "said"), [(301, "too old"), (-301, "too new"), (300, ""), (-300, "")])
def test_a_check_tolerates_five_minutes_either_way(
    profile: Profile, verify: Verify, secret: str, off: int, said: str
) -> None:
    verdict = verify(secret, signed(profile), BODY, NOW + off)
    assert said in verdict
    assert bool(verdict) == bool(said)


@pytest.mark.parametrize(("profile", "verify", "secret"), ALL_CHECKS)
def test_a_check_names_each_header_that_is_missing(profile: Profile, verify: Verify, secret: str) -> None:
    got = signed(profile)
    said = [verify(secret, {n: v for n, v in got.items() if n != name}, BODY, NOW) for name in got]
    assert [text for text in said if text and "is missing" not in text] == []
    assert any(said)


def test_the_id_is_signed_by_both_standard_schemes() -> None:
    got = signed("standard") | {"webhook-id": "wh_2"}
    assert verify_standard(OLD, got, BODY, NOW)
    assert verify_v1a(PUBLIC, got, BODY, NOW)


def test_an_hmac_signature_is_not_taken_for_an_ed25519_one() -> None:
    got = attempt(BODY, profile="standard", secrets=(OLD,))
    assert verify_v1a(PUBLIC, got, BODY, NOW) == "webhook-signature holds no v1a signature"


@given(value=st.text(max_size=60))
def test_no_text_of_a_header_makes_a_check_fail(value: str) -> None:
    text = value or "x"
    for stamp in (str(NOW), text):
        standard = {"webhook-id": text, "webhook-timestamp": stamp, "webhook-signature": "v1a," + text}
        assert verify_v1a(PUBLIC, standard, BODY, NOW)
        theirs = {"x-harborhook-timestamp": stamp, "x-harborhook-signature": "sha256=" + text}
        assert verify_harborhook(OLD, theirs, BODY, NOW)
