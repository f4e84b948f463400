"""`ledgerservice serve`: the API, in one process or several."""

import asyncio
import errno
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from ledgerservice import __version__
from ledgerservice.api.asgi import Service
from ledgerservice.api.http.connections import raise_descriptor_limit
from ledgerservice.api.http.protocol import BoundedHttp, connections_of
from ledgerservice.cli.output import AsJson, report
from ledgerservice.cli.publish import publishing_beside
from ledgerservice.cli.serving.poster import posting_process
from ledgerservice.cli.serving.tls import tls_options
from ledgerservice.errors import CannotListen, CannotServe, ConfigurationError
from ledgerservice.feed.read_models import check_addresses
from ledgerservice.installation import command
from ledgerservice.postgres.access.principals import has_keys
from ledgerservice.postgres.connections import Database, explained
from ledgerservice.posting.remote import PosterAddress
from ledgerservice.runtime import started
from ledgerservice.settings import LOOPBACK_NAMES, Settings
from ledgerservice.telemetry import logs, supervisor

STOP_GRACE_S = 5
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
BACKLOG = 2_048
WORKER_START_S = 30
"""How long a process may not answer its parent, which is as long as it imports: on a busy machine
that took more than uvicorn's 5 s, and it was killed again and again.
"""
IS_SPREAD = sys.platform == "linux"
"""Whether the kernel spreads the connections to an address over all sockets that listen there."""

log = logging.getLogger(__name__)


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
    with (
        _bound(settings) as sockets,
        started(settings) as database,
        publishing_beside(settings),
    ):
        _check_keys(database)
        # After its own shutdown uvicorn raises the signal again, which must not end the program.
        _on_stop_signals(lambda *_: None)
        ready = partial(_announce, settings, sockets[0].getsockname()[1], as_json=as_json)
        if not (acceptors and IS_SPREAD):
            _listen(sockets, settings)
        configure = partial(_configuration, settings=settings, tls=tls)
        try:
            if acceptors:
                _run_acceptors(configure, acceptors, sockets, ready)
            elif workers > 1:
                _Workers(configure(worker, workers), sockets, ready).run()
            else:
                _Server(configure(Service(database)), ready).run(sockets)
        except SystemExit:
            # uvicorn has printed in one line why it could not start.
            raise _failed(as_json=as_json) from None


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


@contextmanager
def _bound(settings: Settings) -> Iterator[list[socket.socket]]:
    """A socket for each address of the host, which does not listen yet. Raises CannotListen."""
    sockets: list[socket.socket] = []
    try:
        sockets.extend(_bind(address, settings) for address in _addresses(settings))
        yield sockets
    finally:
        for listener in sockets:
            listener.close()


Address = tuple[int, Any]
"""A family and an address of it, as `socket` has them."""


def _addresses(settings: Settings) -> list[Address]:
    try:
        infos = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise _cannot_listen(error, settings) from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in infos))


def _bind(address: Address, settings: Settings) -> socket.socket:
    try:
        return _bound_to(*address)
    except OSError as error:
        raise _cannot_listen(error, settings) from error


def _bound_to(family: int, place: Any, *, is_shared: bool = False) -> socket.socket:
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
    except OSError:
        listener.close()
        raise
    return listener


class _Spread:
    """A bound socket. A process that it is sent to listens at its address with a socket of its own.

    The kernel spreads the connections evenly over these sockets. Of processes with one socket, the
    first that wakes up takes nearly all connections that are opened together.
    """

    def __init__(self, bound: socket.socket) -> None:
        self._address = bound.family, bound.getsockname()
        bound.close()  # nobody else listens there: it was bound alone
        self._reserved = _bound_to(*self._address, is_shared=True)

    def __reduce__(self) -> tuple[Callable[..., socket.socket], Address]:
        return _listening_at, self._address


def _listening_at(family: int, place: Any) -> socket.socket:
    listener = _bound_to(family, place, is_shared=True)
    listener.listen(BACKLOG)
    return listener


def _listen(sockets: list[socket.socket], settings: Settings) -> None:
    """Open the port. Another program that started meanwhile may have bound it too."""
    try:
        for listener in sockets:
            listener.listen(BACKLOG)
    except OSError as error:
        raise _cannot_listen(error, settings) from error


def _cannot_listen(error: OSError, settings: Settings) -> CannotListen:
    if error.errno == errno.EADDRINUSE:
        return CannotListen(
            f"Port {settings.port} on {settings.host} is in use. Stop the program that uses it, or "
            "choose another port with --port or LEDGER_PORT."
        )
    return CannotListen(
        f"Port {settings.port} on {settings.host}: {error.strerror}. Choose another address with "
        "--host or LEDGER_HOST, or another port with --port or LEDGER_PORT."
    )


def _configuration(
    application: Service | Callable[[], Service],
    processes: int = 1,
    *,
    settings: Settings,
    tls: dict[str, Any],
) -> uvicorn.Config:
    """`application` of several processes is what makes it in each of them."""
    if not isinstance(application, Service):
        # The processes read their settings from the environment.
        os.environ["LEDGER_HOST"] = settings.host
    return uvicorn.Config(
        application,
        factory=not isinstance(application, Service),
        workers=processes,
        http=partial(BoundedHttp, bounds=connections_of(settings)),  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="warning",
        timeout_worker_healthcheck=WORKER_START_S,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=round(settings.request_deadline_s) + STOP_GRACE_S,
        **tls,
    )


def _run_acceptors(
    configure: Callable[..., uvicorn.Config],
    number: int,
    sockets: list[socket.socket],
    ready: Callable[[], None],
) -> None:
    spread: list[Any] = [_Spread(bound) for bound in sockets] if IS_SPREAD else sockets
    with posting_process() as path:
        _Workers(configure(partial(acceptor, path, number), number), spread, ready).run()


class _Workers(Multiprocess):
    """Several processes. It calls `ready` when one of them serves.

    `run` raises SystemExit when it ends because one of them could not start.
    """

    def __init__(
        self, configuration: uvicorn.Config, sockets: list[socket.socket], ready: Callable[[], None]
    ) -> None:
        super().__init__(configuration, sockets)
        self._ready: Callable[[], None] | None = ready

    def run(self) -> None:
        super().run()
        if any(process.exitcode == STARTUP_FAILURE for process in self.processes):
            raise SystemExit(STARTUP_FAILURE)

    def keep_subprocess_alive(self) -> None:
        was_ending = self.should_exit.is_set()
        for process in self.processes:
            # Only the process itself holds it then, so that its end ends a wait for an answer.
            process.child_conn.close()
        super().keep_subprocess_alive()
        if self.should_exit.is_set() and not was_ending and self._serves():
            self._replace_those_that_did_not_start()
        if self._ready is not None and not self.should_exit.is_set() and self._serves():
            ready, self._ready = self._ready, None
            ready()

    def _serves(self) -> bool:
        """Whether a process has served before, or does now."""
        return self._ready is None or any(process.is_ready() for process in self.processes)

    def _replace_those_that_did_not_start(self) -> None:
        """Let the others go on, where uvicorn would end all. One has served before, so nothing is
        wrong but the database, for some time.
        """
        self.should_exit.clear()
        for place, process in enumerate(self.processes):
            if process.exitcode == STARTUP_FAILURE:
                log.warning("the others go on, and process %s is replaced", process.pid)
                self.processes[place] = Process(self.config, self.sockets)
                self.processes[place].start()

    def terminate_all(self) -> None:
        if self._ready is None:
            supervisor.notify(supervisor.STOPPING)
        super().terminate_all()


class _Server(uvicorn.Server):
    """Calls `ready` when it serves."""

    def __init__(self, configuration: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(configuration)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            assert isinstance(self.config.app, Service)
            _drain_before_exit(self.config.app)
            self._ready()


def _drain_before_exit(service: Service) -> None:
    """On SIGTERM, serve on for LEDGER_DRAIN_S, and then do what uvicorn does at once.

    Meanwhile the service is not ready, so that a load balancer sends its requests elsewhere. A
    second SIGTERM does not wait.
    """
    wait_s = Settings.load().drain_s
    exit_now = signal.getsignal(signal.SIGTERM)
    assert callable(exit_now)
    loop = asyncio.get_running_loop()

    def drain(number: int, frame: FrameType | None) -> None:
        supervisor.notify(supervisor.STOPPING)
        if service.is_draining or not wait_s:
            service.is_draining = True
            exit_now(number, frame)
            return
        service.is_draining = True
        log.info("the service stops in %s s, and is not ready from now on", wait_s)
        loop.call_soon_threadsafe(loop.call_later, wait_s, exit_now, number, None)

    signal.signal(signal.SIGTERM, drain)


def _announce(settings: Settings, port: int, *, as_json: bool) -> None:
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    scheme = "https" if settings.tls_cert else "http"
    base = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    report(
        f"[bold green]The ledger is ready on {base}[/]  ·  docs: [link]{base}/docs[/link]",
        as_json=as_json,
        status="ready",
        address=base,
        docs=f"{base}/docs",
        database="embedded" if settings.database_url is None else "own",
    )
    supervisor.notify(supervisor.READY)


def worker() -> Service:
    """The service in one of several processes. It ends when its parent process ends."""
    return _one_of_several(Service())


def acceptor(path: Path, number: int) -> Service:
    """The service in one of `number` processes that hand requests to the one at `path`.

    Each has its part of the queue, so that none of them can fill it.
    """
    settings = Settings.load()
    share = max(1, settings.queue_limit_requests // number)
    settings = settings.model_copy(update={"queue_limit_requests": share})
    return _one_of_several(Service(settings=settings, poster=PosterAddress(path, __version__)))


def _one_of_several(service: Service) -> Service:
    os.environ.pop("NOTIFY_SOCKET", None)  # the parent speaks for all
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logs.configure(Settings.load().log_format)
    _drain_before_exit(service)
    return service


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
