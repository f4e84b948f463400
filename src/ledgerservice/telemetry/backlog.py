"""How far the readers of the feed are behind it."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic

from ledgerservice.telemetry.metrics import FEED_ACTIVE, FEED_LAG, FEED_POSITION, FEED_SAFE_ID

MOST_NOTES = 1_000
NOTE_S = 0.1


class Backlog:
    """What one reader has not passed yet. `safe_id` returns the id up to which events are known.

    Ids have gaps, so the difference of two says little. The lag is the time since an id above the
    reader's was first seen to be safe.
    """

    def __init__(self, safe_id: Callable[[], int]) -> None:
        self.safe_id = safe_id
        self.position = 0
        self._done = 0
        # When each safe id was first seen, while it is above what is done.
        self._notes: deque[tuple[float, int]] = deque()

    def pass_events(self, position: int) -> None:
        """The reader has passed all events up to `position`."""
        self.position = position
        self._finish(position)

    def pass_all(self, safe_id: int) -> None:
        """No event is left up to an id that was safe."""
        self._finish(safe_id)

    def lag_s(self) -> float:
        """How long the oldest event has been waiting, in seconds; 0 if none is."""
        self._note()
        with_notes = self._notes.copy()
        return monotonic() - with_notes[0][0] if with_notes else 0.0

    def _finish(self, done: int) -> None:
        self._done = max(self._done, done)
        self._note()
        while self._notes and self._notes[0][1] <= self._done:
            self._notes.popleft()

    def _note(self) -> None:
        now_s, safe_id = monotonic(), self.safe_id()
        last_s, last = self._notes[-1] if self._notes else (0.0, self._done)
        # A reader that is away for days keeps the oldest notes, which are all that counts.
        room = len(self._notes) < MOST_NOTES and now_s - last_s >= NOTE_S
        if safe_id > last and room:
            self._notes.append((now_s, safe_id))


class Backlogs:
    """The backlogs that make up one reader, such as those of all webhooks."""

    def __init__(self) -> None:
        self._backlogs: set[Backlog] = set()

    @contextmanager
    def following(self, backlog: Backlog) -> Iterator[None]:
        """Count a backlog in, meanwhile."""
        self._backlogs = self._backlogs | {backlog}  # replaced, because another thread reads it
        try:
            yield
        finally:
            self._backlogs = self._backlogs - {backlog}

    @contextmanager
    def exported(self, reader: str) -> Iterator[None]:
        """Meanwhile the metrics of the feed have a `reader`: the last of its parts."""
        with ExitStack() as stack:
            stack.enter_context(FEED_ACTIVE.reading(lambda: 1, reader))
            stack.enter_context(FEED_LAG.reading(self._lag_s, reader))
            stack.enter_context(FEED_POSITION.reading(self._position, reader))
            stack.enter_context(FEED_SAFE_ID.reading(self._safe_id, reader))
            yield

    def _lag_s(self) -> float:
        return max((one.lag_s() for one in self._backlogs), default=0.0)

    def _position(self) -> float:
        return min((one.position for one in self._backlogs), default=0)

    def _safe_id(self) -> float:
        return max((one.safe_id() for one in self._backlogs), default=0)
