"""What Python may ask: values that the database could not compare are refused before."""

import pytest

from ledgerservice.domain.validation import check_list
from ledgerservice.errors import InvalidField
from ledgerservice.postgres.queries.accounts import AccountFilter
from ledgerservice.postgres.queries.transaction_filters import TransactionFilter

IMPOSSIBLE = [
    *(TransactionFilter(account_id=number) for number in (2**63, -(2**63) - 1, 10**30)),
    TransactionFilter(min_amount=2**63),
    *(TransactionFilter(reference=text) for text in ("a\0b", "\ud800")),
    *(AccountFilter(owner=text) for text in ("a\0b", "\ud800")),
    AccountFilter(ids=[1, 2**63]),
]


@pytest.mark.parametrize("filters", IMPOSSIBLE, ids=ascii)
def test_a_filter_that_the_database_cannot_compare_is_refused(filters):
    with pytest.raises(InvalidField):
        check_list(filters, None)


@pytest.mark.parametrize("filters", [TransactionFilter(account_id=2**63 - 1, owner="größe\t")])
def test_any_other_filter_is_not(filters):
    check_list(filters, None)
