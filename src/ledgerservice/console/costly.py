"""Figures that read a large part of the ledger: a page does not wait for them.

Where they come soon, they are on the page. Where they do not, the page comes without them and loads
them afterwards, or, without JavaScript, has a link to itself with them.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Value = TypeVar("Value")
Figures = Coroutine[Any, Any, Value]

PARAMETER, ALL = "figures", "all"
"""The parameter of a page that waits however long it takes."""
KNOWN = 1_000


class Costs:
    """Which figures were too slow last time, by the paths of their pages: in this process."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._slow: dict[str, bool] = {}
        self._running: dict[str, asyncio.Task[Any]] = {}

    def is_slow(self, name: str) -> bool:
        """Whether the figures are not even begun for a page that does not wait."""
        return self._slow.get(name, False)

    async def soon(
        self, name: str, reader: str, figures: Callable[[], Figures[Value]]
    ) -> Value | None:
        """The figures, or None if they take too long; they are read to their end then, for the
        page that waits, and so that no query is broken off. Raises what they raise.
        """
        task = self._task(reader, figures)
        done, _ = await asyncio.wait({task}, timeout=self._patience_s)
        self._note(name, is_slow=not done)
        return task.result() if done else None

    async def whole(self, name: str, reader: str, figures: Callable[[], Figures[Value]]) -> Value:
        """The figures, however long they take. `reader` names who asks for which of them."""
        begun = asyncio.get_running_loop().time()
        value = await asyncio.shield(self._task(reader, figures))
        took_s = asyncio.get_running_loop().time() - begun
        self._note(name, is_slow=took_s > self._patience_s)
        return value

    def _task(self, reader: str, figures: Callable[[], Figures[Value]]) -> "asyncio.Task[Value]":
        """What reads the figures: the reader may have begun it with another page."""
        task = self._running.get(reader)
        if task is None:
            task = self._running[reader] = asyncio.create_task(figures())
            task.add_done_callback(lambda ended: self._ended(reader, ended))
        return task

    def _note(self, name: str, *, is_slow: bool) -> None:
        self._slow.pop(name, None)
        self._slow[name] = is_slow
        if len(self._slow) > KNOWN:
            del self._slow[next(iter(self._slow))]

    def _ended(self, reader: str, task: asyncio.Task[Any]) -> None:
        self._running.pop(reader, None)
        if not task.cancelled():
            task.exception()  # whoever waits meets it too
