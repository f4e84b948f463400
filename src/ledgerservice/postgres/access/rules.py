"""The rules of approvals: as every process reads them, and as the schema's owner writes them."""

from sqlalchemy import Connection, text

from ledgerservice.domain.rules.approvals import RuleRow
from ledgerservice.postgres.access.callers import CHANNEL
from ledgerservice.postgres.pipeline import Request

READ_RULES = Request(
    "SELECT ledger_id, rule, currency, bound, approvals FROM ledger.approval_rules"
)

_SET = text(
    """
INSERT INTO ledger.approval_rules (ledger_id, rule, currency, bound, approvals)
VALUES (:ledger_id, :rule, :currency, :bound, :approvals)
ON CONFLICT (ledger_id, rule, currency) DO UPDATE
SET bound = excluded.bound, approvals = excluded.approvals
"""
)
_LIFT = text(
    "DELETE FROM ledger.approval_rules"
    " WHERE ledger_id = :ledger_id AND rule = :rule AND currency = :currency RETURNING rule"
)
_LIST = text(
    """
SELECT l.name, r.rule, r.currency, r.bound, r.approvals
FROM ledger.approval_rules r JOIN ledger.ledgers l USING (ledger_id)
WHERE CAST(:ledger AS text) IS NULL OR l.name = :ledger
ORDER BY l.name, r.rule, r.currency
"""
)
_CURRENCY = text(
    "SELECT EXISTS (SELECT FROM ledger.currencies"
    " WHERE code = :code AND (ledger_id IS NULL OR ledger_id = :ledger_id))"
)
_NOTIFY = text(f"SELECT pg_notify('{CHANNEL}', '')")


def set_rule(connection: Connection, rule: RuleRow) -> None:
    """Add a rule, or replace the one of the same name and currency."""
    connection.execute(_SET, rule._asdict())
    connection.execute(_NOTIFY)


def lift_rule(connection: Connection, ledger_id: int, rule: str, currency: str) -> bool:
    """Remove a rule; False if there is none."""
    values = {"ledger_id": ledger_id, "rule": rule, "currency": currency}
    lifted = connection.scalar(_LIFT, values) is not None
    connection.execute(_NOTIFY)
    return lifted


def list_rules(
    connection: Connection, ledger: str | None
) -> list[tuple[str, str, str, str | None, int]]:
    """The rules of a ledger, or of all: ledger's name, rule, currency, bound, approvals."""
    return [tuple(row) for row in connection.execute(_LIST, {"ledger": ledger})]


def is_currency(connection: Connection, ledger_id: int, code: str) -> bool:
    """Whether a ledger has a currency with this code."""
    return bool(connection.scalar(_CURRENCY, {"ledger_id": ledger_id, "code": code}))
