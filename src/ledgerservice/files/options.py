"""How a file of movements is to be read: its format and its conventions."""

from dataclasses import dataclass, field
from datetime import tzinfo
from enum import StrEnum
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ledgerservice.errors import ImportFault


class Format(StrEnum):
    """The format of a file of movements or entries."""

    CSV = "csv"
    NDJSON = "ndjson"
    OFX = "ofx"
    CAMT053 = "camt053"
    MT940 = "mt940"


BANK_FORMATS = {Format.OFX, Format.CAMT053, Format.MT940}
SUFFIXES = {
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
    ".ofx": Format.OFX,
    ".qfx": Format.OFX,
    ".sta": Format.MT940,
    ".mt940": Format.MT940,
    ".940": Format.MT940,
}


def format_of(path: Path, chosen: Format | None) -> Format:
    """The format of a file: the chosen one, or that of its suffix. Raises ImportFault."""
    form = chosen or SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise ImportFault(f"Its suffix is none of {', '.join(SUFFIXES)}. Add --format.")
    return form


@dataclass(frozen=True, slots=True)
class Options:
    """The conventions of a file.

    `columns` maps our names to those of the file, `ignored` are columns without a meaning here.
    `account` is the account, by id or reference, of rows that name none. `key_prefix` begins the
    keys of rows that have none. `bank_account` is the account, in a file of several, whose
    statements are read.
    """

    form: Format = Format.CSV
    encoding: str | None = None
    delimiter: str | None = None
    decimal_comma: bool = False
    date_format: str | None = None
    timezone: tzinfo = field(default_factory=lambda: ZoneInfo("UTC"))
    columns: dict[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    account: str | None = None
    key_prefix: str | None = None
    bank_account: str | None = None


def zone_of(name: str) -> ZoneInfo:
    """A time zone by its name, such as Asia/Kolkata. Raises ImportFault."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ImportFault(f"There is no time zone {name}; one is Asia/Kolkata.") from None


def columns_of(pairs: list[str]) -> dict[str, str]:
    """The columns by our names, from texts like `amount=Betrag`. Raises ImportFault."""
    columns: dict[str, str] = {}
    for pair in pairs:
        name, equals, header = pair.partition("=")
        if not equals or name in columns:
            raise ImportFault(f"--column {pair}: it must be NAME=HEADER, each name once.")
        columns[name] = header
    return columns
