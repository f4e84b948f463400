"""What callers write stands in no log, whatever fails."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ledgerservice.postgres.connections import Database
from tests.databases import connect, url_text
from tests.processes import RunningService, serving

CANARY = "canary-7f3a"

# What is broken, and the fault that the log names all the same.
BROKEN = {
    "a row of a transaction": (
        "ALTER TABLE ledger.transactions ADD CONSTRAINT broken CHECK (amount <> 77700) NOT VALID",
        "broken",
    ),
    "a row of details": (
        "ALTER TABLE ledger.details ADD CONSTRAINT broken CHECK (description IS NULL) NOT VALID",
        "broken",
    ),
    "a row of an account": (
        "ALTER TABLE ledger.accounts ADD CONSTRAINT broken CHECK (owner = 'Alice') NOT VALID",
        "broken",
    ),
    "a column of reads": ("ALTER TABLE ledger.details RENAME metadata TO gone", "metadata"),
    "a table of reads": ("ALTER TABLE ledger.account_details RENAME TO gone", "account_details"),
    "a type of reads": (
        "ALTER TABLE ledger.account_details DROP COLUMN metadata, ADD COLUMN metadata integer",
        "metadata",
    ),
}


def ask(service: RunningService, account: int) -> None:
    """Every request that carries a text of the caller's, on every path."""
    text = {"description": CANARY, "reference": CANARY, "metadata": {"a": CANARY}}
    body = {"account_id": account, "amount": "777", "idempotency_key": CANARY}
    service.post("/deposit/", body)
    service.post("/deposit/", {**body, **text, "idempotency_key": f"{CANARY} in detail"})
    service.post("/holds/", {**body, **text, "idempotency_key": f"{CANARY} held"})
    items = [{"type": "DEPOSIT", **body, "idempotency_key": f"{CANARY}{n}"} for n in range(600)]
    service.post("/batches/", {"movements": items})
    opening = {"owner": CANARY, "currency": "USD", "reference": CANARY}
    service.post("/accounts/", {**opening, "metadata": text["metadata"]})
    service.client.patch(
        f"/accounts/{account}", json={**body, "actor": CANARY, "reason": CANARY, "floor": "-1"}
    )
    for query in (
        {"metadata": f'{{"a":"{CANARY}"}}'},
        {"reference": CANARY},
        {"owner": CANARY},
        {"idempotency_key": CANARY},
    ):
        service.client.get("/transactions", params=query)
        service.client.get("/accounts", params=query)
    service.get(f"/accounts/{account}/keys/{CANARY}")


@pytest.mark.parametrize("case", BROKEN)
def test_no_text_of_a_caller_s_is_logged(
    new_database: Callable[..., Database], case: str, tmp_path: Path
) -> None:
    database, log = new_database(), tmp_path / "log"
    statement, named = BROKEN[case]
    values = {"DATABASE_URL": url_text(database), "LEDGER_REQUEST_DEADLINE_S": "1"}
    with serving(LOGGED_TO=str(log), **values) as service:
        account = service.open()
        with connect(database) as owner:
            owner.execute(statement)
        ask(service, account)
    logged = log.read_text()
    assert named in logged
    assert CANARY not in logged
    assert "777" not in logged
