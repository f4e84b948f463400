"""`ledgerservice approvals`: which requests others have to approve, and what is decided on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.markup import escape
from sqlalchemy import Connection

from ledgerservice.cli.audit import note
from ledgerservice.cli.connection import DEFAULT_NAME, LedgerName, Url, ask, body_of
from ledgerservice.cli.data import check_schema
from ledgerservice.cli.output import AsJson, console, report
from ledgerservice.domain.amounts import is_amount
from ledgerservice.domain.rules.approvals import BOUNDED, MOST_APPROVALS, RULES, RuleRow
from ledgerservice.errors import RuleFault
from ledgerservice.postgres.access import rules as stored
from ledgerservice.postgres.access.principals import ledger_id
from ledgerservice.postgres.connections import explained
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What others have to approve: its rules, as the owner of the schema, and the decisions.",
)

Proposal = Annotated[int, typer.Argument(help="Id of the proposal.")]
Reason = Annotated[str, typer.Option(help="Why.")]
RuleName = Annotated[str, typer.Argument(help=f"The rule: {', '.join(RULES)}.")]


@app.command()
def rules(
    ledger: Annotated[str | None, typer.Argument(help="Name of the ledger. [all]")] = None,
    as_json: AsJson = False,
) -> None:
    """List the rules of LEDGER. Forced reversals need an approval without any rule."""
    with _owned() as connection:
        rows = stored.list_rules(connection, ledger)
    for name, rule, currency, bound, approvals in rows:
        side = "below" if rule == "floor" else "above"
        beyond = "" if bound is None else f" {side} {bound} {currency}"
        report(
            f"{name}: [bold]{rule}[/]{beyond}, approvals: {approvals}",
            as_json=as_json,
            ledger=name,
            rule=rule,
            currency=currency or None,
            bound=bound,
            approvals=approvals,
        )
    if not rows and not as_json:
        report("There are no rules.", as_json=False)


@app.command()
def require(
    ledger: Annotated[str, typer.Argument(help="Name of the ledger.")],
    rule: RuleName,
    bound: Annotated[
        str | None,
        typer.Option(help="For amount and floor: CURRENCY=LIMIT, such as EUR=1000.00."),
    ] = None,
    approvals: Annotated[
        int, typer.Option(min=1, max=MOST_APPROVALS, help="How many others have to approve.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Let others approve forced reversals, closing, unfreezing, floors below a bound, or amounts
    above one. Every process follows the rule within a second.
    """
    with _owned() as connection:
        row = _row(connection, ledger, rule, bound, approvals)
        stored.set_rule(connection, row)
        note(connection, "set_rule", f"{rule} {bound or ''} {approvals} on {ledger}")
    report(
        f"{escape(ledger)}: {' '.join(filter(None, (rule, bound)))} needs approvals: {approvals}",
        as_json=as_json,
        ledger=ledger,
        rule=rule,
        currency=row.currency or None,
        bound=row.bound,
        approvals=approvals,
    )


@app.command()
def lift(
    ledger: Annotated[str, typer.Argument(help="Name of the ledger.")],
    rule: RuleName,
    currency: Annotated[str, typer.Option(help="For amount and floor.")] = "",
    as_json: AsJson = False,
) -> None:
    """Remove a rule. What was proposed under it stays proposed."""
    with _owned() as connection:
        number = _ledger(connection, ledger)
        if not stored.lift_rule(connection, number, rule, currency):
            raise RuleFault(f"{ledger} has no such rule; see approvals rules.")
        note(connection, "lift_rule", f"{rule} {currency} on {ledger}")
    report(f"{escape(ledger)}: {rule} is lifted.", as_json=as_json, ledger=ledger, rule=rule)


@app.command("list")
def list_proposals(
    state: Annotated[str | None, typer.Option(help="Only proposals in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most proposals to print.")] = 100,
    url: Url = None,
    ledger: LedgerName = DEFAULT_NAME,
    as_json: AsJson = False,
) -> None:
    """List proposals, the latest first."""
    filters: dict[str, Any] = {"limit": limit} | ({} if state is None else {"state": state})
    answer = ask("GET", "/approvals", url, ledger, params=filters)
    for proposal in body_of(answer, as_json=as_json):
        _print(proposal)


@app.command()
def show(
    proposal: Proposal, url: Url = None, ledger: LedgerName = DEFAULT_NAME, as_json: AsJson = False
) -> None:
    """Print a proposal, what was decided on it, and what came of it."""
    answer = ask("GET", f"/approvals/{proposal}", url, ledger)
    _print_all(body_of(answer, as_json=as_json))


@app.command()
def approve(
    proposal: Proposal,
    reason: Reason,
    url: Url = None,
    ledger: LedgerName = DEFAULT_NAME,
    as_json: AsJson = False,
) -> None:
    """Approve a proposal of somebody else. With the last approval it is carried out."""
    _decide("approve", proposal, reason, url, ledger, as_json=as_json)


@app.command()
def reject(
    proposal: Proposal,
    reason: Reason,
    url: Url = None,
    ledger: LedgerName = DEFAULT_NAME,
    as_json: AsJson = False,
) -> None:
    """Reject a proposal of somebody else."""
    _decide("reject", proposal, reason, url, ledger, as_json=as_json)


@app.command()
def withdraw(
    proposal: Proposal,
    reason: Reason,
    url: Url = None,
    ledger: LedgerName = DEFAULT_NAME,
    as_json: AsJson = False,
) -> None:
    """Withdraw a proposal of one's own."""
    _decide("withdraw", proposal, reason, url, ledger, as_json=as_json)


def _decide(
    verdict: str, proposal: int, reason: str, url: str | None, ledger: str, *, as_json: bool
) -> None:
    path = f"/approvals/{proposal}/{verdict}"
    answer = ask("POST", path, url, ledger, json={"reason": reason})
    _print_all(body_of(answer, as_json=as_json))


def _print(proposal: Any) -> None:
    made = sum(one["verdict"] == "approve" for one in proposal["decisions"])
    console.print(
        f"{proposal['id']}  {proposal['state']}  {proposal['operation']} by principal "
        f"{proposal['proposed_by']}, {proposal['rule']}: {made} of {proposal['approvals']} "
        f"approvals, until {proposal['expires_at']}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _print_all(proposal: Any) -> None:
    _print(proposal)
    lines = [f"request: {proposal['request']}"]
    lines += [
        f"{one['verdict']} by principal {one['decided_by']} at {one['decided_at']}: {one['reason']}"
        for one in proposal["decisions"]
    ]
    execution = proposal["execution"]
    if execution is not None:
        lines.append(f"answer {execution['status']}: {execution['body']}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _owned() -> Iterator[Connection]:
    """A transaction of the schema's owner."""
    with opened_database(Settings.load(), create=False) as (database, _), explained():
        check_schema(database)
        with database.owner_engine().begin() as connection:
            yield connection


def _ledger(connection: Connection, name: str) -> int:
    number = ledger_id(connection, name)
    if number is None:
        raise RuleFault(f"There is no ledger {name!a}.")
    return number


def _row(
    connection: Connection, ledger: str, rule: str, bound: str | None, approvals: int
) -> RuleRow:
    """The rule as it is stored. Raises RuleFault."""
    if rule not in RULES:
        raise RuleFault(f"{rule!a} is not one of {', '.join(RULES)}.")
    if (rule in BOUNDED) != (bound is not None):
        raise RuleFault("amount and floor need --bound CURRENCY=LIMIT; other rules have none.")
    currency, _, limit = (bound or "").partition("=")
    digits = limit.removeprefix("-") if rule == "floor" else limit
    if bound is not None and not is_amount(digits):
        raise RuleFault(f"{bound!a} is not a valid bound, such as EUR=1000.00.")
    number = _ledger(connection, ledger)
    if bound is not None and not stored.is_currency(connection, number, currency):
        raise RuleFault(f"There is no currency {currency!a}.")
    return RuleRow(number, rule, currency, limit or None, approvals)
