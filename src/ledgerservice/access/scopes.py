"""What a caller may be allowed to do. The bits are stored: none may get another meaning. Pure."""

from enum import IntFlag


class Scope(IntFlag):
    """A right on a ledger. Its name for callers has a colon: `accounts:read`."""

    ACCOUNTS_READ = 1 << 0
    ACCOUNTS_OPEN = 1 << 1
    TRANSACTIONS_READ = 1 << 2
    REPORTS_READ = 1 << 3
    EVENTS_READ = 1 << 4
    DEPOSIT = 1 << 5
    WITHDRAW = 1 << 6
    TRANSFER = 1 << 7
    TRANSACTIONS = 1 << 8
    HOLDS = 1 << 9
    SCHEDULES = 1 << 10
    REVERSALS = 1 << 11
    POLICIES_FREEZE = 1 << 12
    POLICIES_WRITE = 1 << 13
    REVERSALS_FORCE = 1 << 14
    BACKDATE = 1 << 15
    CURRENCIES_WRITE = 1 << 16
    LEDGERS_WRITE = 1 << 17
    AUDIT_READ = 1 << 18
    APPROVALS_DECIDE = 1 << 19
    METRICS_READ = 1 << 20
    VERIFY_RUN = 1 << 21
    WEBHOOKS = 1 << 22


NAMES = {str(scope.name).lower().replace("_", ":"): scope for scope in Scope}
"""The scopes by their names for callers."""

READER = Scope.ACCOUNTS_READ | Scope.TRANSACTIONS_READ | Scope.REPORTS_READ | Scope.EVENTS_READ
PLAIN_POSTING = (
    Scope.DEPOSIT
    | Scope.WITHDRAW
    | Scope.TRANSFER
    | Scope.TRANSACTIONS
    | Scope.HOLDS
    | Scope.SCHEDULES
    | Scope.REVERSALS
)
POLICIES = Scope.POLICIES_FREEZE | Scope.POLICIES_WRITE
POSTING = PLAIN_POSTING | POLICIES
"""Each allows some item of a batch."""
ALL = Scope(sum(Scope))

SETS = {
    "reader": READER,
    "poster": READER | PLAIN_POSTING | Scope.ACCOUNTS_OPEN,
    "operator": READER
    | PLAIN_POSTING
    | Scope.ACCOUNTS_OPEN
    | POLICIES
    | Scope.BACKDATE
    | Scope.WEBHOOKS
    | Scope.METRICS_READ,
    "auditor": READER | Scope.AUDIT_READ | Scope.METRICS_READ | Scope.VERIFY_RUN,
    "admin": ALL,
}
"""The named sets of scopes. An admin may force reversals and add ledgers and currencies too."""


def names_of(scopes: int) -> list[str]:
    """The names of all scopes in a sum, in the order of their bits."""
    return [name for name, scope in NAMES.items() if scopes & scope]
