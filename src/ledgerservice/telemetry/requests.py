"""A line of the log for a request: for each, for errors and slow ones, or for none."""

import logging
from math import inf

from ledgerservice.telemetry.exchanges import Exchange
from ledgerservice.telemetry.logs import Fields

log = logging.getLogger(__name__)

OFF, ERRORS, ALL = "off", "errors", "all"
PATIENT = frozenset({"/events", "/batches", "/console/events"})
"""Routes of streams and long polls, which take as long as their clients want."""
FAULTS = 500


class Choice:
    """Which requests have a line."""

    def __init__(self) -> None:
        self.status = self.slow_s = inf
        self.everything = False

    def choose(self, mode: str, slow_s: float) -> None:
        """OFF; ERRORS: answers from 500 on, and those that took longer than `slow_s`; ALL."""
        self.everything = mode == ALL
        self.status = inf if mode == OFF else FAULTS
        self.slow_s = inf if mode == OFF else slow_s

    def has_line(self, exchange: Exchange, duration_s: float) -> bool:
        """Whether this request has a line."""
        if self.everything or exchange.status >= self.status:
            return True
        return duration_s > self.slow_s and exchange.template() not in PATIENT


CHOICE = Choice()


def write(exchange: Exchange, duration_s: float) -> None:
    """Write the line of a request."""
    level = _level(exchange.status, is_chosen=CHOICE.everything)
    same = f"{exchange.template()} {exchange.status} {exchange.code}"
    # In a log of all requests none is left out for being like others.
    unlike = {} if CHOICE.everything else {"same": same}
    fields = _fields(exchange, duration_s)
    log.log(level, "request", extra={"fields": fields, **unlike} if unlike else {"fields": fields})


def _level(status: int, *, is_chosen: bool) -> int:
    if is_chosen:
        return logging.INFO
    return logging.ERROR if status == FAULTS else logging.WARNING


def _fields(exchange: Exchange, duration_s: float) -> Fields:
    fields: Fields = {"request_id": exchange.request_id}
    if exchange.key_id is not None:
        fields["key_id"] = exchange.key_id
    fields |= {
        "method": exchange.known_method(),
        "ledger": exchange.ledger or "default",
        "route": exchange.template(),
        "status": exchange.status,
    }
    if exchange.code is not None and exchange.status >= 400:
        fields["code"] = exchange.code
    fields["ms"] = round(duration_s * 1000, 1)
    if exchange.place is not None:
        fields |= exchange.place.times()
    return fields
