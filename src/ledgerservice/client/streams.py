"""A stream of lines over HTTP/1.1: answers arrive while lines are still sent, which httpx cannot.

It has a connection of its own. The framing is h11's, on which httpx is built too.
"""

import asyncio
import ssl
from collections.abc import Callable
from time import monotonic

import h11
import httpx
import msgspec

from ledgerservice.client.errors import Answer, ClientError, error_of, no_answer
from ledgerservice.client.retries import retry_after_s

OK = 200
READ_BYTES = 1 << 18


class _LineResult(msgspec.Struct, gc=False):
    line: int
    status: int
    body: msgspec.Raw


_decode = msgspec.json.Decoder(_LineResult).decode

Take = Callable[[int, Answer], None]
"""Takes the number of a line, from 1, and its answer."""


class Stream:
    """One request whose body is lines. `take` gets each answer; `done` is set when it has ended.

    `fault` says why it has ended, and is None if it was answered to its end.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, take: Take
    ) -> None:
        self._reader, self._writer, self._take = reader, writer, take
        self._http = h11.Connection(h11.CLIENT)
        self._head: h11.Response | None = None
        self._rest = b""
        self._refusal = b""
        self._request_id: str | None = None
        self.fault: ClientError | None = None
        self.active_s = monotonic()
        """When it last had an answer."""
        self.reading = asyncio.create_task(self._read())

    @classmethod
    async def open(
        cls, url: httpx.URL, headers: dict[str, str], tls: ssl.SSLContext, take: Take
    ) -> "Stream":
        """Connect, and begin the request. Raises OSError."""
        port = url.port or (443 if url.scheme == "https" else 80)
        context = tls if url.scheme == "https" else None
        reader, writer = await asyncio.open_connection(
            url.host, port, ssl=context, limit=READ_BYTES
        )
        stream = cls(reader, writer, take)
        host = {"Host": url.netloc.decode("ascii"), "Transfer-Encoding": "chunked"}
        head = [*(host | headers).items()]
        stream.write(h11.Request(method="POST", target=url.raw_path, headers=head))
        return stream

    @property
    def is_answered(self) -> bool:
        """Whether the head of the answer has arrived."""
        return self._head is not None

    def write(self, event: h11.Event) -> None:
        """Send a part of the request."""
        self._writer.write(self._http.send(event) or b"")

    async def send(self, lines: list[bytes]) -> None:
        """Send lines, and wait until there is room for more. Raises OSError."""
        self.write(h11.Data(data=b"\n".join(lines) + b"\n"))
        await self._writer.drain()

    def end(self) -> None:
        """Send no further lines. Those that were sent are still answered."""
        self.write(h11.EndOfMessage())

    def close(self) -> None:
        """Close the connection. What is not answered then stays so."""
        self.reading.cancel()
        self._writer.transport.abort()

    async def _read(self) -> None:
        try:
            while not await self._read_some():
                pass
        except (OSError, EOFError, h11.RemoteProtocolError, msgspec.MsgspecError) as error:
            self.fault = no_answer(error)
        except ClientError as error:
            self.fault = error

    async def _read_some(self) -> bool:
        """Read what there is; whether the answer has ended. Raises ClientError and the others."""
        data = await self._reader.read(READ_BYTES)
        self._http.receive_data(data)
        self.active_s = monotonic()
        while (event := self._http.next_event()) is not h11.NEED_DATA:
            match event:
                case h11.Response():
                    self._begin(event)
                case h11.Data():
                    self._add(bytes(event.data))
                case h11.EndOfMessage():
                    self._finish()
                    return True
                case h11.ConnectionClosed():
                    raise EOFError("the connection was closed")
        return False

    def _begin(self, head: h11.Response) -> None:
        self._head = head
        self._request_id = _header(head, b"x-request-id")

    def _add(self, data: bytes) -> None:
        if self._head is None or self._head.status_code != OK:
            self._refusal += data
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            one = _decode(line)
            self._take(one.line, Answer(one.status, bytes(one.body), self._request_id))

    def _finish(self) -> None:
        head = self._head
        if head is not None and head.status_code != OK:
            after_s = retry_after_s(_header(head, b"retry-after"))
            raise error_of(Answer(head.status_code, self._refusal, self._request_id, after_s))


def _header(head: h11.Response, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in head.headers if key == name), None)
