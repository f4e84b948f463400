"""The commands on accounts, in this process and at a service, and what commands do not do."""

import csv
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledgerservice.cli import COMMANDS
from ledgerservice.postgres.connections import Database
from tests.databases import url_text
from tests.processes import RunningService, cli, environment, serving

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def place(new_database: Callable[..., Database]) -> Iterator[tuple[RunningService, str]]:
    """A service with two accounts, 1 with 100.00 and 2 with nothing, and its database."""
    url = url_text(new_database())
    with serving(DATABASE_URL=url) as service:
        assert [service.open(balance="100"), service.open("Bob")] == [1, 2]
        service.post("/ledgers/", {"name": "other"})
        service.post("/ledgers/other/accounts/", {"owner": "Carol", "currency": "USD"})
        yield service, url


@pytest.fixture(params=["database", "service"])
def run(place: tuple[RunningService, str], request: pytest.FixtureRequest) -> Run:
    """Runs a command on the database, or at the service."""
    service, url = place
    if request.param == "database":
        return lambda *arguments: cli(*arguments, DATABASE_URL=url)
    return lambda *arguments: cli(*arguments, "--url", service.base, LEDGER_DATA_FOLDER="/nowhere")


@pytest.mark.thorough
def test_what_is_asked_is_printed(run: Run, place: tuple[RunningService, str]) -> None:
    service, _ = place
    listed = run("accounts")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[:2] for line in listed.stdout.splitlines()] == [
        ["id", "owner"], ["1", "Alice"], ["2", "Bob"],
    ]  # fmt: skip
    assert json.loads(run("accounts", "--owner", "Bob", "--json").stdout)[0]["id"] == 2
    balance = service.account(1, "balance")[0]
    assert run("balance", "1").stdout.startswith(f"{balance} USD, held 0.00")
    assert json.loads(run("balance", "1", "--json").stdout) == service.get("/accounts/1").json()
    assert run("accounts", "--ledger", "other").stdout.count("Carol") == 1
    statement = run("statement", "1")
    as_csv = service.get("/accounts/1/statement?format=csv").text
    assert statement.stdout.splitlines() == as_csv.splitlines()
    assert json.loads(run("statement", "1", "--json").stdout)["closing_balance"] == balance


def test_names_are_printed_as_they_are(run: Run, place: tuple[RunningService, str]) -> None:
    """An owner is neither markup nor an emoji of Rich."""
    place[0].post("/ledgers/", {"name": "names"})
    for owner in ("[red]x[/red] [/y]", ":100:"):
        place[0].post("/ledgers/names/accounts/", {"owner": owner, "currency": "USD"})
    printed = run("accounts", "--ledger", "names").stdout
    assert "[red]x[/red] [/y]" in printed
    assert ":100:" in printed


@pytest.mark.thorough
def test_events_are_printed_as_the_feed_has_them(
    run: Run, place: tuple[RunningService, str]
) -> None:
    service, _ = place
    answer = service.get("/events?limit=1000")
    feed = answer.json()["events"]
    assert all(line in answer.text for line in run("events", "--json").stdout.splitlines())
    printed = [json.loads(line) for line in run("events", "--json").stdout.splitlines()]
    assert printed == feed
    lines = run("events").stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        [one["id"], str(one["recorded_at"]), one["type"]] for one in feed
    ]
    after = run("events", "--after", feed[2]["id"], "--account", "1", "--json").stdout
    path = f"/events?after={feed[2]['id']}&account_id=1"
    assert [json.loads(line) for line in after.splitlines()] == service.get(path).json()["events"]
    assert "ledger.added" not in run("events", "--type", "account.opened").stdout
    assert run("events", "--ledger", "other").stdout.count("account.opened") == 1
    assert run("events", "--after", "new").stdout == ""
    refused = run("events", "--after", "x")
    assert (refused.returncode, "after" in refused.stderr) == (1, True)


@pytest.mark.thorough
@pytest.mark.parametrize("at_service", [True, False])
def test_events_are_followed_until_ctrl_c(
    place: tuple[RunningService, str], at_service: bool
) -> None:
    service, url = place
    end = service.get("/events?limit=1000").json()["next"]
    place_of = ["--url", service.base] if at_service else []
    command = [sys.executable, "-m", "ledgerservice", "events", "--after", end, "--follow"]
    process = subprocess.Popen(
        [*command, *place_of], env=environment(DATABASE_URL=url), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(2):
        posted = service.send("/deposit", account_id=1, amount="1.00").json()
        assert process.stdout.readline().startswith(f"1-{posted['transaction_id']} ")
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=60)[0], process.returncode) == ("", 0)


STATEMENTS = {
    # The deposit takes effect at 18:30 UTC on 28 February.
    ("--by", "effective", "--from", "1993-03", "--to", "1993-03", "--timezone", "Asia/Kolkata"):
        ["1993-03-01T00:00:00.000000+05:30"],
    ("--by", "effective", "--from", "1993-03", "--to", "1993-03"): [],
    ("--by", "effective", "--from", "1993-02", "--to", "1993-02"): ["1993-02-28T18:30:00.000000Z"],
    ("--by", "recorded", "--from", "1993-03", "--to", "1993-03", "--timezone", "Asia/Kolkata"): [],
    ("--from", "1993", "--to", "1993"): [],
}  # fmt: skip


@pytest.mark.parametrize("options", STATEMENTS, ids=" ".join)
def test_a_statement_by_effective_time_in_a_zone(
    run: Run, place: tuple[RunningService, str], options: tuple[str, ...]
) -> None:
    service, _ = place
    prefix = "/ledgers/other"  # its other account is Carol's
    opening = {"owner": "Dora", "currency": "USD", "reference": "dora"}
    account = service.post(f"{prefix}/accounts/", opening).json()["id"]
    body = {"account_id": account, "amount": "9", "idempotency_key": "1993"}
    service.post(f"{prefix}/deposit/", body | {"effective_at": "1993-02-28T18:30:00Z"})
    arguments = ("statement", str(account), "--ledger", "other", *options)
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    lines = list(csv.DictReader(io.StringIO(done.stdout)))[1:-1]
    assert [line["effective_at"] for line in lines] == STATEMENTS[options]
    as_json = json.loads(run(*arguments, "--json").stdout)
    assert [entry["amount"] for entry in as_json["entries"]] == ["9.00"] * len(lines)


def test_a_balance_at_the_end_of_a_year_of_a_zone(run: Run) -> None:
    options = ("--as-of", "2025", "--timezone", "Asia/Kolkata")
    assert run("balance", "1", *options).stdout.startswith("0.00 USD")
    as_json = json.loads(run("balance", "1", *options, "--json").stdout)
    assert as_json["as_of"] == "2025-12-31T18:29:59.999999Z"


def test_a_transfer_and_its_repeat(run: Run, request: pytest.FixtureRequest) -> None:
    key = f"from {request.node.name}"
    first, second = [run("transfer", "1", "2", "1.50", "--key", key, "--json") for _ in range(2)]
    assert first.stdout == second.stdout
    assert json.loads(first.stdout)["amount"] == "1.50"
    assert f"idempotency key: {key}" in first.stderr
    number = json.loads(first.stdout)["transaction_id"]
    assert f"transaction_id: {number}" in run("key", "1", key).stdout
    assert "posted: 1.50 USD" in run("transfer", "1", "2", "1.50").stdout


def test_a_dry_run_moves_nothing(run: Run) -> None:
    before = run("balance", "1").stdout
    assert run("transfer", "1", "2", "1", "--dry-run").returncode == 0
    assert run("balance", "1").stdout == before


REFUSED = {
    ("balance", "99"): "account_not_found",
    ("statement", "99"): "account_not_found",
    ("key", "1", "none"): "not_found",
    ("transfer", "1", "2", "1000000"): "insufficient_funds",
    ("transfer", "1", "2", "1e5"): "amount",
    ("balance", "1", "--as-of", "2026-13-01"): "as_of",
    ("balance", "1", "--as-of", "2026-12-01", "--timezone", "Mars"): "timezone",
    ("statement", "1", "--timezone", "Mars"): "timezone",
    ("statement", "1", "--from", "2026-13"): "from",
    ("accounts", "--ledger", "none"): "ledger_not_found",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_a_refusal_is_one_line_and_exit_code_1(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert REFUSED[arguments] in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    as_json = run(*arguments, "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["code"]


def test_a_service_that_is_not_there() -> None:
    done = cli("balance", "1", "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "does not answer" in done.stderr


ON_NOTHING = [
    ("verify",), ("export",), ("backup", "file"), ("url",), ("psql", "-c", "SELECT 1"),
    ("accounts",), ("balance", "1"), ("statement", "1"), ("key", "1", "k"),
    ("transfer", "1", "2", "3"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", ON_NOTHING, ids=" ".join)
def test_a_mistyped_data_folder_stays_as_it_was(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = cli(*arguments, LEDGER_DATA_FOLDER=str(tmp_path / "mistyped"))
    assert done.returncode == 1
    assert "has no ledger" in done.stderr
    assert list(tmp_path.iterdir()) == []


OWNERS = "SELECT owner FROM accounts WHERE ledger_id = 1 AND id > 0 ORDER BY id"


def test_psql_sees_the_ledger(place: tuple[RunningService, str]) -> None:
    _, url = place
    done = subprocess.run(
        [sys.executable, "-m", "ledgerservice", "psql", "-Atc", OWNERS],
        env={"DATABASE_URL": url, "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["Alice", "Bob"]


@pytest.mark.thorough
def test_psql_reaches_the_embedded_server_whatever_the_shell_says(workspace: Path) -> None:
    folder = str(workspace / "data")
    assert cli("demo", LEDGER_DATA_FOLDER=folder).returncode == 0
    done = subprocess.run(
        [sys.executable, "-m", "ledgerservice", "psql", "-Atc", OWNERS],
        env={
            "LEDGER_DATA_FOLDER": folder,
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(sys.path),
            **ELSEWHERE,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["Alice", "Bob"], done.stderr


ELSEWHERE = {
    "PGHOSTADDR": "127.0.0.9",
    "PGSERVICE": "elsewhere",
    "PGSSLMODE": "verify-full",
    "PGREQUIREAUTH": "scram-sha-256",
}


@pytest.mark.parametrize("option", ["--version", "--show-completion"])
def test_a_word_about_itself_loads_no_service(option: str) -> None:
    script = (
        "import sys, ledgerservice.cli as c\n"
        f"sys.argv[1:] = [{option!r}]\n"
        "try: c.main()\n"
        "except SystemExit: pass\n"
        "print([n for n in ('sqlalchemy', 'fastapi', 'psycopg') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


IMPORTING = """
import importlib, os, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
for name in sys.argv[1:]:
    if (pid := os.fork()) == 0:
        for known in [one for one in sys.modules if one.startswith("ledgerservice")]:
            del sys.modules[known]
        importlib.import_module(name)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, name
"""


@pytest.mark.thorough
def test_each_command_imports_all_it_needs() -> None:
    """The processes of the tests are forks of one that has imported everything.

    Here a fork has only what others have written, and imports a command as the first of ours.
    """
    modules = sorted({f"ledgerservice.cli.{module}" for module, _ in COMMANDS.values()})
    subprocess.run([sys.executable, "-c", IMPORTING, *modules], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_explains_itself(command: str) -> None:
    done = cli(command, "--help")
    assert done.returncode == 0
    assert "Usage: ledgerservice" in done.stdout
    # psql's output is its own, audit's is always JSON, and two have commands below them.
    others = {"psql", "keys", "approvals", "audit", "shards"}
    assert ("--json" in done.stdout) == (command not in others)
