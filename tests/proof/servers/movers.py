"""Movers: processes of `shards move`, which are killed, and begun again."""

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from random import Random

from tests.processes import Fork, environment, wait_for
from tests.proof.servers.cluster import Broken
from tests.proof.servers.releases import THIS
from tests.proof.servers.shards import FIRST_HOMES, MARKET, Shards

MOVERS = 2
KILLED, TAKEN_BACK = 0.7, 0.15
SOON_S, LATE_S = (0.1, 3.0), (3.0, 9.0)
"""After which a mover is killed: most often while it copies."""
PAUSE_S = 0.3
LAST_LIMIT_S = 90.0
"""In which a move ends when nothing is hurt any more."""


class Mover:
    """Moves some ledgers from shard to shard, one after another, until it is stopped.

    A move that has ended in any way is gone on with by the same command, or taken back.
    """

    def __init__(
        self, shards: Shards, ledgers: Sequence[str], program: Sequence[str], chance: Random
    ) -> None:
        """`program`: the module that is run, and what it is told before `shards`."""
        self._shards = shards
        homes = shards.homes()
        self._homes = {name: homes[name] for name in ledgers}
        self._program = list(program)
        self._chance = chance
        self._log = shards.folder / f"mover-{ledgers[0]}.log"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mover")
        self._failure: BaseException | None = None
        self.times: Counter[str] = Counter()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let it end the move that it has begun."""
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                ledger = self._chance.choice(list(self._homes))
                others = [name for name in self._shards.by_name if name != self._homes[ledger]]
                self._move(ledger, self._chance.choice(others))
        except BaseException as error:
            self._failure = error

    def _move(self, ledger: str, target: str) -> None:
        last_s = 0.0
        while last_s == 0.0 or time.monotonic() < last_s:
            if self._stopping.is_set() and last_s == 0.0:
                last_s = time.monotonic() + LAST_LIMIT_S
            if self._try("shards", "move", ledger, target, *self._waiting):
                self._homes[ledger] = target
                self.times["move_ledgers"] += 1
                return
            is_taken_back = self._chance.random() < TAKEN_BACK
            if is_taken_back and self._try("shards", "move", ledger, "--abort"):
                self.times["take_move_back"] += 1
                return
            time.sleep(PAUSE_S)
        raise Broken(f"{ledger} does not get to {target}: see {self._log}")

    @property
    def _waiting(self) -> list[str]:
        return [f"--publisher={url}" for url in self._shards.publishers]

    def _try(self, *arguments: str) -> bool:
        """Whether the command succeeds; it may be killed."""
        process = self._begin(*arguments)
        if self._chance.random() < KILLED and not self._stopping.is_set():
            limit_s = self._chance.uniform(*self._chance.choice([SOON_S, SOON_S, LATE_S]))
            if not wait_for(lambda: process.poll() is not None, limit_s):
                process.kill()
                self.times["kill_mover"] += 1
        return process.wait(LAST_LIMIT_S) == 0

    def _begin(self, *arguments: str) -> "Fork | subprocess.Popen[bytes]":
        values = environment(**self._shards.environment)
        if self._program == ["ledgerservice"]:
            return Fork(arguments, values, self._log, self._log)
        command = THIS.command(*self._program, *arguments)
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=values, cwd=THIS.root, stdout=log, stderr=log)


@contextmanager
def moving(shards: Shards, program: Sequence[str], chance: Random) -> Iterator[Counter[str]]:
    """Ledgers move meanwhile; what has become of that is counted at the end."""
    names, times = [*FIRST_HOMES, *shards.parts_of(MARKET)], Counter[str]()
    movers = [
        Mover(shards, names[n::MOVERS], program, Random(chance.randrange(2**32)))
        for n in range(MOVERS)
    ]
    with ExitStack() as stack:
        for mover in movers:
            mover.start()
            stack.callback(mover.stop)
        yield times
    for mover in movers:
        times.update(mover.times)
