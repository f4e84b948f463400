"""A page that is made at most once a second, however many read it."""

import asyncio
from collections.abc import Callable
from time import monotonic

FRESH_S = 1.0


class Page:
    """What was made last."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._text, self._until_s = b"", 0.0

    async def current(self, make: Callable[[], bytes]) -> bytes:
        """What `make` returns or has returned, FRESH_S old at most. It is called in a thread, so
        that movements go on meanwhile.
        """
        async with self._lock:
            if monotonic() >= self._until_s:
                self._text = await asyncio.to_thread(make)
                self._until_s = monotonic() + FRESH_S
        return self._text
