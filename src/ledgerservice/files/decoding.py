"""The bytes of a file as lines of text.

A byte that is not valid in the encoding becomes a lone surrogate, from which the original byte can
be written again. Only the row that has it is rejected.
"""

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

from ledgerservice.errors import ImportFault

MAX_LINE_BYTES = 2**20
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

has_undecoded = re.compile("[\ud800-\udfff]").search
"""Whether a text has what could not be decoded."""


class Decoder:
    """Reads lines of text, and writes them again with their original bytes."""

    def __init__(self, source: BinaryIO, encoding: str | None) -> None:
        """Without an `encoding` it is that of the byte order mark, or UTF-8.

        Raises ImportFault for an encoding that does not exist.
        """
        self._source = source
        self.done_bytes = 0
        start = source.readline(MAX_LINE_BYTES)
        bom, marked = next((pair for pair in BOMS if start.startswith(pair[0])), (b"", None))
        self.bom = bom
        self.encoding = _checked(encoding or marked or "utf-8")
        self._start = start.removeprefix(bom)
        wide = self.encoding.startswith(("utf-16", "utf-32"))
        self._errors = "surrogatepass" if wide else "surrogateescape"
        self._wide = wide

    def lines(self) -> Iterator[str]:
        """The lines, each with its line end."""
        return self._wide_lines() if self._wide else self._plain_lines()

    def _plain_lines(self) -> Iterator[str]:
        line = self._start
        while line:
            self.done_bytes += len(line)
            _check_length(line)
            yield line.decode(self.encoding, self._errors)
            line = self._source.readline(MAX_LINE_BYTES)

    def _wide_lines(self) -> Iterator[str]:
        """A line feed is two or four bytes, one of which may be that of a line feed by chance."""
        decoder = codecs.getincrementaldecoder(self.encoding)(self._errors)
        rest, block = "", self._start
        while block:
            self.done_bytes += len(block)
            *lines, rest = re.split("(?<=\n)", rest + self._decoded(decoder, block))
            yield from lines
            _check_length(rest.encode("utf-8", "surrogatepass"))
            block = self._source.read(2**16)
        rest += self._decoded(decoder, b"", final=True)
        if rest:
            yield rest

    def _decoded(
        self, decoder: codecs.IncrementalDecoder, block: bytes, *, final: bool = False
    ) -> str:
        try:
            return decoder.decode(block, final)
        except UnicodeDecodeError as error:
            raise ImportFault(f"It is not valid {self.encoding}: {error.reason}.") from None

    def encoded(self, text: str) -> bytes:
        """A text with its original bytes. What the encoding lacks is written as `?`."""
        try:
            return text.encode(self.encoding, self._errors)
        except UnicodeEncodeError:
            return text.encode(self.encoding, "replace")


def _checked(encoding: str) -> str:
    """The name of an encoding of text, in Python's form."""
    try:
        "a".encode(encoding)
        return codecs.lookup(encoding).name
    except (LookupError, UnicodeError, ValueError):
        raise ImportFault(f"There is no encoding {encoding}; one is utf-8.") from None


def _check_length(line: bytes) -> None:
    if len(line) >= MAX_LINE_BYTES:
        raise ImportFault(f"It has a line of {MAX_LINE_BYTES} bytes or more.")
