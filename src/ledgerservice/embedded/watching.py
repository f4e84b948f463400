"""Keeps an embedded server running while a process uses it."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ledgerservice.embedded.server import EmbeddedServer

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.3


@contextmanager
def watched(embedded: EmbeddedServer | None) -> Iterator[None]:
    """Restarts the embedded server when it dies; takes it over when its owner dies.

    This runs in a thread, so that requests are answered meanwhile. The thread lives as long as
    this context, because a server that it started gets a signal when the thread ends.
    """
    if embedded is None:
        yield
        return
    stop = threading.Event()
    watching = threading.Thread(target=_watch, args=(embedded, stop), name="embedded-watch")
    watching.start()
    try:
        yield
    finally:
        stop.set()
        watching.join()


def _watch(embedded: EmbeddedServer, stop: threading.Event) -> None:
    while not stop.wait(WATCH_INTERVAL_S):
        try:
            embedded.check()
        except Exception:
            log.exception("the embedded PostgreSQL could not be restarted; trying again")
