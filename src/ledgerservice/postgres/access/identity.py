"""Who has a key, or a token, as its holder may know it."""

from datetime import datetime

import msgspec
from sqlalchemy import text

from ledgerservice.postgres.queries.structs import find_one
from ledgerservice.postgres.reader import Reader


class KeyHolder(msgspec.Struct, frozen=True):
    """The principal of a key. `subject`: the name in its certificate, if it is one."""

    principal: str
    subject: str | None
    expires_at: datetime


class Person(msgspec.Struct, frozen=True):
    """A person of an OpenID provider."""

    issuer: str
    subject: str


FIND_KEY_HOLDER = text("""
SELECT p.name AS principal, k.subject, k.expires_at
FROM ledger.api_keys k JOIN ledger.principals p ON p.id = k.principal_id
WHERE k.id = :key_id
""")
FIND_PERSON = text("SELECT issuer, subject FROM ledger.oidc_principals WHERE id = :number")


async def find_key_holder(reader: Reader, key_id: str) -> KeyHolder | None:
    """Who has the key."""
    return await find_one(reader, KeyHolder, FIND_KEY_HOLDER, key_id=key_id)


async def find_person(reader: Reader, number: int) -> Person | None:
    """The person who has this id."""
    return await find_one(reader, Person, FIND_PERSON, number=number)
