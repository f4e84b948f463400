"""The processes that serve: this one, several, or one that posts for several.

It imports all of the API. `serve` imports it while PostgreSQL starts.
"""

import asyncio
import logging
import multiprocessing
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from ledgerservice import __version__
from ledgerservice.api.asgi import Service
from ledgerservice.api.http.protocol import BoundedHttp, connections_of
from ledgerservice.cli.serving.poster import posting_process
from ledgerservice.cli.serving.sockets import IS_SPREAD, Spread
from ledgerservice.postgres.connections import Database
from ledgerservice.posting.remote import PosterAddress
from ledgerservice.settings import Settings
from ledgerservice.telemetry import logs, supervisor

STOP_GRACE_S = 5
WORKER_START_S = 30
"""How long a process may not answer its parent, which is as long as it imports: on a busy machine
that took more than uvicorn's 5 s, and it was killed again and again.
"""

log = logging.getLogger(__name__)


def run(
    database: Database,
    tls: dict[str, Any],
    sockets: list[socket.socket],
    ready: Callable[[], None],
    workers: int,
    acceptors: int,
) -> None:
    """Serve until a signal, in one process or several; `ready` is called when one serves.

    Raises SystemExit if they could not start.
    """
    configure = partial(_configuration, settings=database.settings, tls=tls)
    if acceptors:
        _run_acceptors(configure, acceptors, sockets, ready)
    elif workers > 1:
        _Workers(configure(worker, workers), sockets, ready).run()
    else:
        _Server(configure(Service(database)), ready).run(sockets)


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
        if settings.console_secret is None:
            os.environ["LEDGER_CONSOLE_SECRET"] = secrets.token_hex(32)
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
    spread: list[Any] = [Spread(bound) for bound in sockets] if IS_SPREAD else sockets
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
