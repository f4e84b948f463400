"""The listener that Prometheus scrapes. It reads the numbers in a thread of its own.

Each process of a service has a listener: the first takes LEDGER_METRICS_PORT, and the next ones the
next free ports. Prometheus distinguishes them by their ports, and its expressions sum over them.
"""

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ledgerservice.errors import CannotListen
from ledgerservice.settings import Settings
from ledgerservice.telemetry.measures import Counter, Gauge, Histogram, Labels
from ledgerservice.telemetry.metrics import BUILD, METRICS

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
MOST_PROCESSES = 67
"""The workers of a service, the one that posts for them, its publisher, and one that ends soon."""


class _Numbers(Collector):
    def collect(self) -> Iterator[Metric]:
        for metric in METRICS:
            if isinstance(metric, Counter):
                yield _counters(metric)
            elif isinstance(metric, Histogram):
                yield _histograms(metric)
            elif isinstance(metric, Gauge):
                yield _gauges(metric)


def _texts(labels: Labels) -> list[str]:
    return [str(label) for label in labels]


def _counters(metric: Counter) -> Metric:
    family = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in metric.values.copy().items():
        family.add_metric(_texts(labels), value)
    return family


def _gauges(metric: Gauge) -> Metric:
    family = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in metric.now().items():
        family.add_metric(_texts(labels), value)
    return family


def _histograms(metric: Histogram) -> Metric:
    family = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, cell in metric.cells.copy().items():
        *counts, total = cell.copy()
        family.add_metric(_texts(labels), list(_cumulated(metric.bounds, counts)), total)
    return family


def _cumulated(bounds: Iterable[float], counts: list[float]) -> Iterator[tuple[str, float]]:
    number = 0.0
    for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        number += count
        yield bound, number


@cache
def _registry(version: str) -> CollectorRegistry:
    """What is read of this process."""
    BUILD.set(1, version)
    registry = CollectorRegistry()
    registry.register(_Numbers())
    ProcessCollector(registry=registry)
    return registry


def exposition(version: str) -> bytes:
    """The numbers of this process in the text format of Prometheus, which is CONTENT_TYPE. The
    database is not read.
    """
    return generate_latest(_registry(version))


def listen(settings: Settings, version: str) -> Callable[[], None]:
    """Start the listener of this process, if LEDGER_METRICS_PORT is set; return what ends it.

    `version` is the release's. Raises CannotListen.
    """
    if settings.metrics_port is None:
        return lambda: None
    registry = _registry(version)
    first = settings.metrics_port
    for port in range(first, min(first + MOST_PROCESSES, 65_536)):
        try:
            server, thread = start_http_server(port, settings.metrics_host, registry)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise _cannot_listen(settings, error.strerror or str(error)) from error

        def end() -> None:
            server.shutdown()  # noqa: B023  (the loop ends here)
            server.server_close()  # noqa: B023
            thread.join()  # noqa: B023

        return end
    raise _cannot_listen(settings, f"it and the {MOST_PROCESSES - 1} ports after it are in use")


def _cannot_listen(settings: Settings, reason: str) -> CannotListen:
    return CannotListen(
        f"Port {settings.metrics_port} on {settings.metrics_host}, for metrics: {reason}. Choose "
        "another one with LEDGER_METRICS_PORT and LEDGER_METRICS_HOST."
    )


@contextmanager
def listening(settings: Settings, version: str) -> Iterator[None]:
    """`listen`, meanwhile."""
    end = listen(settings, version)
    try:
        yield
    finally:
        end()
