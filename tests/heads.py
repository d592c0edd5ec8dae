"""Attempts as a receiver sees them: the headers of a signed head."""

from collections.abc import Sequence

from howk.domain.signing import Profile, signed_head, signing_keys


def attempt(
    body: bytes,
    *,
    profile: Profile = "default",
    secrets: Sequence[str] = (),
    ed25519_key: str = "",
    timestamp: int = 1_700_000_000,
    webhook_id: str = "wh_1",
) -> dict[str, str]:
    """The headers of one attempt, names in lower case."""
    lines = signed_head(
        webhook_id=webhook_id,
        attempt=3,
        timestamp=timestamp,
        body=body,
        keys=signing_keys(profile, secrets),
        user_agent="howk/1",
        content_type="application/json",
        headers={},
        profile=profile,
        ed25519_key=ed25519_key,
    )
    assert lines.endswith(b"\r\n")
    pairs = [line.partition(": ") for line in lines.decode().split("\r\n")[:-1]]
    return {name.lower(): value for name, _, value in pairs}
