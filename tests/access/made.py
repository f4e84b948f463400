"""Keys for tests, as `ledgerservice keys` makes them."""

from collections.abc import Sequence

from sqlalchemy import text

from ledgerservice.access import keys
from ledgerservice.access.scopes import ALL
from ledgerservice.postgres.access import principals
from ledgerservice.postgres.access.principals import GrantedAccounts
from ledgerservice.postgres.connections import Database


def make_key(
    database: Database,
    name: str,
    scopes: int = int(ALL),
    ledgers: Sequence[str | None] = (None,),
    public_key: bytes | None = None,
    limited_to: GrantedAccounts | None = None,
) -> str:
    """The text of a new key of a new principal."""
    new = keys.make()
    with database.owner_engine().begin() as owner:
        ids = [None if one is None else principals.ledger_id(owner, one) for one in ledgers]
        number = principals.add_principal(owner, name, "service", scopes, ids, limited_to)
        principals.add_key(owner, new.id, new.digest, number, 90, public_key=public_key)
    return new.text


def alter_key(database: Database, key: str, assignment: str) -> str:
    """Set columns of a key; returns the key."""
    with database.owner_engine().begin() as owner:
        statement = f"UPDATE ledger.api_keys SET {assignment} WHERE id = :id"
        owner.execute(text(statement), {"id": keys.id_of(key)})
    return key


def add_ledger(database: Database, name: str) -> None:
    with database.owner_engine().begin() as owner:
        owner.execute(text("INSERT INTO ledger.ledgers (name) VALUES (:name)"), {"name": name})


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
