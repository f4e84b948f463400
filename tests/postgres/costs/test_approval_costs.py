"""The cost of the sweep of approvals: what is waiting, however much was proposed before."""

import json
from typing import Any

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.queries.approvals import LIST_WAITING
from tests.databases import connect
from tests.postgres.costs.rows import fill

PROPOSALS = 30_000
BLOCKS = 10
DUE = PROPOSALS + 1
# A third of them has expired, a third was rejected, and a third carried out.
PAST = f"""
INSERT INTO ledger.proposals (ledger_id, id, proposed_by, proposed_at, expires_at, rule, approvals,
                              operation, scope_id, idempotency_key, body, digest)
SELECT 1, n, 1, now() - interval '2 days', now() - interval '1 day', 'amount', 1, 'deposit', 1,
       n::text, '{{}}', sha256('x') FROM generate_series(1, {PROPOSALS}) n;
INSERT INTO ledger.decisions (ledger_id, proposal_id, proposed_by, decided_by, verdict, reason)
SELECT 1, id, 1, 2, CASE id % 3 WHEN 1 THEN 'reject' ELSE 'approve' END, 'r'
FROM ledger.proposals WHERE id % 3 <> 0;
INSERT INTO ledger.executions (ledger_id, proposal_id, status)
SELECT 1, id, 200 FROM ledger.proposals WHERE id % 3 = 2;
ANALYZE ledger.proposals;
ANALYZE ledger.decisions;
ANALYZE ledger.executions
"""
NEW = f"""
INSERT INTO ledger.proposals (ledger_id, id, proposed_by, expires_at, rule, approvals, operation,
                              scope_id, idempotency_key, body, digest)
VALUES (1, {DUE}, 1, now() + interval '1 day', 'amount', 2, 'deposit', 1, 'n', '{{}}', sha256('x'))
"""
DECIDE = """
INSERT INTO ledger.decisions (ledger_id, proposal_id, proposed_by, decided_by, verdict, reason)
VALUES (1, %s, 1, %s, 'approve', 'r')
"""
CLAIM = "INSERT INTO ledger.executions (ledger_id, proposal_id) VALUES (1, %s)"
FINISH = "UPDATE ledger.executions SET status = 400 WHERE proposal_id = %s"


LISTED = str(LIST_WAITING)
for _name, _value in (
    *((":since_ledger", "0"), (":since_proposal", "0")),
    *((":since", "'-infinity'"), (":rows", "100")),
):
    LISTED = LISTED.replace(_name, _value)


def waiting(owner: Any) -> list[Any]:
    return [row[:2] for row in owner.execute(LISTED)]


def blocks_of(owner: Any) -> int:
    """The blocks that the list reads."""
    [(plans,)] = owner.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {LISTED}")
    plan = plans[0]["Plan"]
    assert json.dumps(plan).count("Relation Name") == 1
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_what_has_ended_is_not_read(database: Database) -> None:
    fill(database, PAST)
    with connect(database) as owner:
        assert waiting(owner) == []
        owner.execute(NEW)
        for decider, due in ((2, []), (3, [(1, DUE)])):
            owner.execute(DECIDE, (DUE, decider))
            assert waiting(owner) == due
        assert blocks_of(owner) <= BLOCKS
        owner.execute(CLAIM, (DUE,))
        assert waiting(owner) == [(1, DUE)]  # whoever carries it out may die
        owner.execute(FINISH, (DUE,))
        assert waiting(owner) == []
