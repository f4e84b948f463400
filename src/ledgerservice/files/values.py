"""The cells of a table as values of a request."""

import re
from datetime import datetime

from ledgerservice.domain.timestamps import parse_timestamp
from ledgerservice.files.options import Options

_IS_POINTED = re.compile(r"[0-9]+(\.[0-9]*)?", re.ASCII).fullmatch
_IS_COMMAED = re.compile(r"([0-9]{1,3}(\.[0-9]{3})+|[0-9]+)(,[0-9]*)?", re.ASCII).fullmatch


def amount_of(cell: str, options: Options) -> tuple[bool, str]:
    """Whether an amount is below zero, and its plain decimal, without zeros at its end.

    Raises ValueError for a cell that is not an amount: 1.23 is none where the comma is the point.
    """
    text = cell.strip()
    digits = text[1:] if text.startswith(("-", "+")) else text
    if options.decimal_comma and _IS_COMMAED(digits):
        digits = digits.replace(".", "").replace(",", ".")
    elif options.decimal_comma or not _IS_POINTED(digits):
        form = "-1.234,50 or 1234,5" if options.decimal_comma else "-1234.50"
        raise ValueError(f"must be a decimal such as {form}")
    return text.startswith("-"), without_zeros(digits)


def without_zeros(digits: str) -> str:
    """A plain decimal without zeros after its last decimal, which no currency needs to have."""
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def time_of(cell: str, options: Options) -> str:
    """A timestamp of RFC 3339 from a cell in the file's date format, or of ISO 8601.

    A time without an offset, or a date, is one of the file's time zone. Raises ValueError.
    """
    text = cell.strip()
    if options.date_format is not None:
        time = datetime.strptime(text, options.date_format)  # noqa: DTZ007  (its zone follows)
    else:
        try:
            return parse_timestamp(text).isoformat()
        except ValueError:
            if not re.match("[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}[^Z+-]*)?$", text):
                raise
            time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        time = time.replace(tzinfo=options.timezone)
    return time.isoformat()
