"""A TCP proxy before PostgreSQL that cuts connections around COMMIT, delays, and goes silent."""

import asyncio
import random
import threading
from contextlib import suppress

BEFORE, WITHIN, AFTER = "before", "within", "after"
PROTOCOL_3 = (3 << 16).to_bytes(4, "big")


class Proxy:
    """Forwards a port of its own to another. Its faults can be changed at any moment.

    cut_rate     of the COMMITs, this share is cut: before it is forwarded, after it was, or once
                 the server has answered it, before the client hears of that
    delay_s      before each piece that is forwarded
    bytes_s      the bandwidth; 0: no limit
    silent       nothing is forwarded, and nobody told
    """

    def __init__(self, host: str, port: int, seed: int) -> None:
        self.target = (host, port)
        self.cut_rate = 0.0
        self.delay_s = 0.0
        self.bytes_s = 0
        self.cuts = 0
        self._random = random.Random(seed)
        self._open: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop
        self.port = 0
        self._started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=[self._serve()], name="proxy")
        self._thread.start()
        self._started.wait()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._speak = asyncio.Event()
        self._speak.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stopping.wait()
        server.close()

    def stop(self) -> None:
        """End it, and every connection through it."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def silence(self, silent: bool) -> None:
        """Go silent, or speak again."""
        change = self._speak.clear if silent else self._speak.set
        self._loop.call_soon_threadsafe(change)

    def cut_all(self) -> None:
        """End every connection that there is."""

        def cut() -> None:
            for writer in list(self._open):
                writer.transport.abort()

        self._loop.call_soon_threadsafe(cut)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, server_writer}
        self._open |= ends
        cut = _Cut()
        tasks = [
            asyncio.create_task(self._forward_client(reader, server_writer, cut)),
            asyncio.create_task(self._forward_server(server_reader, writer, cut)),
        ]
        try:
            with suppress(asyncio.CancelledError):  # by stop
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for end in ends:
                end.transport.abort()
            self._open -= ends

    async def _forward_client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: "_Cut"
    ) -> None:
        commits: set[bytes] = set()
        with suppress(OSError, asyncio.IncompleteReadError):
            while (head := await reader.readexactly(8))[4:] != PROTOCOL_3:
                writer.write(head)  # asks for encryption, and is refused
            writer.write(head + await reader.readexactly(int.from_bytes(head[:4], "big") - 8))
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                is_commit = _is_commit(head[:1], body, commits)
                if is_commit and self._random.random() < self.cut_rate:
                    self.cuts += 1
                    moment = self._random.choice((BEFORE, WITHIN, AFTER))
                    if moment == BEFORE:
                        return
                    cut.after_answer = moment == AFTER
                    cut.within = moment == WITHIN
                await self._pass(writer, head + body)
                if head[:1] == b"S" and cut.within:
                    await asyncio.sleep(self._random.random() * 0.003)
                    return

    async def _forward_server(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: "_Cut"
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if cut.after_answer and b"COMMIT\x00" in data:
                    return
                await self._pass(writer, data)

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        await self._speak.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s * self._random.random())
        if self.bytes_s:
            await asyncio.sleep(len(data) / self.bytes_s)
        writer.write(data)
        await writer.drain()


class _Cut:
    """What is to happen to one connection."""

    def __init__(self) -> None:
        self.within = False
        self.after_answer = False


def _is_commit(kind: bytes, body: bytes, commits: set[bytes]) -> bool:
    """Whether a message runs COMMIT; `commits` are the prepared statements that do."""
    if kind == b"P":
        name, query = body.split(b"\x00")[:2]
        if query == b"COMMIT":
            commits.add(name)
    if kind == b"B":
        return body.split(b"\x00")[1] in commits
    return kind == b"Q" and body == b"COMMIT\x00"
