"""Backup and restore with PostgreSQL's own programs, pg_dump and pg_restore."""

import os
import subprocess
from pathlib import Path

from sqlalchemy import URL, Engine, text

from ledgerservice.errors import BackupError


def backup(binaries: Path, url: URL, schema: str, file: Path) -> None:
    """Write the schema and the data of the ledger to `file`, complete or not at all.

    pg_dump reads one snapshot, so the service may keep running. Raises BackupError.
    """
    part = file.with_name(file.name + ".part")
    part.touch(mode=0o600)
    arguments = ["--format=custom", f"--schema={schema}", "--no-owner", "--no-privileges"]
    try:
        _run(binaries / "pg_dump", [*arguments, f"--file={part}", f"--dbname={_dsn(url)}"], url)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def restore(binaries: Path, url: URL, engine: Engine, schema: str, file: Path) -> None:
    """Restore a backup into a database without a ledger, complete or not at all.

    Raises BackupError.
    """
    with engine.connect() as connection:
        if connection.scalar(text("SELECT to_regnamespace(:name)::text"), {"name": schema}):
            raise BackupError("The database contains a ledger already; restore into an empty one.")
    arguments = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
    _run(binaries / "pg_restore", [*arguments, f"--dbname={_dsn(url)}", str(file)], url)


def _dsn(url: URL) -> str:
    """The URL in libpq's form. Without the password, which other users could see in `ps`."""
    plain = url.set(drivername="postgresql", password=None)
    return plain.render_as_string(hide_password=False)


def _run(program: Path, arguments: list[str], url: URL) -> None:
    environment = {k: v for k, v in os.environ.items() if k.startswith("PG")}
    environment |= {"LC_ALL": "C", "PATH": os.defpath}
    if url.password is not None:
        environment["PGPASSWORD"] = str(url.password)
    try:
        done = subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BackupError(f"{program}: {error.strerror}.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BackupError(lines[0])
