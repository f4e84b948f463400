"""One shape of answer for each kind, whether the movement is plain or has texts."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerservice.api.movements.answers import Posted, answer
from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.transactions import Entry, Transaction
from tests.processes import RunningService

numbers = st.integers(1, 2**63 - 1)
amounts = st.integers(1, 10**15)
balances = st.integers(-(10**18), 10**18)
kinds = st.sampled_from([Kind.DEPOSIT, Kind.WITHDRAWAL, Kind.TRANSFER])


@given(kinds, numbers, amounts, st.tuples(balances, balances), st.tuples(amounts, amounts),
       st.integers(0, 12), st.sampled_from(["USD", "X0123456789ABCDE"]))  # fmt: skip
def test_a_plain_answer_is_what_its_struct_encodes_to(
    kind, number, amount, results, held, exponent, currency
) -> None:
    """The answer to a plain movement is written without the struct that OpenAPI describes."""
    change = amount if kind is Kind.DEPOSIT else -amount
    entries = (
        Entry(5, 1, number, 1, change, 0, results[0], held[0] % 3),
        Entry(-1, 2, number, 1, -change, 0, results[1], held[1]),
    )
    transaction = Transaction(
        number, kind, 5, -1, "k", amount, currency, exponent, datetime.now(UTC), 1, entries
    )
    assert answer(transaction) == (200, msgspec.json.encode(Posted.of(transaction)))


MOVEMENTS = {
    "/deposit": {"account_id": 1},
    "/withdraw": {"account_id": 1},
    "/transfer": {"from_account_id": 1, "to_account_id": 2},
}


@pytest.mark.parametrize("path", MOVEMENTS)
@pytest.mark.parametrize("amount", ["1", "1000"])
def test_texts_do_not_change_the_shape(service: RunningService, path: str, amount: str) -> None:
    ids = service.open(balance="100"), service.open()
    named = {name: ids[number - 1] for name, number in MOVEMENTS[path].items()}
    plain = service.send(path, amount=amount, **named)
    with_text = service.send(path, amount=amount, reference="r", **named)
    assert plain.status_code == with_text.status_code
    assert list(plain.json()) == list(with_text.json())
    for part in ("entries", "decided_on"):
        assert repr(shape(plain.json().get(part))) == repr(shape(with_text.json().get(part)))
    records = [
        service.get(f"/transactions/{answer.json()['transaction_id']}").json()
        for answer in (plain, with_text)
    ]
    assert list(records[0]) == list(records[1])
    assert records[0].items() >= plain.json().items() or plain.status_code != 200


def shape(value: object) -> object:
    """The names of the members, in their order."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    return [shape(part) for part in value] if isinstance(value, list) else None
