"""How a config is shown: what it sets, and of its secrets only how many there are."""

from msgspec import Struct

from howk.domain.config_defaults import Config
from howk.domain.request_headers import REDACTED
from howk.domain.retry import RetryPolicy, RetryType
from howk.domain.signing import Profile
from howk.web.times import rfc3339


class SigningShown(Struct, frozen=True, forbid_unknown_fields=True):
    """How deliveries are signed: `secrets` is their number."""

    profile: Profile
    secrets: int
    ed25519_key: bool


class RetryShown(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The retry policy, times in seconds. Without a `type` it is the deployment's, with these attempts."""

    type: RetryType | None = None
    base_delay: float | None = None
    max_delay: float | None = None
    jitter: float | None = None
    delays: tuple[float, ...] | None = None
    max_attempts: int | None = None
    on_status: tuple[int, ...] | None = None


class RateLimitShown(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests to one endpoint."""

    per_second: float
    burst: float


class OrderingShown(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a failing delivery is to those of its ordering key."""

    policy: str
    after: int | None = None


class ConfigShown(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a config sets; null is what it leaves to the deployment. Secret header values are `(redacted)`."""

    config_id: str
    updated_at: str
    signing: SigningShown | None
    headers: dict[str, str]
    retry: RetryShown | None
    timeout: float | None
    rate_limit: RateLimitShown | None
    max_in_flight: int | None
    ordering: OrderingShown


def shown(config: Config) -> ConfigShown:
    """See the module."""
    signed = config.signed
    return ConfigShown(
        config_id=config.scope,
        updated_at=rfc3339(config.updated_at),
        signing=SigningShown(signed.profile, len(signed.secrets), bool(signed.ed25519_key)) if signed else None,
        headers={**config.headers, **dict.fromkeys(config.sensitive, REDACTED)},
        retry=_retry(config.retry, config.max_attempts),
        timeout=config.timeout / 1000 if config.timeout else None,
        rate_limit=RateLimitShown(config.per_second, config.burst) if config.per_second else None,
        max_in_flight=config.max_in_flight or None,
        ordering=OrderingShown("skip", config.skip_after) if config.skip_after else OrderingShown("block"),
    )


def _retry(policy: RetryPolicy | None, attempts: int) -> RetryShown | None:
    if policy is None:
        return RetryShown(max_attempts=attempts) if attempts else None
    scheduled = policy.type == "schedule"
    return RetryShown(
        type=policy.type,
        base_delay=None if scheduled else policy.base_delay / 1000,
        max_delay=policy.max_delay / 1000,
        jitter=policy.jitter,
        delays=tuple([delay / 1000 for delay in policy.delays]) if scheduled else None,
        max_attempts=attempts or None,
        on_status=policy.on_status or None,
    )
