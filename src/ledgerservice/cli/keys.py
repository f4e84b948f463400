"""`ledgerservice keys`: make, list, rotate and revoke keys, as the owner of the schema."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from sqlalchemy import Connection

from ledgerservice.access import certificates, keys
from ledgerservice.access.grants import is_principal_name
from ledgerservice.access.keys import NewKey
from ledgerservice.access.scopes import NAMES, SETS, Scope, names_of
from ledgerservice.access.signatures import public_key_of
from ledgerservice.cli.audit import note
from ledgerservice.cli.data import check_schema
from ledgerservice.cli.output import AsJson, report
from ledgerservice.domain.amounts import is_positive_amount
from ledgerservice.errors import KeyFault
from ledgerservice.postgres.access import principals
from ledgerservice.postgres.access.limits import KeyLimits
from ledgerservice.postgres.access.people import list_people
from ledgerservice.postgres.access.principals import GrantedAccounts, GrantView, KeyView
from ledgerservice.postgres.connections import explained
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.postgres.sharding.databases import home_of
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings

DEFAULT_DAYS, MOST_DAYS = 90, 365

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make, list, rotate and revoke keys of the API, as the owner of the schema.",
)

Roles = Annotated[list[str] | None, typer.Option(help=f"A set of scopes: {', '.join(SETS)}.")]
Scopes = Annotated[list[str] | None, typer.Option(help=f"A scope: {', '.join(NAMES)}.")]
Ledgers = Annotated[
    list[str] | None, typer.Option(help="A ledger that it may use. [all, also later ones]")
]
IsPerson = Annotated[bool, typer.Option("--person", help="A person, not a service.")]
SignedWith = Annotated[
    Path | None,
    typer.Option(help="Public key (Ed25519, PEM) that must have signed each of its requests."),
]
Days = Annotated[
    int, typer.Option(min=1, max=MOST_DAYS, help="Days for which the new key is valid.")
]

Accounts = Annotated[
    list[int] | None, typer.Option(help="Only this account of the ledger, shown and moved.")
]
Owner = Annotated[
    str | None, typer.Option(help="Only accounts of this owner, also later ones, shown and moved.")
]
DebitFrom = Annotated[
    list[int] | None, typer.Option(help="Money only out of this account. [those shown]")
]
CreditTo = Annotated[
    list[int] | None, typer.Option(help="Money only into this account. [those shown]")
]
MaxAmount = Annotated[
    list[str] | None, typer.Option(help="With accounts: the most at a time, as EUR=100.00.")
]
Rate = Annotated[float | None, typer.Option(min=0, max=1e9, help="Requests a second; 0: no limit.")]
Burst = Annotated[
    int | None, typer.Option(min=0, max=10**9, help="Requests at once; 0: those of a second.")
]
QueueShare = Annotated[
    float | None, typer.Option(min=0, max=1, help="Part of the queue of movements; 0: no limit.")
]
Streams = Annotated[int | None, typer.Option(min=0, max=10**9, help="Open streams; 0: no limit.")]
BodyBytes = Annotated[
    int | None, typer.Option(min=0, max=10**15, help="Bytes of bodies a second; 0: no limit.")
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The principal: a service or a person.")],
    role: Roles = None,
    scope: Scopes = None,
    ledger: Ledgers = None,
    days: Days = DEFAULT_DAYS,
    person: IsPerson = False,
    signed_with: SignedWith = None,
    account: Accounts = None,
    owner: Owner = None,
    debit_from: DebitFrom = None,
    credit_to: CreditTo = None,
    max_amount: MaxAmount = None,
    rate: Rate = None,
    burst: Burst = None,
    queue_share: QueueShare = None,
    streams: Streams = None,
    body_bytes_s: BodyBytes = None,
    as_json: AsJson = False,
) -> None:
    """Add the principal NAME with a key, and print the key, which is shown this once.

    The first key closes the service to everyone who has none.
    """
    scopes, public_key = _scopes(role or [], scope or []), _public_key(signed_with)
    with _owned() as connection:
        if principals.is_taken(connection, name):
            raise KeyFault(f"There is a principal {name} already; see keys list and keys rotate.")
        limited_to = _limited_to(account, owner, debit_from, credit_to, max_amount)
        number = _principal(connection, name, scopes, ledger, limited_to, is_person=person)
        new, expiry = _add(connection, number, days, public_key=public_key)
        limits = KeyLimits(rate, burst, queue_share, streams, body_bytes_s)
        principals.limit(connection, new.id, limits)
        note(connection, "create_key", f"{new.id} of {name}")
    _print_new(new, expiry, as_json=as_json, principal=name, scopes=names_of(scopes))


@app.command()
def certificate(
    name: Annotated[str, typer.Argument(help="The principal, which is added if it is new.")],
    subject: Annotated[
        str,
        typer.Option(
            help="The subject, CN=shop,O=Example, or URI:..., DNS:... or EMAIL:... of it."
        ),
    ],
    role: Roles = None,
    scope: Scopes = None,
    ledger: Ledgers = None,
    days: Days = DEFAULT_DAYS,
    person: IsPerson = False,
    account: Accounts = None,
    owner: Owner = None,
    debit_from: DebitFrom = None,
    credit_to: CreditTo = None,
    max_amount: MaxAmount = None,
    rate: Rate = None,
    burst: Burst = None,
    queue_share: QueueShare = None,
    streams: Streams = None,
    body_bytes_s: BodyBytes = None,
    as_json: AsJson = False,
) -> None:
    """Let certificates with the name SUBJECT, of LEDGER_TLS_CLIENT_CA, stand for a key of NAME.

    For a new principal say what it may do. The same command again renews it; limits that are not
    named stay.
    """
    subject = _subject(subject)
    scopes = _scopes(role or [], scope or []) if role or scope else None
    limited_to = _limited_to(account, owner, debit_from, credit_to, max_amount)
    limits = KeyLimits(rate, burst, queue_share, streams, body_bytes_s)
    with _owned() as connection:
        number = principals.principal_id(connection, name)
        if number is not None and (scopes, limited_to) != (None, None):
            raise KeyFault(f"There is a principal {name} already, whose rights stay as they are.")
        if number is None:
            scopes = scopes or _scopes([], [])
            number = _principal(connection, name, scopes, ledger, limited_to, is_person=person)
        before = _release(connection, subject, number)
        new, expiry = _add(connection, number, days, subject)
        principals.limit(connection, new.id, limits.or_else(before))
        note(connection, "certify_key", f"{new.id} of {name}: {subject}")
    text = f"The key {new.id} is {escape(subject)} and expires at {expiry:%Y-%m-%d %H:%M} UTC."
    facts = {"subject": subject, "principal": name, "expires_at": expiry}
    report(text, as_json=as_json, key_id=new.id, **facts)


@app.command()
def grant(
    name: Annotated[str, typer.Argument(help="The principal.")],
    role: Roles = None,
    scope: Scopes = None,
    ledger: Ledgers = None,
    account: Accounts = None,
    owner: Owner = None,
    debit_from: DebitFrom = None,
    credit_to: CreditTo = None,
    max_amount: MaxAmount = None,
    as_json: AsJson = False,
) -> None:
    """Let the principal NAME do more: the new grant is added to those that it has."""
    scopes = _scopes(role or [], scope or [])
    limited_to = _limited_to(account, owner, debit_from, credit_to, max_amount)
    with _owned() as connection:
        number = principals.principal_id(connection, name)
        if number is None:
            raise KeyFault(f"There is no principal {name!a}.")
        for one in _ledgers(connection, ledger, limited_to):
            principals.add_grant(connection, number, one, scopes, limited_to)
        note(connection, "grant", name)
    text = f"{name} has the grant."
    report(escape(text), as_json=as_json, principal=name, scopes=names_of(scopes))


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys, without their secrets."""
    with _owned() as connection:
        views = principals.list_keys(connection)
    for view in views:
        text, values = _described(view)
        report(text, as_json=as_json, **values)
    if not views and not as_json:
        report("There are no keys.", as_json=False)


@app.command()
def people(as_json: AsJson = False) -> None:
    """List the people who have come with a token of an OpenID provider."""
    with _owned() as connection:
        views = list_people(connection)
    for view in views:
        text = (
            f"{view.id}  {escape(view.subject)}  {escape(view.issuer)}  {view.first_seen:%Y-%m-%d}"
        )
        report(text, as_json=as_json, **msgspec.structs.asdict(view))


@app.command()
def rotate(
    key: Annotated[str, typer.Argument(help="The id of the key, or the key itself.")],
    overlap: Annotated[
        float, typer.Option(min=0, max=24 * MOST_DAYS, help="Hours for which the old key stays.")
    ] = 24.0,
    days: Days = DEFAULT_DAYS,
    signed_with: SignedWith = None,
    as_json: AsJson = False,
) -> None:
    """Make another key for the principal of KEY, and let KEY expire after the overlap.

    KEY may have ended already. The new key has the limits of KEY, and requires signatures as KEY
    does.
    """
    key_id, public_key = _id(key), _public_key(signed_with)
    with _owned() as connection:
        old = principals.principal_of(connection, key_id)
        if old is None:
            raise KeyFault(f"There is no key {key_id}.")
        new, expiry = _add(connection, old[0], days, public_key=public_key or old[1])
        limits = principals.limits_of(connection, key_id) or KeyLimits()
        principals.limit(connection, new.id, limits)
        old_expiry = principals.shorten(connection, key_id, overlap)
        note(connection, "rotate_key", f"{key_id} by {new.id}")
    _print_new(new, expiry, as_json=as_json, replaces=key_id, old_expires_at=old_expiry)


@app.command("limit")
def limit_key(
    key: Annotated[str, typer.Argument(help="The id of the key, or the key itself.")],
    rate: Rate = None,
    burst: Burst = None,
    queue_share: QueueShare = None,
    streams: Streams = None,
    body_bytes_s: BodyBytes = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Others take the defaults of the settings.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Set limits of KEY, in each process; 0 is no limit. Those that are not named stay."""
    key_id = _id(key)
    new = KeyLimits(rate, burst, queue_share, streams, body_bytes_s)
    if not reset and new == KeyLimits():
        raise KeyFault("Name a limit, or --reset.")
    with _owned() as connection:
        before = principals.limits_of(connection, key_id)
        if before is None:
            raise KeyFault(f"There is no key {key_id}.")
        limits = new if reset else new.or_else(before)
        principals.limit(connection, key_id, limits)
        note(connection, "limit_key", f"{key_id}: {_said(limits)}")
    text = f"The key {key_id} has the limits: {_said(limits)}."
    report(text, as_json=as_json, key_id=key_id, limits=limits.given())


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The id of the key, or the key itself.")],
    as_json: AsJson = False,
) -> None:
    """Revoke KEY for ever. Every process refuses it within 5 seconds."""
    key_id = _id(key)
    with _owned() as connection:
        time = principals.revoke(connection, key_id)
        if time is not None:
            note(connection, "revoke_key", key_id)
    if time is None:
        raise KeyFault(f"There is no key {key_id}.")
    report(f"The key {key_id} is revoked.", as_json=as_json, key_id=key_id, revoked_at=time)


def _said(limits: KeyLimits) -> str:
    """The limits of a key, without those that have the default."""
    own = {name: value for name, value in limits.given().items() if value is not None}
    return ", ".join(f"{name} {value or 'unlimited'}" for name, value in own.items()) or "defaults"


@contextmanager
def _owned() -> Iterator[Connection]:
    """A transaction of the schema's owner."""
    with opened_database(Settings.load(), create=False) as (database, _), explained():
        check_schema(database)
        with database.owner_engine().begin() as connection:
            yield connection


def _scopes(roles: Sequence[str], scopes: Sequence[str]) -> Scope:
    """The sum of named sets and single scopes. Raises KeyFault."""
    total = Scope(0)
    for known, names in ((SETS, roles), (NAMES, scopes)):
        for name in names:
            if name not in known:
                raise KeyFault(f"{name!a} is not one of {', '.join(known)}.")
            total |= known[name]
    if not total:
        raise KeyFault("Say what it may do with --role or --scope.")
    return total


def _limited_to(
    accounts: list[int] | None,
    owner: str | None,
    debit_from: list[int] | None,
    credit_to: list[int] | None,
    max_amounts: list[str] | None,
) -> GrantedAccounts | None:
    """The accounts of a grant, or None if it is not limited to accounts. Raises KeyFault."""
    if owner is None and not (accounts or debit_from or credit_to):
        if max_amounts:
            raise KeyFault("--max-amount needs --account, --owner, --debit-from or --credit-to.")
        return None
    most = dict(_max_amount(one) for one in max_amounts or ()) or None
    return GrantedAccounts(accounts or [], debit_from or None, credit_to or None, most, owner)


def _max_amount(text: str) -> tuple[str, str]:
    code, equals, amount = text.partition("=")
    if not equals or not is_positive_amount(amount):
        raise KeyFault(f"{text!a} is not a currency and an amount, as EUR=100.00.")
    return code, amount


def _ledgers(
    connection: Connection, names: list[str] | None, limited_to: GrantedAccounts | None
) -> list[int | None]:
    """The ids of the ledgers; None stands for all of them. Raises KeyFault."""
    if limited_to is None:
        return [_ledger(connection, one) for one in dict.fromkeys(names or (None,))]
    if len(names or ()) > 1:
        raise KeyFault("A grant that is limited to accounts is on one ledger.")
    ledger = _ledger(connection, names[0]) if names else DEFAULT_LEDGER
    assert ledger is not None
    missing = _missing(connection, ledger, limited_to.all())
    if missing is not None:
        raise KeyFault(f"The ledger has no account {missing}.")
    return [ledger]


def _missing(connection: Connection, ledger: int, ids: set[int]) -> int | None:
    """One of the ids that is no account of the ledger, or None, on the shard that has it."""
    with opened_database(Settings.load(), create=False) as (main, _):
        home = home_of(connection, main, ledger)
    if home is main:
        return principals.missing_account(connection, ledger, ids)
    with home.owner_engine().connect() as shard:
        return principals.missing_account(shard, ledger, ids)


def _ledger(connection: Connection, name: str | None) -> int | None:
    """The id of a ledger; None stands for all of them."""
    if name is None:
        return None
    number = principals.ledger_id(connection, name)
    if number is None:
        raise KeyFault(f"There is no ledger {name!a}.")
    return number


def _principal(
    connection: Connection,
    name: str,
    scopes: Scope,
    ledgers: list[str] | None,
    limited_to: GrantedAccounts | None = None,
    *,
    is_person: bool,
) -> int:
    """A new principal with these scopes on the ledgers, or on all of them. Raises KeyFault."""
    if not is_principal_name(name):
        raise KeyFault(f"{name!a} is not a valid name: 1 to 63 letters, digits and @ . _ -")
    if principals.is_taken(connection, name):
        raise KeyFault(f"The principal {name} is disabled.")
    ids = _ledgers(connection, ledgers, limited_to)
    kind = "person" if is_person else "service"
    return principals.add_principal(connection, name, kind, scopes, ids, limited_to)


def _subject(text: str) -> str:
    name = certificates.canonical(text)
    if name is None:
        raise KeyFault(f"{text!a} is not a name of a certificate, such as CN=shop,O=Example.")
    return name


def _release(connection: Connection, subject: str, principal: int) -> KeyLimits:
    """Revoke the key that a principal has by this subject; returns its limits. Raises KeyFault if
    it is another's.
    """
    holder = principals.holder_of(connection, subject)
    if holder is None:
        return KeyLimits()
    key_id, other = holder
    if other != principal:
        raise KeyFault(f"{subject} is another principal's, by the key {key_id}: revoke that first.")
    principals.revoke(connection, key_id)
    return principals.limits_of(connection, key_id) or KeyLimits()


def _id(text: str) -> str:
    """The id of a key, out of an id or a whole key. Raises KeyFault, which repeats no whole key."""
    key_id = keys.id_of(text) or text
    if len(key_id) != keys.ID_CHARACTERS:
        raise KeyFault("It is neither a key's id, nor a whole key without a mistake.")
    return key_id


def _public_key(file: Path | None) -> bytes | None:
    """The public key in a file. Raises KeyFault."""
    if file is None:
        return None
    try:
        public_key = public_key_of(file.read_bytes())
    except OSError as error:
        raise KeyFault(f"{file}: {error.strerror}.") from None
    if public_key is None:
        raise KeyFault(f"{file} is not a public key of Ed25519 in PEM.")
    return public_key


def _add(
    connection: Connection,
    principal: int,
    days: int,
    subject: str | None = None,
    public_key: bytes | None = None,
) -> tuple[NewKey, datetime]:
    """A new key, or with a `subject` a certificate, whose text nobody gets to know."""
    new = keys.make()
    facts = new.id, new.digest, principal, days, subject, public_key
    return new, principals.add_key(connection, *facts)


def _print_new(new: NewKey, expiry: datetime, *, as_json: bool, **facts: Any) -> None:
    """The key, on the standard output; what is said of it goes to the standard error."""
    if not as_json:
        print(f"The key {new.id} expires at {expiry:%Y-%m-%d %H:%M} UTC. Keep it:", file=sys.stderr)
        print(new.text)
        return
    report("", as_json=True, key=new.text, key_id=new.id, expires_at=expiry, **facts)


def _described(view: KeyView) -> tuple[str, dict[str, Any]]:
    """A line for a person, and the values for a program."""
    grants = [
        {"ledger": one.ledger, "scopes": names_of(one.scopes)}
        | ({} if one.limited_to is None else msgspec.structs.asdict(one.limited_to))
        for one in view.grants
    ]
    allowed = "; ".join(map(_allowed, view.grants))
    text = (
        f"{view.id}  [bold]{view.state}[/]  {escape(view.name)}  expires "
        f"{view.expires_at:%Y-%m-%d %H:%M} UTC, last used {view.last_used or 'never'}  {allowed}"
    )
    if view.subject is not None:
        text += f"  certificate {escape(view.subject)}"
    if view.public_key is not None:
        text += "  requires signatures"
    if view.limits != KeyLimits():
        text += f"  limits: {_said(view.limits)}"
    limits = view.limits.given()
    return text, msgspec.structs.asdict(view) | {"grants": grants, "limits": limits}


def _allowed(grant: GrantView) -> str:
    text = f"{grant.ledger or 'all ledgers'}: {' '.join(names_of(grant.scopes))}"
    if grant.limited_to is None:
        return text
    limited = msgspec.structs.asdict(grant.limited_to)
    return f"{text} ({', '.join(f'{name} {value}' for name, value in limited.items() if value)})"
