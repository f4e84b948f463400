"""What is compared of the stores of several shards: made-up balances, right and wrong ones."""

import pytest

from tests.engines.stores import Balance, EntryRow, State
from tests.proof.servers.read_models import differences_of_shards

ENTRIES = [
    EntryRow(2, 7, 1, 101, 5, 0, 5, 0),
    EntryRow(2, 7, 2, 201, 3, 0, 8, 0),
    EntryRow(3, 7, 1, 301, 4, 0, 4, 0),
]
OLD, NEW, OTHER = Balance(1, 5, 0), Balance(2, 8, 0), Balance(1, 4, 0)


@pytest.mark.parametrize(
    ("balances", "number"),
    [
        ([{(2, 7): OLD, (3, 7): OTHER}, {(2, 7): NEW}], 0),  # it has moved
        ([{(2, 7): OLD, (3, 7): OTHER}, {}], 1),
        ([{(2, 7): NEW}, {}], 1),
        ([{(2, 7): Balance(2, 9, 0), (3, 7): OTHER}, {(2, 7): NEW}], 1),
        ([{(2, 7): NEW, (3, 7): OTHER}, {(4, 7): NEW}], 1),
    ],
)
def test_the_newest_balance_of_each_account_is_somewhere(
    balances: list[dict[tuple[int, int], Balance]], number: int
) -> None:
    states = [State(balances=one) for one in balances]
    assert len(list(differences_of_shards(ENTRIES, states))) == number
