"""A server as a process, which a test may kill, pause and start again on the same data and port."""

import random
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

READY_LIMIT_S = 120
LOG_TAIL_CHARACTERS = 4_000
GUARD = 'read -r nothing; kill -KILL "$0"'
"""Kills the process that it is given when its standard input ends, as it does with the test run."""


def quiet_port() -> int:
    """A free port that no outgoing connection gets while the server of this port is down."""
    while True:
        port = random.randrange(10_240, 32_000)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Engine(ABC):
    """A server on 127.0.0.1, whose data and log are in `folder`. It ends with the test run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = quiet_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def address(self) -> str:
        """Host and port, as clients take them."""
        return f"127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """The folder of all that it keeps."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What all its processes wrote."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @abstractmethod
    def command(self) -> Sequence[str]:
        """How the server is started in the foreground; prepares its data at the first time."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it answers a request; any exception means no."""

    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Whether it answers now. Clients log refused connections, so the port is tried first."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return self.answers()
        except Exception:
            return False

    def start(self) -> None:
        """Starts it on its data and its port, and returns when it answers."""
        assert not self.is_up()
        command = self.command()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, str(self.pid)], stdin=subprocess.PIPE, start_new_session=True
        )
        self._await_answer()

    def kill(self) -> None:
        """Ends it by SIGKILL, paused or not."""
        for process in (self._process, self._guard):
            if process is not None:
                process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()
        self._process = self._guard = None

    def lose_data(self) -> None:
        """Ends it, and removes what it kept: the next start makes an empty server."""
        self.kill()
        shutil.rmtree(self.data)

    def pause(self) -> None:
        """Stops it by SIGSTOP: connections stay, and nothing is answered."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def revive(self) -> None:
        """Makes it answer, whatever an earlier test did."""
        if self.is_up():
            self.resume()
            self._await_answer()
        else:
            self.kill()
            self.start()

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()

    def _send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _await_answer(self) -> None:
        end_s = time.monotonic() + READY_LIMIT_S
        while not self.is_ready():
            if not self.is_up() or time.monotonic() > end_s:
                self.kill()
                raise RuntimeError(f"{self.name} did not get ready.\n{self.tail()}")
            time.sleep(0.05)
