"""Several prepared statements in one round trip, over libpq.

psycopg's cursors cost 100 µs of Python a statement, six times the statement itself. Its pipeline
ends with a Flush, which disarms idle_in_transaction_session_timeout in PostgreSQL. The write path
therefore uses libpq directly, through psycopg's connection: psycopg connects, receives notices,
names errors and converts rows; this module sends the statements and waits for their results.
"""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import count
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result

from ledgerservice.postgres.schema import SCHEMA, in_schema
from ledgerservice.telemetry.logs import without_quoted

Rows = list[tuple[Any, ...]]
Parameters = Sequence[bytes | None]

_DONE = {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}


class Request(NamedTuple):
    """A statement with numbered parameters, and their values in PostgreSQL's text format."""

    statement: str
    parameters: Parameters = ()


class Result(NamedTuple):
    """A statement's rows and its command tag, such as `COMMIT`."""

    rows: Rows
    tag: str


def number(value: int) -> bytes:
    """A number as a parameter."""
    return str(value).encode()


def timestamp(time: datetime) -> bytes:
    """A timestamp as a parameter."""
    return time.isoformat().encode()


def array(values: Iterable[int | str]) -> bytes:
    """An array of numbers, or of texts that need no quotes, as a parameter."""
    return f"{{{','.join(map(str, values))}}}".encode()


def optional_array(values: Iterable[int | None]) -> bytes:
    """An array of numbers and NULLs as a parameter."""
    return array("NULL" if value is None else value for value in values)


def timestamp_array(times: Iterable[datetime | None]) -> bytes:
    """An array of timestamps as a parameter."""
    return text_array(None if time is None else time.isoformat() for time in times)


def text_array(values: Iterable[str | None]) -> bytes:
    """An array of texts as a parameter. Raises DataError for NUL, at which libpq would cut it."""
    text = f"{{{','.join(map(_quoted, values))}}}"
    if "\0" in text:
        raise psycopg.DataError("a text of PostgreSQL cannot contain NUL")
    return text.encode()


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def without_values(error: psycopg.Error) -> psycopg.Error:
    """The error, with only the server's first line as its text, without the values in it.

    DETAIL and CONTEXT repeat whole rows, with owners and metadata, and the text gets into logs.
    `error.diag` keeps them.
    """
    if error.diag.message_primary is not None:
        error.args = (without_quoted(error.sqlstate, error.diag.message_primary),)
    return error


class Wire:
    """A connection of the write path, to a ledger in `schema`.

    `lasting`: the connection belongs to the write path, and keeps its prepared statements.
    `server_version` is in libpq's form: 150018 is 15.18.
    """

    def __init__(
        self, connection: AsyncConnection[Any], schema: str = SCHEMA, *, lasting: bool = True
    ) -> None:
        self.connection = connection
        self._schema = schema
        self._pgconn = connection.pgconn
        self.server_version = connection.pgconn.server_version
        self._loop = asyncio.get_running_loop()
        self._lasting = lasting
        self._prepared: dict[str, bytes] = {}
        self._names = count()
        self._warnings: list[str] = []
        self._transformer = Transformer(connection)
        connection.add_notice_handler(self._receive_notice)

    async def exchange(self, *requests: Request) -> list[Result]:
        """Run the requests in order, in one round trip. After a failure the rest is skipped.

        Raises psycopg's error of the first one that failed.
        """
        self._warnings.clear()
        pgconn = self._pgconn
        pgconn.enter_pipeline_mode()
        new: list[str] = []
        for statement, parameters in requests:
            name = self._prepared.get(statement)
            if name is None:
                name = self._name(statement)
                new.append(statement)
                pgconn.send_prepare(name, in_schema(statement, self._schema).encode())
            pgconn.send_query_prepared(name, parameters, result_format=pq.Format.BINARY)
        pgconn.pipeline_sync()
        results, failed = await self._results()
        pgconn.exit_pipeline_mode()
        if failed is not None:
            # What came after the failure was not prepared either. Names are not used again.
            for statement in new:
                self._prepared.pop(statement, None)
            raise without_values(error_from_result(failed))
        return [Result(self._rows(result), _tag(result)) for result in results]

    def _name(self, statement: str) -> bytes:
        if not self._lasting:
            return b""
        name = self._prepared[statement] = f"s{next(self._names)}".encode()
        return name

    async def copy(self, statement: str, chunks: Iterable[str]) -> None:
        """COPY FROM STDIN. A chunk is built while the server reads the chunks before it."""
        await self.begin_copy(statement, chunks)
        await self.end_copy()

    async def begin_copy(self, statement: str, chunks: Iterable[str]) -> None:
        """`copy` without its end. The server has all rows then, and waits for `end_copy`."""
        pgconn = self._pgconn
        pgconn.send_query(in_schema(statement, self._schema).encode())
        await self._flush()
        await self._command_result()
        for chunk in chunks:
            while not pgconn.put_copy_data(chunk.encode()):
                await self._ready(writes=True)
            await self._flush()

    async def end_copy(self) -> None:
        """The end of a COPY. Only now its triggers run; an error in its rows is raised here."""
        while not self._pgconn.put_copy_end():
            await self._ready(writes=True)
        await self._flush()
        await self._command_result()

    @property
    def warnings(self) -> list[str]:
        """The server's warnings during the last exchange."""
        return self._warnings

    @property
    def idle(self) -> bool:
        """Whether no transaction is open."""
        return self._pgconn.transaction_status == pq.TransactionStatus.IDLE

    async def close(self) -> None:
        """Close the connection; an open transaction is rolled back by the server."""
        await self.connection.close()

    def release(self) -> None:
        """Leave the connection to its owner."""
        self.connection.remove_notice_handler(self._receive_notice)

    def cut(self) -> None:
        """End the connection below libpq, so that every wait on it fails."""
        with suppress(OSError, psycopg.OperationalError), self._socket() as end:
            end.shutdown(socket.SHUT_RDWR)

    def _socket(self) -> socket.socket:
        return socket.fromfd(self._pgconn.socket, socket.AF_UNIX, socket.SOCK_STREAM)

    def _receive_notice(self, notice: Any) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warnings.append(notice.message_primary or "")

    async def _results(self) -> tuple[list[pq.abc.PGresult], pq.abc.PGresult | None]:
        """The statements' results up to the pipeline's end, and the first failure."""
        pgconn = self._pgconn
        results: list[pq.abc.PGresult] = []
        failed: pq.abc.PGresult | None = None
        while True:
            if (writes := pgconn.flush() == 1) or pgconn.is_busy():
                await self._ready(writes=writes)
                pgconn.consume_input()
                continue
            result = pgconn.get_result()
            if result is None:
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                break
            if result.status in _DONE:
                if result.command_status:  # the results of preparing have none
                    results.append(result)
            elif failed is None:
                failed = result
            if pgconn.status == pq.ConnStatus.BAD:
                raise psycopg.OperationalError(pgconn.get_error_message())
        return results, failed

    async def _flush(self) -> None:
        """Send what has been put; read what the server says meanwhile."""
        while self._pgconn.flush():
            await self._ready(writes=True)
            self._pgconn.consume_input()

    async def _command_result(self) -> None:
        """Wait for the result of a simple command, up to where it copies in. Raises its error."""
        pgconn, failed = self._pgconn, None
        while True:
            while pgconn.is_busy():
                await self._ready(writes=False)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None or result.status == pq.ExecStatus.COPY_IN:
                break
            if result.status not in _DONE:
                failed = failed or result
        if failed is not None:
            raise without_values(error_from_result(failed))

    async def _ready(self, *, writes: bool) -> None:
        """Wait until the socket can be read; `writes`: or written, as there is data to send.

        To look here whether there is would be too late: a COPY whose last data the server has just
        taken waits for nothing that can be read.
        """
        ready = self._loop.create_future()
        end = self._pgconn.socket

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_reader(end, wake)
        if writes:
            self._loop.add_writer(end, wake)
        try:
            await ready
        finally:
            self._loop.remove_reader(end)
            if writes:
                self._loop.remove_writer(end)

    def _rows(self, result: pq.abc.PGresult) -> Rows:
        if not result.ntuples:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)


def _tag(result: pq.abc.PGresult) -> str:
    return (result.command_status or b"").decode()
