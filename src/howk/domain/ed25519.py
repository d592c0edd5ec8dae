"""Ed25519 keys (RFC 8032) as Standard Webhooks writes them: base64 after `whsk_` for the private one, after `whpk_` for
the public one. Text enters; signatures, verdicts and the public form leave. No error ever repeats a key.
"""

from binascii import a2b_base64, b2a_base64
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PRIVATE_PREFIX = "whsk_"
PUBLIC_PREFIX = "whpk_"
MAX_TEXT = 128
"""Characters a key's text may have; the longest form has 93."""

_SEED = 32
_PAIR = 64


@lru_cache(maxsize=4_096)
def private_key(text: str) -> Ed25519PrivateKey:
    """The private key of a text: a 32-byte seed, or the seed and its public key (64 bytes, as some tools export it).

    Raises `ValueError` with a sentence for the key's owner.
    """
    if text.startswith(PUBLIC_PREFIX):
        raise ValueError(
            "an Ed25519 key that starts with whpk_ is the public one; signing needs the private one, whsk_"
        )
    data = _bytes(text.removeprefix(PRIVATE_PREFIX))
    if len(data) not in (_SEED, _PAIR):
        raise ValueError("an Ed25519 private key must be the base64 of 32 bytes, with or without whsk_ before it")
    key = Ed25519PrivateKey.from_private_bytes(data[:_SEED])
    if data[_SEED:] not in (b"", key.public_key().public_bytes_raw()):
        raise ValueError("an Ed25519 private key of 64 bytes must end with its own public key")
    return key


@lru_cache(maxsize=256)
def public_key(text: str) -> Ed25519PublicKey:
    """The public key of a text, with or without `whpk_` before it. Raises `ValueError` like `private_key`."""
    if text.startswith(PRIVATE_PREFIX):
        raise ValueError(
            "an Ed25519 key that starts with whsk_ is the private one; checking needs the public one, whpk_"
        )
    data = _bytes(text.removeprefix(PUBLIC_PREFIX))
    if len(data) != _SEED:
        raise ValueError("an Ed25519 public key must be the base64 of 32 bytes, with or without whpk_ before it")
    return Ed25519PublicKey.from_public_bytes(data)


def public_text(private: str) -> str:
    """The `whpk_` form of a private key's public half: what its owner gives to receivers."""
    data = private_key(private).public_key().public_bytes_raw()
    return PUBLIC_PREFIX + b2a_base64(data, newline=False).decode()


def is_signed(public: str, signature: str, message: bytes) -> bool:
    """Whether `signature` (base64) is the key's over `message`. Raises `ValueError` for a broken key only."""
    key = public_key(public)
    try:
        key.verify(a2b_base64(signature, strict_mode=True), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _bytes(text: str) -> bytes:
    if len(text) <= MAX_TEXT:
        try:
            return a2b_base64(text if text.endswith("=") else text + "=" * (-len(text) % 4), strict_mode=True)
        except ValueError:
            pass
    raise ValueError("an Ed25519 key must be standard base64")
