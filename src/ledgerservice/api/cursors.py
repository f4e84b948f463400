"""Cursors of lists: where a page ends, and the filter it belongs to."""

import base64
import hashlib
import json
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request

from ledgerservice.api.problems import Refused
from ledgerservice.model import BIGGEST_ID


def encode(place: int, filters: list[Any]) -> str:
    """A cursor after `place` of the list that `filters` select."""
    text = f"{place} {_digest(filters)}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str, filters: list[Any]) -> int:
    """The place of a cursor. Refuses one of another list or filter."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        place = int(text.partition(" ")[0])
    except ValueError:
        raise Refused("invalid_cursor") from None
    # Only what encode makes is taken: decoding alone passes over much.
    if not 0 <= place <= BIGGEST_ID or encode(place, filters) != cursor:
        raise Refused("invalid_cursor")
    return place


def _digest(filters: list[Any]) -> str:
    return hashlib.sha256(json.dumps(filters).encode()).hexdigest()[:16]


def next_link(request: Request, cursor: str, **query: Any) -> dict[str, str]:
    """The Link header (RFC 8288) to the page after this one, with its filter."""
    given = {name: value for name, value in query.items() if value is not None}
    target = f"{request.url.path}?{urlencode({**given, 'cursor': cursor})}"
    return {"Link": f'<{target}>; rel="next"'}
