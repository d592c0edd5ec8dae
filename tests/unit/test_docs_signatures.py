"""The examples of the page on signatures run as they stand there, against what is sent."""

import base64
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import WebhookVerificationError
from tests.heads import attempt

from howk.domain.ed25519 import public_text
from howk.domain.signing import PROFILES, Profile

_PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "verify-signatures.md").read_text()
_BODY = '{ "id": 1.0, "name": "grüße" }'.encode()
_SECRET = "whsec_" + base64.b64encode(b"the secret of the example, 24+").decode()
_REFUSALS = (ValueError, KeyError, WebhookVerificationError)


def _example(name: str) -> Callable[..., Any]:
    """The function of that name, from the one block that defines it and nothing else."""
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL) if f"def {name}(" in text]
    namespace: dict[str, Any] = {}
    exec(compile(block, f"verify-signatures.md:{name}", "exec"), namespace)
    return namespace[name]


_PRIVATE = "whsk_" + base64.b64encode(bytes(range(32))).decode()
_PUBLIC = public_text(_PRIVATE)
_EXAMPLES: list[tuple[str, Profile, str]] = [
    ("verify_with_library", "default", _SECRET),
    ("verify_with_library", "standard", _SECRET),
    ("verify_standard", "default", _SECRET),
    ("verify_standard", "standard", _SECRET),
    ("verify_standard", "standard", "any text: ü"),
    ("verify_ed25519", "default", _PUBLIC),
    ("verify_ed25519", "standard", _PUBLIC),
    ("verify_howk", "default", _SECRET),
    ("verify_howk", "howk", _SECRET),
    ("verify_howk", "howk", "any text: ü"),
    ("verify_harborhook", "harborhook", _SECRET),
    ("verify_harborhook", "harborhook", "any text: ü"),
]


def _attempt(profile: Profile, secret: str, *, old: Sequence[str] = (), off: int = 0) -> dict[str, str]:
    keyed = profile in ("default", "standard")
    secrets = [_SECRET if secret == _PUBLIC else secret, *old]
    key = _PRIVATE if keyed else ""
    return attempt(_BODY, profile=profile, secrets=secrets, ed25519_key=key, timestamp=int(time.time()) + off)


def test_every_example_of_the_page_is_run() -> None:
    defined = set(re.findall(r"^def (\w+)\(", _PAGE, re.MULTILINE))
    assert defined == {name for name, _, _ in _EXAMPLES} | {"make_pair"}
    assert _PAGE.count("```python") == len(defined)


def test_the_pair_of_the_page_is_a_private_key_and_its_public_one() -> None:
    private, public = _example("make_pair")()
    assert public == public_text(private)


@pytest.mark.parametrize(("name", "profile", "secret"), _EXAMPLES)
def test_an_example_takes_what_is_sent(name: str, profile: Profile, secret: str) -> None:
    verify = _example(name)
    verify(secret, _attempt(profile, secret), _BODY)
    if profile != "harborhook":
        verify(secret, _attempt(profile, secret, old=("whsec_b2xkZXI=",)), _BODY)


@pytest.mark.parametrize(("name", "profile", "secret"), _EXAMPLES)
def test_an_example_refuses_another_body_another_secret_and_another_time(
    name: str, profile: Profile, secret: str
) -> None:
    verify = _example(name)
    with pytest.raises(_REFUSALS):
        verify(secret, _attempt(profile, secret), _BODY.replace(b" ", b""))
    other = public_text(base64.b64encode(bytes(32)).decode()) if secret == _PUBLIC else _SECRET[:-4] + "AAAA"
    with pytest.raises(_REFUSALS):
        verify(other, _attempt(profile, secret), _BODY)
    for off in (-400, 400):
        with pytest.raises(_REFUSALS):
            verify(secret, _attempt(profile, secret, off=off), _BODY)


@pytest.mark.parametrize(("name", "profile", "secret"), _EXAMPLES)
@pytest.mark.parametrize("wrong", ["", "x", "9" * 400, "v1a,", "v1a,*", "t=,v1=", "²"])
def test_an_example_refuses_headers_that_are_missing_or_no_signatures(
    name: str, profile: Profile, secret: str, wrong: str
) -> None:
    verify = _example(name)
    got = _attempt(profile, secret)
    with pytest.raises(_REFUSALS):
        verify(secret, {}, _BODY)
    for part in ("signature", "timestamp"):
        spoiled = {header: wrong if header.endswith(part) else value for header, value in got.items()}
        if spoiled != got and not (name == "verify_howk" and part == "timestamp"):
            with pytest.raises(_REFUSALS):
                verify(secret, spoiled, _BODY)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_page_names_the_headers_of_each_profile(profile: Profile) -> None:
    (row,) = re.findall(rf"^\| `{profile}` \|.*$", _PAGE, re.MULTILINE)
    named = {name.lower() for name in re.findall(r"`([Ww]ebhook-[\w-]+|X-[\w-]+)`", row)}
    assert named == set(_attempt(profile, _SECRET)) - {"content-type", "user-agent"}
