"""Keys that expire soon, as the service reports them: never more of a key than its id."""

from collections.abc import Collection
from datetime import datetime

import msgspec
from sqlalchemy import text

from ledgerservice.postgres.queries.structs import find_all
from ledgerservice.postgres.reader import Reader

SOON_DAYS = 30
MOST_ROWS = 100


class ExpiringKey(msgspec.Struct, frozen=True):
    """A valid key, and when it expires."""

    id: str
    expires_at: datetime


_SOON = f"""
SELECT k.id, k.expires_at FROM ledger.api_keys k
JOIN ledger.principals p ON p.id = k.principal_id
WHERE k.revoked_at IS NULL AND p.disabled_at IS NULL AND k.expires_at > clock_timestamp()
  AND k.expires_at <= clock_timestamp() + interval '{SOON_DAYS} days'
"""
_IN_ORDER = f"ORDER BY k.expires_at, k.id LIMIT {MOST_ROWS}"
LIST_ALL = text(f"{_SOON} {_IN_ORDER}")
LIST_OF_LEDGERS = text(f"""
{_SOON} AND k.principal_id IN (
    SELECT principal_id FROM ledger.grants WHERE ledger_id = ANY (CAST(:ledgers AS integer[]))
    UNION ALL
    SELECT principal_id FROM ledger.account_grants
    WHERE ledger_id = ANY (CAST(:ledgers AS integer[])))
{_IN_ORDER}
""")


async def list_expiring(reader: Reader, ledgers: Collection[int] | None) -> list[ExpiringKey]:
    """The keys that expire within SOON_DAYS, MOST_ROWS at most: all, or those with a grant on one
    of these ledgers.
    """
    if ledgers is None:
        return await find_all(reader, ExpiringKey, LIST_ALL)
    return await find_all(reader, ExpiringKey, LIST_OF_LEDGERS, ledgers=list(ledgers))
