"""`ledgerservice demo`: two accounts, four movements, balances and a history."""

import asyncio
import uuid

from rich.table import Table

from ledgerservice.cli.output import AsJson, console, report
from ledgerservice.domain.accounts import Opened
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.instructions import Movement
from ledgerservice.domain.transactions import Recorded
from ledgerservice.ledger import Ledger, deposit, transfer, withdrawal


def demo(as_json: AsJson = False) -> None:
    """Open two accounts, move money between them, and print balances and histories."""
    console.quiet = as_json
    accounts = asyncio.run(_demo())
    if as_json:
        report("", as_json=True, accounts=accounts)


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
