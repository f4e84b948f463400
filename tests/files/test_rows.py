"""What a row of a file says: amounts, times, accounts, metadata and keys."""

from typing import Any

import pytest

from ledgerservice.errors import ImportFault
from ledgerservice.files.options import Format, zone_of
from tests.files.shell import HEADER, run, table
from tests.postings import open_accounts


@pytest.fixture
def two(database):
    open_accounts(database, "USD", "USD")
    return database


def cells(text: str, **options: Any) -> Any:
    [row] = table(text, **options).rows()
    return row.item


@pytest.mark.parametrize(
    ("account", "digits"),
    [("--5", ""), ("\N{ARABIC-INDIC DIGIT ONE}", ""), ("1_0", ""), ("-", ""), ("9" * 20, "")],
)
def test_an_account_that_is_no_number_is_a_row_that_is_rejected(account, digits):
    assert cells(HEADER + f"DEPOSIT,{account},,,1,k\n").code == "invalid_request"


@pytest.mark.parametrize(
    ("cell", "options", "expected"),
    [
        ("5", {}, (1, "5")),
        ("+5.500", {}, (1, "5.5")),
        ("-5.00", {}, (2, "5")),
        (" 7 ", {}, (1, "7")),
        ("1.234,50", {"decimal_comma": True}, (1, "1234.5")),
        ("-1.234.567", {"decimal_comma": True}, (2, "1234567")),
        ("12,00", {"decimal_comma": True}, (1, "12")),
        ("1.23", {"decimal_comma": True}, None),
        ("1,234.50", {}, None),
        ("(5)", {}, None),
        ("1e3", {}, None),
        ("--5", {}, None),
        ("0.00", {}, None),
        ("NaN", {}, None),
    ],
)
def test_a_signed_amount(cell, options, expected):
    item = cells(f'account_id,amount,idempotency_key\n1,"{cell}",k\n', **options)
    if expected is None:
        assert item.code == "invalid_request"
    else:
        assert (item.kind, item.amount) == expected


@pytest.mark.parametrize(
    ("cell", "options", "expected"),
    [
        ("2026-03-01", {}, "2026-03-01T00:00:00+00:00"),
        ("2026-03-01", {"timezone": "Asia/Kolkata"}, "2026-02-28T18:30:00+00:00"),
        ("2026-03-01 12:30", {"timezone": "Europe/Paris"}, "2026-03-01T11:30:00+00:00"),
        ("2026-03-01T12:30:15Z", {"timezone": "Europe/Paris"}, "2026-03-01T12:30:15+00:00"),
        ("2026-03-01T12:30:00+05:30", {}, "2026-03-01T07:00:00+00:00"),
        ("31/12/26", {"date_format": "%d/%m/%y"}, "2026-12-31T00:00:00+00:00"),
        ("31/12/26", {}, None),
        ("2026-02-30", {}, None),
        ("20260301", {}, None),
        ("2026-W01-1", {}, None),
    ],
)  # fmt: skip
def test_a_time_has_the_zone_that_the_file_or_the_option_says(cell, options, expected):
    if "timezone" in options:
        options = {"timezone": zone_of(options["timezone"])}
    item = cells(f"account_id,amount,idempotency_key,effective_at\n1,1,k,{cell}\n", **options)
    if expected is None:
        assert item.facts["errors"][0].field == "effective_at"
    else:
        assert item.detail.effective_at.isoformat() == expected


def test_metadata_is_kept_as_it_is_written(two, tmp_path):
    file = tmp_path / "m.csv"
    header = "account_id,amount,idempotency_key,metadata\n"
    file.write_text(header + '1,1,k,"{""b"": 1.50, ""a"": ""=x""}"\n1,1,k2,{broken\n')
    assert run(two, "import", file).returncode == 1
    with_metadata = run(two, "export", "--format", "ndjson", "--account", "1")
    assert '"metadata":{"b":1.50,"a":"=x"}' in with_metadata.stdout
    assert "metadata: must be the text" in (tmp_path / "m.csv.rejects.csv").read_text()


CSV_LINES = "type,account_id,amount\n", "DEPOSIT,1,2\n"
JSON_LINES = "", '{"type": "DEPOSIT", "account_id": 1, "amount": 2}\n'


@pytest.mark.parametrize(("lines", "form"), [(CSV_LINES, Format.CSV), (JSON_LINES, Format.NDJSON)])
def test_a_file_without_keys_needs_a_prefix_for_them(lines, form):
    head, line = lines
    with pytest.raises(ImportFault, match="--key-prefix"):
        list(table(head + line, form=form).rows())
    made = table(head + line * 5, form=form, key_prefix="may-2026-")
    *_, row = made.rows()
    assert row.item.key == f"may-2026-{row.line}"
    # Out of its rejects the row has the same key, though it is on another line.
    again = made.head + made.reject(row, "rejected", "a_code", "why")
    [mended] = table(again, form=form, key_prefix="may-2026-").rows()
    assert mended.item == row.item
