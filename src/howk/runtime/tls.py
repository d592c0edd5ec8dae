"""The certificate of a door: files come in, a TLS context goes out that follows them when they are replaced.

What can't serve is refused in words, at the start; later a bad pair is told, and the one in use stays.
"""

import ssl
from pathlib import Path

from howk.domain.errors import Permanent
from howk.ports.telemetry import Reporter
from howk.runtime.settings_doors import DoorTLS

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

Look = tuple[tuple[int, int, int], ...]


class Certificate:
    """A context and the files behind it."""

    def __init__(self, tls: DoorTLS) -> None:
        self._tls = tls
        self._seen = self._look()
        self.context = _context(tls)

    def renew(self, reporter: Reporter) -> None:
        """Read the files again if they are others than before. New connections get what they hold."""
        try:
            seen = self._look()
        except Permanent:
            # Between two renames there may be no file; the next call looks again.
            return
        if seen == self._seen:
            return
        self._seen = seen
        try:
            # A pair that does not match would leave the running context without a key: it is tried on another.
            _context(self._tls)
            _load(self.context, self._tls)
        except Permanent as error:
            reporter.warn("certificate_refused", f"the certificate in use stays: {error}")
            return
        reporter.say("certificate_renewed", "the door's certificate was read again", path=self._tls.cert)

    def _look(self) -> Look:
        found: list[tuple[int, int, int]] = []
        for name, path in (("cert", self._tls.cert), ("key", self._tls.key)):
            try:
                stat = Path(path).stat()
            except OSError as error:
                raise _unreadable(name, path, error) from error
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)


def open_certificate(tls: DoorTLS) -> Certificate | None:
    """None where the door speaks plain HTTP. Raises `Permanent` in words."""
    if not tls.cert and not tls.key and not tls.client_ca:
        return None
    for name, path in (("cert", tls.cert), ("key", tls.key)):
        if not path:
            raise Permanent(f"api.tls needs both a certificate and its key: api.tls.{name} is not set")
    return Certificate(tls)


def _context(tls: DoorTLS) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.set_alpn_protocols(["http/1.1"])
    _load(context, tls)
    if tls.client_ca:
        _readable("client_ca", tls.client_ca)
        try:
            context.load_verify_locations(cafile=tls.client_ca)
        except ssl.SSLError as error:
            raise Permanent(f"api.tls.client_ca is {tls.client_ca}, which holds no certificate in PEM") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load(context: ssl.SSLContext, tls: DoorTLS) -> None:
    _readable("cert", tls.cert)
    _readable("key", tls.key)
    try:
        context.load_cert_chain(tls.cert, tls.key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise Permanent(f"api.tls.key ({tls.key}) is not the key of api.tls.cert ({tls.cert})") from error
        raise Permanent(
            f"api.tls.cert ({tls.cert}) or api.tls.key ({tls.key}) is not a certificate and its key in PEM: "
            f"{error.reason or error}"
        ) from error
    except OSError as error:
        raise _unreadable("cert", tls.cert, error) from error


def _no_passphrase() -> str:
    # Without this OpenSSL would ask for it on the terminal, and wait.
    raise Permanent("api.tls.key has a passphrase: store the key without one, readable by howk only")


def _readable(name: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise _unreadable(name, path, error) from error


def _unreadable(name: str, path: str, error: OSError) -> Permanent:
    return Permanent(f"api.tls.{name} is {path}, which can't be read: {error.strerror or error}")
