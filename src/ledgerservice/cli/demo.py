"""`ledgerservice demo`: two accounts with four movements, or a marketplace's month."""

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ledgerservice.cli.marketplace.month import is_empty, make_month
from ledgerservice.cli.output import AsJson, console, report
from ledgerservice.domain.accounts import Opened
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.instructions import Movement
from ledgerservice.domain.transactions import Recorded
from ledgerservice.ledger import Ledger, deposit, transfer, withdrawal

Month = Annotated[
    bool,
    typer.Option("--month", help="Fill a ledger of its own with a marketplace's last 30 days."),
]
Seed = Annotated[int, typer.Option(help="With --month: the same seed makes the same month.")]
MonthLedger = Annotated[
    str, typer.Option("--ledger", help="With --month: name of the ledger, which must be empty.")
]


def demo(
    month: Month = False,
    seed: Seed = 1,
    ledger: MonthLedger = "marketplace",
    as_json: AsJson = False,
) -> None:
    """Open two accounts, move money between them, and print balances and histories."""
    console.quiet = as_json
    if month:
        asyncio.run(_month(ledger, seed, as_json=as_json))
        return
    accounts = asyncio.run(_demo())
    if as_json:
        report("", as_json=True, accounts=accounts)


async def _month(name: str, seed: int, *, as_json: bool) -> None:
    """Make the month, unless the ledger has accounts already."""
    async with Ledger.open() as default:
        ledger = await default.add_ledger(name)
        added = await is_empty(ledger)
        accounts = await make_month(ledger, seed, datetime.now(UTC)) if added else 0
    text = (
        f"The ledger [bold]{escape(name)}[/] has a marketplace's month now: {accounts} accounts."
        if added
        else f"The ledger [bold]{escape(name)}[/] has accounts already, so nothing was added. "
        "--ledger NAME makes the month in another one."
    )
    report(text, as_json=as_json, ledger=name, seed=seed, added=added, accounts=accounts)


async def _demo() -> list[int]:
    """The ids of the two accounts."""
    async with Ledger.open() as ledger:
        alice, bob = [await _open(ledger, name) for name in ("Alice", "Bob")]
        for movement in (
            deposit(alice, "100.00", uuid.uuid4().hex),
            transfer(alice, bob, "50.00", uuid.uuid4().hex),
            withdrawal(bob, "20.00", uuid.uuid4().hex),
            transfer(bob, alice, "1000.00", uuid.uuid4().hex),
        ):
            await _move(ledger, movement)
        for account in (alice, bob):
            await _show(ledger, account)
    return [alice, bob]


async def _open(ledger: Ledger, owner: str) -> int:
    opened = await ledger.open_account(owner, "USD", key=f"demo-{uuid.uuid4()}")
    assert isinstance(opened, Opened)
    console.print(f"[cyan]{owner}[/] has account [bold]{opened.account_id}[/], in USD")
    return opened.account_id


async def _move(ledger: Ledger, movement: Movement) -> None:
    [outcome] = await ledger.post([movement])
    assert isinstance(outcome, Recorded)
    refusal = outcome.transaction.refusal
    result = "[green]posted[/]" if refusal is None else f"[red]declined: {refusal.reason}[/]"
    to = f" to {movement.counterparty_id}" if movement.counterparty_id else ""
    console.print(
        f"{movement.kind.name.capitalize():<10} {movement.amount:>8} USD, "
        f"account {movement.account_id}{to}: {result}"
    )


async def _show(ledger: Ledger, account_id: int) -> None:
    account = await ledger.account(account_id)
    assert account is not None
    table = Table("version", "type", "amount", "balance", title=f"{account.owner}'s history")
    for entry in await ledger.history(account_id, 10):
        colour = "red" if entry.amount < 0 else "green"
        table.add_row(
            str(entry.version),
            entry.kind.name.lower(),
            f"[{colour}]{to_major(entry.amount, entry.exponent)}[/]",
            to_major(entry.balance, entry.exponent),
        )
    console.print(table)
    balance = to_major(account.balance, account.exponent)
    console.print(f"{account.owner}'s balance: [bold]{balance} {account.currency}[/]")
