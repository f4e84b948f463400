"""Point-in-time recovery: a new embedded server out of an archive, as the ledger was at a time."""

import asyncio
import errno
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import text

from ledgerservice.embedded.archive import ServerArchive
from ledgerservice.embedded.data import put_in_place
from ledgerservice.embedded.programs import Programs
from ledgerservice.embedded.server import make_reachable
from ledgerservice.errors import ArchiveError, BackupNotSound, EmbeddedServerError
from ledgerservice.files.restore import SHOWN_VIOLATIONS, pause_webhooks
from ledgerservice.postgres.connections import Database, usable_role
from ledgerservice.postgres.contents import last_transaction_id
from ledgerservice.postgres.epochs import recovered_epoch
from ledgerservice.postgres.verification import verify
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings


class Recovered(NamedTuple):
    """What was recovered: the last transaction's id and time (None: there is none), the epoch of
    the feed from now on, and the time that it took, with `verify`, in seconds (RTO).
    """

    last_transaction_id: int
    last_recorded_at: datetime | None
    epoch: int
    rto_s: float


class Drill(NamedTuple):
    """What a drill has shown: the ledger was back after `rto_s`, and lacked what had been recorded
    in the last `rpo_s` seconds, up to `missing` transactions.
    """

    bases: int
    recovered: Recovered
    rpo_s: float
    missing: int

    @property
    def rto_s(self) -> float:
        """Seconds until the recovered ledger was verified."""
        return self.recovered.rto_s


def recover(settings: Settings, folder: Path, until: datetime | None) -> Recovered:
    """Recover an archive into the data folder of `settings`, which has no ledger, and verify it.

    Its webhooks are paused. A new epoch of the feed begins, because what came after `until` is not
    there any more. All of that happens in a folder beside the data, where no other process looks
    for a server. Raises ArchiveError, and BackupNotSound; then the data folder has no ledger of it.
    """
    begun_s = time.monotonic()
    if settings.database_url is not None:
        raise ArchiveError("DATABASE_URL is set: an archive is of the embedded server.")
    data = settings.data_folder / "postgres"
    if data.exists():
        raise ArchiveError(f"{settings.data_folder} has a ledger already. Name another folder.")

    try:
        make_reachable(settings.data_folder)
        with _scratch(settings.data_folder) as scratch:
            restored = settings.model_copy(update={"data_folder": scratch})
            recovered = _recover(restored, folder, until, begun_s)
            _put_in_place(scratch / "postgres", data)
    except OSError as error:
        raise ArchiveError(f"{error.filename or data}: {error.strerror or error}.") from error
    return recovered


def _recover(settings: Settings, folder: Path, until: datetime | None, begun_s: float) -> Recovered:
    def restore(programs: Programs, new: Path) -> None:
        ServerArchive(folder, programs).restore(until, new)

    try:
        with opened_database(settings, source=restore) as (database, _):
            _finish(database)
            with database.owner_engine().begin() as connection:
                pause_webhooks(connection, _schema(database))
            last_id, recorded_at = last_transaction(database)
            epoch = asyncio.run(_begin_epoch(database))
            return Recovered(last_id, recorded_at, epoch, time.monotonic() - begun_s)
    except EmbeddedServerError as fault:
        if "recovery target" in str(fault):
            raise ArchiveError("The archive ends before that time.") from fault
        raise


def _put_in_place(new: Path, data: Path) -> None:
    try:
        put_in_place(new, data)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        raise ArchiveError(
            f"Another process has made a ledger in {data.parent} meanwhile. Stop it, or name "
            "another folder."
        ) from error


def _finish(database: Database) -> None:
    """Forget the settings of the recovery, and verify the ledger."""
    with database.owner_engine().connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        names = [name for (name,) in autocommit.execute(_RECOVERY_SETTINGS)]
        for name in names:
            autocommit.exec_driver_sql(f"ALTER SYSTEM RESET {name}")
        autocommit.exec_driver_sql("SELECT pg_reload_conf()")
    lines = [str(one) for one in verify(database.owner_engine(), schema=_schema(database))]
    if lines:
        raise BackupNotSound(lines[:SHOWN_VIOLATIONS], len(lines))


def _schema(database: Database) -> str:
    return database.settings.schema_name


def last_transaction(database: Database) -> tuple[int, datetime | None]:
    """The last transaction's id, and when the last one was recorded."""
    with database.owner_engine().connect() as connection:
        return last_transaction_id(connection), connection.scalar(_LAST_RECORDED_AT)


async def _begin_epoch(database: Database) -> int:
    wire = await replace(database, role=usable_role(database)).connect_writer()
    try:
        return (await recovered_epoch(wire)).number
    finally:
        await wire.close()


def drill(settings: Settings, folder: Path) -> Drill:
    """Recover an archive of the server that runs into a scratch server, and remove that.

    Raises as `recover`, also if a base backup is damaged.
    """
    with opened_database(settings, create=False) as (database, embedded):
        if embedded is None:
            raise ArchiveError("DATABASE_URL is set: an archive is of the embedded server.")
        last_id, recorded_at = last_transaction(database)
        bases = ServerArchive(folder, embedded.client_programs()).bases()
    with _scratch(Path(tempfile.gettempdir())) as data:
        scratch = settings.model_copy(update={"data_folder": data})
        recovered = _recover(scratch, folder, None, time.monotonic())
    behind = (recorded_at or _NEVER) - (recovered.last_recorded_at or _NEVER)
    missing = max(0, last_id - recovered.last_transaction_id)
    return Drill(len(bases), recovered, max(0.0, behind.total_seconds()), missing)


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    """The data folder of a server that ends with the context, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="ledger_restore-", dir=place) as name:
        scratch = Path(name) / "data"
        scratch.mkdir(mode=0o700)
        if os.geteuid() == 0:
            for folder in (scratch.parent, scratch):
                folder.chmod(0o755)
            # PostgreSQL runs as the owner of the folder, if that is not root.
            owner = place.stat()
            os.chown(scratch, owner.st_uid, owner.st_gid)
        yield scratch


_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_RECOVERY_SETTINGS = text("""
SELECT DISTINCT name FROM pg_file_settings
WHERE sourcefile LIKE '%postgresql.auto.conf'
  AND (name LIKE 'recovery\\_target%' OR name IN ('restore_command', 'hot_standby'))
""")
_LAST_RECORDED_AT = text("""
SELECT max(last.recorded_at) FROM ledger.ledgers l
CROSS JOIN LATERAL (
    SELECT recorded_at FROM ledger.transactions
    WHERE ledger_id = l.ledger_id ORDER BY ledger_id DESC, id DESC LIMIT 1) last
""")
