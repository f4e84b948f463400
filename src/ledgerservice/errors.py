"""The exceptions of the ledger: it cannot answer at all.

A declined or rejected request is not an exception; the planner returns it as a value. An exception
is raised for a fault that the user can correct, such as a wrong setting or a missing database, and
for a fault that passes, such as an unreachable database. The docstring of a class is the message
of the exception; `detail` says more.
"""

from typing import Any


class LedgerError(Exception):
    """The ledger cannot continue. `facts` are for programs: `--json` prints them."""

    def __init__(self, detail: str = "", **facts: Any) -> None:
        self.detail = detail
        self.facts = facts
        super().__init__(detail)

    def __str__(self) -> str:
        return printable(" ".join(f"{type(self).__doc__ or ''} {self.detail}".split()))


def printable(text: str) -> str:
    """`text` without characters that control a terminal, which could be out of a hostile file."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ConfigurationError(LedgerError):
    """A setting has a value that is not valid. Correct it, then start again."""


class EmbeddedServerError(LedgerError):
    """The embedded PostgreSQL did not start."""


class SignInFailed(LedgerError):
    """The OpenID provider did not sign the reader in."""


class CannotListen(LedgerError):
    """The service cannot listen."""


class CannotServe(LedgerError):
    """The service did not start."""


class DatabaseMissing(LedgerError):
    """The database named in DATABASE_URL does not exist. Create it, then start again."""


class DatabaseRefused(LedgerError):
    """PostgreSQL refused the login. Check user and password in DATABASE_URL, and pg_hba.conf."""


class RightsMissing(LedgerError):
    """The user of DATABASE_URL lacks a privilege. Creating or updating the schema needs its owner,
    and CREATE on the database: name that user in LEDGER_OWNER_URL. The service's own user must be a
    member of the role LEDGER_SERVICE_ROLE.
    """


class DatabaseUnreachable(LedgerError):
    """PostgreSQL does not answer at DATABASE_URL. Check host and port, and that it is running."""


class ServerTooOld(LedgerError):
    """The ledger needs PostgreSQL 15 or later. Upgrade the server."""


class DatabaseReadOnly(LedgerError):
    """The database is read-only: it is a standby, or default_transaction_read_only is on. Connect
    to the primary server.
    """


class DatabaseNotUtf8(LedgerError):
    """The encoding of the database is not UTF8. Create it with ENCODING 'UTF8'."""


class ServerNotDurable(LedgerError):
    """This PostgreSQL can lose commits that it has confirmed."""


class UnfitConnection(LedgerError):
    """The ledger cannot use this connection to PostgreSQL."""


class StandbyUnfit(UnfitConnection):
    """LEDGER_STANDBY_URL does not lead to a standby that can be read."""


class SettingRefused(UnfitConnection):
    """A setting of PostgreSQL would change what the ledger answers, and cannot be overridden."""


class PoolerFound(UnfitConnection):
    """A connection pooler stands between the ledger and PostgreSQL."""


class WrongDatabase(UnfitConnection):
    """The connection leads to another database than the one that LEDGER_SHARDS or DATABASE_URL
    should name. Correct the URLs.
    """


class SchemaMissing(LedgerError):
    """The database has no ledger schema, or an older one."""


class SchemaUnknown(LedgerError):
    """This release does not know the schema of the database. If a newer release migrated it, start
    that one. The schema of a development version before the first release cannot be upgraded: use
    a new database.
    """


class SchemaLocked(LedgerError):
    """The migration has waited ten minutes for a lock on a table that another session holds. End
    that session (see pg_locks and pg_stat_activity), and run the migration again.
    """


class SchemaForeign(LedgerError):
    """The schema in the database is not this service's. Name another one in LEDGER_SCHEMA."""


class BackupError(LedgerError):
    """The backup or restore did not finish."""


class ArchiveError(BackupError):
    """The archive of the server cannot be used for this."""


class BackupNotSound(BackupError):
    """The ledger in the backup violates invariants. Nothing was restored."""

    def __init__(self, violations: list[str], count: int) -> None:
        self.violations = violations
        text = f"{count} violations, of which the first {len(violations)} are shown."
        super().__init__(text, violations=violations)


class MoveFault(LedgerError):
    """The ledger was not moved."""


class ImportFault(LedgerError):
    """The file cannot be imported."""


class ExportFault(LedgerError):
    """The export did not finish."""


class PrincipalUnknown(LedgerError):
    """There is no such principal, or it is disabled."""


class KeyFault(LedgerError):
    """The keys were left as they are."""


class RuleFault(LedgerError):
    """The rule cannot be written."""


class ShardFault(LedgerError):
    """The shards were left as they are."""


class LedgerHasParts(LedgerError):
    """The ledger has several parts, and this is not answered for all of them: see Ledger.parts."""


class CannotJoin(LedgerError):
    """The ledger cannot post in this transaction."""


class Unavailable(LedgerError):
    """The ledger could not confirm the outcome in time. Send the same request with the same key
    again; it moves money at most once.
    """


class ShardUnavailable(Unavailable):
    """The database that has the ledger cannot be used now. Send the same request with the same key
    again; it moves money at most once.
    """


class Overloaded(LedgerError):
    """Too many requests are waiting. Nothing was moved. Send the same request again later."""


class LimitReached(Overloaded):
    """A key has used what its limits let it use. Nothing was moved.

    `limit` names it: requests, queue, streams or bytes; or verification, which is one pass for all
    keys. `quota` of `unit` (None: requests) may be used in `window_s` seconds, or at once where it
    is None.
    """

    def __init__(
        self, limit: str, retry_after_s: int, quota: int, window_s: int | None, unit: str | None
    ) -> None:
        self.limit = limit
        self.retry_after_s = max(1, retry_after_s)
        self.quota = quota
        self.window_s = window_s
        self.unit = unit
        super().__init__(limit)


class LedgerMoving(Unavailable):
    """The ledger is moving to another database. Nothing was moved. Send the same request with the
    same key again in a few seconds.
    """


class InternalFault(LedgerError):
    """The request met an unexpected fault, which the log describes. Send the same request with
    the same key again; it moves money at most once.
    """


class InvalidField(ValueError):
    """A value from Python that the ledger cannot take. `field` is its name, with a path where it is
    a part of another: `detail.metadata`, `legs.0.amount`. `fault` says what is wrong.
    """

    def __init__(self, field: str, fault: str) -> None:
        self.field = field
        self.fault = fault
        super().__init__(f"{field}: {fault}")
