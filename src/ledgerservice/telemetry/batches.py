"""The phases of the batch that the running task posts."""

from contextvars import ContextVar
from time import perf_counter

from ledgerservice.telemetry.metrics import PHASES

LOCK, PLAN, WRITE, COMMIT = "lock", "plan", "write", "commit"


class BatchClock:
    """The phases of a batch as they end: names with their times, in seconds of `perf_counter`."""

    __slots__ = ("began_s", "ended_s", "last_s", "phases")

    def __init__(self) -> None:
        self.began_s = self.last_s = self.ended_s = perf_counter()
        self.phases: list[tuple[str, float, float]] = []

    def end(self, phase: str) -> None:
        """A phase ends now. It began when the one before ended."""
        now_s = perf_counter()
        PHASES.observe(now_s - self.last_s, phase)
        self.phases.append((phase, self.last_s, now_s))
        self.last_s = now_s

    def duration_s(self, phase: str) -> float:
        """The time in all phases of a name."""
        return sum(end - begin for name, begin, end in self.phases if name == phase)


RUNNING: ContextVar[BatchClock | None] = ContextVar("batch", default=None)
"""The clock of the task's batch; None where nobody measures, as in a caller's transaction."""


def end_phase(phase: str) -> None:
    """A phase of the task's batch ends now."""
    clock = RUNNING.get()
    if clock is not None:
        clock.end(phase)
