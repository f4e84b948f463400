"""`ledgerservice export`: entries for a spreadsheet, and the whole history."""

import asyncio
import csv
import io
import json
import os
import signal
import stat
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledgerservice import Ledger
from ledgerservice.domain.cells import guarded, unguarded
from ledgerservice.domain.instructions import Kind, Movement
from ledgerservice.errors import ImportFault
from ledgerservice.files.history import export_history, import_history
from tests.databases import connect, url_text
from tests.files.lives import kept
from tests.files.shell import HEADER, exported, open_named, run, texts
from tests.postings import open_accounts, post
from tests.processes import Fork, cli, environment, wait_for


@pytest.fixture
def two(database):
    open_accounts(database, "USD", "USD", "INR")
    return database


@given(st.text(alphabet="'=+-@\t\rab\U0001f600 ") | st.text())
@example("'=x")
@example("''")
def test_a_text_is_the_same_after_a_table_and_never_a_formula(text):
    cell = guarded(text)
    assert unguarded(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


@given(st.text(alphabet="'=+-@ab"))
def test_at_most_one_apostrophe_is_added_or_taken_off(cell):
    assert len(guarded(cell)) - len(cell) in (0, 1)
    assert len(cell) - len(unguarded(cell)) in (0, 1)


@pytest.mark.thorough
def test_the_entries_are_written_out(two, tmp_path):
    file = tmp_path / "payments.csv"
    file.write_text(HEADER + 'DEPOSIT,1,,,10,"a,""b"\nTRANSFER,,1,2,2.5,t\n')
    assert run(two, "import", file).returncode == 0
    middle = datetime.now(UTC)
    file.write_text(HEADER + "WITHDRAWAL,2,,,1,w\nWITHDRAWAL,2,,,99,declined\n")
    run(two, "import", file)
    whole = exported(run(two, "export"))
    names = ("account_id", "amount", "balance", "transaction_type", "counterparty_id")
    assert [tuple(row[name] for name in names) for row in whole] == [
        ("-1", "-10.00", "-10.00", "DEPOSIT", "1"),
        ("1", "10.00", "10.00", "DEPOSIT", "-1"),
        ("1", "-2.50", "7.50", "TRANSFER_OUT", "2"),
        ("2", "2.50", "2.50", "TRANSFER_IN", "1"),
        ("-1", "1.00", "-9.00", "WITHDRAWAL", "2"),
        ("2", "-1.00", "1.50", "WITHDRAWAL", "-1"),
    ]
    assert whole[0]["idempotency_key"] == 'a,"b'
    of_one = exported(run(two, "export", "--account", "1"))
    assert [(r["version"], r["balance"]) for r in of_one] == [("1", "10.00"), ("2", "7.50")]
    # The same time in other zones; without an offset it is UTC.
    for zone in (UTC, timezone(timedelta(hours=5, minutes=30)), None):
        time = middle.astimezone(zone or UTC).isoformat()
        text = time if zone else time.removesuffix("+00:00")
        later = exported(run(two, "export", "--since", text))
        assert [row["idempotency_key"] for row in later] == ["w", "w"], text
        assert len(exported(run(two, "export", "--until", text))) == 4
    target = tmp_path / "journal.ndjson"
    assert run(two, "export", target).returncode == 0
    entries = [json.loads(line) for line in target.read_text().splitlines()]
    assert [
        {name: "" if value is None else str(value) for name, value in entry.items()}
        for entry in entries
    ] == whole


def test_a_spreadsheet_gets_texts_and_numbers(database, tmp_path):
    open_named(database, **{"-5": "EUR", "=1+1": "EUR", "c": "EUR"})
    leg = "account_reference"
    two, three = [
        [{leg: name, "amount": amount} for name, amount in legs.items()]
        for legs in ({"-5": "-1", "c": "1"}, {"-5": "-2", "=1+1": "1.5", "c": 0.50})
    ]
    items = [
        {"type": "DEPOSIT", "account_reference": "-5", "amount": 9, "idempotency_key": "=k",
         "description": "@cmd", "reference": "'=x", "metadata": {"a": 1},
         "effective_at": "2026-01-31T23:30:00+05:30"},
        {"type": "TRANSFER", "from_account_reference": "-5", "to_account_reference": "=1+1",
         "amount": 2, "idempotency_key": "-", "description": "plain 'text'"},
        {"type": "TRANSACTION", "legs": two, "idempotency_key": "two"},
        {"type": "TRANSACTION", "legs": three, "idempotency_key": "three"},
        {"type": "TRANSACTION", "legs": [{leg: "nobody", "amount": 1}, {leg: "c", "amount": -1}],
         "idempotency_key": "unknown"},
    ]  # fmt: skip
    file = tmp_path / "in.ndjson"
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    done = run(database, "import", file)
    assert "4 posted, 0 posted before, 0 declined, 1 rejected" in done.stdout
    assert '"account_not_found"' in (tmp_path / "in.ndjson.rejects.ndjson").read_text()
    rows = [row for row in exported(run(database, "export")) if row["account_id"] == "1"]
    names = ("account_reference", "amount", "description", "reference", "idempotency_key",
             "metadata", "effective_at", "owner", "origin")  # fmt: skip
    assert [row["counterparty_id"] for row in rows] == ["-978", "2", "3", ""]
    first, second, *_ = [tuple(row[name] for name in names) for row in rows]
    assert first == ("'-5", "9.00", "'@cmd", "''=x", "'=k", '{"a":1}',
                     "2026-01-31T18:00:00.000000Z", "Owner", "caller")  # fmt: skip
    assert second[:5] == ("'-5", "-2.00", "plain 'text'", "", "'-")
    # The same cells in a table of one's own are the same texts.
    columns = ("account_reference", "amount", "description", "reference", "idempotency_key")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*columns, "type"])
    writer.writerow([*first[:5], "DEPOSIT"])
    own = tmp_path / "own.csv"
    own.write_text(text.getvalue().replace("'=k", "'=k2"))
    assert run(database, "import", own).returncode == 0
    assert texts(database)[-1][:5] == ("=k2", 1, 900, "@cmd", "'=x")


FAULTS = [
    (["--ledger", "nope"], "There is no ledger nope."),
    (["--account", "77"], "has no account 77"),
    (["--since", "yesterday"], "--since must be"),
    (["--until", "2026-02-30"], "--until"),
    (["--format", "mt940"], "CSV and NDJSON only"),
    (["--history", "--account", "1"], "of a whole ledger"),
    (["--history", "--ledger", "nope"], "There is no ledger nope."),
]


@pytest.mark.parametrize(("options", "expected"), FAULTS)
def test_a_fault_is_one_line_and_no_file(database, tmp_path, options, expected):
    target = tmp_path / "out.csv"
    done = run(database, "export", target, *options)
    assert done.returncode == 1
    assert expected in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_readable_by_its_owner_only(two, tmp_path):
    for options in ([], ["--history"]):
        target = tmp_path / "out.csv"
        target.write_text("old")
        target.chmod(0o644)
        before = os.umask(0)
        try:
            assert run(two, "export", target, *options).returncode == 0
        finally:
            os.umask(before)
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert target.read_text() != "old"


def test_a_pipe_is_written_and_not_replaced(two, tmp_path):
    done = run(two, "export", "/dev/null")
    assert done.returncode == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


# The whole history, by the command line.


@pytest.fixture(scope="module")
def source(new_database):
    """A database with the history of three accounts, two of which are used."""
    database = new_database()
    open_accounts(database, "USD", "USD", "INR")
    post(
        database,
        [Movement(Kind.DEPOSIT, 1, None, "10", "d")],
        [Movement(Kind.TRANSFER, 1, 2, "2.5", "t")],
        [Movement(Kind.WITHDRAWAL, 2, None, "99", "w")],
    )
    return database


@pytest.fixture(scope="module")
def target(new_database):
    return new_database()


@pytest.fixture(scope="module")
def history(source):
    """The lines of its history."""
    file = io.BytesIO()
    export_history(source.owner_engine(), file, "default")
    return file.getvalue().decode().splitlines()


def test_a_history_goes_into_another_database_once(source, new_database, tmp_path):
    file, other = tmp_path / "history.ndjson", new_database()
    assert run(source, "export", file, "--history").returncode == 0
    dry = run(other, "import", file, "--history", "--dry-run")
    assert dry.stdout == "Dry run: 3 accounts and 3 transactions can be imported.\n"
    done = run(other, "import", file, "--history")
    assert (done.returncode, done.stdout) == (0, "Imported 3 accounts and 3 transactions.\n")
    with connect(source) as before, connect(other) as after:
        expected, copy = kept(before, 1), kept(after, 1)
    expected.pop("dated"), copy.pop("dated")
    assert copy == expected
    for options, reason in (([], "has accounts already"), (["--key-prefix", "k"], "combined")):
        again = run(other, "import", file, "--history", *options)
        assert (again.returncode, reason in again.stderr.splitlines()[-1]) == (1, True)


def edited(lines: list[str], place: int, before: str, after: str) -> list[str]:
    place %= len(lines)
    assert before in lines[place], lines[place]
    return [*lines[:place], lines[place].replace(before, after, 1), *lines[place + 1 :]]


EDITS = [
    (lambda lines: lines[:-1], "the file was cut"),
    (lambda lines: lines[:-2], "the file was cut"),
    (lambda lines: lines[1:], "not the header"),
    (lambda lines: [*lines[:-2], lines[-1]], "Its END has"),
    (lambda lines: [*lines, lines[-1]], "after its END"),
    (lambda lines: edited([*lines[:6], *lines[7:]], -1, '"transactions":3', '"transactions":2'),
     "a line is missing"),
    (lambda lines: edited(lines, 6, '"DEPOSIT"', '"WITHDRAWAL"'), "The database refuses it"),
    (lambda lines: edited(lines, 6, '"key":"d"', '"key":""'), "The database refuses it"),
    (lambda lines: edited(lines, 6, '"key"', '"description":"\\u0000","key"'), "database refuses"),
    (lambda lines: edited(lines, 6, '"key"', '"exchange":"{","key"'), "Transaction"),
    (lambda lines: edited(lines, 6, "Z", ""), "is not a line of a history"),
    (lambda lines: edited(lines, 6, '"entries":[{', '"entries":[],"policies":[{'),
     "is not a line of a history"),
    (lambda lines: edited(lines, 6, '"amount":-1000', '"amount":-900'), "a line is missing"),
    (lambda lines: edited(lines, 6, '"DEPOSIT"', '"GIFT"'), "no kind GIFT"),
    (lambda lines: edited(lines, 6, '"amount"', '"amuont"'), "is not a line of a history"),
    (lambda lines: edited(lines, 6, '"key"', '"origin":"EXPIRY","key"'), "cannot have made it"),
    (lambda lines: edited(lines, 3, '"key"', '"origin":"SETUP","key"'), "cannot have opened"),
    (lambda lines: edited(lines, 7, '"key"', '"parent_id":5,"key"'), "does not come before"),
    (lambda lines: edited(lines, 8, '"version":1', '"version":9'), "comes later"),
    (lambda lines: edited(lines, 4, '"key":"1"', '"key":"0"'), "key or reference of another"),
    (lambda lines: edited(lines, 1, '"exponent":2', '"exponent":3'), "exists with other"),
    (lambda lines: ["type,amount"], "is not a line of a history"),
    (lambda lines: [], "not the header"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "expected"), EDITS)
def test_a_history_that_is_not_whole_is_not_imported(history, target, edit, expected):
    content = "\n".join(edit(history)).encode()

    async def imported() -> None:
        async with Ledger.open(url_text(target)) as ledger:
            with pytest.raises(ImportFault, match=expected):
                await import_history(ledger, io.BytesIO(content))

    asyncio.run(imported())
    with connect(target) as connection:
        count = "SELECT count(*) FROM ledger.accounts WHERE id > 0"
        assert connection.execute(count).fetchone() == (0,)


IMPORTING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 2020068"


@pytest.mark.thorough
def test_an_interrupted_history_leaves_nothing(two, new_database, tmp_path):
    for part in range(8):
        post(two, [Movement(Kind.DEPOSIT, 1, None, "1", f"{part} {n}") for n in range(4_000)])
    file, other = tmp_path / "history.ndjson", new_database()
    with file.open("wb") as target:
        export_history(two.owner_engine(), target, "default")
    arguments, stderr = ("import", str(file), "--history"), tmp_path / "stderr"
    process = Fork(arguments, environment(DATABASE_URL=url_text(other)), None, stderr)
    with connect(other) as connection:
        assert wait_for(lambda: connection.execute(IMPORTING).fetchone() != (0,), 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert stderr.read_text().endswith("Interrupted. Nothing was imported.\n")
        count = "SELECT count(*) FROM ledger.accounts WHERE id > 0"
        assert connection.execute(count).fetchone() == (0,)


def test_an_export_creates_no_database(tmp_path):
    done = cli("export", LEDGER_DATA_DIR=str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert not (tmp_path / "nothing").exists()
