"""When a failed delivery is tried again: with delays that grow, until some days have passed."""

import random
from datetime import datetime, timedelta
from typing import NamedTuple

from ledgerservice.settings import Settings

GROWTH = 4
LONGEST_S = 12 * 3600.0
JITTER = 0.2


class Schedule(NamedTuple):
    """The first delay, and the time from the first failure after which no attempt is made."""

    first_s: float
    give_up_s: float

    @classmethod
    def of(cls, settings: Settings) -> "Schedule":
        """The schedule of the settings."""
        return cls(settings.webhooks_first_retry_s, settings.webhooks_give_up_s)

    def next(
        self, attempts: int, failed_at: datetime, now: datetime, least_s: float = 0
    ) -> datetime | None:
        """When to try again after so many attempts, the first of which failed at `failed_at`.

        The last attempt is at the end of the time; None after it. The receiver may have asked for
        `least_s`.
        """
        end = failed_at + timedelta(seconds=self.give_up_s)
        if now >= end:
            return None
        delay_s = min(LONGEST_S, self.first_s * GROWTH ** min(attempts - 1, 20))
        delay_s *= random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  (no secret)
        return min(end, now + timedelta(seconds=max(delay_s, min(least_s, LONGEST_S))))
