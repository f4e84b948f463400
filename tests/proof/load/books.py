"""A ledger under load: where it is served, its accounts, and where what clients see is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ledgerservice.postgres.schema import DEFAULT_LEDGER

USUAL, SMALL, RUPEES = 8, 32, 4


class Accounts(NamedTuple):
    """Ids: of those that most of the money moves between, of some with next to nothing, so that
    they can be closed, and of those with rupees.
    """

    usual: Sequence[int]
    small: Sequence[int]
    rupees: Sequence[int]

    @property
    def everyone(self) -> list[int]:
        return [*self.usual, *self.small, *self.rupees]

    def beside(self, account: int, other: int) -> int:
        """One that is neither, of the same currency."""
        pool = self.rupees if account in self.rupees else self.usual
        place = account % len(pool)
        return next(n for n in (*pool[place:], *pool) if n not in (account, other))


def accounts_of(ids: Sequence[int]) -> Accounts:
    """The accounts with these ids, in the order in which they were opened."""
    assert len(ids) == USUAL + SMALL + RUPEES
    return Accounts(ids[:USUAL], ids[USUAL : USUAL + SMALL], ids[USUAL + SMALL :])


def first_accounts() -> Accounts:
    """Those of a new database."""
    return accounts_of(range(1, USUAL + SMALL + RUPEES + 1))


@dataclass
class Book:
    """A ledger under load. `path` is before each of its routes; `accounts` are those of a new
    database, until they are opened. In `seen` is what its clients have seen. `parts` are the ids of
    its parts, by number, if it has any.
    """

    seen: Path
    name: str = "default"
    number: int = DEFAULT_LEDGER
    path: str = ""
    accounts: Accounts = field(default_factory=first_accounts)
    parts: tuple[int, ...] = ()
