"""The documentation, the dashboard, the alert rules and the code name the same metrics."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import pytest
import yaml

from ledgerservice.postgres.connections import Database
from ledgerservice.telemetry.metrics import METRICS
from tests.processes import ROOT
from tests.telemetry.scraping import families, scraped

PROMTOOL = shutil.which("promtool")
PARTS = re.compile(r"_(bucket|count|sum)$")
NAME = re.compile(r"\b(?:ledger|process)_[a-z_]+")
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) ?\| .+ \|$", re.MULTILINE)

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="apt-get install prometheus")


def text_of(path: str) -> str:
    return (ROOT / path).read_text()


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(text_of("deploy/alerts.yml"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def queries() -> Iterator[str]:
    """The expressions of the dashboard, as Prometheus gets them."""
    for panel in json.loads(text_of("deploy/dashboard.json"))["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "1m")


def names_in(expression: str) -> set[str]:
    histograms = {metric.name for metric in METRICS if hasattr(metric, "bounds")}
    names = set(NAME.findall(expression))
    return {base if (base := PARTS.sub("", one)) in histograms else one for one in names}


def test_the_page_the_dashboard_and_a_scrape_have_the_same_metrics(
    new_database: Callable[..., Database],
) -> None:
    with scraped(new_database()) as (_, port):
        shown = families(port)
    documented = {name: (kind, labels.strip()) for name, kind, labels in ROW.findall(page())}
    assert {name: family.type for name, family in shown.items()} == {
        name: kind for name, (kind, _) in documented.items()
    }
    assert {metric.name: ", ".join(metric.labels) for metric in METRICS} == {
        name: labels for name, (_, labels) in documented.items() if name.startswith("ledger_")
    }
    assert set().union(*map(names_in, queries())) == set(documented)


def page() -> str:
    return text_of("docs/metrics.md")


def test_the_rules_use_metrics_that_are_there() -> None:
    known = set(re.findall(r"^\| `(\w+)`", page(), re.MULTILINE))
    for rule in rules():
        names = names_in(rule["expr"])
        assert names <= known, rule["alert"]
        assert names or rule["expr"].startswith("up{"), rule["alert"]


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    sections = re.split(r"^## ", text_of("docs/runbooks.md"), flags=re.MULTILINE)[1:]
    by_name = {section.splitlines()[0]: section for section in sections}
    assert list(by_name) == [rule["alert"] for rule in rules()]
    for rule in rules():
        parts = re.findall(r"^- \*\*(.+?):\*\*", by_name[rule["alert"]], re.MULTILINE)
        assert parts == ["You see", "It means", "Do", "Never"], rule["alert"]
        address = rule["annotations"]["runbook_url"]
        assert address.endswith(f"/docs/runbooks.md#{rule['alert'].lower()}")


@pytest.mark.parametrize("expression", [*queries(), *(rule["expr"] for rule in rules())])
def test_an_expression_parses(expression: str) -> None:
    promql_parser.parse(expression)


@needs_promtool
def test_prometheus_takes_the_rules_and_the_expressions(tmp_path: Path) -> None:
    assert run("check", "config", str(ROOT / "deploy/prometheus.yml")) == ""
    recorded = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(queries())]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    assert run("check", "rules", str(file)) == ""


def run(*arguments: str) -> str:
    """What promtool complains of; nothing if it is content."""
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


class Case(NamedTuple):
    """Series, by the notation of promtool with a value each minute, that make an alert fire."""

    bad: dict[str, str]
    good: dict[str, str]


GROWING, STILL = "0+60x120", "0+0x120"
SECONDS = "ledger_request_duration_seconds"
OF_TRANSFERS = 'method="POST",route="/transfer",status="200"'


def steady(series: str, bad: float, good: float) -> Case:
    return Case({series: f"{bad}+0x120"}, {series: f"{good}+0x120"})


def rising(series: str) -> Case:
    return Case({series: GROWING}, {series: STILL})


def _answers(status: str) -> dict[str, str]:
    return {
        f'{SECONDS}_count{{route="/transfer",status="200"}}': GROWING,
        f'{SECONDS}_count{{route="/transfer",status="{status}"}}': "0+6x120",
    }


def _buckets(name: str, labels: str, slow: bool) -> dict[str, str]:
    below = STILL if slow else GROWING
    return {
        f'{name}_bucket{{{labels},le="0.1"}}': below,
        f'{name}_bucket{{{labels},le="30"}}': GROWING,
        f'{name}_bucket{{{labels},le="+Inf"}}': GROWING,
    }


def _latency(name: str, labels: str) -> Case:
    return Case(_buckets(name, labels, slow=True), _buckets(name, labels, slow=False))


SUCCESS = "ledger_backup_last_success_timestamp_seconds"
FDS = 'process_max_fds{job="ledger"}'
CASES = {
    "LedgerDown": steady('up{job="ledger"}', 0, 1),
    "LedgerDatabaseDown": steady("ledger_database_up", 0, 1),
    "LedgerShardDown": steady('ledger_shard_up{shard="east"}', 0, 1),
    "LedgerErrors": Case(_answers("503"), _answers("409")),
    "LedgerInternalErrors": rising('ledger_refusals_total{code="internal_error"}'),
    "LedgerSlowMovements": _latency(SECONDS, OF_TRANSFERS),
    "LedgerQueueOld": steady('ledger_queue_age_seconds{queue="movements"}', 9, 0.1),
    "LedgerOverloaded": rising('ledger_refusals_total{code="overloaded"}'),
    "LedgerCommitsUnresolved": rising('ledger_commits_unresolved_total{queue="movements"}'),
    "LedgerRetries": rising('ledger_batch_retries_total{sqlstate="40P01"}'),
    "LedgerReadsWaiting": steady("ledger_reads_waiting", 3, 0),
    "LedgerReadsFail": rising("ledger_read_failures_total"),
    "LedgerSweepLate": steady("ledger_sweep_lag_seconds", 90, 1),
    "LedgerCrossingOpen": steady("ledger_crossings_oldest_seconds", 90, 1),
    "LedgerFeedHeldBack": steady("ledger_oldest_transaction_seconds", 90, 1),
    "LedgerFeedLagging": steady('ledger_feed_lag_seconds{reader="webhooks"}', 90, 1),
    "LedgerFeedReaderGone": Case(
        {'ledger_feed_reader_active{reader="webhooks"}': "1+0x70 _x50"},
        {'ledger_feed_reader_active{reader="webhooks"}': "1+0x120"},
    ),
    "LedgerDeadLetters": rising("ledger_webhook_dead_letters_total"),
    "LedgerConnectionsRefused": rising("ledger_connections_refused_total"),
    "LedgerFilesUsedUp": Case(
        {'process_open_fds{job="ledger"}': "900+0x120", FDS: "1000+0x120"},
        {'process_open_fds{job="ledger"}': "100+0x120", FDS: "1000+0x120"},
    ),
    "LedgerEventLoopBlocked": _latency("ledger_event_loop_lag_seconds", 'instance="a"'),
    "LedgerDiskFull": Case(
        {"ledger_disk_free_bytes": "9+0x120", "ledger_disk_size_bytes": "100+0x120"},
        {"ledger_disk_free_bytes": "50+0x120", "ledger_disk_size_bytes": "100+0x120"},
    ),
    "LedgerViolations": steady("ledger_verify_violations", 1, 0),
    "LedgerVerifyOld": steady("ledger_verify_last_success_timestamp_seconds", -90_000, 0),
    "LedgerBackupOld": steady(f'{SUCCESS}{{kind="backup"}}', -95_000, 0),
    "LedgerBackupFailed": steady('ledger_backup_failed{kind="drill"}', 1, 0),
    "LedgerDrillOld": steady(f'{SUCCESS}{{kind="archive_drill"}}', -700_000, 0),
    "LedgerArchiveStopped": steady('ledger_wal_archive_active{archive="archive_command"}', 0, 1),
    "LedgerArchiveLagging": steady('ledger_wal_archive_lag_seconds{archive="slot"}', 400, 60),
    "LedgerEpochChanged": Case(
        {"ledger_feed_epoch": "1+0x70 2+0x50"}, {"ledger_feed_epoch": "2+0x120"}
    ),
    "LedgerVersionsMixed": Case(
        {f'ledger_build_info{{version="{version}"}}': "1+0x120" for version in "12"},
        {'ledger_build_info{version="1"}': "1+0x120"},
    ),
}


VERIFIED, STARTED = (
    "ledger_verify_last_success_timestamp_seconds",
    'process_start_time_seconds{job="ledger"}',
)
MORE_CASES = [
    (
        "LedgerDrillOld",  # one kind of drill does not stand for the other
        Case(
            {
                f'{SUCCESS}{{kind="drill"}}': "-700000+0x120",
                f'{SUCCESS}{{kind="archive_drill"}}': "0+0x120",
            },
            {f'{SUCCESS}{{kind="{kind}"}}': "0+0x120" for kind in ("drill", "archive_drill")},
        ),
    ),
    (
        "LedgerDrillOld",  # the last success of a kind counts, whichever process shows it
        Case(
            {f'{SUCCESS}{{kind="drill",instance="{one}"}}': "-700000+0x120" for one in "ab"},
            {
                f'{SUCCESS}{{kind="drill",instance="{one}"}}': f"{value}+0x120"
                for one, value in (("a", -700_000), ("b", 0))
            },
        ),
    ),
    (
        "LedgerVerifyOld",  # nothing was ever verified
        Case(
            {VERIFIED: "NaN+0x120", STARTED: "-90000+0x120"},
            {VERIFIED: "NaN+0x120", STARTED: "0+0x120"},
        ),
    ),
    (
        "LedgerVerifyOld",  # one process verifies, and another one does not
        Case(
            {VERIFIED + '{instance="a"}': "NaN+0x120", VERIFIED + '{instance="b"}': "-90000+0x120"},
            {
                VERIFIED + '{instance="a"}': "NaN+0x120",
                VERIFIED + '{instance="b"}': "0+0x120",
                STARTED: "-90000+0x120",
            },
        ),
    ),
]


@pytest.mark.thorough
@needs_promtool
def test_each_alert_fires_when_it_has_to_and_not_otherwise(tmp_path: Path) -> None:
    assert list(CASES) == [rule["alert"] for rule in rules()]
    by_name = {rule["alert"]: rule for rule in rules()}
    tests = [
        _promtool_test(by_name[name], series, fires=series is case.bad)
        for name, case in [*CASES.items(), *MORE_CASES]
        for series in (case.bad, case.good)
    ]
    file = tmp_path / "tests.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(ROOT / "deploy/alerts.yml")], "tests": tests})
    )
    assert run("test", "rules", str(file)) == ""


def _promtool_test(rule: dict[str, Any], series: dict[str, str], *, fires: bool) -> dict[str, Any]:
    """Whether an alert of this name fires after 100 minutes, counted by an expression."""
    counted = f'count(ALERTS{{alertname="{rule["alert"]}",alertstate="firing"}})'
    samples = [{"labels": "{}", "value": 1}] if fires else []
    return {
        "interval": "1m",
        "name": f"{rule['alert']} {fires}",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": counted, "eval_time": "100m", "exp_samples": samples}],
    }
