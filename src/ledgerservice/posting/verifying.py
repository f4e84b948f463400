"""Verifies all the time while a process runs, and shows in the metrics how far that is."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from ledgerservice.postgres.connections import Database, usable_role
from ledgerservice.postgres.sharding.databases import databases_of
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.postgres.verification import Violation
from ledgerservice.postgres.verification.across import verify_across
from ledgerservice.postgres.verification.watching import Watch, nothing
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
    also = partial(_across, database) if is_main and settings.shards is not None else nothing
    watch = Watch(database.service_engine(), settings.schema_name, settings.verify_progress, also)
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


def _across(main: Database) -> Iterator[Violation]:
    """The violations between parts of ledgers that are on different shards."""
    shards = databases_of(main.settings)
    usable = {name: replace(one, role=usable_role(one)) for name, one in shards.items()}
    engines = {name: one.service_engine() for name, one in {MAIN: main, **usable}.items()}
    try:
        yield from verify_across(engines)
    finally:
        for engine in engines.values():
            engine.dispose()


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
