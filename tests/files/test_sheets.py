"""A history as CSV: what is written is read the same, and what cannot be read is named."""

import io
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerservice.domain.history import (
    End,
    Header,
    Line,
    PastAccount,
    PastCurrency,
    PastEntry,
    PastPolicy,
    PastRefusal,
    PastTransaction,
)
from ledgerservice.domain.transactions import DeclineReason, HoldTerms, ScheduleTerms
from ledgerservice.errors import ImportFault
from ledgerservice.files.sheets import AMOUNTS, COLUMNS, LISTS, PARTS, Sheet, SheetLines

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, UTC)
HEAD: list[Line] = [
    Header(1, "default", NOW),
    PastCurrency("USD", 1, 2, "US Dollar"),
    PastCurrency("JPY", 2, 0, "Yen"),
    PastAccount(7, "=Ada", "USD", "a"),
    PastAccount(8, "null", "JPY", "-b", "UNKEYED", "007", '{"a": "x\ny"}'),
]
texts = st.none() | st.sampled_from(
    ["null", "true", "1", "007", "=1", "'=1", "''", "\n", "a\rb", " x "]
)
texts |= st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
minor = st.integers(-(10**15), 10**15)
accounts = st.sampled_from([7, 8, -1, -2])
times = st.datetimes(timezones=st.just(UTC))
entries = st.builds(
    PastEntry, accounts, st.integers(1, 9), minor, minor, minor, st.integers(0, 10**15)
)
policies = st.builds(
    PastPolicy, accounts, st.integers(1, 9), minor, st.none() | minor, st.integers(0, 7), texts,
    texts, st.none() | minor,
)  # fmt: skip
transactions = st.builds(
    PastTransaction,
    id=st.integers(1, 2**62),
    kind=st.just("HOLD"),
    account_id=accounts,
    amount=minor,
    key=st.just("+k"),
    recorded_at=times,
    entries=st.lists(entries, max_size=3),
    refusal=st.none() | st.builds(PastRefusal, st.sampled_from(DeclineReason), accounts,
                                  st.integers(0, 9), minor, minor),
    parent_id=st.none() | st.integers(1, 99),
    remaining=st.none() | minor,
    exchange=texts,
    hold=st.none() | st.builds(HoldTerms, accounts, accounts, minor, st.none() | times,
                               st.none() | times),
    schedule=st.none() | st.builds(ScheduleTerms, accounts, accounts, minor, times),
    policies=st.lists(policies, max_size=2),
    description=texts,
    reference=texts,
    effective_at=st.none() | times,
    metadata=texts,
    digest=st.none() | st.binary(min_size=32, max_size=32),
    salt=st.none() | st.binary(min_size=16, max_size=16),
    request=texts,
    is_parent=st.booleans(),
)  # fmt: skip


def written(lines: list[Line]) -> bytes:
    target = io.BytesIO()
    sheet = Sheet(target)
    for line in lines:
        sheet.write(line)
    return target.getvalue()


@given(st.lists(transactions, max_size=4))
def test_what_is_written_is_read_the_same(lines: list[Any]) -> None:
    history = [*HEAD, *lines, End(2, len(lines))]
    assert list(SheetLines(io.BytesIO(written(history)))) == history


def test_amounts_are_those_of_a_person_and_texts_are_no_formulas() -> None:
    one = PastTransaction(
        1,
        "DEPOSIT",
        7,
        1250,
        "k",
        NOW,
        [PastEntry(7, 1, -1250, 0, -5, 0), PastEntry(8, 1, 5, 0, 5, 0)],
    )
    lines = written([*HEAD, one]).decode().splitlines()
    place = COLUMNS.index("amount")
    rows = [line.split(",") for line in lines if line.startswith(("TRANSACTION", "ENTRY"))]
    assert [row[place] for row in rows] == ["12.50", "-12.50", "5"]
    assert ",'=Ada," in lines[4]


def test_every_whole_number_that_is_an_amount_is_named() -> None:
    """A field that is added to a record has to be told from a number that is no amount."""
    plain = {"id", "account_id", "version", "counterparty_id", "parent_id", "renderer", "seq",
             "restricted", "to_ledger_id", "to_account_id"}  # fmt: skip
    lists = {kind: struct for kind, (_, struct) in LISTS.items()}
    structs: dict[str, Any] = {"TRANSACTION": PastTransaction, **lists, **PARTS}
    for kind, struct in structs.items():
        numbers = {f.name for f in msgspec.structs.fields(struct) if f.type in (int, int | None)}
        assert numbers - plain == AMOUNTS[kind], kind


ENTRY = "ENTRY,7,1"
FAULTS = {
    "type,nonsense\n": "Unknown are nonsense",
    "type,type\n": "Each is named once",
    "id,kind\n": "does not name the columns",
    f"type,account_id,amount\n{ENTRY}\n": "Line 2 .*no TRANSACTION above this ENTRY",
    "type,id,account_id,amount\nTRANSACTION,1,7,1.001\n": "Line 2 .*1.001 is not an amount",
    "type,id,account_id,amount\nTRANSACTION,1,7,x\n": "Line 2 .*amount: x is not",
    "type,id,account_id,amount\nTRANSACTION,1,7,1\n": "Line 2 .*kind",
    "type,code\nNONSENSE,EUR\n": "Line 2 .*NONSENSE",
    "type,code\n,EUR\n": "Line 2 ",
    'type,code\nCURRENCY,"EUR\n': "Line 2 .*unexpected end",
    "type,code,exponent,number,name\nCURRENCY,E\udcff,2,1,e\n": "Line 2 .*not valid in its enc",
}


@pytest.mark.parametrize("text", FAULTS)
def test_what_cannot_be_read_is_named(text: str) -> None:
    source = io.BytesIO(text.encode(errors="surrogateescape"))
    with pytest.raises(ImportFault, match=FAULTS[text]):
        list(SheetLines(source))
