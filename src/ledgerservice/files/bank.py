"""Statements of banks, OFX, MT940 and CAMT.053, as rows.

The closing balance is the check of the import: the opening balance and all entries must add up to
it, else nothing is posted.
"""

import hashlib
from collections.abc import Iterator
from decimal import Decimal
from typing import BinaryIO
from urllib.parse import quote

from ledgerservice.domain.cells import guarded, row_of
from ledgerservice.errors import ImportFault
from ledgerservice.files.columns import COLUMNS, IDS, REJECT_COLUMNS
from ledgerservice.files.options import Format, Options
from ledgerservice.files.rows import Fields, Row, item_of, with_defaults
from ledgerservice.files.statements import BankLine, Statement, read_statements

MAX_FILE_BYTES = 64 * 2**20
LONGEST_KEY = 255


class BankFile:
    """The rows of a bank's file, which add up."""

    def __init__(self, source: BinaryIO, options: Options, opening: Decimal | None) -> None:
        """Raises ImportFault if the file cannot be read, or does not add up."""
        content = source.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ImportFault(f"It is larger than {MAX_FILE_BYTES} bytes.")
        statements = _of_one_account(read_statements(content, options), options)
        check(statements, opening, options.form)
        self._statements = statements
        self._options = options
        self.head = _csv((*REJECT_COLUMNS, *COLUMNS))

    def rows(self) -> Iterator[Row]:
        """A row for each entry that is not zero."""
        number = 0
        for statement in self._statements:
            for place, line in enumerate(statement.lines, start=1):
                number += 1
                if line.amount:
                    yield self._row(statement, line, place, number)

    def _row(self, statement: Statement, line: BankLine, place: int, number: int) -> Row:
        fields: Fields = {
            "type": "DEPOSIT" if line.amount > 0 else "WITHDRAWAL",
            "amount": format(abs(line.amount).normalize(), "f"),
            "currency": statement.currency,
            "effective_at": line.date.isoformat(),
            "description": _short(line.description, 1_000),
            "reference": _short(line.reference, 255),
        }
        if self._options.key_prefix is None:
            fields["idempotency_key"] = key_of(self._options.form, statement, line, place)
        fields = {name: value for name, value in fields.items() if value}
        fields = with_defaults(fields, number, self._options)
        return Row(number, item_of(dict(fields)), _csv([_cell(fields, n) for n in COLUMNS]))

    def reject(self, row: Row, outcome: str, code: str, detail: str) -> bytes:
        """A row of a file of rejects, which is CSV."""
        return _csv((row.line, outcome, code, detail)).rstrip(b"\n") + b"," + row.text


def _of_one_account(statements: list[Statement], options: Options) -> list[Statement]:
    accounts = sorted({one.account for one in statements})
    chosen = options.bank_account
    if chosen is not None:
        statements = [one for one in statements if one.account == chosen]
    elif len(accounts) > 1:
        raise ImportFault(f"It is of several accounts: choose one of {', '.join(accounts)} by "
                          "--bank-account.")  # fmt: skip
    if not statements:
        raise ImportFault(f"It has no statement of {chosen or 'an account'}.")
    if options.account is None:
        raise ImportFault("--account must name the account that the statement is of.")
    return statements


def check(statements: list[Statement], opening: Decimal | None, form: Format) -> None:
    """Raise ImportFault unless the statements add up, and each continues the one before it."""
    for statement in statements:
        begin = statement.opening if statement.opening is not None else opening
        total = sum((line.amount for line in statement.lines), Decimal(0))
        if begin is None:
            raise ImportFault(
                f"{form.upper()} has no opening balance. If the account's balance before this file "
                f"was {statement.closing - total}, add --opening {statement.closing - total}."
            )
        if opening is not None and begin != opening:
            raise ImportFault(
                f"{statement.name} opens with {begin}, but {opening} was before. Nothing was "
                "imported."
            )
        if begin + total != statement.closing:
            raise ImportFault(
                f"{statement.name} does not add up: opening balance {begin} and entries {total} "
                f"are {begin + total}, its closing balance is {statement.closing}. Nothing was "
                "imported."
            )
        opening = statement.closing


def key_of(form: Format, statement: Statement, line: BankLine, place: int) -> str:
    """The key of an entry: by the bank's own id, else by its place in its statement.

    Never by its content: two equal payments on a day are two.
    """
    own = [line.id] if line.id else [statement.name, f"#{place}"]
    parts = [form.value, statement.account, *own]
    key = ":".join(quote(part, safe=" #/.-") for part in parts)
    if len(key) > LONGEST_KEY:
        return f"{form.value}:{hashlib.sha256(key.encode()).hexdigest()}"
    return key


def _short(text: str, longest: int) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:longest]


def _cell(fields: Fields, name: str) -> object:
    value = fields.get(name, "")
    return value if name in ("amount", *IDS) else guarded(str(value))


def _csv(cells: "tuple[object, ...] | list[object]") -> bytes:
    return f"{row_of(cells)}\n".encode()
