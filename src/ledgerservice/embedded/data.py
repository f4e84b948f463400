"""Makes the data of a new server."""

import os
from collections.abc import Callable
from pathlib import Path

from ledgerservice.embedded.configuration import DATABASE, configuration, initdb_options
from ledgerservice.embedded.programs import Programs

DataSource = Callable[[Programs, Path], None]
"""Makes the data of a server in an empty folder, which belongs to the user of the programs."""


def empty_data(programs: Programs, folder: Path) -> None:
    """The data of a server with an empty database."""
    programs.run(["initdb", "-D", os.fspath(folder), *initdb_options(programs.major())], folder)
    append(folder / "postgresql.conf", configuration(folder))
    options = ["--single", "-D", os.fspath(folder), "-c", "exit_on_error=on", "template1"]
    programs.run(["postgres", *options], folder, f"CREATE DATABASE {DATABASE}\n")


def put_in_place(new: Path, data: Path) -> None:
    """Give complete data its name. Raises OSError if another process has made data there."""
    new.rename(data)
    descriptor = os.open(data.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(path: Path, text: str) -> None:
    """Add to a file of the server's user, without following a link of his."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
