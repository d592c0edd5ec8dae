"""The settings of howk's doors, HTTP, gRPC and metrics, and of the secrets and tokens they ask for.
Declarations only."""
# ruff: noqa: RUF009 - `active` and `planned` return a dataclass field; its default is immutable

from dataclasses import dataclass
from typing import Literal

from howk.runtime.declaring import active, planned, section
from howk.runtime.kinds import (
    COUNT,
    DURATION,
    ENCRYPTION_KEY,
    FILE,
    HOST,
    KEY_HASH,
    NAME,
    PORT,
    RATE,
    SIZE,
    TEXT,
    URL,
    choice,
    listed,
)

AuthMode = Literal["auto", "keys", "none"]
TLSVersion = Literal["1.2", "1.3"]


@dataclass(frozen=True, slots=True)
class DoorTLS:
    """TLS of the HTTP door; the certificate is read again when its files change."""

    cert: str = active(FILE, "", "File of the certificate chain, in PEM; setting it turns TLS on.")
    key: str = active(FILE, "", "File of the certificate's key, in PEM, without a passphrase.")
    client_ca: str = active(FILE, "", "File of the CA that clients' certificates must come from.")
    min_version: TLSVersion = active(choice("1.2", "1.3"), "1.2", "Oldest version of TLS spoken.")


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """TLS of a door; files are read again when they change."""

    cert: str = planned(FILE, "", "File of the certificate chain; setting it turns TLS on.")
    key: str = planned(FILE, "", "File of the certificate's key.")
    client_ca: str = planned(FILE, "", "File of the CA that clients' certificates must come from.")
    min_version: TLSVersion = planned(choice("1.2", "1.3"), "1.2", "Oldest version of TLS spoken.")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Requests that each caller may make at the door; 0 sets no limit."""

    key: float = active(RATE, "0", "Requests of one API key; those without one, at an open door, count together.")
    tenant: float = planned(RATE, "0", "Requests of one tenant.")
    source: float = planned(RATE, "0", "Requests to one source.")


@dataclass(frozen=True, slots=True)
class API:
    """The HTTP door."""

    host: str = active(HOST, "127.0.0.1", "Address to listen on.")
    port: int = active(PORT, "8080", "Port to listen on; 0 takes a free one.")
    read_timeout: float = active(DURATION, "10s", "Longest wait for a whole request.")
    write_timeout: float = active(DURATION, "10s", "Longest wait for a client to take an answer.")
    max_payload_size: int = active(SIZE, "1MiB", "Largest payload of one delivery.")
    max_request_size: int = active(SIZE, "2MiB", "Largest body of a request that carries one delivery.")
    max_batch_size: int = active(SIZE, "16MiB", "Largest body of a batch request.")
    max_batch: int = active(COUNT, "1000", "Most deliveries in one batch request.")
    auth: AuthMode = active(
        choice("auto", "keys", "none"),
        "auto",
        "Who must show an API key: with `keys` everyone, with `none` nobody, with `auto` everyone unless "
        "howk listens on loopback only and has no key.",
    )
    keys: tuple[str, ...] = active(
        listed(KEY_HASH), "", "SHA-256 hashes, in hex, of the API keys that may call.", secret=True
    )
    rate_limit: RateLimit = section(RateLimit)
    tls: DoorTLS = section(DoorTLS)


@dataclass(frozen=True, slots=True)
class GRPC:
    """The gRPC door, on `api.host`."""

    port: int = planned(PORT, "50051", "Port to listen on.")
    tls: ServerTLS = section(ServerTLS)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Health and metrics of a process that has no HTTP door, on `api.host`."""

    port: int = active(PORT, "8083", "Port to listen on; 0 takes a free one.")


@dataclass(frozen=True, slots=True)
class JWT:
    """Tokens, those howk issues and those of others."""

    issuer: str = planned(TEXT, "howk", "Issuer (`iss`) of the tokens howk makes.")
    audience: str = planned(TEXT, "", "Audience (`aud`) a token must name; empty asks for none.")
    ttl: float = planned(DURATION, "1h", "Life of a token, which is also the longest one can ask for.")
    rotation: float = planned(DURATION, "90d", "Time after which howk signs with a new key.")
    trusted_issuers: tuple[str, ...] = planned(listed(NAME), "", "Other issuers whose tokens are accepted.")
    jwks_urls: tuple[str, ...] = planned(listed(URL), "", "Where their keys are, in the same order.")
    jwks_cache_ttl: float = planned(DURATION, "5m", "Time that their keys are cached.")


@dataclass(frozen=True, slots=True)
class Security:
    """Secrets and tokens."""

    encryption_key: bytes | None = active(ENCRYPTION_KEY, "", "Key that seals secrets in records.", secret=True)
    jwt: JWT = section(JWT)
