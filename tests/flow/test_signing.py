"""Signatures over the real corridor: what a receiver of each profile is sent, first and again after a failure."""

from base64 import b64encode
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.support import Corridor, ManualClock, opened, running, serving

from howk.domain.ed25519 import public_text
from howk.domain.records import PENDING, Delivery, reader
from howk.domain.sealing import NONCE_BYTES, Secrets
from howk.domain.signing_request import Signing
from howk.flow import journal
from howk.testing.receiver import Received, Receiver

NEW = "whsec_" + b64encode(b"the secret of this year, 24+").decode()
OLD = "the secret of last year"
PRIVATE = "whsk_" + b64encode(bytes(range(32))).decode()
PUBLIC = public_text(PRIVATE)
KEYED = Signing(secrets=[NEW, OLD], ed25519_key=PRIVATE)


def _signed(received: Received) -> dict[str, str]:
    return {
        name.decode(): value.decode()
        for name, value in received.headers
        if name.startswith((b"webhook-", b"x-webhook-", b"x-harborhook-"))
    }


@pytest.mark.parametrize(
    ("signing", "secrets", "names"),
    [
        (KEYED, [NEW], {"webhook-signature", "x-webhook-signature"}),
        (KEYED, [OLD], {"webhook-signature", "x-webhook-signature"}),
        (KEYED, [PUBLIC], {"webhook-signature", "x-webhook-signature"}),
        (Signing(profile="standard", secrets=[NEW, OLD]), [OLD], {"webhook-signature"}),
        (Signing(profile="standard", ed25519_key=PRIVATE), [PUBLIC], {"webhook-signature"}),
        (Signing(profile="howk", secrets=[NEW, OLD]), [OLD], {"x-webhook-signature"}),
        (Signing(profile="harborhook", secrets=[NEW]), [NEW], {"x-harborhook-signature"}),
    ],
)
async def test_a_retry_is_signed_anew_for_its_own_time_under_the_same_id(
    tmp_path: Path, signing: Signing, secrets: list[str], names: set[str]
) -> None:
    clock = ManualClock()
    # The body is one that a reader would write differently.
    body = b'{ "a" :\t1.0, "b":"\xc3\xa4" }'
    async with (
        Receiver(secrets=secrets, fail_first_n=1, now=lambda: clock.now() / 1000) as receiver,
        running(tmp_path, clock, retry__jitter=0.0) as corridor,
    ):
        webhook_id = await corridor.send(receiver.url, body, signing=signing)
        await corridor.failed(webhook_id, attempts=1)
        # Longer than a receiver lets a signature be old.
        clock.advance(600_000)
        assert (await corridor.ended(webhook_id)).state == "delivered"
        first, second = receiver.captured
    assert [got.verdict for got in (first, second)] == ["good", "good"]
    assert [got.body for got in (first, second)] == [body, body]
    assert {got.id for got in (first, second)} == {webhook_id}
    before, after = _signed(first), _signed(second)
    assert {name for name in before if name.endswith("signature")} == names
    assert set(before) == set(after)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if name.endswith(("signature", "timestamp", "attempt"))}


async def test_a_receiver_that_no_longer_knows_the_secret_refuses_and_the_webhook_ends(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        Receiver(secrets=["another"], now=lambda: clock.now() / 1000) as receiver,
        running(tmp_path, clock) as corridor,
    ):
        webhook_id = await corridor.send(receiver.url, signing=Signing(profile="howk", secrets=[NEW]))
        status = await corridor.ended(webhook_id)
    assert (status.state, status.last_status_code) == ("dead", 401)


async def test_a_webhook_that_waits_keeps_its_profile_and_keys_over_a_restart_and_a_lost_hot_state(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    secrets = [OLD, PUBLIC]
    async with Receiver(secrets=secrets, fail_first_n=1, now=lambda: clock.now() / 1000) as receiver:
        async with running(tmp_path, clock) as corridor:
            signing = Signing(profile="standard", secrets=[NEW, OLD], ed25519_key=PRIVATE)
            webhook_id = await corridor.send(receiver.url, signing=signing)
            await corridor.failed(webhook_id, attempts=1)
        for path in tmp_path.glob("hot.db*"):
            path.unlink()
        clock.advance(100_000)
        async with running(tmp_path, clock) as corridor:
            assert (await corridor.ended(webhook_id)).state == "delivered"
        last = receiver.captured[-1]
    assert (last.id, last.verdict) == (webhook_id, "good")
    assert [part.partition(",")[0] for part in last.header("webhook-signature").split(" ")] == ["v1", "v1", "v1a"]
    assert not last.header("x-webhook-id")


async def _accepted(corridor: Corridor) -> list[Delivery]:
    log = corridor.engines.log
    ((place, (start, stop)),) = (await log.bounds(PENDING)).items()
    return [
        reader(Delivery)(entry.value)
        async for batch in log.read(PENDING, place.partition, start, stop)
        for entry in batch
    ]


async def test_deliveries_to_one_receiver_with_the_same_secrets_have_their_sealed_text_in_common(
    tmp_path: Path,
) -> None:
    url = "http://user:word@127.0.0.1:9/hook"
    async with opened(tmp_path) as corridor:
        for endpoint, secret in ((url, OLD), (url, OLD), (url, NEW), (url + "?token=1", OLD), (url + "s", OLD)):
            await corridor.send(endpoint, signing_secret=secret)
        first, again, *others = [delivery.targets[0].sealed for delivery in await _accepted(corridor)]
    assert first == again
    assert len({first, *others}) == 4


async def test_secrets_of_one_receiver_are_not_sent_to_another(tmp_path: Path) -> None:
    """Whoever can write to the log, and has no key, can't have them."""
    async with Receiver() as good, Receiver() as thief, opened(tmp_path) as corridor:
        await corridor.house.reconcile.recover()
        await corridor.send(good.url, headers={"Authorization": "Bearer hunter2"})
        (delivery,) = await _accepted(corridor)
        moved = replace(delivery.targets[0], id="wh_" + "0" * 26, endpoint=thief.url + "/")
        await corridor.engines.log.append([journal.pending(replace(delivery, targets=(moved,)))])
        async with serving(corridor.house):
            assert (await corridor.ended(delivery.targets[0].id)).state == "delivered"
            assert (await corridor.ended(moved.id)).reason_type == "undecodable"
    assert good.total == 1
    assert thief.total == 0


async def test_secrets_that_an_older_version_sealed_for_one_delivery_alone_are_read(tmp_path: Path) -> None:
    clock = ManualClock()
    receiving = Receiver(secrets=[NEW], now=lambda: clock.now() / 1000)
    async with receiving as receiver, opened(tmp_path, clock) as corridor:
        await corridor.house.reconcile.recover()
        await corridor.send(receiver.url, signing_secret=NEW)
        (delivery,) = await _accepted(corridor)
        ids = ["wh_" + letter * 26 for letter in "ABC"]
        sealer = corridor.engines.sealer
        sealed = [sealer.seal(Secrets(signing=(NEW,)), id_, bytes(NONCE_BYTES)) for id_ in ids[:2]]
        # The last one has the text of another.
        texts = [*sealed, sealed[0]]
        targets = [replace(delivery.targets[0], id=id_, sealed=text) for id_, text in zip(ids, texts, strict=True)]
        records = [journal.pending(replace(delivery, v=1, targets=(target,))) for target in targets]
        await corridor.engines.log.append(records)
        async with serving(corridor.house):
            states = [(await corridor.ended(id_)).reason_type for id_ in ids]
    assert states == ["", "", "undecodable"]
    assert [got.verdict for got in receiver.captured] == ["good"] * 3
