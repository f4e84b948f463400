"""`ledgerservice serve`: the API, in one process or several."""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer
import uvicorn
from rich.console import Console
from uvicorn.supervisors import Multiprocess

from ledgerservice.api.asgi import Service
from ledgerservice.api.http.protocol import BoundedHttp
from ledgerservice.runtime import started
from ledgerservice.settings import LOOPBACK_NAMES, Settings

STOP_GRACE_S = 5
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

console = Console()
log = logging.getLogger(__name__)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [LEDGER_HOST]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on. [LEDGER_PORT]")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of processes.")] = 1,
) -> None:
    """Serve the API until Ctrl-C or SIGTERM. Requests in flight are answered first."""
    options = {"host": host, "port": port}
    overrides = {name: value for name, value in options.items() if value is not None}
    settings = Settings.load().model_copy(update=overrides)
    if settings.host not in LOOPBACK_NAMES:
        log.warning(
            "%s is not a loopback address, and there is no authentication yet: whoever reaches "
            "port %s can move money",
            settings.host,
            settings.port,
        )
    _on_stop_signals(_exit)
    with started(settings) as database:
        # After its own shutdown uvicorn raises the signal again, which must not end the program.
        _on_stop_signals(lambda *_: None)
        application = Service(database) if workers == 1 else "ledgerservice.cli.serve:worker"
        try:
            _run(_configuration(application, settings, workers))
        except SystemExit:
            # uvicorn has printed in one line why it could not start.
            raise typer.Exit(1) from None


def _on_stop_signals(handler: Callable[[int, object], object]) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


def _exit(number: int, _: object) -> NoReturn:
    """Before the service is ready there is no request to answer: exit at once."""
    sys.exit(128 + number)


def _configuration(application: Service | str, settings: Settings, workers: int) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        factory=workers > 1,
        workers=workers,
        http=BoundedHttp,
        host=settings.host,
        port=settings.port,
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=round(settings.request_deadline_s) + STOP_GRACE_S,
    )


def _run(configuration: uvicorn.Config) -> None:
    if configuration.workers == 1:
        _Server(configuration).run()
        return
    # The workers read their settings from the environment and attach to the embedded server.
    os.environ["LEDGER_HOST"] = configuration.host
    listener = configuration.bind_socket()
    _announce(configuration.host, listener.getsockname()[1])
    Multiprocess(configuration, sockets=[listener]).run()


class _Server(uvicorn.Server):
    """Announces the address when the port is open."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _announce(self.config.host, self.servers[0].sockets[0].getsockname()[1])


def _announce(host: str, port: int) -> None:
    shown_host = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104
    base = f"http://{shown_host}:{port}"
    console.print(
        f"[bold green]The ledger is ready on {base}[/]  ·  docs: [link]{base}/docs[/link]",
        highlight=False,
        soft_wrap=True,
    )


def worker() -> Service:
    """The service in one of several processes. It ends when its parent process ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return Service()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
