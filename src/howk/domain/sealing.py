"""Secrets at rest: what must not stand in clear is one sealed text, bound to where it belongs: the key of a config, or
the scope and the endpoint of deliveries, which have it in common where their secrets are the same.

AES-256-GCM (NIST SP 800-38D) with a 96-bit random nonce that the caller passes in. The text is
`<form>.<key id>.<base64>`; the key id tells a wrong key from damage.
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import DecodeError, Struct
from msgspec.json import Decoder, Encoder

from howk.domain.errors import Permanent, Undecodable

KEY_BYTES = 32
NONCE_BYTES = 12

_encode = Encoder().encode
_ALONE = "1."
_SHARED = "2."


class Secrets(Struct, frozen=True, omit_defaults=True):
    """What one target needs at the send and nobody may read in the log."""

    userinfo: str = ""
    query: str = ""
    headers: dict[str, str] = {}
    signing: tuple[str, ...] = ()
    ed25519_key: str = ""

    def __repr__(self) -> str:
        return "Secrets(...)"

    def __bool__(self) -> bool:
        return bool(self.userinfo or self.query or self.headers or self.signing or self.ed25519_key)


_decode = Decoder(Secrets).decode


def is_shared(sealed: str) -> bool:
    """Whether a text may stand in several deliveries; one of before is bound to the id of its own."""
    return sealed.startswith(_SHARED)


def shared_by(scope: str, endpoint: str) -> str:
    """What the text of deliveries is bound to, so that it opens for no other receiver."""
    return f"{scope}\n{endpoint}"


class Sealer:
    """Seals and opens with one key of `KEY_BYTES` bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self.key_id = sha256(b"howk key id" + key).hexdigest()[:8]
        self._prefixes = (f"{_ALONE}{self.key_id}.", f"{_SHARED}{self.key_id}.")

    def seal(self, secrets: Secrets, bound_to: str, nonce: bytes, *, shared: bool = False) -> str:
        """`nonce` must never come twice under one key."""
        sealed = self._cipher.encrypt(nonce, _encode(secrets), bound_to.encode())
        return self._prefixes[shared] + b64encode(nonce + sealed).decode()

    def open(self, sealed: str, bound_to: str) -> Secrets:
        """Raises `Permanent` for another key's text, `Undecodable` for one that was changed."""
        if not sealed.startswith(self._prefixes):
            parts = sealed.split(".")
            if len(parts) == 3 and parts[0] in ("1", "2"):
                raise Permanent(
                    f"secrets were sealed with the key {parts[1][:8]}, and this process has {self.key_id}: start howk "
                    "with the key they were sealed with (HOWK_SECURITY_ENCRYPTION_KEY); nothing was dropped"
                )
            raise Undecodable("the sealed secrets have an unknown form")
        try:
            data = b64decode(sealed[len(self._prefixes[0]) :], validate=True)
            return _decode(self._cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], bound_to.encode()))
        except (Base64Error, InvalidTag, DecodeError, ValueError) as error:
            raise Undecodable("the sealed secrets were changed or belong to another delivery") from error
