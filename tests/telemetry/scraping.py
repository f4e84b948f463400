"""Scrapes a process, as Prometheus does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.databases import url_text
from tests.processes import RunningService, free_port, serving


def families(port: int) -> dict[str, Any]:
    """The families of metrics by name, counters with `_total`."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", verify=False).text
    parsed = text_string_to_metric_families(text)
    return {one.name + "_total" * (one.type == "counter"): one for one in parsed}


def value(port: int, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    return sum(
        sample.value
        for family in families(port).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@contextmanager
def scraped(database: Any, **values: str) -> Iterator[tuple[RunningService, int]]:
    """A service on a database, and the port of its metrics."""
    port = free_port()
    with serving(
        DATABASE_URL=url_text(database), LEDGER_METRICS_PORT=str(port), **values
    ) as service:
        yield service, port
