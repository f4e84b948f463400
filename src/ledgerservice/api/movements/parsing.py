"""Instructions from JSON, by a fast parser and a strict one that cannot disagree.

The fast parser, msgspec, accepts only what the strict one accepts, and returns None for anything
else. The strict parser, `bodies`, then decides and reports the fault. msgspec does not report a
field that occurs twice; the number of colons shows it.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ledgerservice.api.http.bodies import fields_of, validated
from ledgerservice.api.http.call import checked_key
from ledgerservice.api.http.problems import invalid
from ledgerservice.api.movements.forms import BY_TYPE, Form
from ledgerservice.domain.amounts import is_positive_amount
from ledgerservice.domain.instructions import BIGGEST_ID, Instruction, Kind, Movement, is_key

_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)

Fields = tuple[int, int | None, str, str | None]
"""The fields of a plain movement: account, counterparty, amount and key."""


def read(body: bytes, form: Form, header_key: str | None) -> Instruction:
    """The instruction of a money route's body. Raises ProblemError."""
    return plain(body, form, header_key) or instruct(fields_of(body), form, header_key)


def plain(body: bytes, form: Form, header_key: str | None) -> Movement | None:
    """The movement of a money route's body, by the fast parser. Raises ProblemError; None if the
    strict parser must decide.
    """
    assert form.kind is not None
    fields = _fast(body, form.kind)
    if fields is None:
        return None
    account, other, amount, key = fields
    return Movement(form.kind, account, other, amount, checked_key(key, header_key))


def instruct(fields: dict[str, Any], form: Form, header_key: str | None) -> Instruction:
    """The instruction of a body's fields, by the strict parser."""
    body = validated(fields, form.model)
    return form.instruct(body, checked_key(body.idempotency_key, header_key))


def read_item(line: bytes) -> Instruction:
    """The instruction of an item of a batch, which has its type and key. Raises ProblemError.

    `{"type": "TRANSFER", "from_account_id": 1, "to_account_id": 2, "amount": "5.00",
    "idempotency_key": "k"}`, with `account_id` for a DEPOSIT or WITHDRAWAL.
    """
    return fast_item(line) or _strict_item(line)


def _strict_item(line: bytes) -> Instruction:
    fields = fields_of(line)
    kind = fields.get("type")
    form = BY_TYPE.get(kind) if isinstance(kind, str) else None
    if form is None:
        raise invalid("type", f"must be one of {', '.join(BY_TYPE)}")
    return instruct(fields, form, None)


class _AccountFields(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    account_id: int
    amount: Raw
    type: str | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET

    @property
    def accounts(self) -> tuple[int, int | None]:
        return self.account_id, None


class _TransferFields(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    from_account_id: int
    to_account_id: int
    amount: Raw
    type: str | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET

    @property
    def accounts(self) -> tuple[int, int | None]:
        return self.from_account_id, self.to_account_id


class _ItemFields(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: str
    amount: Raw
    idempotency_key: str
    account_id: int | UnsetType = UNSET
    from_account_id: int | UnsetType = UNSET
    to_account_id: int | UnsetType = UNSET


_decode_account = msgspec.json.Decoder(_AccountFields).decode
_decode_transfer = msgspec.json.Decoder(_TransferFields).decode
_decode_item = msgspec.json.Decoder(_ItemFields).decode


def _fast(body: bytes, kind: Kind) -> Fields | None:
    try:
        parsed = _decode_transfer(body) if kind is Kind.TRANSFER else _decode_account(body)
    except _UNREADABLE:
        return None
    fields = len(parsed.__struct_fields__)
    if parsed.type is UNSET:
        fields -= 1
    elif (form := BY_TYPE.get(parsed.type)) is None or form.kind is not kind:
        return None
    if parsed.idempotency_key is UNSET:
        key, fields = None, fields - 1
    else:
        key = parsed.idempotency_key
    account, other = parsed.accounts
    amount = _amount(parsed.amount)
    if amount is None or not _is_certain(body, fields, account, other, key):
        return None
    return account, other, amount, key


def fast_item(line: bytes) -> Movement | None:
    """The movement of a plain item, or None if the strict parser must decide."""
    try:
        parsed = _decode_item(line)
    except _UNREADABLE:
        return None
    form = BY_TYPE.get(parsed.type)
    amount, key = _amount(parsed.amount), parsed.idempotency_key
    if form is None or form.kind is None or amount is None:
        return None
    if form.kind is Kind.TRANSFER:
        account, other = parsed.from_account_id, parsed.to_account_id
        fields, stray = 5, parsed.account_id
    else:
        account, other = parsed.account_id, None
        fields, stray = 4, parsed.from_account_id
    if stray is not UNSET or account is UNSET or other is UNSET:
        return None
    # The number of colons shows a superfluous field, such as to_account_id of a deposit.
    if not _is_certain(line, fields, account, other, key):
        return None
    return Movement(form.kind, account, other, amount, key)


def _amount(raw: Raw) -> str | None:
    text = bytes(raw).decode("ascii", "replace")
    if text[0] == '"':
        text = text[1:-1]
    return text if is_positive_amount(text) else None


def _is_certain(body: bytes, fields: int, account: int, other: int | None, key: str | None) -> bool:
    """Whether the strict parser accepts the body too; `fields` is the number of parsed fields.

    Without a backslash, texts are in the body as they are. Then every colon belongs to a field or
    to the key, because no other accepted text has one.
    """
    return (
        b"\\" not in body
        and -BIGGEST_ID <= account <= BIGGEST_ID
        and (other is None or -BIGGEST_ID <= other <= BIGGEST_ID)
        and (key is None or is_key(key))
        and body.count(b":") == fields + (key.count(":") if key else 0)
    )
