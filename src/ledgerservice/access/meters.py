"""What a key uses of a process, measured against its limits.

A token bucket may be taken into debt once by a request whose size was not known before, such as a
batch. Nothing more is taken until the debt is paid off, so the mean holds.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from ledgerservice.errors import LimitReached
from ledgerservice.postgres.access.limits import NO_LIMITS, KeyLimits

CONCURRENT = "concurrent-requests"


class Bucket:
    """A token bucket with `rate` tokens a second and at most `burst` of them."""

    __slots__ = ("_at_s", "_burst", "_level", "_name", "_rate", "_unit")

    def __init__(self, name: str, rate: float, burst: float, unit: str | None = None) -> None:
        self._name, self._unit = name, unit
        self._rate, self._burst = rate, burst
        self._level = burst
        self._at_s = monotonic()

    def take(self, number: float = 1, least: float = 1) -> None:
        """Take tokens if there are `least`. Raises LimitReached, and takes none then."""
        self._fill()
        if self._level < least:
            raise self._reached((least - self._level) / self._rate)
        self._level -= number

    def owe(self, number: float) -> None:
        """Take tokens, whether they are there or not."""
        self._fill()
        self._level -= number

    def debt_s(self) -> float:
        """Seconds until the debt is paid off; 0 if there is none."""
        self._fill()
        return max(0.0, -self._level / self._rate)

    def _fill(self) -> None:
        now_s = monotonic()
        level = self._level + (now_s - self._at_s) * self._rate
        self._level = level if level < self._burst else self._burst
        self._at_s = now_s

    def _reached(self, wait_s: float) -> LimitReached:
        window_s = math.ceil(self._burst / self._rate)
        quota = math.floor(self._burst)
        return LimitReached(self._name, math.ceil(wait_s), quota, window_s, self._unit)


class Share:
    """What is in use at a time, of `most`."""

    __slots__ = ("_most", "_name", "_used")

    def __init__(self, name: str, most: int) -> None:
        self._name, self._most = name, most
        self._used = 0

    def take(self, number: int = 1) -> None:
        """Take a number that is to be given back. One is always taken if none is in use, however
        large. Raises LimitReached.
        """
        if self._used and self._used + number > self._most:
            raise LimitReached(self._name, 1, self._most, None, CONCURRENT)
        self._used += number

    def give(self, number: int = 1) -> None:
        """Give back what was taken."""
        self._used -= number


class Meter:
    """The use of a key in this process. A part without a limit is None."""

    __slots__ = ("bytes", "limits", "queue", "requests", "streams")

    def __init__(self, limits: KeyLimits = NO_LIMITS, queue_requests: int = 0) -> None:
        """`limits` has no None. `queue_requests` is the length of the queue of movements."""
        self.limits = limits
        rate, share = limits.rate, limits.queue_share
        streams, bytes_s = limits.streams, limits.body_bytes_s
        burst = max(1.0, limits.burst or rate or 0)
        self.requests = Bucket("requests", rate, burst) if rate else None
        self.queue = Share("queue", max(1, int(share * queue_requests))) if share else None
        self.streams = Share("streams", streams) if streams else None
        self.bytes = Bucket("bytes", bytes_s, bytes_s, "content-bytes") if bytes_s else None

    def take_movement(self) -> None:
        """Count a request with one movement, which enters the queue. Raises LimitReached, and
        counts nothing then.
        """
        if self.queue is not None:
            self.queue.take()
        try:
            if self.requests is not None:
                self.requests.take()
        except LimitReached:
            self.give_movement()
            raise

    def give_movement(self) -> None:
        """A movement has left the queue."""
        if self.queue is not None:
            self.queue.give()

    def take_items(self, number: int) -> None:
        """Count the items of a request, which was counted as one. Raises LimitReached."""
        if self.requests is not None:
            self.requests.take(number - 1, 0)

    def take_bytes(self, number: int) -> None:
        """Count the bytes of a body. Raises LimitReached."""
        if self.bytes is not None:
            self.bytes.take(number, 0)

    def owe(self, items: int, bytes_: int) -> None:
        """Count what a stream has sent; it waits for `debt_s` then."""
        if self.requests is not None:
            self.requests.owe(items)
        if self.bytes is not None:
            self.bytes.owe(bytes_)

    def debt_s(self) -> float:
        """Seconds until all debt is paid off; 0 if there is none."""
        buckets = (one for one in (self.requests, self.bytes) if one is not None)
        return max((one.debt_s() for one in buckets), default=0.0)

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """An open stream. Raises LimitReached."""
        share = self.streams
        if share is not None:
            share.take()
        try:
            yield
        finally:
            if share is not None:
                share.give()


UNMETERED = Meter()
"""Of callers without a key."""


def headers_of(error: LimitReached) -> dict[str, str]:
    """The headers of an answer, as in draft-ietf-httpapi-ratelimit-headers-10."""
    policy = f'"{error.limit}";q={error.quota}'
    if error.unit is not None:
        policy += f';qu="{error.unit}"'
    if error.window_s is not None:
        policy += f";w={error.window_s}"
    wait = str(error.retry_after_s)
    rest = f'"{error.limit}";r=0;t={wait}'
    return {"retry-after": wait, "ratelimit-policy": policy, "ratelimit": rest}
