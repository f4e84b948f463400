"""The log: one line for each event, as text or as JSON, on the standard error.

It never has owners, metadata, bodies, tokens or parameters of statements. An exception is shown by
its type and its frames; its message only if it is one of ours, or PostgreSQL's first line without
the values that it quotes.
"""

import logging
import re
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from ledgerservice.errors import LedgerError, printable
from ledgerservice.telemetry.exchanges import CURRENT

TEXT, JSON = "text", "json"
UVICORN = ("uvicorn", "uvicorn.error")
REPEAT_S = 10.0
MOST_REPEATED = 1_000

_PLAIN = re.compile(r"[\w.:/{}+-]+", re.ASCII).fullmatch
_encode = msgspec.json.Encoder().encode

Fields = dict[str, Any]


def configure(form: str) -> None:
    """Write the log of this process in a form, TEXT or JSON, instead of what wrote it before."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Formatter(as_json=form.lower() == JSON))
    root = logging.getLogger()
    for other in root.handlers[:]:
        root.removeHandler(other)
        other.close()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in ("alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    _quiet_uvicorn()


def configure_unless_done(form: str) -> None:
    """`configure` in a program of somebody else's, such as `uvicorn`, if nothing writes the log.

    The access log of uvicorn ends in any case: a path and a query have keys and owners in them.
    """
    if logging.getLogger().handlers:
        _end_access_log()
    else:
        configure(form)


def _quiet_uvicorn() -> None:
    for name in UVICORN:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    _end_access_log()


def _end_access_log() -> None:
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False


def flush_repeats() -> None:
    """Write how often lines were repeated, if it is time."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            handler.write_repeats(time.monotonic() - REPEAT_S)


class _Handler(logging.StreamHandler[Any]):
    """Writes a warning or an error once in REPEAT_S, and then how often it came again."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        # By text, in the order of the lines: when it was written, and how often since.
        self._written: dict[str, tuple[float, int, logging.LogRecord]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            super().emit(record)
            return
        now_s = time.monotonic()
        self.write_repeats(now_s - REPEAT_S)
        key = getattr(record, "same", None) or f"{record.name} {record.getMessage()}"
        if key in self._written:
            written_s, number, _ = self._written[key]
            self._written[key] = written_s, number + 1, record
            return
        if len(self._written) >= MOST_REPEATED:
            self._end(next(iter(self._written)))
        self._written[key] = now_s, 0, record
        super().emit(record)

    def write_repeats(self, until_s: float) -> None:
        """Write the number of those whose first line was written by a time."""
        self.acquire()
        try:
            due = [key for key, (written_s, *_) in self._written.items() if written_s <= until_s]
            for key in due:
                self._end(key)
        finally:
            self.release()

    def close(self) -> None:
        self.write_repeats(float("inf"))
        super().close()

    def _end(self, key: str) -> None:
        _, number, record = self._written.pop(key)
        if number:
            record.repeated = number
            super().emit(record)


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        time_text = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        time_text = time_text.replace("+00:00", "Z")
        event = " ".join(record.getMessage().split())
        fields = _fields(record)
        frames = _exception(record)
        if self._as_json:
            more = fields | ({"error": frames} if frames else {})
            head = {"time": time_text, "level": record.levelname, "event": event}
            return _encode(head | more).decode()
        rest = "".join(f" {name}={_value(value)}" for name, value in fields.items())
        line = f"{time_text} {record.levelname}: {printable(event)}{rest}"
        return f"{line}\n{frames}" if frames else line


def _fields(record: logging.LogRecord) -> Fields:
    """What a line has beside its event, of the request that the task answers too."""
    fields: Fields = {"logger": record.name}
    own: Fields | None = getattr(record, "fields", None)
    if own is not None:
        fields |= own
    elif (exchange := CURRENT.get()) is not None:
        fields["request_id"] = exchange.request_id
        if exchange.key_id is not None:
            fields["key_id"] = exchange.key_id
    if (number := getattr(record, "repeated", 0)) > 0:
        fields["repeated"] = number
    return fields


def _value(value: object) -> str:
    text = str(value)
    return text if _PLAIN(text) else _encode(text).decode()


def _exception(record: logging.LogRecord) -> str | None:
    """The frames and types of an exception and of its causes, the first one first."""
    if not record.exc_info or record.exc_info[1] is None:
        return None
    parts = [_described(one) for one in _chain(record.exc_info[1])]
    return "\n\nThen:\n\n".join(reversed(parts))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _described(error: BaseException) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__))
    text = message_of(error)
    return f"{frames}{type(error).__module__}.{type(error).__qualname__}" + f": {text}" * bool(text)


def message_of(error: BaseException) -> str:
    """What may be said of an exception: nothing of one whose message can have a caller's text."""
    if isinstance(error, LedgerError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or ""
    diag = getattr(error, "diag", None)
    if diag is None:
        return ""
    return without_quoted(getattr(error, "sqlstate", None), diag.message_primary or "")


_QUOTED = re.compile('".*"', re.DOTALL)


def without_quoted(sqlstate: str | None, message: str) -> str:
    """A message of PostgreSQL's, which quotes values in the errors of class 22 (data)."""
    is_of_data = sqlstate is not None and sqlstate.startswith("22")
    return _QUOTED.sub('"..."', message) if is_of_data else message
