"""What a key makes of a request, over every history that a key can have."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howk.domain.idempotency import Claimed, Kept, Verdict, body_hash, ended, is_key, judge, scoped

TTL = 100
NOW = 1_000

bodies = st.sampled_from(["a", "b"])
known = st.none() | st.builds(Kept, bodies, st.just("first"), st.integers(NOW - 2 * TTL, NOW))
claimed = st.builds(Claimed, bodies, st.just("first"), st.booleans())


@given(found=known | claimed, body=bodies)
def test_only_the_same_body_under_a_key_that_lives_gets_the_first_answer(
    found: Kept | Claimed | None, body: str
) -> None:
    replayed = judge(found, body, NOW, TTL) is Verdict.REPLAY
    assert replayed == (isinstance(found, Kept) and found.body == body and NOW - found.accepted_at < TTL)


@given(found=claimed, body=bodies)
def test_nobody_gets_a_key_that_somebody_holds(found: Claimed, body: str) -> None:
    assert (judge(found, body, NOW, TTL) is Verdict.BUSY) == found.held


@given(found=known | claimed, body=bodies)
def test_another_body_never_gets_a_key_that_is_taken(found: Kept | Claimed | None, body: str) -> None:
    verdict = judge(found, body, NOW, TTL)
    if isinstance(found, Kept) and found.body != body and NOW - found.accepted_at < TTL:
        assert verdict is Verdict.REUSED
    if isinstance(found, Claimed) and found.body != body:
        assert verdict in (Verdict.BUSY, Verdict.REUSED)


@pytest.mark.parametrize(("age", "verdict"), [(TTL - 1, Verdict.REPLAY), (TTL, Verdict.MINE), (TTL + 1, Verdict.MINE)])
def test_a_key_is_free_again_when_its_time_is_over(age: int, verdict: Verdict) -> None:
    assert judge(Kept("a", "first", NOW - age), "a", NOW, TTL) is verdict


@dataclass
class Under:
    """One key: what hot state knows of it, and which ids came into the log under it within its time."""

    found: Kept | Claimed | None = None
    logged: set[str] = field(default_factory=set[str])
    asked: int = 0


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "kept", "void", "unknown but kept", "unknown and lost"]), bodies)),
)
def test_whatever_becomes_of_its_claims_a_key_has_one_delivery(steps: list[tuple[str, str]]) -> None:
    key = Under()
    for step, body in steps:
        if step == "ask":
            key.asked += 1
            if judge(key.found, body, NOW, TTL) is Verdict.MINE:
                fresh = Claimed(body, f"id{key.asked}", held=True)
                key.found = key.found._replace(held=True) if isinstance(key.found, Claimed) else fresh
        elif isinstance(key.found, Claimed) and key.found.held:
            if step in ("kept", "unknown but kept"):
                key.logged.add(key.found.id)
            key.found = ended(key.found, "unknown" if "unknown" in step else step, NOW)  # pyright: ignore[reportArgumentType]
    assert len(key.logged) <= 1


@pytest.mark.parametrize("key", ["k", "x" * 255, "order/42:created", "~!{}"])
def test_a_key_is_visible_ascii(key: str) -> None:
    assert is_key(key)


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "a\n", "\x00", "\x7f", "ä", "\xa0", "😀"])
def test_anything_else_is_no_key(key: str) -> None:
    assert not is_key(key)


@given(scopes=st.tuples(st.text("ab:._~-"), st.text("ab:._~-")), keys=st.tuples(st.text("a/"), st.text("a/")))
def test_the_keys_of_two_scopes_are_never_the_same(scopes: tuple[str, str], keys: tuple[str, str]) -> None:
    same = scopes[0] == scopes[1] and keys[0] == keys[1]
    assert (scoped(scopes[0], keys[0]) == scoped(scopes[1], keys[1])) == same


def test_a_body_is_known_by_its_sha_256() -> None:
    assert body_hash(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
