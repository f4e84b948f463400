"""Faults: what stops the ledger from answering at all.

A refusal (declined, rejected) is a value that the planner returns, never an exception. What is
raised here is either the caller's to mend (a wrong setting, a database that is not there) or
passing (the database is away). The docstring of a class is its message; `detail` adds the facts.
"""

import inspect


class LedgerError(Exception):
    """The ledger cannot go on."""

    def __init__(self, detail: str = "") -> None:
        self.detail = detail
        super().__init__(detail)

    def __str__(self) -> str:
        message = inspect.cleandoc(type(self).__doc__ or "")
        return f"{message} {self.detail}".rstrip()


class ConfigurationError(LedgerError):
    """A setting is not usable."""


class EmbeddedServerError(LedgerError):
    """The embedded PostgreSQL did not start."""


class DatabaseMissing(LedgerError):
    """The database named in DATABASE_URL does not exist. Create it, then start again."""


class DatabaseRefused(LedgerError):
    """PostgreSQL refused the login. Check user and password in DATABASE_URL, and pg_hba.conf."""


class RightsMissing(LedgerError):
    """The user of DATABASE_URL may not do this. To set up the ledger it needs CREATE on the
    database; `ledgerservice migrate` may be run by another user than the service.
    """


class DatabaseUnreachable(LedgerError):
    """PostgreSQL cannot be used at DATABASE_URL. Check host and port, and that it is running."""


class ServerTooOld(LedgerError):
    """This PostgreSQL is too old. The ledger needs version 15 or later."""


class DatabaseReadOnly(LedgerError):
    """This database takes no writes: it is a standby, or set to be read only."""


class DatabaseNotUtf8(LedgerError):
    """This database does not keep text as UTF-8. Create it with ENCODING 'UTF8'."""


class ServerNotDurable(LedgerError):
    """This PostgreSQL may lose acknowledged commits."""


class SchemaMissing(LedgerError):
    """The database has no ledger schema, or an older one. Run `ledgerservice migrate`."""


class SchemaUnknown(LedgerError):
    """This release does not know the database's schema. If a newer release migrated it, start that
    one. A database of a development version before the first release cannot be upgraded: use a new
    database.
    """


class BackupError(LedgerError):
    """The backup tool did not finish."""


class ImportFault(LedgerError):
    """This file cannot be imported."""


class CannotJoin(LedgerError):
    """The ledger cannot post in this transaction."""


class Unavailable(LedgerError):
    """The ledger could not confirm the outcome in time. Send the same request with the same
    key again: it moves money at most once.
    """


class Overloaded(LedgerError):
    """Too many requests are waiting. Nothing was moved. Send the same request again later."""


class InternalFault(LedgerError):
    """The ledger did not foresee what happened to this request; the log names it. Send it again
    with the same key: it moves money at most once.
    """
