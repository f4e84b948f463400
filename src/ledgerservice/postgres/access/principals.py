"""Principals, their keys and grants, as the schema's owner writes and lists them."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, text

from ledgerservice.postgres.access.callers import CHANNEL
from ledgerservice.postgres.access.limits import KeyLimits


class GrantedAccounts(msgspec.Struct, frozen=True):
    """The accounts that a grant is limited to, and the largest amounts by currency, as texts.

    All accounts of the `owner` are among `accounts`. Without `debit_from` or `credit_to` they are
    these.
    """

    accounts: list[int]
    debit_from: list[int] | None = None
    credit_to: list[int] | None = None
    max_amounts: dict[str, str] | None = None
    owner: str | None = None

    def all(self) -> set[int]:
        """Every account that it names."""
        return {*self.accounts, *(self.debit_from or ()), *(self.credit_to or ())}


class GrantView(msgspec.Struct, frozen=True):
    """A grant on a ledger, by its name, or on all (None)."""

    ledger: str | None
    scopes: int
    limited_to: GrantedAccounts | None


class KeyView(msgspec.Struct, frozen=True):
    """A key as `keys list` shows it. `grants` are those of its principal."""

    id: str
    principal_id: int
    name: str
    kind: str
    created_at: datetime
    not_before: datetime
    expires_at: datetime
    revoked_at: datetime | None
    last_used: str | None
    state: str
    subject: str | None
    public_key: str | None
    limits: KeyLimits
    grants: list[GrantView]


_LIST = text(
    """
SELECT k.id, p.id AS principal_id, p.name, p.kind, k.created_at, k.not_before, k.expires_at,
       k.revoked_at, k.rate, k.burst, k.queue_share, k.streams, k.body_bytes_s,
       (SELECT max(day)::text FROM ledger.key_uses u WHERE u.key_id = k.id)
           AS last_used,
       CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked'
            WHEN p.disabled_at IS NOT NULL THEN 'disabled'
            WHEN k.expires_at <= clock_timestamp() THEN 'expired'
            WHEN k.not_before > clock_timestamp() THEN 'not yet valid'
            ELSE 'valid' END AS state,
       k.subject, encode(k.public_key, 'base64') AS public_key
FROM ledger.api_keys k JOIN ledger.principals p ON p.id = k.principal_id
ORDER BY k.created_at, k.id
"""
)
_LIST_GRANTS = text(
    """
SELECT g.principal_id, l.name, g.scopes, g.accounts, g.debit_from, g.credit_to, g.max_amounts,
       g.owner
FROM (
    SELECT id, principal_id, ledger_id, scopes, NULL::bigint[] AS accounts,
           NULL::bigint[] AS debit_from, NULL::bigint[] AS credit_to, NULL::json AS max_amounts,
           NULL AS owner
    FROM ledger.grants
    UNION ALL
    SELECT id, principal_id, ledger_id, scopes, accounts, debit_from, credit_to, max_amounts, owner
    FROM ledger.account_grants
) g LEFT JOIN ledger.ledgers l ON l.ledger_id = g.ledger_id
ORDER BY g.id
"""
)
_ANY_KEY = text("SELECT EXISTS (SELECT FROM ledger.api_keys)")
_PRINCIPAL = text("SELECT id FROM ledger.principals WHERE name = :name AND disabled_at IS NULL")
_TAKEN = text("SELECT EXISTS (SELECT FROM ledger.principals WHERE name = :name)")
_PARTS = text("""
SELECT ledger_id, name FROM ledger.ledgers WHERE parent_id = :id ORDER BY part
""")
_LEDGER = text("SELECT ledger_id FROM ledger.ledgers WHERE name = :name")
_ADD_PRINCIPAL = text(
    "INSERT INTO ledger.principals (name, kind) VALUES (:name, :kind) RETURNING id"
)
_ADD_GRANT = text(
    "INSERT INTO ledger.grants (principal_id, ledger_id, scopes)"
    " VALUES (:principal_id, :ledger_id, :scopes)"
)
_ADD_ACCOUNT_GRANT = text(
    "INSERT INTO ledger.account_grants"
    " (principal_id, ledger_id, scopes, accounts, debit_from, credit_to, max_amounts, owner)"
    " VALUES (:principal_id, :ledger_id, :scopes, :accounts, :debit_from, :credit_to,"
    " CAST(:max_amounts AS json), :owner)"
)
_ADD_KEY = text(
    """
INSERT INTO ledger.api_keys (id, principal_id, digest, created_at, not_before, expires_at, subject,
                             public_key)
SELECT :id, :principal_id, :digest, now, now, now + :days * interval '24 hours', :subject,
       :public_key
FROM clock_timestamp() AS now
RETURNING expires_at
"""
)
_PRINCIPAL_OF = text(
    "SELECT principal_id, public_key FROM ledger.api_keys WHERE id = :id FOR UPDATE"
)
_CERTIFICATES = text(
    "SELECT id, principal_id FROM ledger.api_keys WHERE subject = :subject AND revoked_at IS NULL"
    " FOR UPDATE"
)
_SHORTEN = text(
    """
UPDATE ledger.api_keys
SET expires_at = greatest(least(expires_at, clock_timestamp() + :hours * interval '1 hour'),
                          not_before + interval '1 microsecond')
WHERE id = :id RETURNING expires_at
"""
)
_REVOKE = text(
    "UPDATE ledger.api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp())"
    " WHERE id = :id RETURNING revoked_at"
)
_LIMITS = KeyLimits.__struct_fields__
_LIMIT = text(
    f"UPDATE ledger.api_keys SET {', '.join(f'{name} = :{name}' for name in _LIMITS)}"
    " WHERE id = :id"
)
_LIMITS_OF = text(f"SELECT {', '.join(_LIMITS)} FROM ledger.api_keys WHERE id = :id FOR UPDATE")
_NOTIFY = text(f"SELECT pg_notify('{CHANNEL}', '')")


def has_keys(connection: Connection) -> bool:
    """Whether a key was ever made."""
    return bool(connection.scalar(_ANY_KEY))


def list_keys(connection: Connection) -> list[KeyView]:
    """All keys, the oldest first."""
    grants: dict[int, list[GrantView]] = {}
    for principal_id, ledger, scopes, *accounts in connection.execute(_LIST_GRANTS):
        limited = None if accounts[0] is None else GrantedAccounts(*accounts)
        grants.setdefault(principal_id, []).append(GrantView(ledger, scopes, limited))
    views = []
    for row in connection.execute(_LIST).mappings():
        values = dict(row)
        limits = KeyLimits(**{name: values.pop(name) for name in _LIMITS})
        granted = grants.get(row["principal_id"], [])
        views.append(KeyView(**values, limits=limits, grants=granted))
    return views


def principal_id(connection: Connection, name: str) -> int | None:
    """The id of a principal that is not disabled, or None."""
    number: int | None = connection.scalar(_PRINCIPAL, {"name": name})
    return number


def is_taken(connection: Connection, name: str) -> bool:
    """Whether there is a principal of this name, disabled or not."""
    return bool(connection.scalar(_TAKEN, {"name": name}))


_MISSING = text(
    "SELECT id FROM unnest(CAST(:ids AS bigint[])) AS n (id) WHERE id <= 0 OR NOT EXISTS ("
    "SELECT FROM ledger.accounts a WHERE a.ledger_id = :ledger AND a.id = n.id) ORDER BY id LIMIT 1"
)


def missing_account(connection: Connection, ledger: int, ids: set[int]) -> int | None:
    """One of the ids that is no account of a customer of the ledger, or None."""
    number: int | None = connection.scalar(_MISSING, {"ledger": ledger, "ids": sorted(ids)})
    return number


def parts_of(connection: Connection, ledger: int) -> list[tuple[int, str]]:
    """The ids and names of the parts of a ledger, in order; none if it has no parts."""
    statement = text(
        "SELECT ledger_id, name FROM ledger.ledgers WHERE parent_id = :id ORDER BY part"
    )
    return [(row[0], row[1]) for row in connection.execute(statement, {"id": ledger})]


def ledger_id(connection: Connection, name: str) -> int | None:
    """The id of a ledger, or None."""
    number: int | None = connection.scalar(_LEDGER, {"name": name})
    return number


def add_principal(
    connection: Connection,
    name: str,
    kind: str,
    scopes: int,
    ledgers: Sequence[int | None],
    limited_to: GrantedAccounts | None = None,
) -> int:
    """Add a principal with the same scopes on each of the ledgers; None stands for all of them."""
    number: int = connection.execute(_ADD_PRINCIPAL, {"name": name, "kind": kind}).scalar_one()
    for one in ledgers:
        add_grant(connection, number, one, scopes, limited_to)
    return number


def add_grant(
    connection: Connection,
    principal: int,
    ledger: int | None,
    scopes: int,
    limited_to: GrantedAccounts | None,
) -> None:
    """Add a grant on a ledger (None: all), which may be limited to accounts of it."""
    grant = {"principal_id": principal, "ledger_id": ledger, "scopes": scopes}
    if limited_to is None:
        connection.execute(_ADD_GRANT, grant)
    else:
        values = msgspec.structs.asdict(limited_to)
        if limited_to.max_amounts is not None:
            values["max_amounts"] = msgspec.json.encode(limited_to.max_amounts).decode()
        connection.execute(_ADD_ACCOUNT_GRANT, grant | values)
    connection.execute(_NOTIFY)


def add_key(
    connection: Connection,
    key_id: str,
    digest: bytes,
    principal: int,
    days: int,
    subject: str | None = None,
    public_key: bytes | None = None,
) -> datetime:
    """Add a key that is valid from now on; returns when it expires.

    With a `subject` it is a certificate with this name; with a `public_key` it requires signatures.
    """
    values = {"id": key_id, "digest": digest, "principal_id": principal, "days": days}
    values |= {"subject": subject, "public_key": public_key}
    expiry: datetime = connection.execute(_ADD_KEY, values).scalar_one()
    connection.execute(_NOTIFY)
    return expiry


def principal_of(connection: Connection, key_id: str) -> tuple[int, bytes | None] | None:
    """The principal of a key and its public key, or None if there is no such key. Locks the key."""
    row = connection.execute(_PRINCIPAL_OF, {"id": key_id}).one_or_none()
    return None if row is None else (row.principal_id, row.public_key)


def holder_of(connection: Connection, subject: str) -> tuple[str, int] | None:
    """The key and the principal of a name in certificates, unless it was revoked."""
    row = connection.execute(_CERTIFICATES, {"subject": subject}).one_or_none()
    return None if row is None else (row.id, row.principal_id)


def limits_of(connection: Connection, key_id: str) -> KeyLimits | None:
    """The limits of a key, or None if there is no such key. Locks the key."""
    row = connection.execute(_LIMITS_OF, {"id": key_id}).one_or_none()
    return None if row is None else KeyLimits(*row)


def limit(connection: Connection, key_id: str, limits: KeyLimits) -> None:
    """Set the limits of a key. Raises SQLAlchemy's IntegrityError if one is negative."""
    connection.execute(_LIMIT, {"id": key_id, **limits.given()})
    connection.execute(_NOTIFY)


def shorten(connection: Connection, key_id: str, hours: float) -> datetime:
    """Let a key expire after some hours, if it would not expire before; returns when it does."""
    expiry: datetime = connection.execute(_SHORTEN, {"id": key_id, "hours": hours}).scalar_one()
    connection.execute(_NOTIFY)
    return expiry


def revoke(connection: Connection, key_id: str) -> datetime | None:
    """Revoke a key for ever; returns when it was revoked, or None if there is no such key."""
    time: datetime | None = connection.scalar(_REVOKE, {"id": key_id})
    connection.execute(_NOTIFY)
    return time
