"""Strict serializability, decided exactly, in one sweep.

Every write tells the versions that it made and every read those that it saw, so all dependencies
between operations are known: who wrote after whom, who read what, who overwrote what was read. An
order of all operations that respects them, and in which each takes effect between its invocation
and its completion, exists if and only if the dependencies have no cycle and, along them,
p(n) = max(invoked(n), p of all before n) never passes completed(n): p(n) is the earliest moment at
which n can have taken effect.
"""

from collections import deque
from collections.abc import Iterator

NEVER = float("inf")


class Order:
    """Operations and what must come before what."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._invoked: list[float] = []
        self._completed: list[float] = []
        self._after: list[list[int]] = []

    def add(self, name: str, invoked: float, completed: float) -> int:
        """A new operation's number."""
        self._names.append(name)
        self._invoked.append(invoked)
        self._completed.append(completed)
        self._after.append([])
        return len(self._names) - 1

    def put_before(self, first: int, then: int) -> None:
        """Let `first` take effect before `then`."""
        if first != then:
            self._after[first].append(then)

    def violations(self) -> Iterator[tuple[str, str]]:
        """What no order can explain, as (code, what)."""
        earliest = list(self._invoked)
        cause: list[int | None] = [None] * len(earliest)
        waiting = [0] * len(earliest)
        for followers in self._after:
            for then in followers:
                waiting[then] += 1
        ready = deque(n for n, count in enumerate(waiting) if count == 0)
        done = 0
        while ready:
            n = ready.popleft()
            done += 1
            if earliest[n] > self._completed[n]:
                yield "real_time", self._late(n, cause)
            for then in self._after[n]:
                if earliest[n] > earliest[then]:
                    earliest[then] = earliest[n]
                    cause[then] = n
                waiting[then] -= 1
                if waiting[then] == 0:
                    ready.append(then)
        if done < len(earliest):
            yield "cycle", self._cycle(waiting)

    def _late(self, n: int, cause: list[int | None]) -> str:
        root = n
        while (before := cause[root]) is not None:
            root = before
        return f"{self._names[n]} was completed before {self._names[root]}, its cause, was invoked"

    def _cycle(self, waiting: list[int]) -> str:
        """The names along one cycle among the operations that still wait."""
        before: dict[int, int] = {}
        for n, followers in enumerate(self._after):
            if waiting[n]:
                for then in followers:
                    if waiting[then]:
                        before[then] = n
        n = next(iter(before))
        seen: dict[int, int] = {}
        path: list[int] = []
        while n not in seen:
            seen[n] = len(path)
            path.append(n)
            n = before[n]
        cycle = path[seen[n] :][::-1]
        return " before ".join(self._names[m] for m in [*cycle, cycle[0]])
