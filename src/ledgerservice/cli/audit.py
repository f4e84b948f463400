"""`ledgerservice audit`: the audit log as lines of JSON."""

import getpass
import os
import sys
from datetime import datetime
from typing import Annotated

import msgspec
import typer
from sqlalchemy import Connection

from ledgerservice.access.audit import new_event
from ledgerservice.cli.data import check_schema
from ledgerservice.domain.audit import COMMAND_LINE, AuditRecord, ChainedRecord
from ledgerservice.postgres.access.audit import add_record, all_records
from ledgerservice.postgres.connections import explained
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings


def audit(
    since: Annotated[
        datetime | None, typer.Option(help="Records of this time and later, in UTC.")
    ] = None,
) -> None:
    """Print the audit log, a JSON object on each line, the oldest record first.

    That it was printed is its last record. `ledgerservice verify` checks the chain.
    """
    with opened_database(Settings.load(), create=False) as (database, _), explained():
        check_schema(database)
        engine = database.owner_engine()
        # Every other record waits for the end of this transaction, and the output may be slow.
        with engine.begin() as connection:
            last_id = note(connection, "export_audit")
        with engine.begin() as connection:
            for record in all_records(connection, since, last_id):
                sys.stdout.write(_line(record))


def note(connection: Connection, action: str, subject: str | None = None) -> int:
    """Record what a command did, in its transaction, and for which user of the machine. Returns
    the number of the record.
    """
    detail = msgspec.json.encode({"user": _user()}).decode()
    record = AuditRecord(
        event=new_event(),
        source=COMMAND_LINE,
        action=action,
        status=200,
        subject=subject,
        detail=detail,
    )
    return add_record(connection, record)


def _user() -> str:
    """The user's name, or its number if it has none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return str(os.getuid())


def _line(record: ChainedRecord) -> str:
    fields = msgspec.structs.asdict(record)
    fields["digest"] = record.digest.hex()
    fields["detail"] = None if record.detail is None else msgspec.Raw(record.detail.encode())
    return msgspec.json.encode(fields).decode() + "\n"
