"""Verifies all the time while a process runs, and shows in the metrics how far that is."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification.watching import Watch
from ledgerservice.telemetry.metrics import VERIFY_PROGRESS, VERIFY_SUCCESS, VERIFY_VIOLATIONS

VERIFY_END_S = 30.0
"""How long the stop waits for the verification, whose thread ends with the process."""


@contextmanager
def verifying(database: Database, *, is_main: bool) -> Iterator[Watch | None]:
    """Verifies all the time, in a thread of its own, if no other process does so."""
    settings = database.settings
    if not settings.verify_interval_s:
        yield None
        return
    watch = Watch(database.service_engine(), settings.schema_name, settings.verify_progress)
    stop = threading.Event()
    arguments = stop, settings.verify_interval_s
    thread = threading.Thread(target=watch.run, args=arguments, name="verify", daemon=True)
    thread.start()
    try:
        with shown(watch) if is_main else counted(watch):
            yield watch
    finally:
        stop.set()
        watch.interrupt()
        thread.join(VERIFY_END_S)


_shown: list[Watch] = []
"""What verifies in this process: one for each shard."""


@contextmanager
def counted(watch: Watch) -> Iterator[None]:
    """Count a verification in, in the metrics that another one shows."""
    _shown.append(watch)
    try:
        yield
    finally:
        _shown.remove(watch)


@contextmanager
def shown(watch: Watch) -> Iterator[None]:
    """Let the metrics show how far a verification is, in the process that does it."""

    def known(over_all: Callable[[list[float]], float], name: str) -> float:
        here = [one for one in _shown if not one.is_elsewhere]
        # Until everything has been verified there is no time to show.
        return over_all([getattr(one, name) or math.nan for one in here]) if here else math.nan

    def violations() -> float:
        here = [one.violations for one in _shown if not one.is_elsewhere]
        return sum(here) if here else math.nan

    with (
        counted(watch),
        VERIFY_SUCCESS.reading(lambda: known(min, "last_success_s")),
        VERIFY_VIOLATIONS.reading(violations),
        VERIFY_PROGRESS.reading(lambda: known(min, "pass_ratio")),
    ):
        yield
