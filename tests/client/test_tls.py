"""The client with TLS: authorities of one's own, and a certificate for the client."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from ledgerservice.client import AsyncClient, Client, NoAnswer
from ledgerservice.postgres.connections import Database
from tests.access.certificates import HERE, Authority
from tests.access.made import make_key
from tests.databases import url_text
from tests.processes import Fork, environment, free_port, wait_for

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    authority.issue("server", "CN=server", HERE)
    authority.issue("client", "CN=client")
    return folder


def context(files: Path, name: str | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(files / "ca.pem"))
    if name is not None:
        made.load_cert_chain(files / f"{name}.pem", files / f"{name}.key")
    return made


@pytest.fixture(scope="module")
def place(new_database: Callable[..., Database], files: Path) -> Iterator[tuple[str, str]]:
    """The URL of a service that needs certificates of its clients, and a key of it."""
    database, port = new_database(), free_port()
    names = {"CERT": "server.pem", "KEY": "server.key", "CLIENT_CA": "ca.pem"}
    values = {f"LEDGER_TLS_{name}": str(files / file) for name, file in names.items()}
    key = make_key(database, "shop")
    values = environment(DATABASE_URL=url_text(database), **values)
    process = Fork(["serve", "--port", str(port)], values)
    url = f"https://127.0.0.1:{port}"
    with httpx.Client(verify=context(files, "client")) as client:
        assert wait_for(lambda: is_ready(client, url), 60)
    yield url, key
    process.terminate()
    process.wait(60)


def is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_it_sends_streams_with_its_certificate(place: tuple[str, str], files: Path) -> None:
    url, key = place

    async def run() -> None:
        tls = context(files, "client")
        async with AsyncClient(url, api_key=key, verify=tls) as client:
            account = (await client.open_account("A", "USD")).id
            await asyncio.gather(*(client.deposit(account, 1) for _ in range(64)))
            assert client._gathering._streams
            assert (await client.account(account)).balance == 64

    asyncio.run(run())


@pytest.mark.parametrize("trusts", [True, False])
def test_it_sends_nothing_to_whom_it_does_not_trust(
    place: tuple[str, str], files: Path, trusts: bool
) -> None:
    verify = context(files) if trusts else True  # without a certificate, or the authority
    with (
        Client(place[0], api_key=place[1], verify=verify, give_up_s=0.3) as client,
        pytest.raises(NoAnswer),
    ):
        client.deposit(1, 1)
