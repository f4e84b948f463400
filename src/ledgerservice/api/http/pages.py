"""Cursors of lists: where a page ends, and the list and filter it belongs to, signed."""

import base64
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request

from ledgerservice.api.http.problems import ProblemError
from ledgerservice.api.movements.posting import LEDGER

OUTSIDE = "ledgerservice.outside"
"""Where the scope of a request has the part of its path that names a ledger."""

SIGNATURE_BYTES = 12


def encode(request: Request, place: list[Any], filters: list[Any]) -> str:
    """A cursor after `place` of the list that `filters` select."""
    text = json.dumps(place, separators=(",", ":"), ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(_signature(request, text, filters) + text).decode().rstrip("=")


def decode(request: Request, cursor: str, filters: list[Any]) -> list[Any]:
    """The place of a cursor. Refuses one of another list, filter or ledger, and a made-up one."""
    try:
        found = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        raise ProblemError("invalid_cursor") from None
    signature, text = found[:SIGNATURE_BYTES], found[SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(request, text, filters)):
        raise ProblemError("invalid_cursor")
    place: list[Any] = json.loads(text)
    # Only what encode makes is taken: decoding alone passes over much.
    if encode(request, place, filters) != cursor:
        raise ProblemError("invalid_cursor")
    return place


def _signature(request: Request, text: bytes, filters: list[Any]) -> bytes:
    about = json.dumps([request.scope.get(LEDGER), filters]).encode()
    key = request.app.state.runtime.cursor_key
    return hmac.digest(key, b"%d %b%b" % (len(text), text, about), hashlib.sha256)[:SIGNATURE_BYTES]


def next_link(request: Request, cursor: str, **query: Any) -> dict[str, str]:
    """The Link header (RFC 8288) to the page after this one."""
    given = {name: value for name, value in query.items() if value is not None}
    outside = request.scope.get(OUTSIDE, "")
    target = f"{outside}{request.url.path}?{urlencode({**given, 'cursor': cursor})}"
    return {"Link": f'<{target}>; rel="next"'}
