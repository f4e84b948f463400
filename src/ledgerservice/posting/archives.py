"""How far the archives of the write-ahead log are behind it."""

from collections.abc import Sequence
from typing import Any

from ledgerservice.telemetry import metrics
from ledgerservice.telemetry.backlog import Backlog
from ledgerservice.telemetry.measures import Labels

# An archive is what archive_command fills, or whatever receives by a physical replication slot: the
# command `archive`, barman, a standby. Everybody may read these views. The first row is the log's.
# The last column is how many bytes the archive gets at once.
LIST_ARCHIVES = """
SELECT '', (pg_current_wal_lsn() - '0/0')::bigint,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint, 1::bigint
UNION ALL
SELECT 'archive_command', coalesce(
           ('x' || substr(wal, 9, 8))::bit(32)::bigint * 4294967296
           + (('x' || substr(wal, 17, 8))::bit(32)::bigint + 1) * file_bytes, 0),
       (last_failed_time IS NULL
        OR coalesce(last_archived_time > last_failed_time, false))::integer, file_bytes
FROM pg_stat_archiver,
     LATERAL (SELECT substring(last_archived_wal FROM '^[0-9A-F]{24}'),
                     pg_size_bytes(current_setting('wal_segment_size'))) AS last (wal, file_bytes)
WHERE current_setting('archive_mode') <> 'off'
UNION ALL
SELECT slot_name, coalesce((restart_lsn - '0/0')::bigint, 0), active::integer, 1
FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary
"""


class Archives:
    """The archives as the last samples have shown them.

    An idle server also writes to its log, and archive_command gets no file of that. So the lag in
    seconds is that of the log up to the last sample that saw a new transaction. If the log went on
    to another file since the sample before, the transaction may be in either. It then counts up to
    the beginning of the new file, which is not archived as long as nothing is recorded in it.
    """

    def __init__(self) -> None:
        self._next_xid = 0
        self._position = 0
        self._written_after = 0
        self._written = 0
        self._backlogs: dict[str, Backlog] = {}

    def show(self, rows: Sequence[Sequence[Any]]) -> None:
        """Let the metrics show the rows of LIST_ARCHIVES."""
        (_, position, next_xid, _), *archives = rows
        self._note(position, next_xid)
        positions: dict[Labels, float] = {(name,): archived for name, archived, *_ in archives}
        metrics.ARCHIVE_POSITION.values = positions
        metrics.ARCHIVE_ACTIVE.values = {(name,): active for name, _, active, _ in archives}
        metrics.ARCHIVE_LAG_BYTES.values = {
            labels: max(0, position - archived) for labels, archived in positions.items()
        }
        metrics.ARCHIVE_LAG.values = {
            (name,): self._lag_s(name, archived, unit) for name, archived, _, unit in archives
        }

    def _note(self, position: int, next_xid: int) -> None:
        if next_xid != self._next_xid:
            self._next_xid = next_xid
            self._written_after, self._written = self._position, position
        self._position = position

    def _lag_s(self, name: str, archived: int, unit: int) -> float:
        """How long the oldest part of the log has been missing in an archive, in seconds."""
        backlog = self._backlogs.setdefault(name, Backlog(lambda: self._due(unit)))
        backlog.pass_events(archived)
        return backlog.lag_s()

    def _due(self, unit: int) -> int:
        """Up to where an archive that gets `unit` bytes at once should have the log."""
        beginning = self._written - self._written % unit
        return beginning if self._written_after < beginning else self._written
