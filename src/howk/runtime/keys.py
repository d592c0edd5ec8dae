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
    key = _usable_key(data_dir, given)
    made = key is None
    try:
        if key is None:
            key = secrets.token_bytes(KEY_BYTES)
            write(data_dir / _KEY, key)
        sealer = Sealer(key)
        if not _known_id(data_dir):
            write(data_dir / _KEY_ID, sealer.key_id.encode())
    except OSError as error:
        raise Permanent(
            f"the encryption key can't be kept in {data_dir} ({error.strerror}): make room there"
        ) from error
    return sealer, made


def key_problem(data_dir: Path, given: bytes | None) -> str:
    """Why `open_sealer` would refuse, "" when it would not; makes nothing."""
    try:
        _usable_key(data_dir, given)
    except (Permanent, OSError) as error:
        return str(error)
    return ""


def _usable_key(data_dir: Path, given: bytes | None) -> bytes | None:
    """The key that is given or kept, None when one is to be made."""
    try:
        key = given if given is not None else _kept_key(data_dir / _KEY)
        known = _known_id(data_dir)
    except OSError as error:
        raise Permanent(
            f"{error.filename} can't be read ({error.strerror}): see to its permissions, for secrets are sealed with it"
        ) from error
    if key is not None and known and known != (found := Sealer(key).key_id):
        where = "HOWK_SECURITY_ENCRYPTION_KEY" if given is not None else str(data_dir / _KEY)
        raise Permanent(
            f"the encryption key of {where} has id {found}, but secrets in {data_dir} were sealed with "
            f"{known}: start howk with that key"
        )
    return key


def _known_id(data_dir: Path) -> str:
    path = data_dir / _KEY_ID
    return path.read_text(errors="replace").strip() if path.exists() else ""


def _kept_key(path: Path) -> bytes | None:
    if path.exists():
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise Permanent(f"{path} is damaged ({len(key)} bytes, not {KEY_BYTES}): restore it from a backup")
        return key
    if (path.parent / _KEY_ID).exists():
        raise Permanent(
            f"{path} is missing, and secrets were sealed with it or with a key of HOWK_SECURITY_ENCRYPTION_KEY: "
            "restore it, or set that key"
        )
    return None
