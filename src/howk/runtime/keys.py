"""The key that seals secrets in records: given in the settings, or made once and kept in the data directory."""

import secrets
from collections.abc import Callable
from pathlib import Path

from howk.domain.errors import Permanent
from howk.domain.sealing import KEY_BYTES, Sealer

_KEY = "secret.key"
_KEY_ID = "key.id"


Write = Callable[[Path, bytes], None]
"""Writes a private file all or not at all, and durably: it is called before anything is sealed with the key."""


def open_sealer(data_dir: Path, given: bytes | None, write: Write) -> tuple[Sealer, bool]:
    """The sealer, and whether its key was made just now. Raises `Permanent` for another key than last time: what
    was sealed with that one could not be sent."""
    key, made = (given, False) if given is not None else _own_key(data_dir / _KEY, write)
    sealer = Sealer(key)
    path = data_dir / _KEY_ID
    known = path.read_text().strip() if path.exists() else ""
    if known and known != sealer.key_id:
        where = "HOWK_SECURITY_ENCRYPTION_KEY" if given is not None else str(data_dir / _KEY)
        raise Permanent(
            f"the encryption key of {where} has id {sealer.key_id}, but secrets in {data_dir} were sealed with "
            f"{known}: start howk with that key"
        )
    if not known:
        write(path, sealer.key_id.encode())
    return sealer, made


def _own_key(path: Path, write: Write) -> tuple[bytes, bool]:
    if path.exists():
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise Permanent(f"{path} is damaged ({len(key)} bytes, not {KEY_BYTES}): restore it from a backup")
        return key, False
    if (path.parent / _KEY_ID).exists():
        raise Permanent(
            f"{path} is missing, and secrets were sealed with it or with a key of HOWK_SECURITY_ENCRYPTION_KEY: "
            "restore it, or set that key"
        )
    key = secrets.token_bytes(KEY_BYTES)
    write(path, key)
    return key, True
