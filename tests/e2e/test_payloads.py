"""What is sent arrives bit for bit, on the first attempt and on a retry, by both routes, with good signatures."""

import hmac
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook
from tests.e2e.harness import Howk, Receiver, Reply, Start, connected, envelope
from tests.payloads.samples import MEBIBYTE, SAMPLES, Sample

pytestmark = pytest.mark.e2e

KEY = bytes(range(24))
SECRET = "whsec_" + b64encode(KEY).decode()
SETTINGS = {"HOWK_RETRY_BASE_DELAY": "50ms"}


def fails_first(start: Start) -> Reply:
    return Reply(500 if start.attempt == 1 else 200)


def request(endpoint: str, sample: Sample) -> bytes:
    """A request's body: JSON as it stands, anything else in base64."""
    fields = {"signing_secret": SECRET, "max_attempts": 2}
    if sample.is_json:
        return envelope(endpoint, sample.body, **fields)
    encoded = b64encode(sample.body).decode()
    fields |= {"payload_base64": encoded, "content_type": sample.content_type}
    return json.dumps({"endpoint": endpoint, **fields}).encode()


def examples() -> dict[str, Sample]:
    """The JSON texts of the folder that HOWK_TEST_PAYLOADS names, each without the whitespace around it, which is no
    part of a JSON text, and once more with it, in base64."""
    folder = os.environ.get("HOWK_TEST_PAYLOADS")
    if not folder:
        if os.environ.get("CI"):
            pytest.fail("HOWK_TEST_PAYLOADS has to name a folder of payloads in CI")
        pytest.skip("HOWK_TEST_PAYLOADS names no folder of payloads")
    texts = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    assert texts
    return {name: Sample(text.strip(b" \t\r\n")) for name, text in texts.items()} | {
        f"{name} in base64": Sample(text, "application/json") for name, text in texts.items()
    }


async def arrive(samples: Mapping[str, Sample], howk: Howk, receiver: Receiver, route: str) -> dict[str, str]:
    """Sends them all and waits until they have arrived; the name of each by its id."""
    # Each for an endpoint of its own: all fail at first, and of one the breaker would open.
    bodies = [request(receiver.url(f"/{number}?name"), sample) for number, sample in enumerate(samples.values())]
    if route == "one by one":
        ids = [await howk.enqueue_body(body) for body in bodies]
    else:
        ids = await howk.enqueue_batch(bodies)
    await howk.reach(ids, "delivered")
    return dict(zip(ids, samples, strict=True))


def check(samples: Mapping[str, Sample], names: Mapping[str, str], receiver: Receiver) -> None:
    """Every start had its sample's bytes and type, and good signatures; there were two of each."""
    assert receiver.bodies is not None
    came: dict[str, list[int]] = {name: [] for name in samples}
    for start, body in zip(receiver.starts, receiver.bodies, strict=True):
        name = names[start.id]
        sample = samples[name]
        came[name].append(start.attempt)
        assert body == sample.body, f"{name}: the body was changed at attempt {start.attempt}"
        assert start.headers["content-type"] == (sample.content_type or "application/json"), name
        assert start.headers["content-length"] == str(len(sample.body)), name
        verify_standard(sample, start)
        verify_own(sample.body, start.headers)
    assert came == {name: [1, 2] for name in samples}


def verify_standard(sample: Sample, start: Start) -> None:
    """By the official library, which takes UTF-8 only; by hand what is not."""
    try:
        sample.body.decode()
    except UnicodeDecodeError:
        signed = f"{start.id}.{start.headers['webhook-timestamp']}.".encode() + sample.body
        version, _, signature = start.headers["webhook-signature"].partition(",")
        assert version == "v1"
        assert hmac.compare_digest(b64decode(signature, validate=True), hmac.digest(KEY, signed, "sha256"))
    else:
        Webhook(SECRET).verify(sample.body, start.headers, json_parse=parses(sample))


def parses(sample: Sample) -> bool:
    """Whether it is JSON that Python reads, which refuses integers of many digits."""
    try:
        json.loads(sample.body.decode())
    except ValueError:
        return False
    return True


def verify_own(body: bytes, headers: Mapping[str, str]) -> None:
    time, _, signature = headers["x-webhook-signature"].partition(",")
    assert time == f"t={headers['x-webhook-timestamp']}"
    signed = headers["x-webhook-timestamp"].encode() + b"." + body
    assert hmac.compare_digest(signature, "v1=" + hmac.digest(KEY, signed, "sha256").hex())


def test_the_largest_samples_are_as_large_as_may_be() -> None:
    assert len(SAMPLES["as large as allowed"].body) == MEBIBYTE
    assert len(SAMPLES["binary as large as allowed"].body) == MEBIBYTE


@pytest.mark.parametrize("route", ["one by one", "in a batch"])
async def test_every_odd_payload_arrives_bit_for_bit_and_signed(tmp_path: Path, route: str) -> None:
    async with Receiver(fails_first, keep_bodies=True) as receiver, Howk(tmp_path, SETTINGS) as howk:
        names = await arrive(SAMPLES, howk, receiver, route)
        assert await howk.stop() == 0
    check(SAMPLES, names, receiver)


@pytest.mark.parametrize("route", ["one by one", "in a batch"])
async def test_every_example_of_a_real_sender_arrives_bit_for_bit_and_signed(tmp_path: Path, route: str) -> None:
    samples = examples()
    async with Receiver(fails_first, keep_bodies=True) as receiver, Howk(tmp_path, SETTINGS) as howk:
        names = await arrive(samples, howk, receiver, route)
        assert await howk.stop() == 0
    check(samples, names, receiver)


async def test_a_payload_is_refused_when_it_is_nested_too_deep_for_a_record_and_delivered_when_it_is_not(
    tmp_path: Path,
) -> None:
    payloads = [b"[" * depth + b"]" * depth for depth in range(800, 1020, 2)]
    taken: list[str] = []
    refused = 0
    async with Receiver(fails_first) as receiver, Howk(tmp_path, SETTINGS) as howk:
        async with connected(howk.port) as connection:
            for number, payload in enumerate(payloads):
                body = envelope(receiver.url(f"/{number}"), payload)
                answer = await connection.request("POST", "/webhooks/deep/enqueue", body)
                if answer.status == 202:
                    taken.append(answer.json()["webhook_id"])
                else:
                    assert (answer.status, answer.json()["detail"]) == (400, "the body is nested too deep")
                    refused += 1
        assert taken
        assert refused
        await howk.reach(taken, "delivered")
