"""What a request says of signing: the fields come in, what is to be sealed and how it is used comes out, or a refusal
that names each field and repeats no secret.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct

from howk.domain import ed25519
from howk.domain.errors import FieldProblem, Rejected
from howk.domain.signing import PROFILES, Profile, signing_keys

MAX_SECRETS = 8
MAX_SECRET = 1_024
"""Characters. Every secret costs a signature on each attempt and a place in the caches of keys."""


class Signing(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The field `signing`. `profile` is checked here and not by the decoder, which would repeat what stands in it."""

    profile: str | None = None
    secrets: list[str] | None = None
    ed25519_key: str | None = None

    def __repr__(self) -> str:
        return "Signing(...)"


class Signed(NamedTuple):
    """How a delivery is signed; `secrets` and `ed25519_key` are for the seal."""

    profile: Profile = "default"
    secrets: tuple[str, ...] = ()
    ed25519_key: str = ""

    def __repr__(self) -> str:
        return f"Signed({self.profile!r}, ...)"


_UNSIGNED = Signed()


def chosen_signing(secret: str | None, signing: Signing | None) -> Signed:
    """From the fields `signing_secret` and `signing`, either of which may be absent. Raises `Rejected`."""
    if signing is None:
        if secret is None:
            return _UNSIGNED
        return _plainly_signed(secret)
    profile = _PROFILE.get("default" if signing.profile is None else signing.profile)
    problems = [*_problems(signing, profile)]
    if secret is not None:
        problems.append(FieldProblem("signing_secret", "give either signing_secret or signing, not both"))
    if problems or profile is None:
        raise Rejected("invalid_signing", f"{problems[0].field}: {problems[0].message}", problems)
    return Signed(profile, tuple(signing.secrets or ()), signing.ed25519_key or "")


# Most requests of a sender carry the same secret.
@lru_cache(maxsize=1_024)
def _plainly_signed(secret: str) -> Signed:
    if problem := _secret_problem("default", secret):
        raise Rejected("invalid_signing_secret", problem, [FieldProblem("signing_secret", problem)])
    return Signed("default", (secret,))


_PROFILE: dict[str, Profile] = {profile: profile for profile in PROFILES}


def _problems(signing: Signing, profile: Profile | None) -> Iterator[FieldProblem]:
    if profile is None:
        yield FieldProblem("signing.profile", f"one of {', '.join(PROFILES)}")
    secrets = signing.secrets or []
    if len(secrets) > MAX_SECRETS:
        yield FieldProblem("signing.secrets", f"{len(secrets)} secrets; at most {MAX_SECRETS} are taken")
    for at, secret in enumerate(secrets[:MAX_SECRETS]):
        if problem := _secret_problem(profile or "default", secret):
            yield FieldProblem(f"signing.secrets[{at}]", problem)
    key = signing.ed25519_key
    if key is not None and (problem := _key_problem(key)):
        yield FieldProblem("signing.ed25519_key", problem)
    yield from _misfits(profile, len(secrets), has_key=key is not None)


def _misfits(profile: Profile | None, secrets: int, *, has_key: bool) -> Iterator[FieldProblem]:
    """What each profile has no place for, or can't do without."""
    if has_key and profile in ("howk", "harborhook"):
        yield FieldProblem("signing.ed25519_key", f"the profile {profile} has no place for an Ed25519 signature")
    if profile == "harborhook" and secrets > 1:
        yield FieldProblem(
            "signing.secrets", "a receiver of the profile harborhook takes one signature: give one secret"
        )
    if not secrets and not (has_key and profile in ("default", "standard", None)):
        yield FieldProblem("signing.secrets", "signing needs a secret to sign with; leave signing out to send unsigned")


def _secret_problem(profile: Profile, secret: str) -> str:
    if len(secret) > MAX_SECRET:
        return f"a signing secret may have at most {MAX_SECRET} characters"
    if secret.startswith((ed25519.PRIVATE_PREFIX, ed25519.PUBLIC_PREFIX)):
        return "whsk_ and whpk_ stand before Ed25519 keys; the private one goes into signing.ed25519_key"
    try:
        signing_keys(profile, (secret,))
    except ValueError as error:
        return str(error)
    return ""


def _key_problem(key: str) -> str:
    try:
        ed25519.private_key(key)
    except ValueError as error:
        return str(error)
    return ""
