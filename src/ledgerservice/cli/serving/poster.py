"""The process that posts for all acceptors of `serve --acceptors`, and what keeps it alive."""

import asyncio
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import uvicorn

from ledgerservice import __version__
from ledgerservice.api.asgi import tune_process
from ledgerservice.api.movements.execution import keep_executing
from ledgerservice.domain.instructions import Group
from ledgerservice.domain.transactions import Outcomes
from ledgerservice.errors import CannotServe, LedgerError
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.posting.listener import listening
from ledgerservice.posting.poster import Poster
from ledgerservice.runtime import running
from ledgerservice.settings import Settings
from ledgerservice.shards import Shards, sharded
from ledgerservice.telemetry import exporter, logs

START_S = 60.0
LOOK_S = 1.0
PING_S = 10.0
"""How long a process may take to say that it is there."""
PAUSE_S = 0.5
LEAVE_S = 10.0
"""How long the acceptors may take to leave after their parent has died, beyond a deadline."""
BACKLOG = 128

log = logging.getLogger(__name__)


@contextmanager
def posting_process() -> Iterator[Path]:
    """Runs the process that posts, again whenever it dies; yields the path of its socket.

    It outlives the acceptors: it ends when this context is left, or when this process dies.
    Raises CannotServe if it does not start the first time.
    """
    folder = Path(tempfile.mkdtemp(prefix="ledgerservice-"))  # only its owner can enter it
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "poster"))
            # Here, so that acceptors can connect while the process is started again.
            listener.listen(BACKLOG)
            keeper = _Keeper(listener)
            try:
                yield folder / "poster"
            finally:
                keeper.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Keeper:
    """Keeps the process alive, in a thread of its own."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._stopping = threading.Event()
        self._start()
        if not self._is_there(START_S):
            self._end()
            raise CannotServe("The process that posts did not start; the log says why.")
        self._thread = threading.Thread(target=self._keep, name="poster-keeper")
        self._thread.start()

    def stop(self) -> None:
        """End the process when all requests are answered."""
        self._stopping.set()
        self._thread.join()
        self._control.close()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._control, control = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=post_for_acceptors, args=(self._listener, control), name="poster"
        )
        self._process.start()
        control.close()

    def _keep(self) -> None:
        while not self._stopping.is_set():
            self._process.join(LOOK_S)
            if self._process.exitcode is None and self._is_there(PING_S):
                continue
            if not self._stopping.is_set():
                self._replace()

    def _replace(self) -> None:
        log.error("the process that posts has died or hangs, and is started again")
        self._end()
        self._start()
        if not self._is_there(START_S):
            self._stopping.wait(PAUSE_S)

    def _is_there(self, limit_s: float) -> bool:
        """Whether the process answers in time. Its first answer comes when it is ready."""
        try:
            self._control.send_bytes(b"there?")
            return self._control.poll(limit_s) and bool(self._control.recv_bytes())
        except (OSError, EOFError):
            return False

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._control.close()


def post_for_acceptors(listener: socket.socket, control: Connection) -> None:
    """The process that posts. It ends when the other end of `control` is closed.

    A signal to the whole group of processes does not end it: acceptors have requests to answer.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.environ.pop("NOTIFY_SOCKET", None)  # the parent speaks for all
    settings = Settings.load()
    logs.configure(settings.log_format)
    # The acceptors bound what is in the queue.
    settings = settings.model_copy(update={"queue_limit_requests": sys.maxsize})
    loops = uvicorn.Config(post_for_acceptors).get_loop_factory()
    try:
        with asyncio.Runner(loop_factory=loops) as runner:
            runner.run(_post(settings, listener, control))
    except LedgerError as error:
        log.error("the process that posts cannot start: %s", error)  # noqa: TRY400  (one line)
        sys.exit(1)


async def _post(settings: Settings, listener: socket.socket, control: Connection) -> None:
    with exporter.listening(settings, __version__):
        async with running(settings) as runtime, sharded(runtime, reading=True) as shards:
            executing = asyncio.create_task(keep_executing(shards))
            tune_process()
            try:
                find = partial(_poster_of, shards)
                async with listening(listener, find, __version__) as acceptors:
                    await _ended(control)
                    await _left(acceptors, settings.request_deadline_s + LEAVE_S)
            finally:
                executing.cancel()
                await asyncio.gather(executing, return_exceptions=True)


def _poster_of(shards: Shards, queue: str) -> Poster[Group, Outcomes]:
    """The poster of a queue. Raises ShardUnavailable."""
    _, _, shard = queue.partition("@")
    movements = shards.running(shard or MAIN).movements
    assert isinstance(movements, Poster)
    return movements


async def _ended(control: Connection) -> None:
    """Answer the parent until it closes its end, in a thread: the loop may be busy."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def answer() -> None:
        with suppress(OSError, EOFError):
            while control.recv_bytes():
                control.send_bytes(b"here")
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=answer, daemon=True, name="control").start()
    await ended.wait()


async def _left(acceptors: set[asyncio.BaseProtocol], limit_s: float) -> None:
    """Wait until no acceptor is connected. There is one only if the parent has died."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while acceptors:  # noqa: ASYNC110  (other processes are what it waits for)
                await asyncio.sleep(0.05)
