"""The posters of a process on one database, and the thread of their writers."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ledgerservice.postgres.connections import Database
from ledgerservice.posting.overlapping import OverlappingPoster
from ledgerservice.posting.poster import Limits, Poster, Work
from ledgerservice.posting.remote import PosterAddress, RemotePoster


class Queues:
    """The posters on a database. Those of a shard have its name behind theirs, for metrics."""

    def __init__(
        self, database: Database, writers: asyncio.AbstractEventLoop, shard: str | None
    ) -> None:
        settings = database.settings
        self._limits = Limits(
            settings.queue_limit_requests,
            settings.batch_limit_requests,
            settings.request_deadline_s,
        )
        self._connect, self._writers = database.connect_writer, writers
        self._suffix = "" if shard is None else f"@{shard}"
        self.posters: list[Poster[Any, Any]] = []
        self._remotes: list[RemotePoster] = []

    def writing(
        self,
        name: str,
        work: Work[Any, Any],
        weigh: Callable[[Any], int] = lambda _: 1,
        form: type[Poster[Any, Any]] = Poster,
    ) -> Poster[Any, Any]:
        """A poster whose writer has a thread of its own."""
        return self._add(name, work, weigh, self._writers, form)

    def overlapping(
        self, name: str, form: type[OverlappingPoster] = OverlappingPoster
    ) -> Poster[Any, Any]:
        """A poster of movements, whose large batches overlap."""
        poster = form(self._connect, self._limits, self._writers, f"{name}{self._suffix}")
        self.posters.append(poster)
        return poster

    def reading(self, name: str, work: Work[Any, Any]) -> Poster[Any, Any]:
        """A poster that gathers reads."""
        return self._add(name, work, lambda _: 1, None)

    def _add(
        self,
        name: str,
        work: Work[Any, Any],
        weigh: Callable[[Any], int],
        writers: asyncio.AbstractEventLoop | None,
        form: type[Poster[Any, Any]] = Poster,
    ) -> Poster[Any, Any]:
        poster = form(self._connect, work, self._limits, weigh, writers, f"{name}{self._suffix}")
        self.posters.append(poster)
        return poster

    def remote(
        self,
        name: str,
        address: PosterAddress,
        weigh: Callable[[Any], int],
        form: type[RemotePoster] = RemotePoster,
    ) -> RemotePoster:
        """The queue of another process, which has the metrics of it."""
        poster = form(address, self._limits, weigh, f"{name}{self._suffix}")
        self._remotes.append(poster)
        return poster

    async def close(self) -> None:
        """Answer the waiting requests, then stop."""
        for remote in self._remotes:
            await remote.close()
        for poster in self.posters:
            await poster.close()


@contextmanager
def another_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop of the same class as the running one, in a thread of its own."""
    loop = type(asyncio.get_running_loop())()
    thread = threading.Thread(target=loop.run_forever, name="writers")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
