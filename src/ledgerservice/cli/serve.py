"""`ledgerservice serve`: the API, in one process or several."""

import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from ledgerservice.api.http.connections import raise_descriptor_limit
from ledgerservice.cli.output import AsJson, report
from ledgerservice.cli.publish import publishing_beside
from ledgerservice.cli.serving.sockets import IS_SPREAD, bound, listen
from ledgerservice.cli.serving.tls import tls_options
from ledgerservice.errors import CannotServe, ConfigurationError
from ledgerservice.feed.read_models import check_addresses
from ledgerservice.installation import command
from ledgerservice.postgres.access.principals import has_keys
from ledgerservice.postgres.connections import Database, explained
from ledgerservice.runtime import started
from ledgerservice.settings import LOOPBACK_NAMES, Settings
from ledgerservice.telemetry import supervisor

PROCESSES = "ledgerservice.cli.serving.processes"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [LEDGER_HOST]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on. [LEDGER_PORT]")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of processes.")] = 1,
    acceptors: Annotated[
        int,
        typer.Option(
            min=0,
            max=64,
            help="Number of processes that accept requests and hand them to one that posts.",
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Serve the API until Ctrl-C or SIGTERM. Requests in flight are answered first."""
    options = {"host": host, "port": port}
    overrides = {name: value for name, value in options.items() if value is not None}
    settings = Settings.load().model_copy(update=overrides)
    _check_processes(workers, acceptors)
    check_addresses(settings)
    _check_plaintext(settings)
    tls = tls_options(settings)
    raise_descriptor_limit()
    _on_stop_signals(_exit)
    # Before PostgreSQL is started, because a port in use is found at once.
    with bound(settings) as sockets:
        processes = _being_imported(PROCESSES)
        with started(settings) as database, publishing_beside(settings):
            _check_keys(database)
            # After its own shutdown uvicorn raises the signal again: the program goes on.
            _on_stop_signals(lambda *_: None)
            ready = partial(_announce, settings, sockets[0].getsockname()[1], as_json=as_json)
            if not (acceptors and IS_SPREAD):
                listen(sockets, settings)
            try:
                processes.result().run(database, tls, sockets, ready, workers, acceptors)
            except SystemExit:
                # uvicorn has printed in one line why it could not start.
                raise _failed(as_json=as_json) from None


def _being_imported(name: str) -> Future[Any]:
    """A module, imported by another thread: that of the API takes as long as PostgreSQL starts."""
    thread = ThreadPoolExecutor(1)
    module = thread.submit(import_module, name)
    thread.shutdown(wait=False)
    return module


def _check_processes(workers: int, acceptors: int) -> None:
    if workers > 1 and acceptors:
        raise ConfigurationError("--workers and --acceptors cannot be combined: choose one.")


def _check_plaintext(settings: Settings) -> None:
    """Raise ConfigurationError if keys would go over a network without TLS."""
    if settings.host in LOOPBACK_NAMES or settings.tls_cert or settings.proxies:
        return
    if settings.allow_plaintext:
        return
    raise ConfigurationError(
        f"{settings.host} is not a loopback address, and there is no TLS: keys and amounts could "
        "be read on their way. Set LEDGER_TLS_CERT and LEDGER_TLS_KEY, or name the proxies that "
        "speak TLS in LEDGER_TRUSTED_PROXIES, or set LEDGER_ALLOW_PLAINTEXT=true where the network "
        "is private."
    )


def _check_keys(database: Database) -> None:
    """Raise ConfigurationError if whoever reaches an address of a network could move money."""
    settings = database.settings
    if settings.host in LOOPBACK_NAMES or settings.allow_open or settings.oidc_issuer:
        return
    with explained(), database.owner_engine().connect() as connection:
        if not has_keys(connection):
            raise ConfigurationError(
                f"{settings.host} is not a loopback address, and there is no key yet. Make one "
                f"with `{command('keys create')} NAME --role admin`, or set LEDGER_ALLOW_OPEN=true "
                "to let whoever reaches the service move money."
            )


def _failed(*, as_json: bool) -> Exception:
    """How the command ends after uvicorn could not start the service."""
    if as_json:
        return CannotServe("The log on the standard error says why.")
    return typer.Exit(1)


def _on_stop_signals(handler: Callable[[int, object], object]) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


def _exit(number: int, _: object) -> NoReturn:
    """Before the service is ready there is no request to answer: exit at once."""
    sys.exit(128 + number)


def _announce(settings: Settings, port: int, *, as_json: bool) -> None:
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    scheme = "https" if settings.tls_cert else "http"
    base = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    pages = "" if settings.console == "off" else f"  ·  console: [link]{base}/console[/link]"
    report(
        f"[bold green]The ledger is ready on {base}[/]  ·  docs: [link]{base}/docs[/link]{pages}",
        as_json=as_json,
        status="ready",
        address=base,
        docs=f"{base}/docs",
        database="embedded" if settings.database_url is None else "own",
    )
    supervisor.notify(supervisor.READY)
