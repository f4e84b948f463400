"""The file of a backup: a ZIP archive of the tables' rows, and a manifest that describes it.

`manifest.json` is a `Manifest`. `tables/NAME.copy` has the rows of a table, as
`COPY ... TO STDOUT` writes them in text format. The file depends on no version of PostgreSQL. It
holds data only, so reading it runs nothing.
"""

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import IO, Annotated

import msgspec

from ledgerservice.errors import BackupError

FORMAT = 2
READABLE_FORMATS = range(1, FORMAT + 1)
"""Format 1 has no `Totals`."""
MANIFEST = "manifest.json"
MANIFEST_LIMIT_BYTES = 2**20
CHUNK_BYTES = 2**18

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Sum = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,40}$")]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class TableRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rows of a table: their columns in order, number, size, and SHA-256 in hexadecimal."""

    columns: tuple[str, ...]
    rows: Count
    size_bytes: Count
    sha256: Sha256


class SequenceRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a sequence, as PostgreSQL keeps it."""

    last_value: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    is_called: bool


class TrialBalance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The accounts of a ledger in a currency: their number, and sums in minor units as text.

    `credit` is the sum of the positive balances, `debit` that of the negative ones, without sign.
    """

    ledger_id: int
    currency: str
    accounts: Count
    debit: Sum
    credit: Sum
    held: Sum


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a ledger amounts to: its last transaction id (0: none), and its trial balance."""

    last_transaction_id: Count
    trial_balance: tuple[TrialBalance, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup holds, and where it comes from.

    `revision` is the one of the schema, `server_version` PostgreSQL's server_version_num.
    `system_identifier` names the cluster, if the user was allowed to read it. `totals` are of the
    same snapshot as the rows.
    """

    format: int
    revision: str
    server_version: int
    created_at: datetime
    system_identifier: str | None
    tables: dict[str, TableRecord]
    sequences: dict[str, SequenceRecord]
    totals: Totals | None = None


class _AnyManifest(msgspec.Struct):
    format: int


def member(table: str) -> str:
    """The name of a table's member of the archive."""
    return f"tables/{table}.copy"


class Writer:
    """Writes an archive from its begin to its end; the target need not be seekable."""

    def __init__(self, target: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave what is not finished as it is: without its end, nobody takes it for a backup."""
        self._zip.fp = None

    def write(self, table: str, chunks: Iterable[bytes]) -> tuple[int, str]:
        """Add the rows of a table; returns their size in bytes and their SHA-256."""
        digest, size = hashlib.sha256(), 0
        with self._zip.open(member(table), "w", force_zip64=True) as target:
            for chunk in chunks:
                target.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        return size, digest.hexdigest()

    def finish(self, manifest: Manifest) -> None:
        """Add the manifest and the end of the archive."""
        self._zip.writestr(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
        self._zip.close()


class Archive:
    """A backup to read. Its members are exactly those that its manifest describes.

    Raises BackupError if the file is damaged, or is not a backup.
    """

    def __init__(self, source: IO[bytes]) -> None:
        with _readable():
            self._zip = zipfile.ZipFile(source)
            self.manifest = _manifest(self._zip)
        self._check_members()

    @property
    def size_bytes(self) -> int:
        """The size of the rows of all tables."""
        return sum(table.size_bytes for table in self.manifest.tables.values())

    def read(self, table: str) -> Iterator[bytes]:
        """The rows of a table, in chunks. After the last their number and SHA-256 are checked."""
        record, rows = self.manifest.tables[table], 0
        digest = hashlib.sha256()
        with _readable(), self._zip.open(member(table)) as source:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                rows += chunk.count(b"\n")  # in a value it is written as two other characters
                yield chunk
        if digest.hexdigest() != record.sha256:
            raise BackupError(f"The rows of table {table} are not those of the manifest: SHA-256.")
        if rows != record.rows:
            raise BackupError(f"Table {table} has {rows} rows; the manifest says {record.rows}.")

    def _check_members(self) -> None:
        sizes = {member(name): table.size_bytes for name, table in self.manifest.tables.items()}
        members = [info for info in self._zip.infolist() if info.filename != MANIFEST]
        names = sorted(info.filename for info in members)
        if names != sorted(sizes) or len(self._zip.infolist()) != len(sizes) + 1:
            strange = sorted({*names} ^ {*sizes}) or ["a name that is there twice"]
            raise BackupError(f"Its members are not those of the manifest: {strange[0]!a}.")
        for info in members:
            if info.file_size != sizes[info.filename]:
                raise BackupError(f"{info.filename!a} has another size than the manifest says.")


def _manifest(archive: zipfile.ZipFile) -> Manifest:
    with archive.open(MANIFEST) as source:
        content = source.read(MANIFEST_LIMIT_BYTES + 1)
    if len(content) > MANIFEST_LIMIT_BYTES:
        raise BackupError(f"Its {MANIFEST} is too large.")
    number = msgspec.json.decode(content, type=_AnyManifest).format
    if number not in READABLE_FORMATS:
        raise BackupError(
            f"Its format is {number}; this release reads up to {FORMAT}. Use a newer one."
        )
    manifest = msgspec.json.decode(content, type=Manifest)
    if number > 1 and manifest.totals is None:
        raise BackupError("Its manifest has no totals.")
    return manifest


# What zipfile raises for files that are damaged, or made to deceive it.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    msgspec.MsgspecError,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise BackupError(f"The file is not a complete backup of a ledger: {text}") from error
