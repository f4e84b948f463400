"""The valid keys with their grants, as every process reads them, and the days of their use."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import text

from ledgerservice.postgres.access.limits import KeyLimits
from ledgerservice.postgres.pipeline import Request, Rows
from ledgerservice.postgres.reader import Reader

CHANNEL = "ledger_access"
"""What a process listens on; whoever writes the tables notifies it."""

MAX_OWNED = 1_000
"""The accounts of an owner that a grant covers: the first ones. They are read every second."""

LISTEN = Request(f"LISTEN {CHANNEL}")

# Whether a key is valid is decided by the clock of the database alone. The first column says
# whether there is a key at all; a service with keys stays closed when the last one has ended.


def account_columns(grant: str, ids: str) -> str:
    """Two columns: the currencies of the accounts `ids` of a grant's ledger, and of those of its
    owner, each as an object by id; NULL if there are none.
    """
    return f"""(
           SELECT json_object_agg(n.id, a.currency)
           FROM (SELECT DISTINCT unnest({ids}) AS id) n
           CROSS JOIN LATERAL (
               SELECT currency FROM ledger.accounts
               WHERE ledger_id = {grant}.ledger_id AND id BETWEEN n.id AND n.id
               ORDER BY id LIMIT 1) a), (
           SELECT json_object_agg(a.id, a.currency)
           FROM (
               SELECT id, currency FROM ledger.accounts
               WHERE ledger_id = {grant}.ledger_id AND owner = {grant}.owner AND id > 0
               ORDER BY owner, id LIMIT {MAX_OWNED}) a)"""


READ_CALLERS = Request(
    f"""
SELECT EXISTS (SELECT FROM ledger.api_keys), k.digest, k.id, k.principal_id, g.ledger_id, l.name,
       g.scopes, k.subject, k.public_key, g.accounts, g.debit_from, g.credit_to, g.max_amounts,
       {account_columns("g", "g.accounts || g.debit_from || g.credit_to")}, g.owner,
       k.rate, k.burst, k.queue_share, k.streams, k.body_bytes_s
FROM (SELECT) one
LEFT JOIN (
    ledger.api_keys k
    JOIN ledger.principals p ON p.id = k.principal_id AND p.disabled_at IS NULL
    LEFT JOIN (
        SELECT id, principal_id, ledger_id, scopes, NULL AS owner, NULL::bigint[] AS accounts,
               NULL::bigint[] AS debit_from, NULL::bigint[] AS credit_to, NULL::json AS max_amounts
        FROM ledger.grants
        UNION ALL
        SELECT id, principal_id, ledger_id, scopes, owner, accounts, debit_from, credit_to,
               max_amounts
        FROM ledger.account_grants
    ) g ON g.principal_id = k.principal_id
    LEFT JOIN ledger.ledgers l ON l.ledger_id = g.ledger_id
) ON k.revoked_at IS NULL AND k.not_before <= clock_timestamp() AND k.expires_at > clock_timestamp()
ORDER BY k.id, g.id
"""
)

WRITE_USES = """
INSERT INTO ledger.key_uses (key_id, day)
SELECT id, (clock_timestamp() AT TIME ZONE 'UTC')::date
FROM ledger.api_keys WHERE id = ANY ($1::text[])
ON CONFLICT DO NOTHING
"""


class CallerRow(msgspec.Struct, frozen=True):
    """A valid key, with a grant of its principal, if it has one.

    `currencies` are those of the accounts that the grant names, by their ids, `owned` those of the
    accounts of its owner. Without `debit_from` or `credit_to` they are those that are shown.
    """

    digest: bytes
    key_id: str
    principal_id: int
    ledger_id: int | None
    ledger: str | None
    scopes: int | None
    subject: str | None
    public_key: bytes | None
    accounts: list[int] | None
    debit_from: list[int] | None
    credit_to: list[int] | None
    max_amounts: dict[str, str] | None
    currencies: dict[str, str] | None
    owned: dict[str, str] | None
    owner: str | None
    limits: KeyLimits

    def limited(self) -> "Limited | None":
        """What its grant is limited to; None: to a whole ledger, or to nothing."""
        if self.ledger_id is None or self.accounts is None:
            return None
        ids = {*self.accounts, *(self.debit_from or ()), *(self.credit_to or ())}
        return Limited(self.ledger_id, tuple(sorted(ids)), self.owner)


class Limited(NamedTuple):
    """The accounts that a grant names, and the owner of all others that it covers."""

    ledger_id: int
    accounts: tuple[int, ...]
    owner: str | None


Names = tuple[dict[str, str] | None, dict[str, str] | None]
"""The currencies of the accounts that a grant names, and of those of its owner, by their ids."""
NOT_FOUND: Names = (None, None)
"""They are not known yet."""


# What READ_CALLERS reads where the ledgers are on main.
FIND_LIMITED = text(f"""
SELECT {account_columns("g", "g.accounts")}
FROM json_to_recordset(CAST(:grants AS json))
    AS g (place integer, ledger_id integer, accounts bigint[], owner text)
ORDER BY g.place
""")


async def find_limited(reader: Reader, grants: Sequence[Limited]) -> list[Names]:
    """Of each grant the currencies of its accounts and those of its owner's, on a shard."""
    listed = [{"place": place, **one._asdict()} for place, one in enumerate(grants)]
    content = msgspec.json.encode(listed).decode()
    rows: list[Any] = await reader.rows(FIND_LIMITED, grants=content)
    return [(row[0], row[1]) for row in rows]


def callers_of(rows: Rows) -> tuple[bool, list[CallerRow]]:
    """Whether there are keys at all, and the valid ones, of the rows of READ_CALLERS."""
    valid = [_row(*row[1:16], KeyLimits(*row[16:])) for row in rows if row[1] is not None]
    return bool(rows[0][0]), valid


def _row(digest: bytes, *values: Any) -> CallerRow:
    return CallerRow(bytes(digest), *values)
