"""The cells of a table as values of a request, and back.

A spreadsheet takes a text that begins with = + - @, a tab or a carriage return for a formula. Such
a text is written with one apostrophe before it, and read without it. A text that has apostrophes
before such a character gets one more, so that whatever is written is read the same.
"""

import re
from datetime import datetime

from ledgerservice.api.http.fields import parse_timestamp
from ledgerservice.files.options import Options

_begins_like_a_formula = re.compile("'*[=+\\-@\t\r]").match
_is_guarded = re.compile("'+[=+\\-@\t\r]").match


def guarded(text: str) -> str:
    """A text as it is written into a table."""
    return f"'{text}" if _begins_like_a_formula(text) else text


def unguarded(cell: str) -> str:
    """The text of a cell."""
    return cell[1:] if _is_guarded(cell) else cell


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
