"""People who sign in elsewhere: each has an id of the same sequence as principals."""

from datetime import datetime
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, text

from ledgerservice.postgres.access.callers import account_columns
from ledgerservice.postgres.journal import BEGIN, WRITE_BARRIER, commit
from ledgerservice.postgres.pipeline import Request, Wire

_FIND = "SELECT id FROM ledger.oidc_principals WHERE issuer = $1 AND subject = $2"
_ADD = "INSERT INTO ledger.oidc_principals (issuer, subject) VALUES ($1, $2) ON CONFLICT DO NOTHING"


async def find_or_add_person(wire: Wire, issuer: str, subject: str) -> int:
    """The id of a person, who is added if it is new. Raises psycopg's errors."""
    person = [issuer.encode(), subject.encode()]
    [known] = await wire.exchange(Request(_FIND, person))
    if not known.rows:
        await commit(wire, Request(BEGIN), Request(_ADD, person), Request(WRITE_BARRIER))
        [known] = await wire.exchange(Request(_FIND, person))
    return int(known.rows[0][0])


class PersonView(msgspec.Struct, frozen=True):
    """A person as `keys people` shows it."""

    id: int
    issuer: str
    subject: str
    first_seen: datetime


_LIST = text("SELECT id, issuer, subject, first_seen FROM ledger.oidc_principals ORDER BY id")


def list_people(connection: Connection) -> list[PersonView]:
    """All people, in the order in which they came."""
    return [PersonView(**row) for row in connection.execute(_LIST).mappings()]


class GrantRequest(NamedTuple):
    """A grant that is limited to accounts: its place among others, the name of its ledger, its
    owner, and the accounts that it names.
    """

    place: int
    ledger: str
    owner: str | None
    accounts: list[int]


class GrantRow(NamedTuple):
    """The accounts of such a grant that exist, with their currencies: those that it names, and
    those of its owner.
    """

    place: int
    currencies: dict[str, str] | None
    owned: dict[str, str] | None


_GRANTED = f"""
SELECT g.place, {account_columns("g", "g.accounts")}
FROM (
    SELECT r.place, l.ledger_id, r.owner, r.accounts
    FROM json_to_recordset($1::json)
        AS r (place int, ledger text, owner text, accounts bigint[])
    JOIN ledger.ledgers l ON l.name = r.ledger) g
"""


def accounts_granted(requests: list[GrantRequest]) -> Request:
    """Reads a GrantRow for each of the grants whose ledger exists."""
    return Request(_GRANTED, [msgspec.json.encode([one._asdict() for one in requests])])


_LEDGERS = "SELECT name, ledger_id FROM ledger.ledgers WHERE name = ANY ($1::text[])"


def ledgers_named(names: bytes) -> Request:
    """The names and ids of those ledgers of an array that exist."""
    return Request(_LEDGERS, [names])
