"""What a file of rejects says of each kind of row, and that it can be mended and imported."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.files.shell import INPUTS, balance, open_named, run
from tests.postings import open_accounts

COLUMNS = (
    "type,account_id,from_account_id,to_account_id,account_reference,amount,currency,effective_at,"
    "metadata,idempotency_key"
)


@pytest.fixture
def three(database: Any) -> Any:
    """A database with the accounts 1 and 2, in USD, and 3, in JPY."""
    open_accounts(database, "USD", "USD", "JPY")
    return database


CSV = {
    "WITHDRAWAL,2,,,,100,,,,k": ("insufficient_funds", "account 2: available 0.00, balance 0.00 U"),
    "DEPOSIT,9,,,,1,,,,k": ("account_not_found", "account 9"),
    "DEPOSIT,,,,ada,1,,,,k": ("account_not_found", "account_reference: no account has it: ada"),
    "DEPOSIT,1,,,,1,EUR,,,k": ("currency_mismatch", "currency: is EUR, and the account's is USD"),
    "TRANSFER,,1,3,,1,,,,k": ("currency_mismatch", "account 1"),
    "DEPOSIT,1,,,,1.005,,,,k": ("amount_precision", "USD has 2 decimals"),
    "DEPOSIT,3,,,,1.5,,,,k": ("amount_precision", "JPY has 0 decimals"),
    "DEPOSIT,1,,,,99999999999999,,,,k": ("amount_limit", "10^15"),
    "DEPOSIT,1,,,,five,,,,k": ("invalid_request", "amount: must be a decimal such as -1234.50"),
    "DEPOSIT,one,,,,5,,,,k": ("invalid_request", "account_id: "),
    "GIFT,1,,,,5,,,,k": ("invalid_request", "type: "),
    "DEPOSIT,1,,,,5,,,,": ("idempotency_key_missing", "idempotency"),
    "DEPOSIT,1,,,,5,,,,k\x01": ("invalid_request", "idempotency_key: "),
    "DEPOSIT,1,,,,5,,31.12.2026,,k": ("invalid_request", "effective_at: must be a time such as"),
    "DEPOSIT,1,,,,5,,,[1],k": ("invalid_request", "metadata: "),
    "DEPOSIT,1,,,,5,,,,k,more": ("invalid_request", "has 11 fields, the first line has 10; the fu"),
    "DEPOSIT,1,,,,5,,,,\udcffk": ("invalid_request", "idempotency_key: has a byte .* 0xff"),
    "TRANSFER,,1,1,,1,,,,k": ("same_account", "same account"),
    "TRANSFER,2,1,,,1,,,,k": ("invalid_request", "account_id: "),
    '"DEPOSIT" x,1,,,,5,,,,k': ("invalid_request", "line: is not valid CSV"),
}  # fmt: skip
GOOD = "DEPOSIT,1,,,,1,,,,mended"


@pytest.mark.parametrize("row", CSV, ids=lambda row: CSV[row][1])
def test_a_row_of_a_table_names_its_fault_and_can_be_mended(three, tmp_path: Path, row) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"{COLUMNS}\n{row}\n", errors="surrogateescape")
    assert run(three, "import", file).returncode == 1
    rejects = tmp_path / "a.csv.rejects.csv"
    text = rejects.read_text(errors="surrogateescape")
    [_, reject] = csv.reader(text.splitlines(), strict=False)
    code, part = CSV[row]
    assert reject[0] == "2" and reject[2] == code
    first, _, last = part.partition(" .* ")
    assert first in reject[3] and last in reject[3], reject[3]
    assert text.splitlines()[1].endswith(f",{row}")
    mended = text.replace(f",{row}", f",{GOOD}")
    rejects.write_text(mended, errors="surrogateescape")
    done = run(three, "import", rejects)
    assert (done.returncode, balance(three, 1)) == (0, 100), done.stdout


LINES = {
    '{"type":"DEPOSIT","account_id":9,"amount":"1","idempotency_key":"k"}': "account 9",
    '{"type":"DEPOSIT","account_id":1,"amonut":"1","idempotency_key":"k"}': "amonut: ",
    '{"type":"DEPOSIT","account_id":3,"amount":"1.5","idempotency_key":"k"}': "JPY has 0 decimals",
    '{"type":"TRANSACTION","legs":[{"account_id":1,"amount":"-5"},{"account_id":2,"amount":"4.99"}'
    '],"idempotency_key":"k"}': "The legs in USD sum to -0.01",
    '{"type":"TRANSACTION","legs":[{"account_id":1,"amount":"-1"},{"account_id":2,"amount":"1"},'
    '{"account_id":3,"amount":"9"}],"exchange":{"sell":"USD","buy":"JPY","rate":"150"},'
    '"idempotency_key":"k"}': "JPY",
    '{"type":"RELEASE","hold_id":7,"idempotency_key":"k"}': "hold",
    '{"type":"REVERSAL","transaction_id":1,"force":true,"actor":"a","description":"b",'
    '"idempotency_key":"k"}': "Others have to approve this",
    '{"type":"DEPOSIT"': "JSON",
    '{"type":"DEPOSIT","account_id":1,"account_id":2,"amount":"1","idempotency_key":"k"}':
        "a field twice",
}  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=LINES.get)
def test_a_line_of_ndjson_names_its_fault_and_can_be_mended(three, tmp_path: Path, line) -> None:
    file = tmp_path / "a.ndjson"
    file.write_text(line + "\n")
    options = ("--format", "ndjson")
    assert run(three, "import", file, *options).returncode == 1
    rejects = tmp_path / "a.ndjson.rejects.ndjson"
    reason, kept = rejects.read_text().splitlines()
    assert kept == line
    assert LINES[line] in json.loads(reason)["detail"]
    good = '{"type":"DEPOSIT","account_id":1,"amount":"1","idempotency_key":"mended"}'
    rejects.write_text(f"{reason}\n{good}\n")
    done = run(three, "import", rejects, *options)
    assert (done.returncode, balance(three, 1)) == (0, 100), done.stdout


BANKS = {"mt940": "statement.sta", "camt053": "camt053.xml", "ofx": "statement.ofx"}


@pytest.mark.parametrize("form", BANKS)
def test_the_rejects_of_a_statement_are_imported_with_the_same_options(
    database, tmp_path: Path, form
) -> None:
    open_named(database, main="USD" if form == "ofx" else "EUR")
    start = tmp_path / "start.csv"
    start.write_text("account_reference,amount,idempotency_key\nmain,1000,start\n")
    assert run(database, "import", start).returncode == 0
    options = ["--format", form, "--account", "main"]
    options += ["--opening", "100"] if form == "ofx" else []
    file = tmp_path / "statement"
    file.write_bytes((INPUTS / BANKS[form]).read_bytes())
    wrong = [text.replace("main", "other") for text in options]
    assert run(database, "import", file, *wrong).returncode == 1
    rejects = tmp_path / "statement.rejects.csv"
    rows = rejects.read_text()
    assert "no account has it: other" in rows
    rejects.write_text(rows.replace(",other,", ",main,"))
    done = run(database, "import", rejects, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    again = run(database, "import", file, *options)
    assert again.returncode == 0 and " 0 posted, " in again.stdout, again.stdout
