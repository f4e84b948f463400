"""Traces of requests whose caller samples them, if LEDGER_TRACES_URL is set.

A request without a sampled `traceparent` costs nothing more than the look at its headers, and
nothing of OpenTelemetry's SDK is imported while traces are off.
"""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ledgerservice.errors import ConfigurationError
from ledgerservice.settings import Settings
from ledgerservice.telemetry.exchanges import Exchange

if TYPE_CHECKING:
    from ledgerservice.telemetry.batches import BatchClock
    from ledgerservice.telemetry.spans import Spans

TRACEPARENT = b"traceparent"
_SAMPLED = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f][13579bdf](-.*)?"
)


class _Tracing:
    spans: "Spans | None" = None


def start(settings: Settings, version: str) -> Callable[[], None]:
    """Send traces to LEDGER_TRACES_URL, if it is set; return what ends it.

    Raises ConfigurationError if the extra is not installed.
    """
    if settings.traces_url is None:
        return lambda: None
    try:
        from ledgerservice.telemetry.spans import Spans  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "A library for LEDGER_TRACES_URL is missing: pip install 'ledgerservice[traces]'"
        ) from error
    spans = _Tracing.spans = Spans(settings.traces_url.get_secret_value(), version)

    def end() -> None:
        _Tracing.spans = None
        spans.close()

    return end


def are_on() -> bool:
    """Whether requests are traced whose callers sample them."""
    return _Tracing.spans is not None


def begin(exchange: Exchange, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Begin the span of a request, if traces are on and its caller samples it."""
    spans = _Tracing.spans
    if spans is None:
        return
    values = [value for name, value in headers if name == TRACEPARENT]
    if len(values) == 1 and (parent := _SAMPLED.fullmatch(values[0])):
        exchange.span = spans.begin(exchange, int(parent[1], 16), int(parent[2], 16))


def end(exchange: Exchange) -> None:
    """End the span of a request that is answered."""
    if exchange.span is not None and (spans := _Tracing.spans) is not None:
        spans.end(exchange)


def batch_done(
    clock: "BatchClock | None", queue: str, requests: int, sampled: Iterable[Any]
) -> None:
    """Record the span of a batch; `sampled` are the spans of those of its requests that have one.

    Called in the thread of the requests, when they are answered.
    """
    spans = _Tracing.spans
    if spans is None or clock is None:
        return
    of_requests = [span for span in sampled if span is not None]
    if of_requests:
        spans.record_batch(clock, queue, requests, of_requests)
