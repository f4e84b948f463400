"""The statements of a move, but for those that copy rows."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import TextClause, text

from ledgerservice.postgres.epochs import FIND_EPOCH

NO_END = 2**63 - 1
"""The end of what arrives, while it arrives: nothing of the ledger is published."""

FIND_LEDGER = text("SELECT * FROM ledger.ledgers WHERE ledger_id = :ledger")
LIST_UNITS = text("SELECT * FROM ledger.currencies WHERE ledger_id = :ledger ORDER BY number")


def adding(table: str, row: Mapping[str, Any]) -> TextClause:
    """The statement that adds a row as it is. The directory has the ledgers, and their units: main
    may have the row already, with a change_id of its own.
    """
    names = ", ".join(row)
    values = ", ".join(f":{name}" for name in row)
    return text(f"INSERT INTO ledger.{table} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING")


# Of a currency that the source does not have yet.
OPEN_EXTERNALS = text("""
INSERT INTO ledger.accounts (ledger_id, id, owner, currency, floor)
SELECT :ledger, -c.number, 'external', c.code, NULL FROM ledger.currencies c
WHERE c.ledger_id IS NULL OR c.ledger_id = :ledger
ON CONFLICT DO NOTHING
""")
HAS_ACCOUNTS = text("SELECT EXISTS (SELECT FROM ledger.accounts WHERE ledger_id = :ledger)")
LAST_TRANSACTION = text("""
SELECT coalesce(max(id), 0) FROM ledger.transactions WHERE ledger_id = :ledger
""")
LAST_ID = text("""
SELECT coalesce(greatest(
    (SELECT max(id) FROM ledger.transactions WHERE ledger_id = :ledger),
    (SELECT max(change_id) FROM ledger.accounts WHERE ledger_id = :ledger AND id > 0)), 0)
""")
NEXT_END = text("""
SELECT id FROM ledger.transactions WHERE ledger_id = :ledger AND id > :after AND id <= :until
ORDER BY id OFFSET :rows LIMIT 1
""")
ADD_ARRIVAL = text(f"""
INSERT INTO ledger.arrivals (ledger_id, after_id, last_id, epoch)
VALUES (:ledger, :after, {NO_END}, :epoch)
ON CONFLICT (ledger_id, last_id) DO UPDATE SET epoch = excluded.epoch
""")
END_ARRIVAL = text(f"""
UPDATE ledger.arrivals SET last_id = :last WHERE ledger_id = :ledger AND last_id = {NO_END}
""")
FORGET_ARRIVAL = text(f"""
DELETE FROM ledger.arrivals WHERE ledger_id = :ledger AND last_id = {NO_END}
RETURNING after_id, epoch
""")
# It was here: what has published it here, does not know what was recorded elsewhere.
KEEP_STAY = text("""
INSERT INTO ledger.arrivals (ledger_id, after_id, last_id, epoch)
SELECT :ledger, :after, :after, :epoch WHERE :after > 0 ON CONFLICT DO NOTHING
""")
FIND_PLACE = text(FIND_EPOCH)
LATE_WEBHOOKS = text("""
SELECT EXISTS (SELECT FROM ledger.webhooks
               WHERE ledger_id = :ledger AND state = 'active' AND position < :last)
""")
SEQUENCES = ("transaction_id", "account_id", "webhook_id", "webhook_delivery_id")
USED = text("""
SELECT coalesce(greatest(
           (SELECT max(id) FROM ledger.transactions WHERE ledger_id = :ledger),
           (SELECT max(change_id) FROM ledger.accounts WHERE ledger_id = :ledger AND id > 0),
           (SELECT max(change_id) FROM ledger.currencies WHERE ledger_id = :ledger)), 0),
       (SELECT coalesce(max(id), 0) FROM ledger.accounts WHERE ledger_id = :ledger),
       (SELECT coalesce(max(id), 0) FROM ledger.webhooks WHERE ledger_id = :ledger),
       (SELECT coalesce(max(id), 0) FROM ledger.webhook_deliveries WHERE ledger_id = :ledger)
""")
"""The largest id of a ledger out of each of SEQUENCES."""
LAST_VALUES = text(
    "SELECT " + ", ".join(f"(SELECT last_value FROM ledger.{name})" for name in SEQUENCES)
)
LEASE = text("SELECT ledger.lease_chunk(:shard, :sequence)")
TAKE = text("SELECT ledger.take_chunk(:sequence, :chunk)")
SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
ANALYZED = ("transactions", "entries", "details", "accounts")
