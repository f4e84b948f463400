"""Statements of banks: OFX, MT940 and CAMT.053."""

import importlib
import io
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from ledgerservice.errors import ImportFault
from ledgerservice.files.bank import BankFile
from ledgerservice.files.options import Format, Options
from tests.files.shell import INPUTS, balance, open_named, run, texts

OFX, MT940, CAMT053 = "statement.ofx", "statement.sta", "camt053.xml"
FORMATS = {OFX: Format.OFX, MT940: Format.MT940, CAMT053: Format.CAMT053}
OPENING = Decimal("100.00")


def read(name: str, *changes: tuple[str, str], **options: Any) -> BankFile:
    """The bank's file, with changes of its text."""
    content = (INPUTS / name).read_bytes().decode("latin-1")
    for before, after in changes:
        assert before in content
        content = content.replace(before, after)
    opening = OPENING if name == OFX else None
    chosen = Options(FORMATS[name], account="bank", **options)
    return BankFile(io.BytesIO(content.encode("latin-1")), chosen, opening)


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=UTC)


CASES = [
    (
        OFX,
        "USD",
        [
            ("ofx:77:f-1", 1, 2550, "Café", "f-1", at(3, 17)),
            ("ofx:77:f-2", 2, 300, "Fee", "f-2", at(4)),
        ],
    ),
    (
        MT940,
        "EUR",
        [
            ("mt940:NL00BANK0000000001:statement 1/1 of 2026-11-01:#1", 1, 2550,
             "Invoice 17 paid", "B4711", at(3)),
            ("mt940:NL00BANK0000000001:statement 1/1 of 2026-11-01:#2", 2, 300, "Fee",
             "B4712", at(4)),
            ("mt940:NL00BANK0000000001:statement 1/1 of 2026-11-01:#3", 1, 100,
             "Reversal of a debit", "B4713", at(4)),
        ],
    ),
    (
        CAMT053,
        "EUR",
        [("camt053:DE02120300000000202051:statement S1:#1", 1, 1815, None, "A-1", at(2))],
    ),
]  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "currency", "expected"), CASES, ids=FORMATS)
def test_a_statement_is_posted_once(database, tmp_path, name, currency, expected):
    open_named(database, bank=currency)
    options = ["--format", FORMATS[name], "--account", "bank", "--rejects", tmp_path / "r.csv"]
    if name == OFX:
        missing = run(database, "import", INPUTS / name, *options)
        assert "add --opening 100.00" in missing.stderr
        options += ["--opening", "100"]
    deposit = tmp_path / "opening.csv"
    deposit.write_text("account_reference,amount,idempotency_key\nbank,100,opening\n")
    run(database, "import", deposit)
    for posted in (len(expected), 0):
        done = run(database, "import", INPUTS / name, *options)
        assert (done.returncode, f" {posted} posted" in done.stdout) == (0, True), done.stdout
    assert texts(database)[1:] == expected
    closing = {OFX: 12250, MT940: 12350, CAMT053: 11815}[name]
    assert balance(database, 1) == closing


WRONG = [
    (OFX, ("<BALAMT>122.50", "<BALAMT>122.51"), "does not add up"),
    (OFX, ("<BALAMT>122.50", "<BALAMT>x"), "not valid OFX"),
    (OFX, ("STMTRS>", "ELSERS>"), "no statement"),
    (MT940, ("EUR123,50", "EUR123,51"), "does not add up"),
    (MT940, (":62F:", ":99F:"), "no opening balance"),
    (MT940, ("C261101EUR100,00", "C261101EUR1x0,00"), "does not add up"),
    (CAMT053, (">118.15<", ">118.16<"), "does not add up"),
    (CAMT053, ("CLBD", "ITAV"), "no closing one"),
    (CAMT053, ("camt.053.001.08", "camt.999.001.08".replace("053", "999")), "namespace"),
    (CAMT053, ("</Document>", ""), "not valid CAMT053"),
    (CAMT053, ("<Document", '<!DOCTYPE d [<!ENTITY a "b">]><Document'), "not valid CAMT053"),
    (CAMT053, (">18.150<", ">18,150<"), "is not an amount"),
    (CAMT053, (">18.150<", ">NaN<"), "An amount"),
    (CAMT053, ('Ccy="EUR">18', 'Ccy="USD">18'), "several currencies"),
    (CAMT053, ("<ValDt><Dt>2026-11-02</Dt></ValDt>", "<ValDt><Dt>2026-11-32</Dt></ValDt>"), "day"),
]


@pytest.mark.parametrize(("name", "change", "expected"), WRONG)
def test_a_file_that_is_wrong_or_does_not_add_up_is_refused(name, change, expected):
    with pytest.raises(ImportFault, match=expected):
        read(name, change)


def test_the_reversal_of_a_credit_is_a_debit():
    file = read(MT940, ("0104RD1,00", "0104RC1,00"), ("EUR123,50", "EUR121,50"))
    assert [row.item["type"] for row in file.rows()] == ["DEPOSIT", "WITHDRAWAL", "WITHDRAWAL"]  # type: ignore[index]


def test_a_pending_entry_of_camt053_is_left_out():
    pending = ("<Cd>BOOK</Cd>", "<Cd>PDNG</Cd>")
    assert list(read(CAMT053, pending, (">118.15<", ">100.00<")).rows()) == []


def test_statements_continue_each_other():
    whole = (INPUTS / MT940).read_text().replace("\r\n", "\n")
    second = whole.replace("1/1", "2/1").replace("EUR100,00", "EUR123,50")
    second = second.replace("C261104EUR123,50", "C261105EUR147,00")

    def both(text: str, **options: Any) -> BankFile:
        return BankFile(io.BytesIO(text.encode()), Options(Format.MT940, **options), None)

    assert len(list(both(whole + second, account="1").rows())) == 6
    with pytest.raises(ImportFault, match="opens with 123.50, but 99.50 was before"):
        both(whole.replace("EUR100,00", "EUR76,00").replace("EUR123,50", "EUR99,50") + second,
             account="1")  # fmt: skip
    other = second.replace("NL00BANK0000000001", "NL00BANK0000000002")
    with pytest.raises(ImportFault, match="several accounts"):
        both(whole + other, account="1")
    chosen = both(whole + other, account="1", bank_account="NL00BANK0000000002")
    assert len(list(chosen.rows())) == 3
    with pytest.raises(ImportFault, match="--account"):
        both(whole)


def test_a_key_is_printable_and_not_too_long():
    file = read(CAMT053, ("<Id>S1</Id>", f"<Id>{'&#252;' * 90}</Id>"))
    [row] = file.rows()
    assert row.item["idempotency_key"].startswith("camt053:")  # type: ignore[index]
    assert len(row.item["idempotency_key"]) <= 255  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [(OFX, "ofxtools.Parser", "ofx"), (MT940, "mt940", "files"),
     (CAMT053, "defusedxml.ElementTree", "files")],
)  # fmt: skip
def test_a_missing_library_is_named(monkeypatch, name, library, extra):
    importlib.import_module(library)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportFault, match=rf"pip install '\S+\[{extra}\]'"):
        read(name)


def test_rejects_of_a_statement_are_a_table(database, tmp_path):
    open_named(database, bank="USD")
    rejects = tmp_path / "r.csv"
    options = ["--format", "mt940", "--account", "bank", "--rejects", rejects]
    assert run(database, "import", INPUTS / MT940, *options).returncode == 1
    mended = tmp_path / "mended.csv"
    mended.write_text(rejects.read_text().replace(",EUR,", ",USD,"))
    again = run(database, "import", mended)
    assert ("3 rows: 2 posted" in again.stdout) or ("3 rows: 3 posted" in again.stdout), again
    assert balance(database, 1) == 2350
