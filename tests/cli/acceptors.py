"""The processes of `serve --acceptors`, and clients that go on whoever of them dies."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.processes import RunningService, wait_for

ACCEPTORS = ("--acceptors", "2")


def processes(service: RunningService) -> tuple[psutil.Process, list[psutil.Process]]:
    """The process that posts, which alone has the other end of the socket, and the acceptors."""
    children = psutil.Process(service.process.pid).children()
    alive = [one for one in children if one.status() != psutil.STATUS_ZOMBIE]
    spawned = [one for one in alive if "spawn_main" in " ".join(one.cmdline())]
    posters = [one for one in spawned if socket_of(one)]
    return posters[0], [one for one in spawned if one not in posters]


def all_answer(service: RunningService, number: int = 2) -> bool:
    """Whether so many processes answer. The service is ready when the first one is.

    The first part of the ids that they give to requests tells them apart.
    """
    answers = [
        httpx.get(f"{service.base}/health/live", timeout=60, verify=False) for _ in range(20)
    ]
    ids = {answer.headers["x-request-id"].partition("-")[0] for answer in answers}
    return len(ids) >= number


def socket_of(process: psutil.Process) -> Path | None:
    """The socket of the process that posts, if it is this one."""
    places = [Path(one.laddr) for one in process.net_connections("unix") if one.laddr]
    return next((place for place in places if place.name == "poster"), None)


class Depositors:
    """Clients that deposit 1 with keys of their own, each until it is answered."""

    def __init__(self, base: str, account: int, clients: int) -> None:
        """`base`: the URL of the service, and the path of the ledger if it is not the default."""
        self._base, self._account = base, account
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(clients)
        self.done = 0
        self._runs = [self._threads.submit(self._run) for _ in range(clients)]

    def _run(self) -> int:
        posted = 0
        while not self._stopping.is_set():
            self._post(*self.request(next(self._numbers)))
            posted += 1
            self.done += 1
        return posted

    def request(self, number: int) -> tuple[str, dict[str, Any]]:
        """The path and the body of a request, which has a key of its own."""
        amount = {"amount": "1", "idempotency_key": f"key {number}"}
        return "/deposit/", {"account_id": self._account, **amount}

    def _post(self, path: str, body: dict[str, Any]) -> None:
        while True:
            with suppress(httpx.TransportError):
                answer = httpx.post(self._base + path, json=body, timeout=30, verify=False)
                if answer.status_code == 200:
                    self.check(body, answer.json())
                    return
                assert answer.status_code == 503, answer.text
                assert answer.json()["retry"] in {"same_key", "later"}
            time.sleep(0.05)

    def check(self, body: dict[str, Any], answer: dict[str, Any]) -> None:
        """See whether a request got the answer to it."""

    def stop(self) -> int:
        """The number of deposits that were answered, each of them once."""
        self._stopping.set()
        return sum(run.result() for run in self._runs)

    def go_on(self) -> None:
        """Wait for 20 more of them."""
        goal = self.done + 20
        assert wait_for(lambda: self.done >= goal, 120)
