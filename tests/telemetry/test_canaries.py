"""What callers write stands in no log, whatever fails, in any form of the log."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledgerservice.api.movements.examples import EXAMPLES
from ledgerservice.api.movements.forms import FORMS
from ledgerservice.postgres.connections import Database
from tests.databases import connect, url_text
from tests.processes import RunningService, serving

CANARY = "canary-7f3a"
AMOUNT, MINOR = "98765.43", "9876543"

QUOTING = """
CREATE FUNCTION ledger.broken() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN PERFORM NEW.description::pg_catalog.int4; RETURN NEW; END $$;
CREATE TRIGGER broken BEFORE INSERT ON ledger.details
FOR EACH ROW EXECUTE FUNCTION ledger.broken();
ALTER TABLE ledger.details ENABLE ALWAYS TRIGGER broken;
"""

# What is broken, and the fault that the log names all the same.
BROKEN = {
    "nothing": ("SELECT", "request"),
    "a row of a transaction": (
        f"ALTER TABLE ledger.transactions ADD CHECK (amount <> {MINOR}) NOT VALID",
        "transactions_amount_check",
    ),
    "a row of details": (
        "ALTER TABLE ledger.details ADD CONSTRAINT broken CHECK (description IS NULL) NOT VALID",
        "broken",
    ),
    "a row of an account": (
        "ALTER TABLE ledger.accounts ADD CONSTRAINT broken CHECK (owner = 'Alice') NOT VALID",
        "broken",
    ),
    "a value that the database quotes": (
        QUOTING,
        "invalid input syntax for type integer",
    ),
    "a column of reads": ("ALTER TABLE ledger.details RENAME metadata TO gone", "metadata"),
    "a table of reads": ("ALTER TABLE ledger.account_details RENAME TO gone", "account_details"),
    "a type of reads": (
        "ALTER TABLE ledger.account_details DROP COLUMN metadata, ADD COLUMN metadata integer",
        "metadata",
    ),
}


def with_canaries(value: Any) -> Any:
    """The value, with the canary in place of, or in, each text that is no amount or id."""
    if isinstance(value, dict):
        return {name: with_canaries(one) for name, one in value.items()}
    if isinstance(value, list):
        return [with_canaries(one) for one in value]
    return CANARY if isinstance(value, str) else value


def prepared(service: RunningService, account: int) -> dict[str, str]:
    """The paths of the instructions that are about a transaction, a hold or a schedule."""
    body = {"account_id": account, "amount": "1"}
    moved = service.post("/deposit/", {**body, "idempotency_key": "moved"}).json()
    held = service.post("/holds/", {**body, "idempotency_key": "held"}).json()
    transfer = {"from_account_id": account, "to_account_id": account + 1, "amount": "1"}
    late = {**transfer, "execute_at": "2099-01-01T00:00:00Z", "idempotency_key": "late"}
    scheduled = service.post("/transfer/", late).json()
    return {
        "reverse": f"/transactions/{moved['transaction_id']}/reverse",
        "hold": "/holds/",
        "capture": f"/holds/{held['hold_id']}/capture",
        "release": f"/holds/{held['hold_id']}/release",
        "cancel": f"/schedules/{scheduled['schedule_id']}/cancel",
        "transaction": "/transactions/",
        "policy": f"/accounts/{account}",
    }


def bodies(name: str, account: int) -> Iterator[dict[str, Any]]:
    """A valid body, then one for each field in which the field is the canary, and one of all."""
    form = FORMS[name]
    texts = {"description", "reference", "actor", "reason"} & set(form.model.model_fields)
    valid = {
        **next(iter(EXAMPLES[name].values())),
        **dict.fromkeys(texts, CANARY),
        "idempotency_key": f"{CANARY} {name}",
    }
    valid |= {n: account for n in ("account_id", "from_account_id") if n in form.model.model_fields}
    yield valid
    for field in form.model.model_fields:
        yield {**valid, "idempotency_key": f"{CANARY} {name} {field}", field: CANARY}
        yield {**valid, field: {CANARY: CANARY}}
    yield with_canaries(valid)
    yield {**valid, CANARY: CANARY}


def ask_with_instructions(service: RunningService, account: int, paths: dict[str, str]) -> None:
    """Every instruction with the canary in every field, alone and in a batch."""
    for name in FORMS:
        method = "PATCH" if name == "policy" else "POST"
        path = paths.get(name, f"/{name}/")
        for body in bodies(name, account):
            service.client.request(method, path, json=body)
        items = [{"type": name.upper(), **body} for body in bodies(name, account)]
        service.post("/batches/", {"movements": items})
        service.post("/batches/", {"movements": items, "mode": "atomic"})
        lines = b"".join(json.dumps(item).encode() + b"\n" for item in items)
        service.client.post(
            "/batches/", content=lines, headers={"content-type": "application/x-ndjson"}
        )


def ask_with_texts(service: RunningService, account: int) -> None:
    """Valid requests with the canary in each text, and the queries that look for it."""
    text = {"description": CANARY, "reference": CANARY, "metadata": {"a": CANARY}}
    body = {"account_id": account, "amount": AMOUNT, "idempotency_key": CANARY}
    service.post("/deposit/", body)
    service.post("/deposit/", {**body, **text, "idempotency_key": f"{CANARY} in detail"})
    service.post("/holds/", {**body, **text, "idempotency_key": f"{CANARY} held"})
    items = [{"type": "DEPOSIT", **body, "idempotency_key": f"{CANARY}{n}"} for n in range(600)]
    service.post("/batches/", {"movements": items})
    opening = {"owner": CANARY, "currency": "USD", "reference": CANARY}
    service.post("/accounts/", {**opening, "metadata": text["metadata"]})
    service.post("/accounts/batches", {"accounts": [opening, {**opening, "currency": CANARY}]})
    service.post("/currencies/", {"code": CANARY, "exponent": 2, "name": CANARY})
    service.post("/webhooks/", {"url": f"https://user:{CANARY}@example.com/{CANARY}"})
    service.client.patch(
        f"/accounts/{account}", json={**body, "actor": CANARY, "reason": CANARY, "floor": "-1"}
    )
    for query in (
        {"metadata": f'{{"a":"{CANARY}"}}'},
        {"reference": CANARY},
        {"owner": CANARY},
        {"idempotency_key": CANARY},
        {"cursor": CANARY},
        {CANARY: CANARY},
    ):
        service.client.get("/transactions", params=query)
        service.client.get("/accounts", params=query)
    service.get(f"/accounts/{account}/keys/{CANARY}")
    service.get(f"/{CANARY}")
    service.get(f"/ledgers/{CANARY}/accounts/1")


def ask_wrongly(service: RunningService, account: int) -> None:
    """Requests that are refused before a model sees them, with the canary in heads and bodies."""
    headers = {
        "authorization": f"Bearer {CANARY}",
        "x-request-id": f"{CANARY} {CANARY}",
        "idempotency-key": CANARY,
        "traceparent": CANARY,
        "cookie": CANARY,
    }
    for content in (CANARY, f'{{"a":"{CANARY}"', f'"{CANARY}"', CANARY * 20_000):
        for kind in ("application/json", "application/x-ndjson", f"text/{CANARY}"):
            service.client.post(
                "/deposit/", content=content, headers={**headers, "content-type": kind}
            )
    service.client.request(CANARY.upper(), f"/accounts/{account}", headers=headers)
    service.client.get("/accounts/1", headers={"host": CANARY})
    host, _, port = service.base.removeprefix("http://").partition(":")
    for head in (f"GET /{CANARY}", f"{CANARY}\r\n\r\n", f"GET / HTTP/1.1\r\n{CANARY}\r\n\r\n"):
        with socket.create_connection((host, int(port)), 5) as connection:
            connection.sendall(head.encode())


@pytest.mark.parametrize("form", [pytest.param("text", marks=pytest.mark.thorough), "json"])
@pytest.mark.parametrize("case", BROKEN)
def test_no_text_of_a_caller_s_is_logged(
    new_database: Callable[..., Database], case: str, form: str, tmp_path: Path
) -> None:
    database, log = new_database(), tmp_path / "log"
    statement, named = BROKEN[case]
    values = {
        "DATABASE_URL": url_text(database),
        "LEDGER_REQUEST_DEADLINE_S": "1",
        "LEDGER_LOG_FORMAT": form,
        "LEDGER_LOG_REQUESTS": "all",
    }
    with serving(LOGGED_TO=str(log), **values) as service:
        account = service.open(balance="100")
        service.open("Bob")
        paths = prepared(service, account)
        with connect(database) as owner:
            owner.execute(statement)
        ask_with_texts(service, account)
        ask_with_instructions(service, account, paths)
        ask_wrongly(service, account)
    logged = log.read_text()
    assert named in logged
    assert logged.count("request") > 100
    assert CANARY not in logged.lower()
    assert AMOUNT not in logged
    assert MINOR not in logged
