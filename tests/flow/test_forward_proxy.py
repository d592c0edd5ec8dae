"""The whole house behind a real forward proxy: what is accepted arrives byte for byte, by http and by https."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import SSLContext

import pytest
from msgspec import Raw
from tests.authority import Authority
from tests.payloads.samples import SAMPLES, Sample
from tests.support import Corridor, running
from tests.tinyproxy import tinyproxy

from howk.flow.ingest import Enqueue


class Hooks:
    """Takes webhooks, over TLS where there is a context; `bodies` by webhook id."""

    def __init__(self) -> None:
        self.port = 0
        self.bodies: dict[str, bytes] = {}
        self.heads: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                self.bodies[fields["webhook-id"]] = await reader.readexactly(int(fields["content-length"]))
                self.heads.append(head)
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def hooks(tls: SSLContext | None = None) -> AsyncIterator[Hooks]:
    taker = Hooks()
    server = await asyncio.start_server(taker.serve, "127.0.0.1", 0, ssl=tls)
    taker.port = server.sockets[0].getsockname()[1]
    try:
        yield taker
    finally:
        server.close()


async def accept(corridor: Corridor, url: str, sample: Sample) -> str:
    if sample.is_json:
        enqueue = Enqueue(endpoint=url, payload=Raw(sample.body))
    else:
        encoded = b64encode(sample.body).decode()
        enqueue = Enqueue(endpoint=url, payload_base64=encoded, content_type=sample.content_type)
    (answer,) = await corridor.house.ingest.accept("app", [enqueue], "test")
    assert isinstance(answer, str), answer
    return answer


async def test_http_and_https_webhooks_arrive_byte_for_byte_through_a_real_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    wanted: dict[str, bytes] = {}
    with tinyproxy(tmp_path / "proxy", "BasicAuth me hunter2") as proxy:
        url = f"http://me:hunter2@127.0.0.1:{proxy.port}"
        async with (
            hooks() as plain,
            hooks(authority.server("localhost")) as sealed,
            running(tmp_path / "data", delivery__proxy=url) as corridor,
        ):
            for sample in SAMPLES.values():
                for endpoint in (f"http://localhost:{plain.port}/a?b=c", f"https://localhost:{sealed.port}/a?b=c"):
                    wanted[await accept(corridor, endpoint, sample)] = sample.body
            for webhook_id in wanted:
                status = await corridor.ended(webhook_id)
                assert (status.state, status.attempts, status.last_status_code) == ("delivered", 1, 204)
        asked = set(proxy.asked())
    assert plain.bodies | sealed.bodies == wanted
    assert len(plain.bodies) == len(sealed.bodies) == len(SAMPLES)
    assert {f"127.0.0.1:{plain.port}", f"127.0.0.1:{sealed.port}"} <= asked
    assert not any("localhost" in target for target in asked)
    assert 0 < plain.connections < len(SAMPLES)
    assert not any(b"roxy" in head or b"CONNECT" in head for head in plain.heads + sealed.heads)
    assert all(b"\r\nHost: localhost:%d\r\n" % sealed.port in head for head in sealed.heads)


async def test_a_proxy_that_refuses_makes_retries_and_no_secret_is_kept_of_it(tmp_path: Path) -> None:
    with tinyproxy(tmp_path / "proxy", "BasicAuth me hunter2") as proxy:
        url = f"http://me:wrong-password@127.0.0.1:{proxy.port}"
        async with hooks() as plain, running(tmp_path / "data", delivery__proxy=url) as corridor:
            webhook_id = await accept(corridor, f"http://127.0.0.1:{plain.port}/", SAMPLES["null"])
            status = await corridor.failed(webhook_id, attempts=1)
            assert status.last_status_code == 0
            assert status.last_error.startswith("connect: the proxy refused ")
            lines = f"{corridor.notes.lines}{corridor.notes.tried}{status}{corridor.metrics.expose()}"
    assert plain.connections == 0
    kept = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir() if path.is_file())
    for secret in ("wrong-password", b64encode(b"me:wrong-password").decode()):
        assert secret not in lines
        assert secret.encode() not in kept
