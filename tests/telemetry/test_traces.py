"""Traces, as a collector gets them from a real service."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ledgerservice.postgres.connections import Database
from tests.databases import connect, url_text
from tests.processes import RunningService, environment, serving, wait_for

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{CALLER}-01"
UNSAMPLED = {
    "no header": None,
    "not sampled": f"00-{TRACE}-{CALLER}-00",
    "no version": f"ff-{TRACE}-{CALLER}-01",
    "no trace": f"00-{'0' * 32}-{CALLER}-01",
    "no caller": f"00-{TRACE}-{'0' * 16}-01",
    "not hexadecimal": f"00-{'z' * 32}-{CALLER}-01",
    "nothing": "",
}
CANARY = "canary-3b1f"


class Collector:
    """What was sent to it: spans by name, in order of arrival, and all bytes."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1/traces"
        self.spans: list[Any] = []
        self.content = b""

    def take(self, content: bytes) -> None:
        self.content += content
        sent = ExportTraceServiceRequest.FromString(content)
        for resource in sent.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collected.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collected = Collector(server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield collected
        server.shutdown()


@contextmanager
def traced(
    new_database: Callable[..., Database], collector: Collector
) -> Iterator[tuple[RunningService, Database]]:
    database = new_database()
    values = {"DATABASE_URL": url_text(database), "LEDGER_TRACES_URL": collector.url}
    with serving(**values) as service:
        yield service, database


def deposit(account: int, key: str) -> dict[str, Any]:
    return {
        "account_id": account,
        "amount": "1",
        "idempotency_key": key,
        "description": CANARY,
        "reference": CANARY,
    }


def test_a_sampled_request_and_its_batch(
    new_database: Callable[..., Database], collector: Collector
) -> None:
    with traced(new_database, collector) as (service, _):
        account = service.open(CANARY)
        service.post("/deposit/", deposit(account, f"{CANARY} 1"), traceparent=SAMPLED)
        service.post(f"/ledgers/{CANARY}/deposit", deposit(account, "2"), traceparent=SAMPLED)
    [request] = collector.named("POST /deposit")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, CALLER)
    attributes = {one.key: one.value for one in request.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["http.route"].string_value == "/deposit"
    [batch] = collector.named("batch movements")
    assert batch.parent_span_id == b"" and batch.trace_id != request.trace_id
    assert [(link.trace_id, link.span_id) for link in batch.links] == [
        (request.trace_id, request.span_id)
    ]
    assert [(link.trace_id, link.span_id) for link in request.links] == [
        (batch.trace_id, batch.span_id)
    ]
    parts = [span for span in collector.spans if span.parent_span_id == batch.span_id]
    assert [part.name for part in parts] == ["lock", "plan", "write", "commit"]
    times = [
        time for part in parts for time in (part.start_time_unix_nano, part.end_time_unix_nano)
    ]
    clock_ns = 1_000_000  # the two clocks are read one after the other
    assert all(later >= earlier - clock_ns for earlier, later in pairwise(times))
    assert request.start_time_unix_nano <= batch.start_time_unix_nano + clock_ns
    assert batch.end_time_unix_nano <= request.end_time_unix_nano + clock_ns
    [refused] = collector.named("POST none")
    assert {one.key: one.value.string_value for one in refused.attributes}["ledger.code"] == (
        "ledger_not_found"
    )
    assert len(collector.spans) == 7
    assert CANARY.encode() not in collector.content


def test_a_batch_is_linked_to_all_its_sampled_requests(
    new_database: Callable[..., Database], collector: Collector
) -> None:
    with traced(new_database, collector) as (service, database):
        account = service.open()
        with connect(database) as other, ThreadPoolExecutor(8) as threads:
            other.autocommit = False
            other.execute("SELECT FROM ledger.accounts WHERE id = %s FOR UPDATE", [account])

            def post(number: int) -> int:
                headers = {"traceparent": SAMPLED} if number % 2 else {}
                return service.post(
                    "/deposit/", deposit(account, f"{number}"), **headers
                ).status_code

            answers = [threads.submit(post, number) for number in range(8)]
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            with connect(database) as onlooker:
                assert wait_for(lambda: onlooker.execute(waiting).fetchone() == (1,))
            other.rollback()
            assert {answer.result() for answer in answers} == {200}
    requests = collector.named("POST /deposit")
    assert len(requests) == 4
    linked = [link.span_id for batch in collector.named("batch movements") for link in batch.links]
    assert sorted(linked) == sorted(request.span_id for request in requests)


def test_other_requests_have_no_span(
    new_database: Callable[..., Database], collector: Collector
) -> None:
    with traced(new_database, collector) as (service, _):
        account = service.open()
        for name, value in UNSAMPLED.items():
            headers = {} if value is None else {"traceparent": value}
            assert service.post("/deposit/", deposit(account, name), **headers).status_code == 200
        service.client.post(
            "/deposit/",
            json=deposit(account, "twice"),
            headers=[("traceparent", SAMPLED), ("traceparent", SAMPLED)],
        )
    assert collector.spans == []


@pytest.mark.thorough
def test_a_collector_that_is_away_disturbs_nothing(new_database: Callable[..., Database]) -> None:
    values = {
        "DATABASE_URL": url_text(new_database()),
        "LEDGER_TRACES_URL": "http://127.0.0.1:9/v1/traces",
    }
    with serving(**values) as service:
        account = service.open()
        for number in range(20):
            answer = service.post("/deposit/", deposit(account, f"{number}"), traceparent=SAMPLED)
            assert answer.status_code == 200
        assert service.stop() == 0


def test_nothing_is_imported_while_traces_are_off() -> None:
    program = (
        "import sys, ledgerservice.api.asgi, ledgerservice.cli.serve;"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')"
        " or name.startswith('opentelemetry.exporter')])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
