"""`ledgerservice import` and `export`, as a user's shell sees them."""

import asyncio
import csv
import io
import itertools
import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from ledgerservice import Ledger
from ledgerservice.errors import ImportFault, Unavailable
from ledgerservice.files import importer as importing
from ledgerservice.files.importer import Format, Totals, rows_of
from tests.databases import connect, url_text
from tests.postings import open_accounts
from tests.processes import ROOT, cli, environment

HEADER = "type,account_id,from_account_id,to_account_id,amount,idempotency_key\n"


def run(database, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return cli(*arguments, DATABASE_URL=url_text(database))


def run_with_input(database, text: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ledgerservice", *arguments],
        env=environment(DATABASE_URL=url_text(database)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        input=text,
    )


@pytest.fixture
def two(database):
    """A database with the accounts 1 and 2, in USD, and 3, in INR."""
    open_accounts(database, "USD", "USD", "INR")
    return database


def balance(database, account: int) -> int:
    with connect(database) as connection:
        statement = "SELECT balance FROM ledger.accounts WHERE id = %s"
        [(found,)] = connection.execute(statement, [account]).fetchall()
        return found


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
]


def test_a_csv_file_is_posted_and_rejects_are_reported_by_line(two, tmp_path, no_violations):
    file = tmp_path / "payments.csv"
    file.write_text(HEADER + "\n".join(ROWS))
    for posted, replayed in ((3, 0), (0, 3)):
        done = run(two, "import", str(file))
        assert done.returncode == 1, done.stderr
        said = f"10 movements: {posted} posted, {replayed} posted before, 1 declined, 6 rejected"
        assert said in done.stdout
        told = list(csv.DictReader((tmp_path / "payments.csv.rejects.csv").open()))
        assert [(r["line"], r["outcome"], r["code"]) for r in told] == [
            ("5", "rejected", "currency_mismatch"),
            ("6", "declined", "insufficient_funds"),
            ("7", "rejected", "invalid_request"),
            ("8", "rejected", "idempotency_key_missing"),
            ("9", "rejected", "invalid_request"),
            ("10", "rejected", "invalid_request"),
            ("11", "rejected", "idempotency_key_reused"),
        ]
        assert told[2]["detail"].startswith("amount: ")
        assert (balance(two, 1), balance(two, 2)) == (1150, 350)
    no_violations(two)


def test_ndjson_out_of_a_pipe(two, tmp_path):
    items = [
        {"type": "DEPOSIT", "account_id": 1, "amount": "1.00", "idempotency_key": f"k{n}"}
        for n in range(3)
    ]
    text = "\n\n".join(map(json.dumps, items))
    rejects = tmp_path / "rejects.csv"
    options = ("import", "-", "--format", "ndjson", "--rejects", str(rejects))
    done = run_with_input(two, text, *options)
    assert done.returncode == 0, done.stderr
    assert "3 posted" in done.stdout
    assert not rejects.exists()
    broken = text + '\n{"a\n\udcff'.encode("utf-8", "replace").decode()
    done = run_with_input(two, broken, *options)
    assert done.returncode == 1
    assert [row[0] for row in csv.reader(rejects.open())] == ["line", "6", "7"]
    assert balance(two, 1) == 300


@pytest.mark.parametrize(
    ("text", "form"),
    [("type,account_id,amount\nDEPOSIT,1,2\n", Format.CSV),
     ('{"type": "DEPOSIT", "account_id": 1, "amount": 2}\n', Format.NDJSON)],
)  # fmt: skip
def test_a_file_without_keys_needs_a_prefix_for_them(text, form):
    with pytest.raises(ImportFault, match="--key-prefix"):
        list(rows_of(io.StringIO(text), form, None))
    [row] = rows_of(io.StringIO(text), form, "may-2026-")
    assert row.movement.key == f"may-2026-{row.line}"


def test_a_broken_csv_file_is_reported_with_its_line():
    with pytest.raises(ImportFault, match="Line 2"):
        list(rows_of(io.StringIO(f'{HEADER}"DEPOSIT" x,1'), Format.CSV, None))


@pytest.mark.parametrize("name", ["nothing.csv", "payments.txt", "."])
def test_a_file_that_cannot_be_read_is_reported_in_one_line(two, tmp_path, name):
    done = run(two, "import", str(tmp_path / name))
    assert done.returncode == 1
    assert done.stderr.startswith("ledgerservice: The file cannot be imported.")
    assert "Traceback" not in done.stderr


def test_a_killed_import_is_finished_by_the_next(two, tmp_path, no_violations):
    rows = 40_000
    file = tmp_path / "many.csv"
    file.write_text(HEADER + "".join(f"DEPOSIT,1,,,0.01,k{n}\n" for n in range(rows)))
    for pause_s in (0.4, 0.8):
        process = subprocess.Popen(
            [sys.executable, "-m", "ledgerservice", "import", str(file)],
            env=environment(DATABASE_URL=url_text(two)),
            cwd=ROOT,
        )
        before = balance(two, 1)
        while balance(two, 1) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = run(two, "import", str(file))
    assert done.returncode == 0, done.stderr
    assert f"{rows:,} movements" in done.stdout
    assert balance(two, 1) == rows
    no_violations(two)


def test_a_file_keeps_its_order_while_the_database_is_away(two, monkeypatch):
    """Else a movement would be declined, for ever, for money that comes in an earlier row."""
    monkeypatch.setattr(importing, "CHUNK_ROWS", 1)
    kinds = ["DEPOSIT", "WITHDRAWAL"] * 4
    rows = [f"{kind},1,,,1,k{n}\n" for n, kind in enumerate(kinds)]

    async def run() -> Totals:
        async with Ledger.open(url_text(two)) as ledger:
            post, calls = ledger.post, itertools.count()

            async def away(movements):
                if next(calls) % 3 < 2:
                    raise Unavailable
                return await post(movements)

            monkeypatch.setattr(ledger, "post", away)
            lines = rows_of(io.StringIO(HEADER + "".join(rows)), Format.CSV, None)
            return await importing.import_rows(ledger, lines, io.StringIO(), lambda _: None)

    totals = asyncio.run(run())
    assert (totals.posted, totals.declined, balance(two, 1)) == (8, 0, 0)


@pytest.mark.parametrize("account", ["--5", "\N{ARABIC-INDIC DIGIT ONE}", "1_0", "-", "9" * 20])
def test_an_account_that_is_no_number_is_a_line_that_is_rejected(account):
    [row] = rows_of(io.StringIO(HEADER + f"DEPOSIT,{account},,,1,k\n"), Format.CSV, None)
    assert row.movement.code == "invalid_request"


# Export.


def exported(done: "subprocess.CompletedProcess[str]") -> list[dict[str, str]]:
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_the_journal_is_written_out(two, tmp_path):
    file = tmp_path / "payments.csv"
    file.write_text(HEADER + 'DEPOSIT,1,,,10,"a,""b"\nTRANSFER,,1,2,2.5,t\n')
    assert run(two, "import", str(file)).returncode == 0
    middle = datetime.now(UTC)
    file.write_text(HEADER + "WITHDRAWAL,2,,,1,w\nWITHDRAWAL,2,,,99,declined\n")
    run(two, "import", str(file))
    whole = exported(run(two, "export"))
    assert [(r["account_id"], r["amount"], r["balance"], r["transaction_type"]) for r in whole] == [
        ("-1", "-10.00", "-10.00", "DEPOSIT"),
        ("1", "10.00", "10.00", "DEPOSIT"),
        ("1", "-2.50", "7.50", "TRANSFER_OUT"),
        ("2", "2.50", "2.50", "TRANSFER_IN"),
        ("-1", "1.00", "-9.00", "WITHDRAWAL"),
        ("2", "-1.00", "1.50", "WITHDRAWAL"),
    ]
    assert whole[0]["idempotency_key"] == 'a,"b'
    of_one = exported(run(two, "export", "--account", "1"))
    assert [(r["version"], r["balance"]) for r in of_one] == [("1", "10.00"), ("2", "7.50")]
    moment = middle.strftime("%Y-%m-%dT%H:%M:%S.%f")
    later = exported(run(two, "export", "--since", moment))
    assert [r["idempotency_key"] for r in later] == ["w", "w"]
    earlier = exported(run(two, "export", "--until", moment))
    assert len(earlier) == 4
    target = tmp_path / "journal.ndjson"
    assert run(two, "export", str(target)).returncode == 0
    entries = [json.loads(line) for line in target.read_text().splitlines()]
    assert [{k: str(v) for k, v in e.items() if k != "recorded_at"} for e in entries] == [
        {k: v for k, v in r.items() if k != "recorded_at"} for r in whole
    ]
    moments = [datetime.fromisoformat(e["recorded_at"]) for e in entries]
    assert moments == [datetime.fromisoformat(r["recorded_at"]) for r in whole]


WHO = {"actor": "risk", "reason": "a test"}


def test_a_file_may_hold_any_item_and_be_of_another_ledger(two, tmp_path):
    async def prepare() -> int:
        async with Ledger.open(url_text(two).replace("+psycopg", "")) as default:
            shop = await default.add_ledger("shop")
            opened = await shop.open_account("Shop", "JPY", key="s")
            assert opened.account_id is not None
            return opened.account_id

    account = asyncio.run(prepare())
    own = {"account_id": account}
    items = [
        {"type": "DEPOSIT", **own, "amount": 100, "idempotency_key": "d", "reference": "r"},
        {"type": "HOLD", **own, "amount": 30, "idempotency_key": "h"},
        {"type": "POLICY", **own, "floor": "-5", "idempotency_key": "p"} | WHO,
    ]
    file = tmp_path / "items.ndjson"
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    assert run(two, "import", str(file)).returncode == 1  # there is no such account in default
    assert run(two, "import", str(file), "--ledger", "shop").returncode == 0
    missing = run(two, "import", str(file), "--ledger", "nope")
    assert (missing.returncode, "no ledger nope" in missing.stderr) == (1, True)
    of_shop = exported(run(two, "export", "--ledger", "shop", "--account", str(account)))
    names = ("transaction_type", "balance", "held_change", "held")
    assert [tuple(row[name] for name in names) for row in of_shop] == [
        ("DEPOSIT", "100", "0", "0"),
        ("HOLD", "100", "30", "30"),
        ("POLICY", "100", "0", "30"),
    ]
    assert exported(run(two, "export")) == []


def test_a_file_forces_nothing(two, tmp_path):
    """There is no caller to show the token; not even that of the environment counts."""
    forced = {"type": "REVERSAL", "transaction_id": 1, "force": True, "actor": "me"}
    file = tmp_path / "forced.ndjson"
    file.write_text(json.dumps({**forced, "description": "why", "idempotency_key": "f"}) + "\n")
    assert run(two, "import", str(file)).returncode == 1
    told = (tmp_path / "forced.ndjson.rejects.csv").read_text()
    assert "force_not_allowed" in told
