"""The bytes of requests that a process may hold, and the log's line while it refuses some."""

import asyncio
import logging

from ledgerservice.errors import Overloaded

log = logging.getLogger(__name__)

LINE_S = 60.0


class Refusals:
    """Logs one line a minute while there are refusals, with their number.

    `message` has a %s for the number. The first refusal is logged at once.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._number = 0
        self._next: asyncio.TimerHandle | None = None

    def count(self) -> None:
        """Count a refusal."""
        self._number += 1
        if self._next is None:
            self._report()

    def _report(self) -> None:
        self._next = None
        if self._number:
            log.warning(self._message, self._number)
            self._number = 0
            self._next = asyncio.get_running_loop().call_later(LINE_S, self._report)


class Budget:
    """Bytes that all requests of a process may hold together."""

    def __init__(self, size_bytes: int) -> None:
        self._size = self._left = size_bytes
        self._refusals = Refusals(
            f"%s requests were refused: the bodies of others have {size_bytes} bytes"
            " (LEDGER_BODY_BUDGET_BYTES)"
        )

    def take(self, number: int) -> None:
        """Take bytes, which are to be given back. Raises Overloaded, and takes none then."""
        if number > self._left:
            self._refusals.count()
            raise Overloaded
        self._left -= number

    @property
    def taken(self) -> int:
        """The bytes that are held."""
        return self._size - self._left

    def give(self, number: int) -> None:
        """Give bytes back."""
        self._left += number


class Share:
    """What the running task takes of a budget. It is given back when the task ends."""

    def __init__(self, budget: Budget) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._budget = budget
        self._number = 0
        task.add_done_callback(lambda _: self.give(self._number))

    def take(self, number: int) -> None:
        """Take more bytes. Raises Overloaded."""
        self._budget.take(number)
        self._number += number

    def give(self, number: int) -> None:
        """Give bytes back before the task ends."""
        self._number -= number
        self._budget.give(number)
