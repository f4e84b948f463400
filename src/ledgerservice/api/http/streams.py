"""An answer that is sent in pieces while they are read."""

import asyncio
import logging
from collections.abc import AsyncIterator

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from ledgerservice.access.meters import UNMETERED, Meter
from ledgerservice.errors import LedgerError

log = logging.getLogger(__name__)


class PiecewiseResponse(Response):
    """Sends the pieces of a text, and stops when the client goes away.

    Starlette's StreamingResponse cancels the read of the next piece then, and a cancelled statement
    costs its connection. Here the read ends, and nothing is sent. Without the database the answer
    ends before its end, which a client can see.
    """

    def __init__(
        self,
        pieces: AsyncIterator[str],
        media_type: str,
        headers: dict[str, str],
        *,
        ends: bool = True,
        meter: Meter = UNMETERED,
    ) -> None:
        """`ends`: the answer has an end, so that it is logged if a client leaves before; one that
        has none is counted by the `meter`.
        """
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["content-length"]
        self._pieces = pieces
        self.ends = ends
        self._meter = meter

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer. Raises LimitReached before it begins."""
        if self.ends:
            await self._send(receive, send)
            return
        with self._meter.streaming():
            await self._send(receive, send)

    async def _send(self, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        leaving = asyncio.create_task(_until_gone(receive))
        try:
            async for piece in self._pieces:
                if leaving.done():
                    if self.ends:
                        log_departure()
                    return
                await send(
                    {"type": "http.response.body", "body": piece.encode(), "more_body": True}
                )
            await send({"type": "http.response.body", "body": b""})
        except LedgerError as error:
            log.warning("an answer was cut off: %s", error)
        finally:
            leaving.cancel()


def log_departure() -> None:
    """Log that a client went away in the middle of an answer."""
    log.info("a client went away in the middle of an answer")


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
