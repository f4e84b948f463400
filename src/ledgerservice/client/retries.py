"""How long a call waits before it is sent again."""

import random
from email.utils import parsedate_to_datetime
from time import time

FIRST_S, LONGEST_S = 0.05, 2.0


def pause_s(failures: int, retry_after_s: float = 0.0) -> float:
    """Seconds before the next try after so many failures: at least what the service says.

    A part is random, so that many clients do not come back at the same time.
    """
    most_s = min(LONGEST_S, FIRST_S * 2.0 ** min(failures, 10))
    return retry_after_s + most_s * random.uniform(0.5, 1.0)  # noqa: S311  (not a secret)


def retry_after_s(value: str | None) -> float:
    """The seconds of Retry-After, which is a number or a date; 0 without a valid one."""
    if value is None:
        return 0.0
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return 0.0
