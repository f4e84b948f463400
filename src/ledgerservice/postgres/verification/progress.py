"""How far a continued verification is, kept in memory and, for the next process, in a file.

It is not kept in the database. Who can write past the journal's guards can write there too, and
could mark what was changed as verified. A file that is missing, damaged or of another journal costs
work: everything is verified again.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

import msgspec

SHOWN_VIOLATIONS = 1_000


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a pass over everything goes on: a ledger, `accounts` or `transactions`, and an id."""

    ledger: int
    part: str
    low: int


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last transaction id at a time, in seconds since 1970 by the database's clock."""

    seen_at_s: float
    last_id: int


class Witness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A transaction that is there, and the digest of its row, which never changes."""

    ledger: int
    id: int
    digest: str


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """What has been verified.

    Transactions up to `checked_id` were verified when they were new, and those up to `settled_id`
    once more, when no database transaction was open any more that could add to them.
    """

    is_begun: bool = False
    checked_id: int = 0
    settled_id: int = 0
    marks: list[Mark] = []
    witness: Witness | None = None
    pass_begun_s: float = 0.0
    place: Place | None = None
    pass_ratio: float = 0.0
    """How much of the present pass is done, or of the last one."""
    last_success_s: float = 0.0
    standing: list[str] = []
    """The violations of the last complete pass, SHOWN_VIOLATIONS at most."""
    fresh: list[str] = []
    """Those since the present pass began."""

    @property
    def violations(self) -> list[str]:
        """All that stand, as far as it is known."""
        return list(dict.fromkeys([*self.standing, *self.fresh]))


def load(path: Path | None) -> Progress:
    """The progress in a file; that of a new verification if there is none that can be read."""
    if path is not None:
        with suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(path.read_bytes(), type=Progress)
    return Progress()


def save(path: Path | None, progress: Progress) -> None:
    """Write the file, completely or not at all. Raises OSError."""
    if path is None:
        return
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            target.write(msgspec.json.encode(progress))
            target.flush()
            os.fsync(target.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
