"""What a caller whose grant is limited to accounts is shown of an answer.

An entry of an account outside the grant has no balance, held amount and version. The answer itself
is stored for nobody in this form: another caller gets all of it.
"""

from typing import Any

import msgspec
from msgspec import Raw

from ledgerservice.access.covering import all_accounts
from ledgerservice.access.scopes import READER
from ledgerservice.api.http.call import Call
from ledgerservice.api.http.problems import DecidedOn, ProblemError

_READING = int(READER)
_HIDDEN = ("balance", "held_change", "held", "version")
_OWN_BALANCES = ("new_balance", "sender_new_balance")
Members = dict[str, Raw]
Accounts = frozenset[int]


def accounts_shown(call: Call) -> Accounts | None:
    """The accounts whose balances the caller is shown; None: all."""
    caller = call.caller
    if not caller.by_accounts or caller.scopes_on(call.ledger) & _READING:
        return None
    return all_accounts(caller.by_accounts.get(call.ledger, ()))


def shown(call: Call, body: bytes) -> bytes:
    """The JSON of an answer as the caller is shown it."""
    return shown_to(accounts_shown(call), body)


def shown_to(accounts: Accounts | None, body: bytes) -> bytes:
    """The JSON of an answer, or of a result, with the balances of these accounts; None: of all."""
    return body if accounts is None else msgspec.json.encode(_shown(body, accounts))


def shown_event(body: bytes, accounts: Accounts) -> bytes:
    """The JSON of an event without the balances of other accounts."""
    members = msgspec.json.decode(body, type=Members)
    members["data"] = _encoded(_shown(members["data"], accounts))
    return msgspec.json.encode(members)


def without_others(answer: Any, accounts: Accounts) -> Raw:
    """The JSON of an answer without the balances of other accounts."""
    return Raw(msgspec.json.encode(_shown(msgspec.json.encode(answer), accounts)))


def shown_problem(call: Call, error: ProblemError) -> ProblemError:
    """A problem as the caller is shown it."""
    accounts = accounts_shown(call)
    decided = error.facts.get("cause", {}).get("decided_on")
    if accounts is None or not isinstance(decided, DecidedOn):
        return error
    if decided.account_id not in accounts:
        del error.facts["cause"]["decided_on"]
    return error


def _shown(body: Raw | bytes, accounts: Accounts) -> Members:
    members = msgspec.json.decode(body, type=Members)
    if (entries := members.get("entries")) is not None:
        _hide_entries(members, _decoded(entries), accounts)
    decided = members.get("decided_on")
    if decided is not None and _decoded(decided)["account_id"] not in accounts:
        del members["decided_on"]
    for name in ("cause", "body", "execution"):  # an execution has the body of its answer
        if (inner := members.get(name)) is not None and bytes(inner) != b"null":
            members[name] = _encoded(_shown(inner, accounts))
    if (results := members.get("results")) is not None:
        items = msgspec.json.decode(results, type=list[Raw])
        members["results"] = _encoded([_shown(item, accounts) for item in items])
    return members


def _hide_entries(members: Members, entries: list[dict[str, Any]], accounts: Accounts) -> None:
    for place, entry in enumerate(entries):
        if entry["account_id"] in accounts:
            continue
        for name in _HIDDEN:
            del entry[name]
        if place == 0:  # the new balance is that of the first one
            for name in _OWN_BALANCES:
                members.pop(name, None)
    members["entries"] = _encoded(entries)


def _decoded(value: Raw) -> Any:
    return msgspec.json.decode(value)


def _encoded(value: Any) -> Raw:
    return Raw(msgspec.json.encode(value))
