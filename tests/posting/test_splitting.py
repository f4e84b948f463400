"""Which parts of a batch are tried again, when the database refuses it as a whole."""

from typing import Any

import psycopg
import pytest

from ledgerservice.domain.instructions import Group
from ledgerservice.posting.poster import FENCED, Waiting, _split


class Fenced(psycopg.Error):
    sqlstate = FENCED


def group(ledger: int) -> Group:
    return Group((), False, ledger)


COPY = ["a row of the directory"]
CASES: dict[str, tuple[list[Any], list[list[int]]]] = {
    "one ledger, which has failed": ([group(1), group(1)], []),
    "a ledger that moves beside another": ([group(1), group(2), group(1)], [[0, 2], [1]]),
    "copies, which have no ledger": ([COPY, COPY, COPY], [[0], [1, 2]]),
    "one copy, which has failed": ([COPY], []),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fence_refuses_the_requests_of_one_ledger(name: str) -> None:
    requests, expected = CASES[name]
    waiting: list[Waiting[Any, Any]] = [Waiting(one, None, 1) for one in requests]  # type: ignore[arg-type]
    parts = _split(Fenced(), waiting)
    assert [[waiting.index(one) for one in part] for part in parts] == expected
