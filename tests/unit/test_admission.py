"""Admission: what an endpoint lets through and lets go never exceeds what it is known to bear, and never stops for
good."""

from math import ceil

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from howk.domain.admission import FIRST_SHARE, Share, admit, rate_of, release
from howk.domain.breaker import Circuit, blocked, probe_due, ramp
from howk.domain.limits import Bucket

NOW = 1_700_000_000_000

times = st.integers(NOW - 10_000, NOW + 10_000)
circuits = st.builds(
    Circuit,
    state=st.sampled_from(["closed", "open", "half_open"]),
    gen=st.integers(1, 9),
    probe_at=times,
    since=st.just(0) | times,
    disabled=st.sampled_from(["", "", "gone"]),
    paused=st.booleans(),
)
probes = st.integers(0, 9)
goods = st.lists(st.sampled_from([True, True, False, None]), max_size=200)


@given(circuit=circuits, behind=st.booleans(), probing=st.booleans(), admitted=st.booleans(), probe=probes)
def test_what_goes_past_an_open_breaker_is_a_probe_under_its_token(
    circuit: Circuit, behind: bool, probing: bool, admitted: bool, probe: int
) -> None:
    found = admit(circuit, NOW, behind=behind, probing=probing, admitted=admitted, probe=probe)
    if found.verdict == "go" and circuit.state != "closed":
        assert found.probe == circuit.gen
        assert probe == circuit.gen or (probe_due(circuit, NOW) and not behind and not probing)
    else:
        assert found.probe == 0


@given(circuit=circuits, behind=st.booleans(), probing=st.booleans(), admitted=st.booleans(), probe=probes)
def test_each_verdict_has_its_one_reason(
    circuit: Circuit, behind: bool, probing: bool, admitted: bool, probe: int
) -> None:
    found = admit(circuit, NOW, behind=behind, probing=probing, admitted=admitted, probe=probe)
    assert (found.verdict == "disabled") == bool(circuit.disabled)
    if found.verdict == "hold":
        assert found.held_by == (blocked(circuit, NOW) or "limit")
    if found.held_by == "limit":
        assert behind
        assert not admitted
    if found.verdict == "go":
        assert not circuit.paused


@given(circuit=circuits, probing=st.booleans())
def test_of_an_endpoint_that_is_well_everything_goes_unless_others_are_held(circuit: Circuit, probing: bool) -> None:
    circuit = replace(circuit, state="closed", paused=False, disabled="")
    for behind, admitted in ((False, False), (False, True), (True, True)):
        assert admit(circuit, NOW, behind=behind, probing=probing, admitted=admitted, probe=0).verdict == "go"
    assert admit(circuit, NOW, behind=True, probing=probing, admitted=False, probe=0).held_by == "limit"


@given(results=goods, cap=st.integers(0, 100))
def test_a_share_is_at_least_one_and_never_grows_beyond_its_cap(results: list[bool | None], cap: int) -> None:
    share = Share()
    for good in results:
        before, share = share, share.after(good, cap)
        assert 1 <= share.most <= max(1, cap, before.most)
        assert 1 <= share.within(cap).most <= max(1, cap)
        assert share.growing <= before.growing
        if good is None:
            assert share is before
        elif good and cap >= before.most:
            assert share.most >= before.most
        elif not good:
            assert share.most <= before.most
            assert not share.growing


@given(rounds=st.integers(1, 12))
def test_while_all_do_well_a_share_doubles_with_each_round(rounds: int) -> None:
    share = Share()
    for _ in range(rounds):
        for _ in range(int(share.most)):
            share = share.after(True, 1 << 20)
    assert share.most == FIRST_SHARE * 2**rounds


def test_after_a_bad_one_a_share_grows_by_one_a_round() -> None:
    share = Share(40.0).after(False, 100)
    for _ in range(10):
        before = share.most
        for _ in range(int(share.most)):
            share = share.after(True, 100)
        assert 0.9 < share.most - before <= 1


@given(
    circuit=circuits,
    out=st.integers(0, 60),
    most=st.floats(1, 50),
    probing=st.floats(-5, 60),
    tokens=st.none() | st.floats(-10, 40),
    rate=st.floats(0.1, 100),
)
def test_no_more_is_let_go_than_share_tokens_and_breaker_allow(
    circuit: Circuit, out: int, most: float, probing: float, tokens: float | None, rate: float
) -> None:
    bucket = None if tokens is None else Bucket(tokens, 0.0)
    found = release(circuit, NOW, out=out, share=Share(most), probing=probing, tokens=bucket, rate=rate)
    assert found.most >= 0
    assert not (found.most and found.again)
    if blocked(circuit, NOW):
        assert found.most <= (probing <= 0 and probe_due(circuit, NOW))
        assert found.probe == (circuit.gen if found.most else 0)
    else:
        assert found.probe == 0
        assert out + found.most <= max(out, most)
        assert bucket is None or found.most <= max(0.0, bucket.tokens + 1e-6)


@given(
    circuit=circuits,
    most=st.floats(1, 50),
    probing=st.floats(-5, 60),
    tokens=st.none() | st.floats(-10, 40),
    rate=st.floats(0.1, 100),
)
def test_who_asks_again_when_told_is_given_something(
    circuit: Circuit, most: float, probing: float, tokens: float | None, rate: float
) -> None:
    """With nothing on its way: an endpoint that is neither paused nor disabled lets something go in the end."""
    circuit = replace(circuit, paused=False, disabled="")
    passed, now = 0.0, NOW
    for _ in range(6):
        bucket = None if tokens is None else Bucket(min(40.0, tokens + passed * rate), passed)
        found = release(circuit, now, out=0, share=Share(most), probing=probing - passed, tokens=bucket, rate=rate)
        if found.most:
            return
        assert found.again > 0
        passed += found.again
        now = NOW + ceil(passed * 1000)
    raise AssertionError(f"nothing after {passed} seconds")


@given(circuit=circuits, asked=st.just(0.0) | st.floats(0.1, 1_000), first=st.floats(1, 100))
def test_a_rate_is_the_lower_of_what_is_asked_and_the_ramp(circuit: Circuit, asked: float, first: float) -> None:
    found, ramped = rate_of(circuit, NOW, asked, first), ramp(circuit, NOW, first)
    limits = [rate for rate in (asked, ramped) if rate]
    assert found == min(limits, default=0.0)
