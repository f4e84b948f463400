"""A mover that is killed at a step."""

import multiprocessing
import os
import signal

from ledgerservice.postgres.moving.mover import Report, move
from tests.postgres.moving.places import Shards

_forks = multiprocessing.get_context("forkserver")


def killing_at(step: str, *, at_end: bool) -> Report:
    """A report that kills its process at the begin or at the end of a step."""

    def report(name: str, done: int, _of: int) -> None:
        if name == step and (done > 0) == at_end:
            os.kill(os.getpid(), signal.SIGKILL)

    return report


def _move(shards: Shards, name: str, target: str, step: str, at_end: bool) -> None:
    move(shards, name, target, killing_at(step, at_end=at_end))


def killed_move(shards: Shards, name: str, target: str, step: str, *, at_end: bool) -> None:
    """A move that ends with kill -9 there."""
    process = _forks.Process(target=_move, args=(shards, name, target, step, at_end))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, process.exitcode
