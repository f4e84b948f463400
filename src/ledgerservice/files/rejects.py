"""The file of the rows that were not posted, which can be mended and imported.

It is new, readable by its owner only, and never a link: an import cannot overwrite anything.
"""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

from ledgerservice.errors import ImportFault
from ledgerservice.files.rows import Row

RejectText = Callable[[Row, str, str, str], bytes]
"""A row as it is written, with its outcome, code and detail."""


class Rejects:
    """A file of rejects. It is removed again if it has no rows."""

    def __init__(self, path: Path, head: bytes, text_of: RejectText) -> None:
        """Raises ImportFault if the file exists, or cannot be written."""
        self.path = path
        self._text_of = text_of
        self.count = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._file = os.fdopen(os.open(path, flags, 0o600), "wb")
        except FileExistsError:
            raise ImportFault(f"The file of rejects, {path}, exists; name another one.") from None
        except OSError as error:
            raise ImportFault(f"{path}: {error.strerror}.") from None
        self._file.write(head)

    def add(self, row: Row, outcome: str, code: str, detail: str) -> None:
        """Write a row."""
        self._file.write(self._text_of(row, outcome, code, detail))
        self.count += 1

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file, and remove it if it has no rows."""
        self._file.close()
        if not self.count:
            self.path.unlink(missing_ok=True)


def path_of_rejects(source: Path, suffix: str) -> Path:
    """A name beside the source that does not exist: FILE.rejects.csv, FILE.rejects.2.csv, ..."""
    for number in itertools.count(1):
        middle = "" if number == 1 else f".{number}"
        path = source.with_name(f"{source.name}.rejects{middle}{suffix}")
        if not os.path.lexists(path):
            return path
    raise AssertionError
