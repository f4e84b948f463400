"""The form of a key: `lgk_<id>_<secret><checksum>`. Pure.

The prefix is for programs that look for leaked secrets, and the checksum keeps them from reporting
what only looks like a key. The id names the key in lists and logs. Only the digest is kept.
"""

import hashlib
import re
import secrets
import string
import zlib
from typing import NamedTuple

PREFIX = "lgk"
ID_CHARACTERS = 12
SECRET_CHARACTERS = 43  # of 62: 256 bits
CHECKSUM_CHARACTERS = 6

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_DIGITS = string.digits + string.ascii_lowercase
_KEY = re.compile(
    rf"({PREFIX}_[0-9a-z]{{{ID_CHARACTERS}}}_[0-9A-Za-z]{{{SECRET_CHARACTERS}}})"
    rf"([0-9A-Za-z]{{{CHECKSUM_CHARACTERS}}})",
    re.ASCII,
)


class NewKey(NamedTuple):
    """A key that was just made: the only time that its text is known."""

    id: str
    text: str

    @property
    def digest(self) -> bytes:
        """What is kept of it."""
        return digest_of(self.text.encode())


def make() -> NewKey:
    """A key that nobody can guess."""
    key_id = _random(ID_CHARACTERS, _ID_DIGITS)
    text = f"{PREFIX}_{key_id}_{_random(SECRET_CHARACTERS, _DIGITS)}"
    return NewKey(key_id, text + _checksum(text))


def _random(length: int, digits: str) -> str:
    return "".join(secrets.choice(digits) for _ in range(length))


def _checksum(text: str) -> str:
    """The CRC-32 in base 62."""
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(CHECKSUM_CHARACTERS):
        number, place = divmod(number, len(_DIGITS))
        digits = _DIGITS[place] + digits
    return digits


def id_of(text: str) -> str | None:
    """The id of a key, or None if its form or its checksum is not valid."""
    parts = _KEY.fullmatch(text)
    if parts is None or _checksum(parts[1]) != parts[2]:
        return None
    return parts[1][len(PREFIX) + 1 :][:ID_CHARACTERS]


def digest_of(text: bytes) -> bytes:
    """The SHA-256 of a whole key, its id included."""
    return hashlib.sha256(text).digest()
