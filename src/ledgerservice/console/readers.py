"""The reader of a page: what GET /me says of the session's key, and what it may do."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

SOON = timedelta(days=14)
"""A key that expires within this time is mentioned on each page."""
BY_TOKEN = "token"  # noqa: S105  (the kind of a caller)


class Reader:
    """Who reads. The API decides what the reader may do; this is what is worth showing."""

    def __init__(self, me: dict[str, Any]) -> None:
        self._me = me
        self.principal_id: int = me["principal_id"]
        self.name: str = me["principal"] or ""
        self.is_open: bool = me["kind"] == "open"

    def may(self, ledger: str, scopes: Iterable[str], *, is_whole: bool = False) -> bool:
        """Whether the reader has one of these scopes on a ledger; with `is_whole` on all of it, and
        not on some of its accounts only.
        """
        own = {*self._me["scopes"], *self._me["ledgers"].get(ledger, ())}
        if not is_whole:
            limited = (one["scopes"] for one in self._me["accounts"] if one["ledger"] == ledger)
            own = own.union(*limited)
        return not own.isdisjoint(scopes)

    @property
    def expires_at(self) -> str | None:
        """When the key expires, if that is soon. A token ends within hours, and is renewed."""
        text = self._me["expires_at"]
        if text is None or self._me["kind"] == BY_TOKEN:
            return None
        return text if datetime.fromisoformat(text) < datetime.now(UTC) + SOON else None
