"""One request of a command: to a service that runs, or to the API in this process.

Both are the same API, so a command has one code path and prints the same for both.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

from ledgerservice.access.keys import id_of
from ledgerservice.access.signatures import Signer
from ledgerservice.api.asgi import Service
from ledgerservice.errors import ConfigurationError, LedgerError
from ledgerservice.runtime import started
from ledgerservice.settings import Settings

Url = Annotated[
    str | None,
    typer.Option(help="Address of a service, such as http://127.0.0.1:8000. [the database]"),
]
LedgerName = Annotated[str, typer.Option("--ledger", help="Name of the ledger.")]

DEFAULT_NAME = "default"
IN_PROCESS = "http://127.0.0.1"
NEVER_S = 1e6
TIMEOUT_S = 60


class RequestRefused(LedgerError):
    """The ledger refused the request."""


class ServiceUnreachable(LedgerError):
    """The service at --url does not answer."""


def ask(method: str, path: str, url: str | None, ledger: str, **options: Any) -> httpx.Response:
    """The answer, whatever its status. `options` are httpx's: params, json, headers.

    Raises ServiceUnreachable, or a LedgerError of the database.
    """
    return asyncio.run(_ask(method, path_of(path, ledger), url, **options))


def path_of(path: str, ledger: str) -> str:
    """The path of a resource of a ledger."""
    return path if ledger == DEFAULT_NAME else f"/ledgers/{quote(ledger, safe='')}{path}"


async def _ask(method: str, path: str, url: str | None, **options: Any) -> httpx.Response:
    async with connected(url) as client:
        return await client.request(method, path, **options)


@asynccontextmanager
async def connected(url: str | None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service at a URL, or of the API in this process.

    Raises ServiceUnreachable, or a LedgerError of the database.
    """
    settings = Settings.load()
    try:
        if url is None:
            async with _in_process(settings) as client:
                yield client
        else:
            options = _credentials(settings)
            async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, **options) as client:
                yield client
    except httpx.HTTPError as error:
        raise ServiceUnreachable(f"({type(error).__name__}: {error})") from error


@asynccontextmanager
async def _in_process(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    # A command on accounts makes and migrates nothing, and leaves what is due to the service.
    update = {"auto_migrate": False, "sweep_interval_s": NEVER_S, "webhooks": False}
    settings = settings.model_copy(update=update)
    with started(settings, create=False) as database:
        service = Service(database, is_trusted=True)
        await service.start()
        try:
            transport = httpx.ASGITransport(service)
            options = _credentials(settings)
            async with httpx.AsyncClient(
                transport=transport, base_url=IN_PROCESS, **options
            ) as client:
                yield client
        finally:
            await service.stop()


def _credentials(settings: Settings) -> dict[str, Any]:
    """A client's options: the header with the key, if there is one, and what signs the requests.

    A command that has the database needs none. Raises ConfigurationError.
    """
    if settings.api_key is None:
        return {}
    key = settings.api_key.get_secret_value()
    options: dict[str, Any] = {"headers": {"Authorization": f"Bearer {key}"}}
    if settings.signing_key is not None:
        pem = settings.signing_key.get_secret_value().encode()
        try:
            options["auth"] = Signer(id_of(key) or "", pem)
        except (ValueError, TypeError):
            raise ConfigurationError(
                "LEDGER_SIGNING_KEY is not a private key of Ed25519 in PEM, without a password."
            ) from None
    return options


def body_of(answer: httpx.Response, *, as_json: bool) -> Any:
    """The body of an answer.

    With `as_json` it is printed as it came, and the command ends: with exit code 0, or 1 if the
    request was refused. Without it a refusal raises RequestRefused.
    """
    if as_json:
        sys.stdout.write(answer.text.rstrip("\n") + "\n")
        raise typer.Exit(0 if answer.is_success else 1)
    if answer.is_success:
        return answer.json()
    raise RequestRefused(_reason(answer))


def _reason(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
        faults = [f"{one['field']}: {one['message']}" for one in problem.get("errors", ())]
        reason = "; ".join(faults) or problem["detail"]
        return f"{reason} (code {problem['code']}, retry {problem.get('retry')})"
    except (json.JSONDecodeError, KeyError, TypeError):
        return f"It answered {answer.status_code}."
