"""TLS at the door: what is served, who is let in, what is refused at the start, and new certificates while it runs."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support import Corridor, Notes, opened
from tests.web.serving import BOUNDS, Wire, get, serving

from howk.domain.errors import Permanent
from howk.runtime.settings_doors import DoorTLS
from howk.runtime.tls import Certificate, open_certificate
from howk.web.app import App, Limits
from howk.web.guard import Guard
from howk.web.refusals import Refusals

_TEXT = serialization.Encoding.PEM
_FORM = serialization.PrivateFormat.PKCS8


class Authority:
    """A CA of one test, which signs for 127.0.0.1."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._made = self._sign(self._name, self._key, ca=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._made.public_bytes(_TEXT))

    def issue(self, name: str, passphrase: bytes = b"") -> DoorTLS:
        """A pair of files, written over those of the same name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        cert, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert.write_bytes(self._sign(subject, key).public_bytes(_TEXT))
        sealed = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        key_file.write_bytes(key.private_bytes(_TEXT, _FORM, sealed))
        return DoorTLS(cert=str(cert), key=str(key_file))

    def trusting(self, client: DoorTLS | None = None) -> ssl.SSLContext:
        """A client's context."""
        context = ssl.create_default_context(cafile=str(self.file))
        context.check_hostname = False
        if client is not None:
            context.load_cert_chain(client.cert, client.key)
        return context

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=ca,
            crl_sign=ca,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def corridor(tmp_path: Path) -> AsyncIterator[Corridor]:
    async with opened(tmp_path / "data") as found:
        yield found


@pytest.fixture
def app(corridor: Corridor) -> App:
    async def ready() -> str:
        return ""

    metrics, engines = corridor.metrics, corridor.engines
    guard = Guard((), loopback_only=True)
    return App(
        corridor.house.ingest,
        engines.state,
        guard,
        Limits(1_000, 1_000, 5),
        metrics,
        metrics.expose,
        ready,
        Refusals(corridor.notes),
    )


def certificate(tls: DoorTLS) -> Certificate:
    found = open_certificate(tls)
    assert found is not None
    return found


async def name_of(port: int, context: ssl.SSLContext) -> str:
    """Asks for /health; the name in the certificate that was shown."""
    async with Wire.open(port, ssl=context) as wire:
        wire.write(get("/health", b"Connection: close"))
        assert (await wire.answer()).status == 200
        shown: Any = wire.writer.get_extra_info("peercert")
        assert await wire.rest() == b""
        return shown["subject"][0][0][1]


def test_without_files_the_door_speaks_plain_http() -> None:
    assert open_certificate(DoorTLS()) is None


async def test_the_door_answers_over_tls_and_not_without(app: App, authority: Authority) -> None:
    served = certificate(authority.issue("howk"))
    async with serving(app, tls=served.context) as door:
        assert await name_of(door.port, authority.trusting()) == "howk"
        async with Wire.open(door.port) as plain:
            plain.write(get("/health"))
            assert b"200" not in await plain.rest()


async def test_a_version_of_tls_below_the_least_is_refused(app: App, authority: Authority) -> None:
    pair = authority.issue("howk")
    served = certificate(DoorTLS(cert=pair.cert, key=pair.key, min_version="1.3"))
    old = authority.trusting()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(app, tls=served.context) as door:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await name_of(door.port, old)
        assert await name_of(door.port, authority.trusting()) == "howk"


async def test_with_a_client_ca_only_its_certificates_come_in(app: App, authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("howk")
    served = certificate(DoorTLS(cert=pair.cert, key=pair.key, client_ca=str(authority.file)))
    stranger = Authority(tmp_path, "other").issue("stranger")
    async with serving(app, tls=served.context) as door:
        assert await name_of(door.port, authority.trusting(authority.issue("client"))) == "howk"
        for context in (authority.trusting(), authority.trusting(stranger)):
            async with Wire.open(door.port, ssl=context) as wire:
                wire.write(get("/health"))
                assert await wire.rest() == b""


async def test_a_client_that_does_not_shake_hands_is_closed(app: App, authority: Authority) -> None:
    served = certificate(authority.issue("howk"))
    bounds = BOUNDS._replace(read_timeout=0.2)
    async with serving(app, bounds, tls=served.context) as door, Wire.open(door.port) as wire:
        wire.write(b"\x16\x03\x01")
        assert await wire.rest() == b""


async def test_a_new_certificate_is_served_without_a_restart(app: App, authority: Authority) -> None:
    served, notes = certificate(authority.issue("first")), Notes()
    renewed = asyncio.Event()

    def renew() -> None:
        served.renew(notes)
        if notes.lines:
            renewed.set()

    async with (
        serving(app, tls=served.context, renew=renew) as door,
        Wire.open(door.port, ssl=authority.trusting()) as kept,
    ):
        kept.write(get("/health"))
        assert (await kept.answer()).status == 200
        second = authority.issue("second")
        Path(second.cert).replace(authority.folder / "first.crt")
        Path(second.key).replace(authority.folder / "first.key")
        async with asyncio.timeout(15):
            while not notes.lines or notes.lines[-1][0] != "certificate_renewed":
                renewed.clear()
                await renewed.wait()
        assert await name_of(door.port, authority.trusting()) == "second"
        kept.write(get("/health"))
        assert (await kept.answer()).status == 200
    assert notes.lines[-1][0] == "certificate_renewed"


async def test_a_pair_that_does_not_match_leaves_the_old_one_in_use(app: App, authority: Authority) -> None:
    served, notes = certificate(authority.issue("first")), Notes()
    second = authority.issue("second")
    async with serving(app, tls=served.context) as door:
        Path(second.cert).replace(authority.folder / "first.crt")
        served.renew(notes)
        served.renew(notes)
        assert [event for event, _ in notes.lines] == ["certificate_refused"]
        assert await name_of(door.port, authority.trusting()) == "first"
        Path(second.key).replace(authority.folder / "first.key")
        served.renew(notes)
        assert await name_of(door.port, authority.trusting()) == "second"
        (authority.folder / "first.key").unlink()
        served.renew(notes)
        assert await name_of(door.port, authority.trusting()) == "second"


def test_what_can_not_serve_is_refused_by_name(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.issue("howk"), authority.issue("other")
    empty = tmp_path / "empty"
    empty.touch()
    locked = authority.issue("locked", b"secret")
    refused = [
        (DoorTLS(cert=pair.cert), "api.tls.key is not set"),
        (DoorTLS(key=pair.key), "api.tls.cert is not set"),
        (DoorTLS(client_ca=pair.cert), "api.tls.cert is not set"),
        (DoorTLS(cert=str(tmp_path / "none"), key=pair.key), "api.tls.cert is .*none, which can't be read: No such"),
        (DoorTLS(cert=pair.cert, key=str(tmp_path)), "api.tls.key is .*, which can't be read: Is a directory"),
        (DoorTLS(cert=pair.cert, key=other.key), "api.tls.key .* is not the key of api.tls.cert"),
        (DoorTLS(cert=str(empty), key=pair.key), "is not a certificate and its key in PEM"),
        (DoorTLS(cert=pair.cert, key=str(empty)), "is not a certificate and its key in PEM"),
        (locked, "has a passphrase"),
        (DoorTLS(cert=pair.cert, key=pair.key, client_ca=str(empty)), "client_ca is .*, which holds no certificate"),
    ]
    for tls, words in refused:
        with pytest.raises(Permanent, match=words):
            open_certificate(tls)
