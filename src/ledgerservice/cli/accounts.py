"""The commands on accounts: list, balance, statement, transfer, and the outcome of a key."""

import sys
import uuid
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.table import Table

from ledgerservice.cli.connection import DEFAULT_NAME, LedgerName, Url, ask, body_of
from ledgerservice.cli.output import AsJson, console

AccountId = Annotated[int, typer.Argument(help="Id of the account.")]


Zone = Annotated[
    str | None, typer.Option(help="Zone of days, months and years, such as Asia/Kolkata.")
]


class TimeOf(StrEnum):
    """Which time of an entry puts it into a statement."""

    RECORDED = "recorded"
    EFFECTIVE = "effective"


class StatementFormat(StrEnum):
    """The forms of a statement."""

    CSV = "csv"
    JSON = "json"
    HTML = "html"


def accounts(
    owner: Annotated[str | None, typer.Option(help="Only accounts of this owner.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most accounts to print.")] = 100,
    url: Url = None,
    ledger: LedgerName = DEFAULT_NAME,
    as_json: AsJson = False,
) -> None:
    """List accounts with their balances."""
    filters = {"limit": limit} | ({} if owner is None else {"owner": owner})
    rows = body_of(ask("GET", "/accounts/", url, ledger, params=filters), as_json=as_json)
    table = Table("id", "owner", "balance", "held", "available", "currency", "status", box=None)
    for row in rows:
        table.add_row(*(escape(str(row[column.header])) for column in table.columns))
    console.print(table)


def balance(
    account: AccountId,
    as_of: Annotated[
        str | None,
        typer.Option(help="Time, such as 2026-03-01T00:00:00Z, or the end of a day or month."),
    ] = None,
    timezone: Zone = None,
    url: Url = None,
    ledger: LedgerName = DEFAULT_NAME,
    as_json: AsJson = False,
) -> None:
    """Print the balance of an account, as it stands or as of a time."""
    times = {"as_of": as_of, "timezone": timezone}
    parameters = {name: time for name, time in times.items() if time is not None}
    answer = ask("GET", f"/accounts/{account}", url, ledger, params=parameters)
    body = body_of(answer, as_json=as_json)
    console.print(
        f"{body['balance']} {body['currency']}, held {body['held']}, available "
        f"{body['available']}, version {body['version']}",
        highlight=False,
    )


def statement(
    account: AccountId,
    since: Annotated[
        str | None,
        typer.Option("--from", help="First time, such as 2026-03 or 2026-03-01T00:00:00Z."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="End: before a time, or with a day or month.")
    ] = None,
    by: Annotated[
        TimeOf, typer.Option(help="Whether an entry counts when recorded, or when it takes effect.")
    ] = TimeOf.RECORDED,
    timezone: Zone = None,
    form: Annotated[
        StatementFormat, typer.Option("--format", help="Format of the statement.")
    ] = StatementFormat.CSV,
    url: Url = None,
    ledger: LedgerName = DEFAULT_NAME,
    as_json: AsJson = False,
) -> None:
    """Print the statement of an account. As JSON it is the first page, of 1,000 entries."""
    form = StatementFormat.JSON if as_json else form
    times = {"from": since, "to": until, "timezone": timezone}
    parameters: dict[str, Any] = {name: time for name, time in times.items() if time is not None}
    parameters |= {} if by is TimeOf.RECORDED else {"by": str(by)}
    parameters |= {"limit": 1000} if form is StatementFormat.JSON else {"format": str(form)}
    answer = ask("GET", f"/accounts/{account}/statement", url, ledger, params=parameters)
    if form is StatementFormat.JSON or not answer.is_success:
        body_of(answer, as_json=form is StatementFormat.JSON)
    sys.stdout.write(answer.text)


def transfer(
    from_account: Annotated[int, typer.Argument(help="Id of the account that pays.")],
    to_account: Annotated[int, typer.Argument(help="Id of the account that receives.")],
    amount: Annotated[str, typer.Argument(help="Amount in major units, such as 50.00.")],
    key: Annotated[
        str | None,
        typer.Option(help="Idempotency key: a repeat with it moves nothing. [a new one, printed]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    url: Url = None,
    ledger: LedgerName = DEFAULT_NAME,
    as_json: AsJson = False,
) -> None:
    """Transfer an amount between two accounts."""
    key = key or uuid.uuid4().hex
    # Before the request: whoever interrupts it knows the key with which to send it again.
    print(f"idempotency key: {key}", file=sys.stderr, flush=True)
    request = {
        "from_account_id": from_account,
        "to_account_id": to_account,
        "amount": amount,
        "idempotency_key": key,
    }
    parameters = {"dry_run": "true"} if dry_run else {}
    answer = ask("POST", "/transfer/", url, ledger, params=parameters, json=request)
    body = body_of(answer, as_json=as_json)
    console.print(
        f"{body['status']}: {body['amount']} {body['currency']}, transaction "
        f"{body['transaction_id']}, new balance {body['sender_new_balance']}",
        highlight=False,
    )


def key(
    account: AccountId,
    key: Annotated[str, typer.Argument(help="Idempotency key of a request.")],
    url: Url = None,
    ledger: LedgerName = DEFAULT_NAME,
    as_json: AsJson = False,
) -> None:
    """Print what became of a request, by the account and the idempotency key."""
    path = f"/accounts/{account}/keys/{quote(key, safe='')}"
    body = body_of(ask("GET", path, url, ledger), as_json=as_json)
    for name in ("transaction_id", "transaction_type", "status", "amount", "currency"):
        console.print(f"{name}: {body.get(name)}", highlight=False, markup=False)
