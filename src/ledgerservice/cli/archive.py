"""The command archive: base backups and the write-ahead log of the embedded server."""

import logging
import signal
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy.exc import SQLAlchemyError

from ledgerservice.cli.output import AsJson, report
from ledgerservice.embedded.archive import FULL, SETTINGS, SLOT, Receiver, ServerArchive
from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.errors import ArchiveError
from ledgerservice.files.recovery import Drill, drill
from ledgerservice.postgres.connections import Database, explained
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings
from ledgerservice.telemetry.backups import ARCHIVE_DRILL, BASE, kept_result

LOOK_S = 0.3
CATCH_UP_S = 10.0

FLUSHED = "SELECT pg_current_wal_flush_lsn()::text"
IS_RECEIVED = """
SELECT restart_lsn >= CAST(%(end)s AS pg_lsn) FROM pg_replication_slots WHERE slot_name = %(slot)s
"""

log = logging.getLogger(__name__)


class Kind(StrEnum):
    """The kinds of base backups."""

    full = "full"
    incremental = "incremental"


def archive(
    folder: Annotated[Path, typer.Argument(help="The folder of the archive.")],
    add: Annotated[
        Kind | None, typer.Option(help="Add a base backup, and receive nothing.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Restore the archive into a scratch server instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Archive the embedded server: receive its write-ahead log until a signal comes.

    `ledgerservice restore FOLDER --until TIME` restores any time after the first base backup, which
    is made when there is none. With --verify the archive is restored and verified, and the time
    that this took (RTO) and what it lacked (RPO) are printed.
    """
    settings = Settings.load()
    if verify:
        _report_drill(settings, folder, as_json=as_json)
        return
    existing = opened_database(settings, create=False)
    with existing as (database, embedded), explained():
        if embedded is None:
            raise ArchiveError("DATABASE_URL is set. Use pgBackRest or barman for your own server.")
        target = ServerArchive(folder, embedded.client_programs())
        target.make()
        _configure(database)
        if add is not None:
            _add_base(settings, target, embedded, add, as_json=as_json)
            return
        _receive(settings, target, database, embedded, as_json=as_json)


def _configure(database: Database) -> None:
    """Set what an archive needs, where it is not set."""
    engine = database.owner_engine().execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name, value in SETTINGS.items():
            query = "SELECT setting = boot_val FROM pg_settings WHERE name = %(name)s"
            if connection.exec_driver_sql(query, {"name": name}).scalar():
                connection.exec_driver_sql(f"ALTER SYSTEM SET {name} = '{value}'")
        connection.exec_driver_sql("SELECT pg_reload_conf()")


def _receive(
    settings: Settings,
    target: ServerArchive,
    database: Database,
    embedded: EmbeddedServer,
    *,
    as_json: bool,
) -> None:
    """Receive until SIGINT or SIGTERM, and all that was committed before the signal.

    The server is taken over if its owner ends.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    receiver = Receiver(target, embedded.url)
    try:
        if not target.bases():
            _add_base(settings, target, embedded, FULL, as_json=as_json)
        report(f"Archiving to {escape(str(target.folder))}.", as_json=as_json, status="archiving")
        while not stop.wait(LOOK_S):
            embedded.check()
            receiver.check()
        _catch_up(database, receiver)
    finally:
        receiver.stop()


def _catch_up(database: Database, receiver: Receiver) -> None:
    """Wait until what is committed now has been received, for CATCH_UP_S at most."""
    deadline_s = time.monotonic() + CATCH_UP_S
    engine = database.owner_engine().execution_options(isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            values = {"end": connection.exec_driver_sql(FLUSHED).scalar(), "slot": SLOT}
            while not connection.exec_driver_sql(IS_RECEIVED, values).scalar():
                if time.monotonic() > deadline_s:
                    log.warning("the archive lacks what was committed last; start it again")
                    return
                receiver.check()
                time.sleep(LOOK_S / 10)
    except SQLAlchemyError as fault:
        log.warning("the archive may lack what was committed last: %s", fault)


def _add_base(
    settings: Settings, target: ServerArchive, embedded: EmbeddedServer, kind: str, *, as_json: bool
) -> None:
    with kept_result(settings.results_folder, BASE):
        base = target.add_base(embedded.url, kind)
    report(f"Added the base backup {escape(base.name)}.", as_json=as_json, base=base.name)


def _report_drill(settings: Settings, folder: Path, *, as_json: bool) -> None:
    with kept_result(settings.results_folder, ARCHIVE_DRILL) as result, explained():
        proof: Drill = drill(settings, folder)
        result.duration_s, result.rpo_s = proof.rto_s, proof.rpo_s
    text = (
        f"{escape(str(folder))} restores: {proof.bases} base backups, last transaction "
        f"{proof.recovered.last_transaction_id}. All invariants hold. The ledger was back after "
        f"{proof.rto_s:.1f} s (RTO), and lacked the last {proof.rpo_s:.3f} s (RPO)."
    )
    facts = {**proof._asdict(), "recovered": proof.recovered._asdict(), "rto_s": proof.rto_s}
    report(text, as_json=as_json, holds=True, **facts)
