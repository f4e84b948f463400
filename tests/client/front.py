"""What may stand between a client and the service: it forwards bytes, cuts, answers itself, or
keeps a request until its end, as many proxies do.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.processes import RunningService

PIECE = 1 << 16


class Front:
    """A port that forwards to another. `heads` counts the requests by their first line.

    canned       answers that the next connections get instead of the service's, in this order
    cut_after    bytes of an answer, after which the connections that come next are cut, in turn
    keeps        a request with a body in pieces is kept until its end, which never comes
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.canned: deque[bytes] = deque()
        self.cut_after: deque[int] = deque()
        self.keeps = False
        self.heads: list[bytes] = []
        self.port = 0
        self._started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=[self._serve()], name="front")
        self._thread.start()
        self._started.wait()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stopping.wait()
        server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head.partition(b"\r\n")[0])
            is_stream = b"chunked" in head.lower()
            if self.canned:
                writer.write(self.canned.popleft())
                await writer.drain()
            elif not (is_stream and self.keeps):
                await self._forward(head, reader, writer)
            else:
                while await reader.read(PIECE):
                    pass
        writer.close()

    async def _forward(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        from_service, to_service = await asyncio.open_connection(*self.target)
        to_service.write(head)
        left = self.cut_after.popleft() if self.cut_after else None
        tasks = {
            asyncio.create_task(_copy(reader, to_service, None)),
            asyncio.create_task(_copy(from_service, writer, left)),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            to_service.transport.abort()
            writer.transport.abort()


@contextmanager
def between(service: RunningService) -> Iterator[Front]:
    """A front of a service."""
    parts = urlsplit(service.base)
    assert parts.hostname is not None and parts.port is not None
    front = Front(parts.hostname, parts.port)
    try:
        yield front
    finally:
        front.stop()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None
) -> None:
    with suppress(OSError):
        while data := await reader.read(PIECE if left is None else max(1, min(PIECE, left))):
            writer.write(data)
            await writer.drain()
            if left is not None and (left := left - len(data)) <= 0:
                return


def canned(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body
