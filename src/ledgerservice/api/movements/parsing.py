"""Movements out of JSON, in two ways that cannot come to different ones.

The fast way, by msgspec, takes only what the strict way would take too, and says None to all else.
The strict way, by `bodies`, then judges, and names the fault. What msgspec does not see, a field
that is named twice, shows in the number of colons.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ledgerservice.api.http.bodies import fields_of, validated
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.api.movements.forms import BY_TYPE, Form
from ledgerservice.domain.amounts import is_positive_amount
from ledgerservice.domain.instructions import BIGGEST_ID, Instruction, Kind, Movement, is_key

_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)

Asked = tuple[int, int | None, str, str | None]
"""What a plain body asks for: account, counterparty, amount, and its key."""


def read(body: bytes, form: Form, header_key: str | None) -> Instruction:
    """What a money route's body asks for. Refuses what is not right."""
    assert form.kind is not None
    asked = _fast(body, form.kind)
    if asked is None:
        return instruct(fields_of(body), form, header_key)
    account, other, amount, key = asked
    return Movement(form.kind, account, other, amount, the_key(key, header_key))


def instruct(fields: dict[str, Any], form: Form, header_key: str | None) -> Instruction:
    """What a body's fields ask for, by the strict way."""
    body = validated(fields, form.model)
    return form.instruct(body, the_key(body.idempotency_key, header_key))


def the_key(body_key: str | None, header_key: str | None) -> str:
    """The idempotency key, from the body or the header."""
    if body_key is not None:
        if header_key not in (None, body_key):
            raise ProblemError("idempotency_key_mismatch")
        return body_key
    if header_key is None:
        raise ProblemError("idempotency_key_missing")
    if not is_key(header_key):
        raise ProblemError("idempotency_key_invalid")
    return header_key


def read_item(line: bytes) -> Instruction:
    """The instruction of an item of a batch, which says its type and key.

    `{"type": "TRANSFER", "from_account_id": 1, "to_account_id": 2, "amount": "5.00",
    "idempotency_key": "k"}`, with `account_id` for a DEPOSIT or WITHDRAWAL. Refuses what is not
    right.
    """
    return fast_item(line) or _strict_item(line)


def _strict_item(line: bytes) -> Instruction:
    fields = fields_of(line)
    kind = fields.get("type")
    form = BY_TYPE.get(kind) if isinstance(kind, str) else None
    if form is None:
        fault = {"field": "type", "message": f"must be one of {', '.join(BY_TYPE)}"}
        raise ProblemError("invalid_request", errors=[fault])
    return instruct(fields, form, None)


class _OwnFields(msgspec.Struct, forbid_unknown_fields=True, gc=False):
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


_decode_own = msgspec.json.Decoder(_OwnFields).decode
_decode_transfer = msgspec.json.Decoder(_TransferFields).decode
_decode_item = msgspec.json.Decoder(_ItemFields).decode


def _fast(body: bytes, kind: Kind) -> Asked | None:
    try:
        given = _decode_transfer(body) if kind is Kind.TRANSFER else _decode_own(body)
    except _UNREADABLE:
        return None
    fields = len(given.__struct_fields__)
    if given.type is UNSET:
        fields -= 1
    elif (form := BY_TYPE.get(given.type)) is None or form.kind is not kind:
        return None
    if given.idempotency_key is UNSET:
        key, fields = None, fields - 1
    else:
        key = given.idempotency_key
    account, other = given.accounts
    amount = _amount(given.amount)
    if amount is None or not _is_certain(body, fields, account, other, key):
        return None
    return account, other, amount, key


def fast_item(line: bytes) -> Movement | None:
    """The movement of a plain item, or None where the strict way must see what it is."""
    try:
        given = _decode_item(line)
    except _UNREADABLE:
        return None
    form = BY_TYPE.get(given.type)
    amount, key = _amount(given.amount), given.idempotency_key
    if form is None or form.kind is None or amount is None:
        return None
    if form.kind is Kind.TRANSFER:
        account, other, fields, stray = (
            given.from_account_id,
            given.to_account_id,
            5,
            given.account_id,
        )
    else:
        account, other, fields, stray = given.account_id, None, 4, given.from_account_id
    if stray is not UNSET or account is UNSET or other is UNSET:
        return None
    # A field too many, such as a deposit's to_account_id, shows in the colons.
    if not _is_certain(line, fields, account, other, key):
        return None
    return Movement(form.kind, account, other, amount, key)


def _amount(raw: Raw) -> str | None:
    text = bytes(raw).decode("ascii", "replace")
    if text[0] == '"':
        text = text[1:-1]
    return text if is_positive_amount(text) else None


def _is_certain(body: bytes, fields: int, account: int, other: int | None, key: str | None) -> bool:
    """Whether the strict way would take it too; `fields` is the number of fields that were read.

    Without a backslash texts stand in the body as they are, so every colon that is not of the key
    (no other text that is taken has one) belongs to a field.
    """
    return (
        b"\\" not in body
        and -BIGGEST_ID <= account <= BIGGEST_ID
        and (other is None or -BIGGEST_ID <= other <= BIGGEST_ID)
        and (key is None or is_key(key))
        and body.count(b":") == fields + (key.count(":") if key else 0)
    )
