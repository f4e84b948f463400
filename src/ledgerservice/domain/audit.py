"""Records of the audit log."""

from datetime import datetime

import msgspec

COMMAND_LINE = "command line"
"""The source of what a command did."""


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what at the service, and what came of it.

    `event` is unique: a record that is added again is not added twice. `principal_id` is 0 where
    nobody was identified. `source` is the client's address, or `command line`. `action` is the
    operation's name, `subject` the path or what else it was about. `status` is the HTTP status, and
    `code` the problem's. `repeats` counts equal refusals. `detail` is a JSON object.
    """

    event: str
    source: str
    action: str
    status: int
    principal_id: int = 0
    key_id: str | None = None
    request_id: str | None = None
    ledger_id: int | None = None
    subject: str | None = None
    code: str | None = None
    repeats: int = 1
    detail: str | None = None


class ChainedRecord(AuditRecord, frozen=True, kw_only=True):
    """A record as it stands in the log: its number, its time, and the digest of the chain."""

    id: int
    recorded_at: datetime
    digest: bytes
