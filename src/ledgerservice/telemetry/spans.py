"""Spans by OpenTelemetry's SDK, sent by OTLP over HTTP. Imported only if traces are on.

They have the request's route and outcome, and nothing that a caller wrote.
"""

from collections.abc import Sequence
from time import perf_counter, time_ns

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from ledgerservice.telemetry.batches import BatchClock
from ledgerservice.telemetry.exchanges import Exchange

SERVICE = "ledgerservice"
EXPORT_S = 5
EVERY_MS = 1_000
FAULTS = 500


class Spans:
    """The spans of a process. `url` is the collector's, with the path, such as /v1/traces."""

    def __init__(self, url: str, version: str) -> None:
        resource = Resource.create({"service.name": SERVICE, "service.version": version})
        # Only what the caller samples gets a span at all.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(url, timeout=EXPORT_S)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=EVERY_MS)
        )
        self._tracer = self._provider.get_tracer(SERVICE, version)

    def begin(self, exchange: Exchange, trace_id: int, parent_id: int) -> Span:
        """The span of a request, below its caller's."""
        caller = SpanContext(trace_id, parent_id, True, TraceFlags(TraceFlags.SAMPLED))
        return self._tracer.start_span(
            exchange.known_method(),
            set_span_in_context(NonRecordingSpan(caller)),
            kind=SpanKind.SERVER,
            start_time=_epoch_ns(exchange.began_s),
        )

    def end(self, exchange: Exchange) -> None:
        """End the span of a request."""
        span: Span = exchange.span
        route = exchange.template()
        span.update_name(f"{exchange.known_method()} {route}")
        span.set_attribute("http.request.method", exchange.known_method())
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", exchange.status)
        span.set_attribute("ledger.request_id", exchange.request_id)
        if exchange.code is not None:
            span.set_attribute("ledger.code", exchange.code)
        if exchange.status >= FAULTS:
            span.set_status(StatusCode.ERROR)
        span.end()

    def record_batch(
        self, clock: BatchClock, queue: str, requests: int, of_requests: Sequence[Span]
    ) -> None:
        """A batch that is done, with its phases, linked to its sampled requests, and they to it."""
        batch = self._tracer.start_span(
            f"batch {queue}",
            set_span_in_context(NonRecordingSpan(SpanContext(0, 0, False))),
            links=[Link(span.get_span_context()) for span in of_requests],
            attributes={"ledger.queue": queue, "ledger.batch.requests": requests},
            start_time=_epoch_ns(clock.began_s),
        )
        for phase, began_s, ended_s in clock.phases:
            part = self._tracer.start_span(
                phase, set_span_in_context(batch), start_time=_epoch_ns(began_s)
            )
            part.end(_epoch_ns(ended_s))
        batch.end(_epoch_ns(clock.ended_s))
        for span in of_requests:
            span.add_link(batch.get_span_context())

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _epoch_ns(perf_s: float) -> int:
    """A time of `perf_counter` as OpenTelemetry has it."""
    return time_ns() - round((perf_counter() - perf_s) * 1e9)
