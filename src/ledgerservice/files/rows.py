"""A row of a file as a request: a movement, an account to be opened, or why it is rejected."""

import re
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from ledgerservice.api.http.bodies import fields_of
from ledgerservice.api.http.problems import ProblemError, invalid
from ledgerservice.api.movements.parsing import read_item
from ledgerservice.api.resources.openings import read_account
from ledgerservice.domain.accounts import Opening
from ledgerservice.domain.cells import unguarded
from ledgerservice.domain.instructions import Instruction, Movement, Reversal
from ledgerservice.domain.metadata import decode_json
from ledgerservice.files.columns import IDS, REFERENCES
from ledgerservice.files.options import Options
from ledgerservice.files.values import amount_of, time_of, without_zeros
from ledgerservice.postgres.schema import DEFAULT_LEDGER

Fields = dict[str, Any]
Item = Instruction | Opening | Fields | ProblemError
"""What a row asks for. Fields name accounts by references, which are to be found first."""


class Row(NamedTuple):
    """A row: its first line's number, what it asks for, its text as it was, and where it ends."""

    line: int
    item: Item
    text: bytes
    end_bytes: int = 0


_is_id = re.compile(r"-?[0-9]{1,19}", re.ASCII).fullmatch


def fields_of_cells(cells: dict[str, str], options: Options) -> Fields:
    """The fields of a request from the cells of a row that are not empty. Raises ProblemError."""
    fields: Fields = {}
    for name, cell in cells.items():
        if name == "type":
            fields[name] = cell.strip().upper()
        elif name in IDS:
            fields[name] = int(cell) if _is_id(cell.strip()) else cell
        elif name == "effective_at":
            fields[name] = _time(cell, options)
        elif name == "metadata":
            fields[name] = _json(cell)
        elif name == "currency":
            fields[name] = cell.strip()
        elif name != "amount":
            fields[name] = unguarded(cell)
    if "amount" in cells:
        _set_amount(fields, cells["amount"], options)
    return fields


def _time(cell: str, options: Options) -> str:
    try:
        return time_of(cell, options)
    except (ValueError, OverflowError):
        form = options.date_format or "2026-12-31, 2026-12-31T23:59:59 or with a zone offset"
        raise invalid("effective_at", f"must be a time such as {form}") from None


def _json(cell: str) -> Raw:
    text = unguarded(cell)
    try:
        decode_json(text)
    except (ValueError, RecursionError):
        raise invalid("metadata", "must be the text of a JSON object") from None
    return Raw(text.encode())


def _set_amount(fields: Fields, cell: str, options: Options) -> None:
    """The amount, and with its sign the type, if no column has it."""
    try:
        negative, digits = amount_of(cell, options)
    except ValueError as error:
        raise invalid("amount", str(error)) from None
    if "type" not in fields:
        transfer = any(name.startswith(("from_", "to_")) for name in fields)
        fields["type"] = "TRANSFER" if transfer else "WITHDRAWAL" if negative else "DEPOSIT"
        negative = negative and transfer
    fields["amount"] = f"-{digits}" if negative else digits


def with_defaults(fields: Fields, line: int, options: Options) -> Fields:
    """The fields with the account and the key that the options give to a row without them."""
    kind = fields.get("type")
    unnamed = not any(name in fields for name in (*IDS, *REFERENCES))
    if unnamed and kind in ("DEPOSIT", "WITHDRAWAL") and options.account is not None:
        account = options.account
        name, value = ("account_id", int(account)) if _is_id(account) else (REFERENCES[0], account)
        fields[name] = value
    if "idempotency_key" not in fields and options.key_prefix is not None:
        fields["idempotency_key"] = f"{options.key_prefix}{line}"
    return fields


def item_of(fields: Fields) -> Item:
    """What fields ask for."""
    if fields.get("type") == "ACCOUNT":
        return _read(fields)
    if "currency" in fields or any(name in fields for name in REFERENCES):
        return fields
    if isinstance(legs := fields.get("legs"), Raw) and b'"account_reference"' in bytes(legs):
        return _with_legs(fields)
    return _read(fields)


def _read(fields: Fields) -> Item:
    try:
        if fields.get("type") == "ACCOUNT":
            return read_account(_account_fields(fields), DEFAULT_LEDGER)
        return read_line(msgspec.json.encode(fields))
    except ProblemError as refused:
        return refused


def _account_fields(fields: Fields) -> Fields:
    """An account's fields as in POST /accounts/; its reference is also called account_reference."""
    known = {name: value for name, value in fields.items() if name != "type"}
    if "account_reference" in known:
        reference = known.pop("account_reference")
        if known.setdefault("reference", reference) != reference:
            raise invalid("reference", "is not the same as account_reference")
    if isinstance(known.get("metadata"), Raw):
        known["metadata"] = decode_json(bytes(known["metadata"]).decode())
    return known


def read_line(line: bytes) -> Instruction | ProblemError:
    """The instruction of an item of POST /batches. Zeros after the last decimal do not count."""
    try:
        instruction = read_item(line)
    except ProblemError as refused:
        return refused
    if isinstance(instruction, Reversal) and instruction.force:
        return ProblemError("approval_required")
    if isinstance(instruction, Movement) and instruction.amount.endswith("0"):
        plain = without_zeros(instruction.amount)
        return msgspec.structs.replace(instruction, amount=plain)
    return instruction


def read_json(line: bytes, number: int, options: Options) -> Item:
    """What a line of NDJSON asks for; it may have an account's reference instead of its id."""
    instruction = read_line(line)
    if not isinstance(instruction, ProblemError):
        return instruction
    try:
        fields = _raw_fields(line)
    except ProblemError as refused:
        return refused
    return item_of(with_defaults(fields, number, options))


def _raw_fields(line: bytes) -> Fields:
    """The fields of a JSON object; numbers, lists and objects as they were written."""
    fields_of(line)  # it refuses what is not an object, and a field that occurs twice
    raw = msgspec.json.decode(line, type=dict[str, Raw])
    return {name: _text_or_raw(value) for name, value in raw.items()}


def _with_legs(fields: Fields) -> Item:
    """The fields with their legs as a list of fields."""
    try:
        legs = msgspec.json.decode(bytes(fields["legs"]), type=list[dict[str, Raw]])
    except msgspec.ValidationError:
        return invalid("legs", "must be a list of objects")
    own = [{name: _text_or_raw(value) for name, value in leg.items()} for leg in legs]
    return {**fields, "legs": own}


def _text_or_raw(value: Raw) -> Any:
    text = bytes(value)
    return msgspec.json.decode(text) if text.startswith(b'"') else value
