"""Texts in the cells of a table. Pure.

A spreadsheet takes a text that begins with = + - @, a tab or a carriage return for a formula, some
also after blanks or in full width. Such a text is written with one apostrophe before it, and read
without it. A text that has apostrophes before such a character gets one more, so that whatever is
written is read the same.
"""

import csv
import re
from collections.abc import Iterable
from typing import Any

_begins_like_a_formula = re.compile("'*[ \ufeff]*[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]").match


def guarded(text: str) -> str:
    """A text as it is written into a table."""
    return f"'{text}" if _begins_like_a_formula(text) else text


def unguarded(cell: str) -> str:
    """The text of a cell."""
    is_guarded = cell.startswith("'") and _begins_like_a_formula(cell)
    return cell[1:] if is_guarded else cell


def row_of(cells: Iterable[Any], delimiter: str = ",") -> str:
    """A row of CSV, without its line end."""
    line = _Line()
    # Only with this line end a cell that has a carriage return in it is quoted.
    csv.writer(line, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    return line.text.removesuffix("\r\n")


class _Line:
    """What a csv.writer writes."""

    text = ""

    def write(self, text: str) -> None:
        self.text += text
